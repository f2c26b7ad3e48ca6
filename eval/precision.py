"""A captioner in another precision beside itself in float32: seconds, equal captions, CIDEr-D.

    OMP_NUM_THREADS=1 python eval/precision.py --captions $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --split test --images $MAGICAP_DATA/flickr8k/images-test.tar --dtype int8

Batches take turns, so that a noisy machine is noisy for both. CPU seconds, of all threads, and pictures
already decoded. The difference of CIDEr-D is that of the captions of all pictures, with a 95 % interval of a
bootstrap over pictures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import HfArgumentParser

from magicap import Captioner, MagicSearch
from magicap.data import ImageFiles, read_captions
from magicap.evaluation.comparison import System, compare
from magicap.images.transform import prepare
from magicap.metrics import evaluate


@dataclass(frozen=True)
class Config:
    captions: str = field(metadata={"help": "data set of any form that magicap.data reads"})
    images: list[str] = field(metadata={"help": "tar files or folders that hold the split's pictures"})
    split: str = field(default="dev", metadata={"help": "which pictures"})
    preset: str = field(default="embedded", metadata={"help": "a zero-shot preset or captioner's folder"})
    dtype: str = field(default="int8", metadata={"help": "beside float32"})
    limit: int | None = field(default=None, metadata={"help": "only the first so many pictures"})
    decodings: list[str] = field(
        default_factory=lambda: ["own", "plain magic"], metadata={"help": "own, plain magic or both"}
    )
    batch_size: int = field(default=16, metadata={"help": "pictures searched together"})
    cold: bool = field(default=False, metadata={"help": "forget captions' prefixes before each batch"})
    seed: int = field(default=0, metadata={"help": "of the bootstrap"})


def main(config: Config) -> None:
    rows = read_captions(config.captions, (config.split,))[: config.limit]
    images = ImageFiles(config.images)
    exact = Captioner.from_pretrained(config.preset, device="cpu")
    other = Captioner.from_pretrained(config.preset, device="cpu", dtype=config.dtype)
    print(f"{config.preset}, {config.split}, n = {len(rows)}, {torch.get_num_threads()} threads")
    pictures = [prepare(images.read(row.image), exact.transform) for row in rows]
    decodings: dict[str, Any] = {"own": exact.decoding, "plain magic": MagicSearch()}
    for name, decoding in ((name, decodings[name]) for name in config.decodings):
        captions: dict[str, list[Any]] = {"float32": [], config.dtype: []}
        seconds: dict[str, list[tuple[float, float]]] = {"float32": [], config.dtype: []}
        for first in range(0, len(pictures), config.batch_size):
            batch = pictures[first : first + config.batch_size]
            for dtype, captioner in {"float32": exact, config.dtype: other}.items():
                if config.cold:
                    captioner.cache.clear()
                started = time.process_time(), time.monotonic()
                captions[dtype] += captioner.caption(batch, decoding, batch_size=config.batch_size)
                seconds[dtype].append((time.process_time() - started[0], time.monotonic() - started[1]))
        report(config, name, [row.captions for row in rows], captions, seconds)


def report(
    config: Config,
    name: str,
    references: list[Any],
    captions: dict[str, list[Any]],
    seconds: dict[str, list[tuple[float, float]]],
) -> None:
    counted = len(references) - config.batch_size  # the first batch warms up
    spent = {
        dtype: [sum(part) / counted for part in zip(*took[1:], strict=True)]
        for dtype, took in seconds.items()
    }
    for number, what in enumerate(("CPU", "clock")):
        exact, other = (spent[dtype][number] for dtype in captions)
        print(
            f"{name}: {what} s a picture {exact:.4f} float32, {other:.4f} {config.dtype}, "
            f"{exact / other:.2f} times faster"
        )
    texts = {dtype: [str(caption) for caption in of_dtype] for dtype, of_dtype in captions.items()}
    equal = sum(one == another for one, another in zip(*texts.values(), strict=True))
    print(f"{name}: {equal} of {len(references)} captions equal")
    comparison = compare(
        name,
        [str(number) for number in range(len(references))],
        references,
        [System(dtype, of_dtype) for dtype, of_dtype in texts.items()],
        [evaluate(of_dtype, references, metrics=["cider_d", "bleu"]) for of_dtype in texts.values()],
        against="float32",
        seed=config.seed,
    )
    for dtype, estimates in comparison.estimates.items():
        estimate = estimates["CIDEr-D"]
        line = f"{name}, {dtype}: CIDEr-D {estimate.score.text}"
        if estimate.difference is not None:
            ends = (estimate.difference, estimate.difference_low, estimate.difference_high)
            line += ", difference {:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * (end or 0) for end in ends))
        print(line, flush=True)


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
