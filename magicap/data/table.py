"""Captions as a table of text: CSV and its like with a header, or PATH, a tab and a caption without one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from magicap.data.checks import bad, parse_json, show
from magicap.data.fields import REFERENCES, base_key, caption_key, entry_of, image_key, plain_key, slashed
from magicap.data.rows import CaptionedImage, Entry
from magicap.data.source import Source
from magicap.images.formats import has_picture_suffix

_DELIMITERS = ",\t;|"
_ONE_COLUMN = "\x1f"  # parts nothing: it stands in no text
_LIST = re.compile(r"""\s*\[\s*["'].*["']\s*\]\s*$""", re.DOTALL)
_FIX = 'put a field that holds a {delimiter} between "quotes"'


@dataclass(frozen=True)
class _Header:
    """The first line of a table."""

    delimiter: str
    names: Sequence[str]
    """Its C columns, as :func:`~magicap.data.fields.plain_key` writes them."""

    caption: str
    """The field that captions stand in."""

    captions: Sequence[int]
    """Its columns: several are numbered, as in ``caption_1,caption_2``."""


def is_table(source: Source) -> bool:
    """Whether the first line is a header that names captions."""
    return _header(source, REFERENCES) is not None


def table_entries(source: Source, keys: Sequence[str]) -> Iterator[Entry]:
    """What each line says; a table of one column has captions alone."""
    header = _header(source, keys)
    assert header is not None  # as is_table has seen
    reader = csv.reader(
        io.StringIO(source.text),
        delimiter=header.delimiter,
        strict=True,
        skipinitialspace=header.delimiter in ",;|",
        quoting=csv.QUOTE_NONE if header.delimiter == "|" else csv.QUOTE_MINIMAL,
    )
    lines = (cells for cells in reader if any(map(str.strip, cells)))
    try:
        next(lines)  # the header
        for cells in lines:
            if len(cells) != len(header.names):
                raise csv.Error(f"{len(cells)} fields")
            yield _entry(header, cells, f"{source.path}, line {reader.line_num}", keys)
    except csv.Error as error:
        expected = f"{len(header.names)} fields, as the header has"
        delimiter = {"\t": "tab", _ONE_COLUMN: "quote"}.get(header.delimiter, repr(header.delimiter))
        fix = _FIX.format(delimiter=delimiter)
        raise bad(f"{source.path}, line {reader.line_num}", expected, str(error), fix) from error


def _header(source: Source, keys: Sequence[str]) -> _Header | None:
    """The header, by the first delimiter that parts it into a picture and captions, else into captions."""
    for delimiter in (*_DELIMITERS, _ONE_COLUMN):
        names = [plain_key(name) for name in source.head.replace('"', "").split(delimiter)]
        bases = [base_key(name) for name in names]
        caption = caption_key(bases, keys, f"{source.path}, the header")
        if caption and (image_key(names) or delimiter == _ONE_COLUMN):
            columns = [number for number, base in enumerate(bases) if base == caption]
            return _Header(delimiter, names, caption, columns)
    return None


def _entry(header: _Header, cells: Sequence[str], place: str, keys: Sequence[str]) -> Entry:
    texts = [cells[column] for column in header.captions]
    several = [text.strip() for text in texts if text.strip()]
    captions = several if len(texts) > 1 else _listed(texts[0], place)
    others = {
        name: cell.strip()
        for column, (name, cell) in enumerate(zip(header.names, cells, strict=True))
        if column not in header.captions and cell.strip()
    }
    return entry_of({**others, header.caption: captions}, place, keys)


def _listed(cell: str, place: str) -> str | list[str]:
    """A caption, or the list of captions that a cell can hold as JSON."""
    if not _LIST.match(cell):
        return cell
    texts = parse_json(cell, place)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise bad(place, "a caption or a JSON list of captions", show(cell), "write it as one")
    return texts


def is_tabbed(source: Source) -> bool:
    """Whether lines are a picture's path, a tab and a caption, as ``magicap caption`` prints them."""
    if "\t" not in source.head:
        return False
    if has_picture_suffix(source.head.split("\t")[0]):
        return True
    lines = [line.split("\t") for _, line in source.lines()]
    return all(len(parts) == 2 for parts in lines) and any(has_picture_suffix(parts[0]) for parts in lines)


def tabbed_entries(source: Source, _: Sequence[str]) -> Iterator[Entry]:
    """What each line says."""
    for place, line in source.lines():
        name, *texts = line.split("\t")
        if len(texts) != 1 or not name.strip():
            raise bad(place, "a picture's path, a tab and a caption", show(line), "mend the line")
        yield Entry(place, CaptionedImage(slashed(name.strip()), "", (texts[0].strip(),)))
