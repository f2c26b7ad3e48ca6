"""How long a caption takes, beside other systems or beside another checkout of this repository.

    python eval/speed.py --images $MAGICAP_DATA/flickr8k/images-test.tar --against ../earlier --wait 600

``--against PATH``: the default captioners of this checkout and of that in PATH caption the same pictures,
each in a process that stays, in turn, one picture at a time and in batches. The pictures' bytes are in
memory; reading and resizing them counts. What is kept of prefixes is given up before every round.

Before it starts it waits, ``--wait`` seconds at most, until the machine is quiet, and says so if it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from speed_checkouts import HERE, OURS, THEIRS, compare_checkouts, print_checkouts
from speed_protocol import require_quiet
from transformers import HfArgumentParser

from magicap.data import ImageFiles


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    against: str = field(metadata={"help": "a checkout of another commit, to compare with this one"})
    count: int = field(default=32, metadata={"help": "pictures"})
    rounds: int = field(default=5, metadata={"help": "times that the systems take turns"})
    batch_size: int = field(default=16, metadata={"help": "pictures together, where they are"})
    threads: int = field(
        default_factory=torch.get_num_threads, metadata={"help": "threads of each system; torch's own number"}
    )
    wait: float = field(default=0.0, metadata={"help": "seconds to wait for a quiet machine at most"})


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    with ImageFiles(config.images) as images:
        pictures = [images.read(name) for name in list(images)[: config.count]]
    print(f"{len(pictures)} pictures, {config.rounds} rounds, {config.threads} threads")
    require_quiet(config.wait)
    folders = {OURS: HERE, THEIRS: Path(config.against)}
    sizes = [1, config.batch_size]
    print_checkouts(compare_checkouts(folders, pictures, sizes, config.rounds, config.threads))


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
