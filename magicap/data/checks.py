"""What every reader of captions checks alike: text, JSON and its fields. Each error names the place."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magicap.errors import BadData
from magicap.reading import LARGEST_TEXT, MOST_VALUES, has_countless_values, read_bytes

MOST_LINES = 2_000_000
"""Of one file of captions, those that are not blank."""

LONGEST_CAPTION = 10_000
"""Characters of one caption; metrics compare every word with every other."""

_LINE = re.compile(r"\S[^\n]*")  # from the first character that is no space
_MOST_MEMORY = 2 * LARGEST_TEXT  # of a text; one character beyond U+FFFF makes all of them four bytes long

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE_END = re.compile(rb"\r\n|\r|\n")


def bad(place: str | Path, expected: str, actual: str, fix: str) -> BadData:
    """The error to raise: where, what was expected, what was found, what to do."""
    return BadData(f"{place}: expected {expected}, found {actual}; {fix}")


def show(value: object) -> str:
    """A value of the file as errors quote it."""
    return f"{(value[:80] if isinstance(value, str) else value)!r:.80}"


def read_text(path: Path, *, allow_blank: bool = False) -> str:
    """The whole of a text file, lines ended by a line feed alone.

    Args:
        allow_blank: take a file without any text too.

    Raises:
        BadData: it cannot be read, is larger than :data:`magicap.reading.LARGEST_TEXT`, is no plain file or
            no text as :func:`decode` takes it, holds nothing, or more than
            :data:`magicap.reading.MOST_VALUES` values.
    """
    try:
        content = read_bytes(path, LARGEST_TEXT)
    except OSError as error:
        raise bad(path, "a file", error.strerror or str(error), "check path and permissions") from error
    if has_countless_values(content):
        raise bad(path, f"at most {MOST_VALUES} values", "more", "split it")
    text = decode(content, path)
    if sys.getsizeof(text) > _MOST_MEMORY:
        raise bad(path, f"text that takes at most {_MOST_MEMORY} bytes", str(sys.getsizeof(text)), "split it")
    if not allow_blank and (not text or text.isspace()):
        raise bad(path, "captions", "an empty file", "fetch or write it again")
    return text


def decode(data: bytes, path: Path) -> str:
    """Text of a file in UTF-8, or in UTF-16 or UTF-32 where a byte order mark says so; no other is guessed.

    Lines may end in a line feed, a carriage return or both; here they end in a line feed.

    Raises:
        BadData: it is in another encoding, or holds NUL characters.
    """
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(data, 0, error.start)) + 1
        byte = f"the byte 0x{error.object[error.start]:02x}"
        name = encoding.upper().removesuffix("-SIG")
        raise bad(f"{path}, line {line}", f"{name} text", byte, "save the file as UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise bad(f"{path}, line {line}", "UTF-8 text", "a NUL character", "save the file as UTF-8")
    return text


def files_below(folder: Path) -> Iterator[Path]:
    """Files of a folder and the folders in it, in order; hidden folders and linked ones are not entered."""

    def refuse(error: OSError) -> None:
        reason = f"{error.filename}: {error.strerror}"
        raise bad(folder, "folders that can be listed", reason, "check their permissions") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files))


def lines_of(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with its place. Not ``splitlines``: JSON strings may hold U+2028.

    Raises:
        BadData: more than :data:`MOST_LINES`.
    """
    number, counted = 1, 0
    for count, match in enumerate(_LINE.finditer(text)):
        if count == MOST_LINES:
            raise bad(path, f"at most {MOST_LINES} lines", "more", "split it")
        start = text.rfind("\n", 0, match.start()) + 1
        number, counted = number + text.count("\n", counted, start), start
        yield f"{path}, line {number}", text[start : match.end()]


def require_short(caption: str, place: str) -> None:
    """Refuse a caption longer than :data:`LONGEST_CAPTION`.

    Raises:
        BadData: it is longer.
    """
    if len(caption) > LONGEST_CAPTION:
        expected = f"a caption of at most {LONGEST_CAPTION} characters"
        raise bad(place, expected, f"{len(caption)}: {caption[:40]!r}...", "shorten it")


class RepeatedName(BadData):
    """A JSON object with one name twice, of which :mod:`json` would take the last."""


def load_json(text: str, place: str | Path) -> Any:
    """The JSON value that a text is.

    Raises:
        RepeatedName: an object in it has one name twice.
        ValueError, RecursionError: it is none.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            actual = f"{repeated!r:.80} stands twice"
            raise RepeatedName(
                str(bad(place, "each name once in an object", actual, "remove one of the two"))
            )
        return fields

    return json.loads(text, object_pairs_hook=distinct)


def parse_json(text: str, place: str | Path) -> Any:
    """As :func:`load_json`, with one kind of error.

    Raises:
        BadData: it is none, or an object in it has one name twice.
    """
    try:
        return load_json(text, place)
    except RepeatedName:
        raise
    except (ValueError, RecursionError) as error:
        raise bad(place, "JSON", show(text), f"mend it ({error})") from error


def field(fields: object, name: str, place: str) -> Any:
    """A field of a JSON object. Here and below :class:`BadData` names the place and what stands there."""
    if not isinstance(fields, dict):
        raise bad(place, f"a JSON object with {name!r}", show(fields), "write it as one")
    if name not in fields:
        names = ", ".join(map(repr, fields)) or "no field"
        raise bad(place, f"the field {name!r}", f"{names:.80}", "add or rename it")
    return fields[name]


def string(fields: object, name: str, place: str) -> str:
    """A field that is a string."""
    value = field(fields, name, place)
    if not isinstance(value, str):
        raise bad(place, f"{name!r} to be a string", show(value), "write it as one")
    return value


def list_of(fields: object, name: str, place: str) -> list[Any]:
    """A field that is a list."""
    value = field(fields, name, place)
    if not isinstance(value, list):
        raise bad(place, f"{name!r} to be a list", show(value), "write it as one")
    return value


def strings(fields: object, name: str, place: str) -> tuple[str, ...]:
    """A field that is a list of strings."""
    value = field(fields, name, place)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise bad(place, f"{name!r} to be a list of strings", show(value), "write it as one")
    return tuple(value)


def name_field(fields: object, name: str, place: str) -> str:
    """A name or an id, which files write as a number or as text, as text; it may be empty."""
    value = field(fields, name, place)
    if isinstance(value, float) and value.is_integer():  # as tools write ids where one is missing
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise bad(place, f"{name!r} to be a whole number or a name", show(value), "write it as one")
    return str(value)


def id_field(fields: object, name: str, place: str) -> str:
    """An id, as text; it is not empty."""
    value = name_field(fields, name, place)
    if not value:
        raise bad(
            place, f"{name!r} to be a whole number or a name", "an empty one", "write it, or leave it out"
        )
    return value
