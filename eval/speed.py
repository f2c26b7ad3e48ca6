"""How long a caption takes, beside other systems or beside another checkout of this repository.

    python eval/speed.py --images $MAGICAP_DATA/flickr8k/images-test.tar --wait 600
    python eval/speed.py --images ... --shape ViT-B-32 --bpe $MAGICAP_DATA/../tokenizers/gpt2 --count 4
    python eval/speed.py --images ... --against ../earlier --count 64 --wait 600

Beam magic search (the default decoding), greedy search with the soft prompt, magic search, and magic search
as its published code works; at ``--shape ViT-B-32``, GPT-2 small beside CLIP ViT-B/32 with random weights,
also BLIP-base, ViT-GPT2 and ClipCap, with random weights too. All captions of random weights have the same
number of tokens. Pictures are read and resized before the clock starts. What is kept of prefixes is given up
before every round, and the published loop must write the captions that magic search writes.

``--against PATH``: the default captioners of this checkout and of that in PATH, each in a process that stays.
Here reading and resizing pictures, whose bytes are in memory, counts.

The systems take turns; a first round is not timed. Times are medians of rounds, one picture at a time and in
batches. Before it starts it waits, ``--wait`` seconds at most, until the machine is quiet, and says so if it
is not. Where the time of magic search goes: ``eval/speed_ladder.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from speed_checkouts import HERE, OURS, THEIRS, compare_checkouts, print_checkouts
from speed_protocol import require_quiet
from speed_shapes import captioner_of, with_random_memory
from speed_systems import (
    PUBLISHED,
    RIVALS,
    SYSTEMS,
    measure,
    print_measurements,
    require_lengths,
    require_same_captions,
    systems_of,
)
from speed_worker import peak_bytes
from transformers import HfArgumentParser

import magicap
from magicap import MagicSearch
from magicap.captioners.presets import DEFAULT
from magicap.data import ImageFiles
from magicap.errors import BadSettings

_RANDOM_TOKENS = 15  # of the published settings


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    against: str | None = field(
        default=None, metadata={"help": "a checkout of another commit, to compare with this one alone"}
    )
    shape: str = field(default=DEFAULT, metadata={"help": "a captioner, or ViT-B-32 or ViT-L-14 (random)"})
    bpe: str | None = field(
        default=None, metadata={"help": "folder of GPT-2's vocab.json and merges.txt, for random weights"}
    )
    memory: int = field(default=5000, metadata={"help": "captions of the memory, for random weights"})
    systems: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"which of {', '.join(SYSTEMS)}; none: all, without rivals for a trained captioner"
        },
    )
    baseline: str = field(default="beam-magic", metadata={"help": "system that the others' times are over"})
    top_k: int = field(default=45, metadata={"help": "candidates a step of magic search"})
    alpha: float = field(default=0.1, metadata={"help": "weight of its degeneration penalty"})
    beta: float = field(default=2.0, metadata={"help": "weight of the picture in it"})
    magic_tokens: int = field(default=15, metadata={"help": "its longest caption, in tokens"})
    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "longest caption of the others; none: the captioner's own, 15 of random weights"},
    )
    count: int = field(default=16, metadata={"help": "pictures"})
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
    if config.against is not None:
        require_quiet(config.wait)
        folders = {OURS: HERE, THEIRS: Path(config.against)}
        sizes = [1, config.batch_size]
        print_checkouts(compare_checkouts(folders, pictures, sizes, config.rounds, config.threads))
    else:
        compare_systems(config, pictures)


def compare_systems(config: Config, pictures: Sequence[bytes]) -> None:
    """Measure the systems and print their tables."""
    print(f"ours: {Path(magicap.__file__).parent}")
    is_random = config.shape.startswith("ViT-")
    names = config.systems or [name for name in SYSTEMS if is_random or name not in RIVALS]
    if unknown := {config.baseline, *names} - set(SYSTEMS):
        raise BadSettings(f"no system {', '.join(sorted(unknown))}: expected some of {', '.join(SYSTEMS)}")
    if config.baseline not in names or config.baseline in PUBLISHED:
        raise BadSettings(f"--baseline {config.baseline}: expected one of --systems that captions in batches")
    captioner = captioner_of(config.shape, config.bpe, config.top_k)
    magic = MagicSearch(config.top_k, config.alpha, config.beta, config.magic_tokens)
    new_tokens = config.max_new_tokens or _RANDOM_TOKENS
    if is_random:
        captioner = with_random_memory(captioner, config.memory, new_tokens)
    elif config.max_new_tokens is None:
        new_tokens = captioner.decoding.max_new_tokens
    systems = systems_of(names, captioner, magic, new_tokens)
    require_quiet(config.wait)
    measurements = measure(systems, captioner, pictures, [1, config.batch_size], config.rounds)
    if require_same_captions(measurements, captioner.language_model.end_id):
        print("the published loop writes the captions of magic search")
    require_lengths(measurements, [*RIVALS, "greedy"] if is_random else RIVALS, new_tokens)
    require_lengths(measurements, ["magic", *PUBLISHED] if is_random else [], config.magic_tokens)
    print(f"{config.shape}: {captioner.decoding}\n{magic}")
    print_measurements(systems, measurements, config.baseline)
    print(f"peak resident memory {peak_bytes() / 1e9:.2f} GB")


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
