"""What an index holds and what a search gives: pictures' files, or sentences."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from magicap.errors import BadImage
from magicap.images.folders import is_picture
from magicap.images.formats import SUFFIXES
from magicap.images.reader import FilePath, ImageSource, open_image

IMAGE, TEXT = "image", "text"
PLURAL = {IMAGE: "pictures", TEXT: "sentences"}

DUPLICATE = 0.9
"""The least cosine of near-duplicates, unless another is given."""

OnError = Callable[[BadImage], object]


@dataclass(frozen=True, slots=True)
class Item:
    """A picture's file as it was when it was encoded, or a sentence."""

    path: str | None = None
    """A picture's absolute path; None for a sentence."""

    text: str | None = None
    """The sentence; None for a picture."""

    size: int = 0
    """A picture's bytes."""

    mtime_ns: int = 0
    """When a picture was last changed, in nanoseconds."""

    time: float | None = None
    """Of a moment of a video, whose file ``path``, ``size`` and ``mtime_ns`` are then of: when its frame is
    first shown, in seconds."""

    every: float = 0.0
    """Of a moment: how many seconds apart the video was sampled."""

    @property
    def kind(self) -> str:
        """``"image"``, which moments of videos are too, or ``"text"``."""
        return TEXT if self.path is None else IMAGE

    @property
    def fragment(self) -> str:
        """Of a moment what stands behind its video's path, ``#t=12.5``; else empty.

        The form is that of W3C's Media Fragments URI 1.0.
        """
        return "" if self.time is None else f"#t={self.time:.3f}".rstrip("0").rstrip(".")


Part: TypeAlias = "ImageSource | Item"
"""Of a query: a picture or a sentence, given as an item where text alone could mean either."""


@dataclass(frozen=True, slots=True)
class Match:
    """An item that a search found."""

    item: Item

    cosine: float
    """Of query and item in the scorer's space, -1 to 1."""

    rank: int
    """1 for the best."""

    position: int
    """Where the item stands in the index, from 0."""


def items_of_files(paths: Iterable[FilePath], on_error: OnError | None = None) -> Iterator[Item]:
    """Pictures' files as items, each once, in order, whatever they hold.

    Args:
        on_error: called with the error of each that is no file; None raises it.

    Raises:
        BadImage: no file at a path.
    """
    for path in dict.fromkeys(os.path.abspath(os.fsdecode(path)) for path in paths):
        try:
            yield _item(path)
        except BadImage as error:
            if on_error is None:
                raise
            on_error(error)


def names_picture(part: str) -> bool:
    """Whether a part of a query names a picture's file: one that is there, or by its suffix."""
    return Path(part).suffix.lower() in SUFFIXES or (os.path.isfile(part) and is_picture(part))


def is_sentence(part: Part) -> bool:
    """Whether a part of a query is a sentence: one of an index, or text that names no picture's file."""
    return part.kind == TEXT if isinstance(part, Item) else isinstance(part, str) and not names_picture(part)


def _item(path: str) -> Item:
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        info = None
    if info is None or not stat.S_ISREG(info.st_mode):
        open_image(path)  # which says what is wrong with it
        raise BadImage("missing", "expected a file, found it changing; index again", source=path)
    return Item(path=path, size=info.st_size, mtime_ns=info.st_mtime_ns)
