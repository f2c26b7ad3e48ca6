"""Is a cautious caption right more often? Backing off to captions whose every word the evidence supports.

The support of a word is the weight of the evidence captions that have it. The cautious caption is the best
one, in the order of the search, whose least supported word has at least so much support; where there is none,
the one with the most. Function words stand in most evidence, so it is content words that decide. Of each
threshold there are two rows: every caption is made cautious, or only those that are more likely wrong than
right by the captioner's own confidence.

    python eval/cautious_captions.py --references $MAGICAP_DATA/coco_more/captions.jsonl --split dev \\
        --images $MAGICAP_DATA/coco_more/images-dev.tar
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from magicap import BeamMagicSearch, Captioner
from magicap.captioners.presets import DEFAULT
from magicap.data import CaptionedImage
from magicap.decoding.beam_magic import beam_magic_search
from magicap.decoding.confidence import features_of
from magicap.decoding.context import DecodingContext
from magicap.decoding.minimum_bayes_risk import Competition, EvidenceSet
from magicap.errors import BadSettings, MagicapError
from magicap.evaluation.matching import choose_references
from magicap.evaluation.reliability import are_right
from magicap.evaluation.systems import open_pictures
from magicap.metrics import cider_d
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB
from magicap.training.batches import even_parts
from magicap.training.progress import progress

BATCH = 16


@dataclass(frozen=True)
class Config:
    references: str = field(metadata={"help": "data set of the pictures with their references"})
    images: list[str] = field(metadata={"help": "tar files or folders with the pictures"})
    split: str | None = field(default=None, metadata={"help": "its split, where it has several"})
    preset: str = field(default=DEFAULT, metadata={"help": "a preset or a captioner's folder"})
    supports: list[float] = field(
        default_factory=lambda: [0.01, 0.03, 0.1, 0.3], metadata={"help": "least supports of a word, 0 to 1"}
    )
    limit: int | None = field(default=None, metadata={"help": "only the first so many pictures"})


def main(config: Config) -> None:
    captioner = Captioner.from_pretrained(config.preset)
    if not isinstance(captioner.decoding, BeamMagicSearch) or captioner.confidence is None:
        raise BadSettings(f"{config.preset}: expected beam magic search and a confidence, found none")
    rows = choose_references(config.references, config.split)[: config.limit]
    competitions = search(captioner, rows, config)
    confidence = captioner.confidence
    unsure = [confidence.probability(features_of(one)) < 0.5 for one in competitions]
    print("| least support | made cautious | changed | CIDEr-D | right | distinct | words |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    chosen = [one.hypotheses[0].text.strip() for one in competitions]
    print_row("0", "none", chosen, chosen, rows)
    for support in config.supports:
        texts = [cautious(one, support) for one in competitions]
        print_row(f"{support:g}", "all", texts, chosen, rows)
        some = [new if flag else old for new, old, flag in zip(texts, chosen, unsure, strict=True)]
        print_row(f"{support:g}", "unsure", some, chosen, rows)


def search(captioner: Captioner, rows: Sequence[CaptionedImage], config: Config) -> list[Competition]:
    """The captions of all pictures that competed, with their evidence."""
    pictures, competitions = open_pictures([row.image for row in rows], config.images), []
    with progress(len(rows), "captioning", unit="picture") as bar:
        for batch in even_parts(range(len(rows)), BATCH):
            vectors = captioner.scorer.encode_images([pictures.read(rows[row].image) for row in batch])
            context = DecodingContext(captioner.cache, vectors, memory=captioner.memory)
            competitions += beam_magic_search(context, captioner.decoding)
            bar.update(len(batch))
    return competitions


def cautious(competition: Competition, least: float) -> str:
    """The best caption whose words all have at least so much support, else the best supported one."""
    support = word_support(competition.evidence)
    texts = [hypothesis.text.strip() for hypothesis in competition.hypotheses]
    supported = {text: min((support[word] for word in words(PTB(text))), default=0.0) for text in texts}
    enough = [text for text in texts if supported[text] >= least]
    return enough[0] if enough else max(texts, key=supported.__getitem__)


def word_support(evidence: EvidenceSet) -> Counter[str]:
    """By word the weight of the evidence captions that have it, 0 to 1."""
    support: Counter[str] = Counter()
    for text, weight in zip(evidence.texts, evidence.weights.tolist(), strict=True):
        support.update(dict.fromkeys(words(PTB(text)), weight))
    return support


def print_row(
    support: str, which: str, texts: Sequence[str], chosen: Sequence[str], rows: Sequence[CaptionedImage]
) -> None:
    changed = sum(new != old for new, old in zip(texts, chosen, strict=True))
    score = cider_d(texts, [row.captions for row in rows])["CIDEr-D"]
    assert score.per_image is not None
    right = are_right(score.per_image).mean()
    length = sum(len(words(PTB(text))) for text in texts) / len(texts)
    print(
        f"| {support} | {which} | {changed} | {100 * score.value:.1f} | {100 * right:.1f} % "
        f"| {len(set(texts))} | {length:.1f} |"
    )


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"cautious_captions.py: {error}")
