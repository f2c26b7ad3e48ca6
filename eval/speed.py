"""Time per picture and memory of a loaded captioner, one picture at a time and in batches.

python eval/speed.py --images $MAGICAP_DATA/flickr8k/images-dev.tar
"""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser

from magicap import load_captioner
from magicap.data import ImageFiles


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files with pictures"})
    preset: str = field(default="embedded", metadata={"help": "a preset or a captioner's folder"})
    count: int = field(default=40, metadata={"help": "how many pictures"})
    batch_sizes: list[int] = field(
        default_factory=lambda: [1, 8, 16], metadata={"help": "pictures at a time"}
    )


def main(config: Config) -> None:
    started = time.monotonic()
    captioner = load_captioner(config.preset)
    print(
        f"loading {time.monotonic() - started:.2f} s, {torch.get_num_threads()} threads, {captioner.decoding}"
    )
    tar = ImageFiles(config.images)
    pictures = [tar.read(name) for name, _ in zip(tar, range(config.count), strict=False)]
    captioner.caption(pictures[:2])
    for batch_size in config.batch_sizes:
        times = []
        for start in range(0, len(pictures), batch_size):
            batch = pictures[start : start + batch_size]
            before = time.monotonic()
            captioner.caption(batch, batch_size=batch_size)
            times.append((time.monotonic() - before) / len(batch))
        low, high = min(times), max(times)
        print(
            f"batch {batch_size}: median {statistics.median(times):.3f} s a picture ({low:.3f} to {high:.3f})"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
