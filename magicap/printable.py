r"""Names and texts from outside, as lines of output and JSON can hold them.

A file name may hold anything but a slash and a NUL: line ends, signs that a terminal obeys, and bytes that
are no text, which Python has as lone surrogates U+DC80 to U+DCFF. All are written as Python writes them in a
string: ``\n``, ``\x1b``, ``\u2028``, and ``\xff`` for the byte 255.
"""

from __future__ import annotations

import re
from typing import Any

_SURROGATES = "\ud800-\udfff"
_CONTROLS = re.compile(rf"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069{_SURROGATES}]")
_LONE_SURROGATES = re.compile(f"[{_SURROGATES}]")


def printable(text: str) -> str:
    """A text on one line, without what ends a line, moves a cursor or turns the direction of writing."""
    return _CONTROLS.sub(lambda match: escape(match[0]), text)


def without_surrogates(value: Any) -> Any:
    """A JSON value that any reader takes: lone surrogates, which are not Unicode, escaped in all its strings.

    Two file names that differ in one byte stay different.
    """
    if isinstance(value, str):
        return value if value.isascii() else _LONE_SURROGATES.sub(lambda match: escape(match[0]), value)
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value


def escape(sign: str) -> str:
    r"""One character in ASCII: ``\n``, ``\u2028``; ``\xff`` for a byte of a file name that is no text."""
    if "\udc80" <= sign <= "\udcff":
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()
