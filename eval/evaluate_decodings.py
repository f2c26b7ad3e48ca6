"""Try many decodings of one captioner on captioned pictures: for choosing settings on dev, without Java.

For figures to report, with error bars and baselines, see compare.py.

    python eval/evaluate_decodings.py --captions $MAGICAP_DATA/flickr8k/captions.jsonl --split test \\
        --images $MAGICAP_DATA/flickr8k/images-test.tar --memory $MAGICAP_DATA/flickr8k/captions.jsonl
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from magicap import (
    BeamMagicSearch,
    BeamSearch,
    Captioner,
    CaptionMemory,
    ConsensusCaption,
    ContrastiveSearch,
    Greedy,
    MagicSearch,
    NearestCaption,
    Nucleus,
    SupervisedCaptioner,
    TopK,
    load_captioner,
)
from magicap.data import CaptionedImage, ImageFiles, read_captions, read_sentences
from magicap.metrics import evaluate

METRICS = ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D", "distinct captions", "words", "broken")
COLUMNS = (*METRICS, "finished", "score", "s/picture")


@dataclass(frozen=True)
class Config:
    captions: str = field(metadata={"help": "data set of any form that magicap.data reads"})
    images: list[str] = field(metadata={"help": "tar files or folders that hold the split's pictures"})
    split: str = field(default="dev", metadata={"help": "choose on dev, report on test once"})
    preset: str = field(default="embedded", metadata={"help": "a preset or a captioner's folder"})
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16, float16 or int8"})
    memory: list[str] = field(
        default_factory=list, metadata={"help": "captions to retrieve from (train split)"}
    )
    forget: bool = field(default=False, metadata={"help": "without the captioner's memory"})
    limit: int | None = field(default=None, metadata={"help": "only the first so many pictures"})
    decodings: list[str] = field(default_factory=list, metadata={"help": "only these, and the rows below"})
    alphas: list[float] = field(default_factory=list, metadata={"help": "more magic rows: these alphas ..."})
    betas: list[float] = field(default_factory=list, metadata={"help": "... times these betas ..."})
    top_ks: list[int] = field(
        default_factory=list, metadata={"help": "... times these numbers of candidates"}
    )
    beam_sizes: list[int] = field(
        default_factory=list, metadata={"help": "more rows of a supervised captioner: these beams ..."}
    )
    length_penalties: list[float] = field(
        default_factory=list, metadata={"help": "... times these length penalties"}
    )
    batch_size: int = field(default=16, metadata={"help": "pictures searched together"})
    seed: int = field(default=0, metadata={"help": "for the rows that sample"})
    out: str | None = field(default=None, metadata={"help": "JSON lines of every caption"})


def main(config: Config) -> None:
    rows = read_captions(config.captions, (config.split,))[: config.limit]
    if not rows:
        raise SystemExit(f"{config.captions} has no split {config.split!r}")
    images = ImageFiles(config.images)
    captioner = load_captioner(config.preset, dtype=config.dtype)
    if config.forget and isinstance(captioner, Captioner):
        captioner.memory = None
    print(f"{config.preset}, {config.split}, n = {len(rows)}, seed {config.seed}")
    print(table_line(("decoding", *COLUMNS)) + "\n" + table_line(["---"] * (len(COLUMNS) + 1)))
    if isinstance(captioner, SupervisedCaptioner):
        decodings = beams(config, captioner)
    else:
        decodings = zero_shot_decodings(config, captioner)
    for name, decoding in decodings.items():
        started = time.monotonic()
        pictures = (images.read(row.image) for row in rows)
        captions = list(captioner.caption(pictures, decoding, batch_size=config.batch_size, seed=config.seed))
        seconds = (time.monotonic() - started) / len(rows)
        print(table_line((name, *figures(captions, rows), f"{seconds:.3f}")), flush=True)
        if config.out is not None:
            save(Path(config.out), name, rows, captions)


def beams(config: Config, captioner: SupervisedCaptioner) -> dict[str, Any]:
    beam = captioner.decoding if isinstance(captioner.decoding, BeamSearch) else BeamSearch()
    decodings: dict[str, Any] = {"own": captioner.decoding, "greedy": replace(beam, beam_size=1)}
    decodings = chosen(config, decodings)
    if config.beam_sizes or config.length_penalties:
        sizes = config.beam_sizes or [beam.beam_size]
        for size, penalty in product(sizes, config.length_penalties or [beam.length_penalty]):
            decodings[f"beam {size}, length penalty {penalty:g}"] = replace(
                beam, beam_size=size, length_penalty=penalty
            )
    return decodings


def zero_shot_decodings(config: Config, captioner: Captioner) -> dict[str, Any]:
    default: Any = captioner.decoding
    length = default.max_new_tokens
    magic = default if isinstance(default, MagicSearch) else MagicSearch(max_new_tokens=length)
    decodings: dict[str, Any] = {
        "own": default,
        **(beam_magic_variants(default, captioner.memory) if isinstance(default, BeamMagicSearch) else {}),
        **(conditioned(magic) if captioner.language_model.soft_prompt else {}),
        "greedy": Greedy(length),
        "contrastive": ContrastiveSearch(magic.top_k, magic.alpha, length),
        "top-k": TopK(max_new_tokens=length),
        "nucleus": Nucleus(max_new_tokens=length),
    }
    decodings = chosen(config, decodings)
    if config.alphas or config.betas or config.top_ks:
        top_ks, alphas = config.top_ks or [magic.top_k], config.alphas or [magic.alpha]
        for top_k, alpha, beta in product(top_ks, alphas, config.betas or [magic.beta]):
            name = f"magic k={top_k} a={alpha:g} b={beta:g}"
            decodings[name] = replace(magic, top_k=top_k, alpha=alpha, beta=beta)
    if config.memory:
        texts = [text for path in config.memory for text in read_sentences(path)]
        memory = CaptionMemory.from_texts(captioner.scorer, texts)
        decodings["nearest caption"] = NearestCaption(memory)
        decodings["consensus of 30"] = ConsensusCaption(memory, 30)
    return decodings


def conditioned(magic: MagicSearch) -> dict[str, Any]:
    """The language model conditioned by its soft prompt, alone and with magic search on top."""
    conditioned = replace(magic, soft_prompt=True)
    return {
        "soft prompt, greedy": replace(conditioned, top_k=1, alpha=0.0, beta=0.0),
        **{f"soft prompt, magic b={beta}": replace(conditioned, beta=beta) for beta in (0.15, 0.3, 0.6)},
    }


def beam_magic_variants(beam_magic: BeamMagicSearch, memory: CaptionMemory | None) -> dict[str, Any]:
    """Beam magic search with one thing less or more."""
    variants: dict[str, Any] = {
        **({"own, no soft prompt": replace(beam_magic, soft_prompt=False)} if beam_magic.soft_prompt else {}),
        "own, no retrieval n-grams": replace(beam_magic, ngram_weight=0.0),
        "own, image weight 0.1": replace(beam_magic, image_weight=0.1),
        "own, rerank weight 0.5": replace(beam_magic, rerank_weight=0.5),
    }
    if memory is not None:
        variants["memory: nearest caption"] = NearestCaption(memory)
        variants["memory: consensus"] = ConsensusCaption(memory, beam_magic.neighbours)
    return variants


def chosen(config: Config, decodings: dict[str, Any]) -> dict[str, Any]:
    if unknown := [name for name in config.decodings if name not in decodings]:
        raise SystemExit(f"--decodings: expected some of {', '.join(decodings)}, found {unknown[0]!r}")
    return {name: decodings[name] for name in config.decodings or decodings}


def figures(captions: Sequence[Any], rows: Sequence[CaptionedImage]) -> list[str]:
    names = ["bleu", "rouge_l", "cider_d", "diversity", "lengths", "broken"]
    scores = evaluate(captions, [row.captions for row in rows], metrics=names).scores
    return [
        *(scores[name].text for name in METRICS),
        f"{100 * statistics.mean(caption.finished for caption in captions):.0f} %",
        f"{statistics.mean(caption.score for caption in captions):.3f}",
    ]


def table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def save(path: Path, name: str, rows: Sequence[CaptionedImage], captions: Sequence[Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for row, caption in zip(rows, captions, strict=True):
            file.write(json.dumps({"decoding": name, "image": row.image, "caption": caption.text}) + "\n")


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
