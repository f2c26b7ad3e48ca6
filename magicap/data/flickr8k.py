"""Flickr8k's own files: captions a line each, the splits as lists of names beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from magicap.data.checks import bad, lines_of, read_text, show
from magicap.data.rows import CaptionedImage, Entry
from magicap.data.source import Source

_TOKEN_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)")
SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}

KAGGLE_FILE, KAGGLE_IMAGES = "captions.txt", "Images"
"""What a folder of Flickr8k, or Flickr30k, from Kaggle holds."""

_SHARE, _MOST = 10, 1000  # of the pictures, one in so many for dev and for test, and no more than so many


def is_tokens(source: Source) -> bool:
    """Whether lines are those of ``Flickr8k.token.txt``: a picture, ``#``, a number, a tab, a caption."""
    return _TOKEN_LINE.fullmatch(source.head) is not None


def token_entries(source: Source, _: Sequence[str]) -> Iterator[Entry]:
    """What each line says."""
    seen: set[tuple[str, str]] = set()
    for place, line in source.lines():
        parts = _TOKEN_LINE.fullmatch(line)
        if parts is None:
            raise bad(place, "'name.jpg#0', a tab and a caption", show(line), "mend the line")
        image, which, caption = parts.groups()
        if (image, which) in seen:
            raise bad(
                place, "each caption once", f"{image}#{which}, which stands twice", "remove one of the two"
            )
        seen.add((image, which))
        yield Entry(place, CaptionedImage(image, "", (caption,)))


def is_kaggle(path: Path) -> bool:
    """Whether a data set, the file or its folder, is ``captions.txt`` with ``Images/``, as Kaggle has it."""
    folder = path if path.is_dir() else path.parent
    is_file = path.is_dir() or path.name == KAGGLE_FILE
    return is_file and (folder / KAGGLE_FILE).is_file() and (folder / KAGGLE_IMAGES).is_dir()


def with_drawn_splits(rows: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """Rows of a data set that says no split, with splits drawn by the names of the pictures.

    A tenth of the pictures each, at most 1,000 and at least one, is for dev and for test: those whose names
    have the smallest digests. So the splits are the same in every recipe and run, and on every machine.
    """
    order = sorted({row.image for row in rows}, key=lambda image: (blake2b(image.encode()).digest(), image))
    size = min(_MOST, max(1, len(order) // _SHARE))
    splits = dict.fromkeys(order[:size], "test") | dict.fromkeys(order[size : 2 * size], "dev")
    return [replace(row, split=splits.get(row.image, "train")) for row in rows]


def with_split_files(path: Path, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries of a file with the splits that the split files beside it name, where there are any.

    A picture that none of them names has no split, as some of Flickr8k's own.
    """
    splits = _splits(path.parent)
    if not splits:
        yield from entries
        return
    images = set()
    for entry in entries:
        images.add(entry.row.image)
        named = splits.get(entry.row.image)
        yield replace(entry, row=replace(entry.row, split=named[1])) if named else entry
    for image, (place, _) in splits.items():
        if image not in images:
            raise bad(place, f"a picture with captions in {path.name}", image, f"fetch {path.name} again")


def _splits(folder: Path) -> dict[str, tuple[str, str]]:
    """Where each name stands in the split files of a folder, and its split."""
    splits: dict[str, tuple[str, str]] = {}
    for split, name in SPLIT_FILES.items():
        if not (folder / name).is_file():
            continue
        for place, line in lines_of(folder / name, read_text(folder / name)):
            image = line.strip()
            if image in splits:
                raise bad(place, "each picture once", f"{image}, also at {splits[image][0]}", "remove one")
            splits[image] = place, split
    return splits
