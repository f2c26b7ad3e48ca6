"""A list of pictures: a file, a pipe or stdin with a path a line, or with NUL characters between paths."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import nullcontext
from typing import BinaryIO

from magicap.errors import BadData

STDIN = "-"
LARGEST = 64 << 20
"""Bytes of a list; what is larger is no list of pictures, or a device that never ends."""


def read_list(source: str, *, null: bool) -> list[str]:
    """The paths of a list, in its order; blank lines are none.

    Args:
        source: its path, or ``-`` for stdin.
        null: whether NUL characters stand between paths, as ``find -print0`` writes them, which may then hold
            any other character.

    Raises:
        BadData: it cannot be read, is too large, or is parted in the other way.
    """
    try:
        with nullcontext(_stdin()) if source == STDIN else open(source, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadData(f"{source}: expected a list of pictures, found {reason}; check the path") from error
    if len(content) > LARGEST:
        raise BadData(f"{source}: expected a list of at most {LARGEST} bytes, found more; give it in parts")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes lists
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    if null:
        return [os.fsdecode(path) for path in content.split(b"\0") if path]
    if b"\0" in content:
        raise BadData(
            f"{source}: expected a path a line, found NUL characters between paths; add --null (-0)"
        )
    return [os.fsdecode(line) for line in content.splitlines() if line.strip()]


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise OSError("no stdin, which is closed")
    return sys.stdin.buffer
