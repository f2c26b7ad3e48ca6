"""The systems that eval/speed.py compares, and the table of their times; no script of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from flops import counted
from speed_protocol import Seconds, in_turns, timed
from speed_published import published_magic_search, up_to_end
from speed_rivals import Rival, blip, clipcap, vit_gpt2
from torch import Tensor

from magicap import Captioner, MagicSearch
from magicap.evaluation.tables import aligned
from magicap.images.transform import ImageTransform, PreparedImage, prepare

Ids = list[list[int]]
"""Token ids of captions; none of a search that compares whole captions."""


@dataclass(frozen=True)
class System:
    """What captions pictures that were read and resized before."""

    title: str
    transform: ImageTransform
    caption: Callable[[Sequence[PreparedImage]], Ids]
    together: bool = True
    """Whether it captions several pictures at once."""


RIVALS = ("blip", "vit-gpt2", "clipcap", "clipcap-beam")
PUBLISHED = ("published", "published-padded")
"""They must write what ``magic`` writes."""

SYSTEMS = ("beam-magic", "greedy", "magic", *PUBLISHED, *RIVALS)


def systems_of(
    names: Sequence[str], captioner: Captioner, magic: MagicSearch, new_tokens: int
) -> dict[str, System]:
    """The systems of some names.

    Args:
        captioner: ours, with a memory and a soft prompt.
        magic: settings of magic search.
        new_tokens: tokens of a caption of all other searches at most, and of every caption of a rival.
    """
    greedy = MagicSearch(top_k=1, alpha=0.0, beta=0.0, max_new_tokens=new_tokens, soft_prompt=True)
    beam_magic = replace(captioner.decoding, max_new_tokens=new_tokens)
    makers: dict[str, Callable[[], System]] = {
        "beam-magic": partial(ours, "beam magic search", captioner, beam_magic),
        "greedy": partial(ours, "greedy search, soft prompt", captioner, greedy),
        "magic": partial(ours, "magic search", captioner, magic),
        "published": partial(published, "magic search, as published", captioner, magic),
        "published-padded": partial(
            published, "the same, texts padded to the context", captioner, magic, to_context=True
        ),
        "blip": lambda: rival("BLIP-base, greedy", blip(new_tokens)),
        "vit-gpt2": lambda: rival("ViT-GPT2, greedy", vit_gpt2(new_tokens)),
        "clipcap": lambda: rival("ClipCap, greedy", clipcap(new_tokens, captioner, 1)),
        "clipcap-beam": lambda: rival("ClipCap, 5 beams", clipcap(new_tokens, captioner, 5)),
    }
    return {name: makers[name]() for name in names}


def ours(title: str, captioner: Captioner, decoding: Any) -> System:
    """A captioner of this package with one of its decodings."""

    def caption(pictures: Sequence[PreparedImage]) -> Ids:
        captions = captioner.caption(list(pictures), decoding, batch_size=len(pictures))
        return [[step.token_id for step in one.steps] for one in captions]

    return System(title, captioner.transform, caption)


def published(title: str, captioner: Captioner, magic: MagicSearch, *, to_context: bool = False) -> System:
    """The published loop with our models."""

    def caption(pictures: Sequence[PreparedImage]) -> Ids:
        models = captioner.language_model, captioner.scorer
        return [
            published_magic_search(*models, picture, magic, to_context=to_context)
            for picture in as_batch(pictures)
        ]

    return System(title, captioner.transform, caption, together=False)


def rival(title: str, made: Rival) -> System:
    """A captioner of others."""
    transform, generate = made

    @torch.inference_mode()
    def caption(pictures: Sequence[PreparedImage]) -> Ids:
        ids: Ids = generate(as_batch(pictures)).tolist()
        return ids

    return System(title, transform, caption)


def as_batch(pictures: Sequence[PreparedImage]) -> Tensor:
    """(B, 3, H, W) bytes."""
    return torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])


@dataclass
class Measurement:
    """One system with batches of one size."""

    seconds: Seconds = field(default_factory=Seconds)
    ids: Ids = field(default_factory=list)
    operations: float = 0.0
    """Floating point operations of a picture, in the round that is not timed."""


Measurements = dict[tuple[str, int], Measurement]
"""By name and batch size."""


def measure(
    systems: Mapping[str, System],
    captioner: Captioner,
    pictures: Sequence[bytes],
    batch_sizes: Sequence[int],
    rounds: int,
) -> Measurements:
    """Let all systems caption the pictures in turn; a first round counts operations and no seconds."""
    prepared = {
        name: [prepare(picture, system.transform) for picture in pictures] for name, system in systems.items()
    }
    measurements: Measurements = {
        (name, size): Measurement()
        for size in batch_sizes
        for name, system in systems.items()
        if size == 1 or system.together
    }

    def turn(name: str, size: int, *, count: bool) -> None:
        captioner.cache.clear()  # nothing is kept of what another round, or another system, captioned
        measurement, caption, images = measurements[name, size], systems[name].caption, prepared[name]
        batches = [images[start : start + size] for start in range(0, len(images), size)]

        def caption_all() -> Ids:
            return [ids for batch in batches for ids in caption(batch)]

        if count:
            measurement.ids, operations = counted(caption_all)
            measurement.operations = operations / len(images)
        else:
            with timed(measurement.seconds, len(images)):
                measurement.ids = caption_all()

    for count, times in ((True, 1), (False, rounds)):
        in_turns({key: partial(turn, *key, count=count) for key in measurements}, times)
    return measurements


def require_same_captions(measurements: Measurements, end_id: int) -> bool:
    """Refuse figures of a published loop that writes other captions than magic search; whether both ran."""
    wanted = [up_to_end(ids, end_id) for ids in measurements["magic", 1].ids] if _ran(measurements) else []
    for name in PUBLISHED:
        if wanted and (name, 1) in measurements:
            written = [up_to_end(ids, end_id) for ids in measurements[name, 1].ids]
            if written != wanted:
                raise SystemExit(f"{name!r} writes other captions than magic search")
    return bool(wanted)


def _ran(measurements: Measurements) -> bool:
    return ("magic", 1) in measurements and any((name, 1) in measurements for name in PUBLISHED)


def require_lengths(measurements: Measurements, names: Sequence[str], new_tokens: int) -> None:
    """Refuse figures of systems that write fewer tokens than others."""
    for (name, _), measurement in measurements.items():
        if name in names and any(len(ids) != new_tokens for ids in measurement.ids if ids):
            raise SystemExit(f"{name!r} writes captions of other lengths than {new_tokens} tokens")


def print_measurements(systems: Mapping[str, System], measurements: Measurements, baseline: str) -> None:
    """A table for each size of batches, a row for each system."""
    for size in dict.fromkeys(size for _, size in measurements):
        reference = measurements[baseline, size].seconds
        header = ["one picture at a time" if size == 1 else f"{size} pictures together"]
        header += ["s/picture", "CPU s/picture", "spread", f"time over {baseline}'s", "CPU time over its"]
        rows = []
        for name, system in systems.items():
            if (name, size) in measurements:
                measurement = measurements[name, size]
                seconds = measurement.seconds
                row = [system.title, f"{seconds.median:.4f}", f"{seconds.median_cpu:.4f}"]
                row += [f"{seconds.spread:.0%}", f"{seconds.median / reference.median:.2f}"]
                row += [f"{seconds.median_cpu / reference.median_cpu:.2f}"]
                rows.append([*row, f"{measurement.operations / 1e9:.1f}"])
        print(aligned([*header, "GFLOP/picture"], rows))
