"""Which files of a folder are pictures, in the order people expect."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from magicap.images import SUFFIXES, FilePath, describe_source, refusing


def find_images(paths: FilePath | Iterable[FilePath]) -> Iterator[Path]:
    """List pictures: files as given, even missing ones; below folders, every ``SUFFIXES``, in natural order.

    Inside folders hidden names are skipped and links followed, but no folder is entered twice.

    Raises:
        BadImage: code "unreadable", for a folder that cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        yield from _walk(Path(path), visited) if os.path.isdir(path) else [Path(path)]


def _walk(root: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    stack = [root]  # not recursion: folders may nest deeper than Python can
    while stack:
        path = stack.pop()
        if not os.path.isdir(path):
            yield path
            continue
        advice = "the folder cannot be listed; check its permissions"
        with refusing("unreadable", advice, describe_source(path)):
            info = path.stat()
            inside = [] if (info.st_dev, info.st_ino) in visited else list(path.iterdir())
        visited.add((info.st_dev, info.st_ino))
        shown = (p for p in inside if not p.name.startswith("."))
        wanted = (p for p in shown if p.suffix.lower() in SUFFIXES or os.path.isdir(p))
        stack += sorted(wanted, key=_natural, reverse=True)


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts ``img2`` before ``img10``."""
    pieces = re.findall("[0-9]+|[^0-9]+", path.name.casefold())
    return [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in pieces], path.name
