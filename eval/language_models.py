"""Bits per character of a captioner's language model on held-out captions, beside a 5-gram of its tokens.

    python eval/language_models.py --validation_text $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --text $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/text/flickr30k.jsonl

The 5-gram is interpolated Kneser-Ney, trained on --text; both read the model's own tokens and pay for the end
token, so their bits compare. A sentence's characters count its end as one more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.captioners.presets import DEFAULT
from magicap.captioners.zero_shot import Captioner
from magicap.data import read_sentences
from magicap.evaluation.kneser_ney import KneserNey
from magicap.evaluation.tables import aligned
from magicap.models.language_model import LanguageModel
from magicap.training.losses import next_token_cross_entropy


@dataclass(frozen=True)
class Config:
    validation_text: str = field(metadata={"help": "captions of this data set's split are measured"})
    text: list[str] = field(default_factory=list, metadata={"help": "captions for the n-gram model"})
    presets: list[str] = field(
        default_factory=lambda: [DEFAULT], metadata={"help": "presets or captioners' folders"}
    )
    split: str = field(default="dev", metadata={"help": "choose on dev, report on test once"})
    order: int = field(default=5, metadata={"help": "of the n-gram model"})
    batch_size: int = field(default=64, metadata={"help": "sentences at a time"})


def main(config: Config) -> None:
    texts = read_sentences(config.validation_text, splits=(config.split,), held_out=())
    if not texts:
        raise SystemExit(f"{config.validation_text} has no captions of the split {config.split!r}")
    training = [text for path in config.text for text in read_sentences(path)]
    characters = sum(len(text) + 1 for text in texts)
    rows = []
    for preset in config.presets:
        model = Captioner.from_pretrained(preset).language_model
        sentences = encode(model, texts)
        bits = nats_of(model, sentences, config.batch_size) / characters / math.log(2)
        rows.append([preset, f"{bits:.3f}"])
        if training:
            ngrams = KneserNey(encode(model, training), len(model.tokenizer), config.order)
            bits = ngrams.nats(sentences).sum() / characters / math.log(2)
            rows.append([f"{config.order}-gram Kneser-Ney over the tokens of {preset}", f"{bits:.3f}"])
    print(f"{config.split}, n = {len(texts)} sentences, {len(training)} for the n-grams")
    print(aligned(["model", "bits per character"], rows))


def encode(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with the end token; what the model has no positions for is cut."""
    rows = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[*row, model.end_id][: model.max_new_tokens] for row in rows]


def nats_of(model: LanguageModel, sentences: Sequence[Sequence[int]], batch_size: int) -> float:
    """Negative log-likelihood of all sentences in nats, the start token given."""
    total = 0.0
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    for start in tqdm(range(0, len(order), batch_size), desc="sentences", disable=None):
        rows = [[model.start_id, *sentences[i]] for i in order[start : start + batch_size]]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [model.pad_id] * (longest - len(row)) for row in rows], device=model.device)
        mask = torch.tensor(
            [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device
        )
        with torch.inference_mode():
            logits = model.model(ids, attention_mask=mask).logits
        total += float(next_token_cross_entropy(logits, ids, mask)) * int(mask[:, 1:].sum())
    return total


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
