"""Which files of a folder are pictures, in the order people expect."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from magicap.errors import BadImage
from magicap.images.formats import has_picture_suffix, is_picture_file
from magicap.images.reader import FilePath, describe_source, open_image, refusing

_DIGITS = re.compile("[0-9]+")


def find_images(
    paths: FilePath | Iterable[FilePath],
    on_error: Callable[[BadImage], object] | None = None,
    *,
    is_wanted: Callable[[str], bool] = is_picture_file,
) -> Iterator[Path]:
    """List pictures: files as given, even missing ones; below folders, every picture, in natural order.

    A picture is known by its suffix, or else by how it begins. Those of formats that are not read are listed
    too, so that who opens them names them. Inside folders hidden names are skipped and links followed, but no
    folder is entered twice.

    Args:
        on_error: called with the error for each folder that cannot be listed; None raises instead.
        is_wanted: which files below folders are listed, by their paths.

    Raises:
        BadImage: code "unreadable", for a folder that cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        yield from _walk(Path(path), visited, on_error, is_wanted) if os.path.isdir(path) else [Path(path)]


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
    root: Path,
    visited: set[tuple[int, int]],
    on_error: Callable[[BadImage], object] | None,
    is_wanted: Callable[[str], bool],
) -> Iterator[Path]:
    # Not recursion: folders may nest deeper than Python can. Of a folder only its names are kept.
    stack = [iter([(str(root), True)])]
    while stack:
        path, is_folder = next(stack[-1], ("", False))
        if not path:
            stack.pop()
        elif not is_folder:
            if is_wanted(path):
                yield Path(path)
        else:
            try:
                stack.append(_children(path, visited))
            except BadImage as error:
                if on_error is None:
                    raise
                on_error(error)


def _children(folder: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """What a folder holds, in natural order, and whether it is a folder itself; nothing the second time."""
    advice = "the folder cannot be listed; check its permissions"
    with refusing("unreadable", advice, describe_source(folder)):
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in visited:
            return iter(())
        visited.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as entries:
            names = {entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")}
    return ((os.path.join(folder, name), names[name]) for name in sorted(names, key=natural_key))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; without asking the file system again of what is no link."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def natural_key(name: str) -> tuple[str, str]:
    """Sort key that puts ``img2`` before ``img10``: text, so that a million names fit into memory."""
    return _DIGITS.sub(lambda match: _number(match[0]), f"\1{name.casefold()}"), name


def _number(digits: str) -> str:
    """Digits as text that sorts by their value, before all other text."""
    value = digits.lstrip("0")
    return f"\0{chr(len(value) + 1)}{value}\1"
