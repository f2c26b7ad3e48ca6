"""One captioned picture, whatever file it came from, and the names of splits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CaptionedImage:
    """A picture's name, its split and its reference captions."""

    image: str
    """Name of the picture, with its folders where there are some; unique within the data set."""

    split: str
    """Part of the data set as its file calls it: ``train``, ``dev`` or ``val``, ``test``; "" if in none."""

    captions: tuple[str, ...]
    """Reference captions as they stand in the file."""

    flickr8k_split: str | None = None
    """Where the same picture stands in Flickr8k, for data sets that overlap with it."""

    id: str | None = None
    """The picture's number in data sets that number them (COCO); result files name pictures by it."""


@dataclass(frozen=True)
class Entry:
    """What one place of a file says of a picture: one of its captions, several or all."""

    place: str
    """Where it stands, for errors."""

    row: CaptionedImage
    """The picture; its name is "" where the file names none, as a table of sentences does."""

    is_whole: bool = False
    """Whether these are all captions of the picture, which then stands once."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the file says besides, by its own names: a model, a confidence, an error."""


_VALIDATION = ("validation", "valid", "dev", "val")
# The words, and the signs that may stand around them, by which the library `datasets` recognises a split.
_WORDS = {
    "train": ("train", "training"),
    "val": _VALIDATION,
    "test": ("test", "testing", "eval", "evaluation"),
}
_PATTERNS = {
    split: re.compile(rf"(?<![^-._ 0-9])(?:{'|'.join(words)})(?![^-._ 0-9])")
    for split, words in _WORDS.items()
}


def split_in(name: str) -> str:
    """The split that the name of a file or folder contains: ``val`` in ``val2014``; "" if it is unclear."""
    splits = [split for split, pattern in _PATTERNS.items() if pattern.search(name)]
    return splits[0] if len(splits) == 1 else ""


def split_of_folders(name: str) -> str:
    """The split that the folders of a path name, the uppermost first; "" if none does."""
    return next(filter(None, map(split_in, name.split("/")[:-1])), "")


def common_name(split: str) -> str:
    """One name for a split that goes by several: Flickr8k's ``dev`` is Karpathy's ``val``."""
    return "val" if split in _VALIDATION else split
