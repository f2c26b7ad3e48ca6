"""Captions as JSON: an object a line, a list of objects, or one object of captions by picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from magicap.data.checks import bad, list_of, parse_json, show
from magicap.data.fields import (
    ID_KEYS,
    IMAGE_KEYS,
    OTHER_KEYS,
    PREDICTIONS,
    REFERENCES,
    entry_of,
    plain_key,
    slashed,
    texts_of,
)
from magicap.data.rows import CaptionedImage, Entry
from magicap.data.source import Source

_KNOWN = {*IMAGE_KEYS, *ID_KEYS, *REFERENCES, *PREDICTIONS, *OTHER_KEYS}


def is_rows(source: Source) -> bool:
    """Whether it is a JSON list of objects, or JSON lines; a ``.jsonl`` is, for errors that name the line."""
    if isinstance(source.document, list):
        return all(isinstance(row, dict) for row in source.document[:1])
    known = {plain_key(name) for name in source.fields} & _KNOWN
    return bool(known) or source.path.suffix == ".jsonl"


def row_entries(source: Source, keys: Sequence[str]) -> Iterator[Entry]:
    """What each object says."""
    if isinstance(source.document, list):
        for number, row in enumerate(source.document, start=1):
            yield entry_of(row, f"{source.path}, row {number}", keys)
        return
    for place, line in source.lines():
        yield entry_of(parse_json(line, place), place, keys)


def is_annotations_alone(source: Source) -> bool:
    """Whether it is COCO's list of annotations without its list of pictures."""
    return isinstance(source.fields.get("annotations"), list) and "images" not in source.fields


def annotations_alone(source: Source, keys: Sequence[str]) -> Iterator[Entry]:
    """What each annotation says of the picture that it names by number."""
    for number, row in enumerate(list_of(source.document, "annotations", str(source.path))):
        yield entry_of(row, f"{source.path}, annotations[{number}]", keys)


def is_by_image(source: Source) -> bool:
    """Whether it is one JSON object of captions by picture, by the first of them."""
    value = next(iter(source.fields.values()), None)
    is_text = isinstance(value, str | dict) or (isinstance(value, list) and bool(value))
    known = {plain_key(name) for name in source.fields} & _KNOWN
    return is_text and not known and not source.is_lines


def by_image_entries(source: Source, keys: Sequence[str]) -> Iterator[Entry]:
    """Captions by picture: a text, a list of texts or objects, or, as kohya's tools have it, an object."""
    for name, value in source.fields.items():
        place = f"{source.path}, {name!r}"
        if isinstance(value, dict):
            yield entry_of({**value, "image": name}, place, keys)
            continue
        captions = texts_of(value, keys, place)
        if captions is None:
            raise bad(place, "a caption or a list of captions", show(value), "write it as one")
        yield Entry(place, CaptionedImage(slashed(name), "", captions), is_whole=True)
