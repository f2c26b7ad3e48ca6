"""Captioners and files as rows of a comparison: captions made or read, for given images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from magicap.data import ImageFiles
from magicap.errors import BadData
from magicap.evaluation.comparison import System
from magicap.evaluation.rows import Origin, caption_row
from magicap.metrics.clipscore import ClipScore

if TYPE_CHECKING:
    from magicap.captioner import Captioner
    from magicap.decoding.settings import Decoding
    from magicap.models.scorer import ImageTextScorer


def clip_score(scorer: ImageTextScorer, images: Sequence[str], files: Sequence[str | Path]) -> ClipScore:
    """CLIPScore for named images; reads and encodes them once.

    Raises:
        BadData, ImageNotFound, BadImage: an image that is not there or cannot be read.
    """
    import torch

    with closing(ImageFiles(files)) as pictures:
        parts = [scorer.encode_images([pictures.read(name) for name in names]) for names in _batches(images)]
    return ClipScore(scorer, torch.cat(parts))


def captioned(
    name: str,
    captioner: Captioner,
    decoding: Decoding,
    images: Sequence[str],
    files: Sequence[str | Path],
    *,
    batch_size: int = 16,
    seed: int = 0,
    kept: Path | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> System:
    """Caption images by name.

    Args:
        images: N names.
        files: tar files and folders that hold them.
        kept: JSON lines to which every caption is added as soon as it is made. Captions of the same models,
            decoding and seed that stand there already are taken, not made again.
        progress: told how many more images are done.

    Raises:
        BadData: an image cannot be captioned; a comparison has no place for holes.
    """
    origin = Origin.of(captioner, decoding)
    captions = [] if kept is None else _kept_captions(kept, images, origin, seed)
    progress(len(captions))
    with closing(ImageFiles(files)) as pictures, _appended(kept) as write:
        rest = images[len(captions) :]
        made = captioner.caption(
            (pictures.read(image) for image in rest),
            decoding,
            batch_size=batch_size,
            seed=seed + len(captions),
        )
        for image, caption in zip(rest, made, strict=True):
            if caption.error is not None:
                raise BadData(
                    f"{image} cannot be captioned ({caption.error}); leave it out of the references"
                )
            write(json.dumps({**caption_row(image, caption, origin), "seed": seed}))
            captions.append(caption.text)
            progress(1)
    return System(name, captions, about={**asdict(origin), "seed": str(seed)})


def _kept_captions(path: Path, images: Sequence[str], origin: Origin, seed: int) -> list[str]:
    """Captions of the first images that an earlier run of the same kind wrote; the file is cut there."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    wanted = {**asdict(origin), "seed": seed}
    captions: list[str] = []
    for line, image in zip(lines, images, strict=False):
        try:
            row = json.loads(line)
        except ValueError:  # the line at which the earlier run was stopped
            break
        if row.get("image") != image or any(row.get(key) != value for key, value in wanted.items()):
            break
        captions.append(row["caption"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines[: len(captions)]), encoding="utf-8")
    return captions


@contextmanager
def _appended(path: Path | None) -> Iterator[Callable[[str], object]]:
    """A function that adds a line to a file at once, or does nothing without one."""
    if path is None:
        yield lambda line: None
        return
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield lambda line: file.write(line + "\n")


def _batches(items: Sequence[str], size: int = 32) -> Iterator[Sequence[str]]:
    return (items[i : i + size] for i in range(0, len(items), size))
