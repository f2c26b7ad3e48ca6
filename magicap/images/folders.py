"""Which files of a folder are pictures, in the order people expect."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from magicap.errors import BadImage
from magicap.images.formats import has_picture_suffix, is_picture_file
from magicap.images.reader import FilePath, describe_source, open_image, refusing


def find_images(
    paths: FilePath | Iterable[FilePath], on_error: Callable[[BadImage], object] | None = None
) -> Iterator[Path]:
    """List pictures: files as given, even missing ones; below folders, every picture, in natural order.

    A picture is known by its suffix, or else by how it begins. Those of formats that are not read are listed
    too, so that who opens them names them. Inside folders hidden names are skipped and links followed, but no
    folder is entered twice.

    Args:
        on_error: called with the error for each folder that cannot be listed; None raises instead.

    Raises:
        BadImage: code "unreadable", for a folder that cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        yield from _walk(Path(path), visited, on_error) if os.path.isdir(path) else [Path(path)]


def is_picture(path: FilePath) -> bool:
    """Whether a file is a picture: by its name, even if it is missing or broken, or else by its content."""
    if has_picture_suffix(path):
        return True
    try:
        open_image(path)
    except BadImage:
        return False
    return True


def _walk(
    root: Path, visited: set[tuple[int, int]], on_error: Callable[[BadImage], object] | None
) -> Iterator[Path]:
    stack = [root]  # not recursion: folders may nest deeper than Python can
    while stack:
        path = stack.pop()
        if not os.path.isdir(path):
            yield path
            continue
        try:
            children = _children(path, visited)
        except BadImage as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        visible = (child for child in children if not child.name.startswith("."))
        listed = (child for child in visible if is_picture_file(child) or os.path.isdir(child))
        stack += sorted(listed, key=_natural, reverse=True)


def _children(folder: Path, visited: set[tuple[int, int]]) -> list[Path]:
    """What a folder holds; nothing the second time."""
    advice = "the folder cannot be listed; check its permissions"
    with refusing("unreadable", advice, describe_source(folder)):
        info = folder.stat()
        if (info.st_dev, info.st_ino) in visited:
            return []
        visited.add((info.st_dev, info.st_ino))
        return list(folder.iterdir())


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts ``img2`` before ``img10``."""
    pieces = re.findall("[0-9]+|[^0-9]+", path.name.casefold())
    return [(0, int(piece), "") if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces], path.name
