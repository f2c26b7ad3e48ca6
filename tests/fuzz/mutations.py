"""Whole files made wrong at random: bytes, lengths, cuts, repeats, and values of JSON."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_VALUE = re.compile(rb'"[^"\\]*"|-?\d+(\.\d+)?|true|false|null|\[\]|\{\}')
_NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b"2147483648", b"0.5", b"1e-320")
_VALUES = (
    b"null", b"true", b"[]", b"{}", b'""', b"0", b"[" * 5000, b'"\\ud800"', b'"../../x"', b'"\\u0000"',
    b'"' + b"a" * 50_000 + b'"', b"[[0]]",
)  # fmt: skip
_SIZES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A copy with one to four changes."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        content = draw.choice(_CHANGES)(content, draw)
    return content


def _bytes(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 20)) if changed else 0):
        changed[_place(changed, draw)] = draw.randrange(256)
    return bytes(changed)


def _size(content: bytes, draw: random.Random) -> bytes:
    """A whole number of one to eight bytes, as lengths and offsets are stored."""
    width, order = draw.choice((1, 2, 4, 4, 8)), draw.choice(("little", "big"))
    number = draw.choice(_SIZES) & ((1 << 8 * width) - 1)
    place = _place(content, draw)
    return content[:place] + number.to_bytes(width, order) + content[place + width :]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _removed(content: bytes, draw: random.Random) -> bytes:
    start, end = _slice(content, draw)
    return content[:start] + content[end:]


def _repeated(content: bytes, draw: random.Random) -> bytes:
    start, end = _slice(content, draw)
    return content[:end] + content[start:end] * draw.choice((1, 2, 1000)) + content[end:]


def _moved(content: bytes, draw: random.Random) -> bytes:
    start, end = _slice(content, draw)
    rest = content[:start] + content[end:]
    place = draw.randrange(len(rest) + 1)
    return rest[:place] + content[start:end] + rest[place:]


def _zeroed(content: bytes, draw: random.Random) -> bytes:
    start, end = _slice(content, draw)
    return content[:start] + draw.choice((b"\0", b"\xff", b" ")) * (end - start) + content[end:]


def _number(content: bytes, draw: random.Random) -> bytes:
    return _replaced(content, draw, _NUMBER, _NUMBERS)


def _value(content: bytes, draw: random.Random) -> bytes:
    return _replaced(content, draw, _VALUE, _VALUES)


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _bytes, _bytes, _size, _size, _cut, _removed, _repeated, _moved, _zeroed, _number, _value
)  # fmt: skip


def _replaced(
    content: bytes, draw: random.Random, pattern: re.Pattern[bytes], by: tuple[bytes, ...]
) -> bytes:
    found = list(pattern.finditer(content))[:10_000]
    if not found:
        return content
    start, end = draw.choice(found).span()
    return content[:start] + draw.choice(by) + content[end:]


def _place(content: bytes | bytearray, draw: random.Random) -> int:
    """An offset, in every second case among the first bytes, where headers are."""
    end = max(1, len(content))
    return draw.randrange(min(end, 100) if draw.random() < 0.5 else end)


def _slice(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = _place(content, draw)
    return start, min(len(content), start + draw.choice((1, 4, 64, 4096)))
