"""What files call a picture and its captions, and how one object of fields is read."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from magicap.data.checks import bad, id_field, name_field, show, string
from magicap.data.rows import CaptionedImage, Entry

IMAGE_KEYS = (
    *("image", "image_name", "file_name", "filename", "image_path", "image_file", "image_filename"),
    *("img", "img_path", "file_path", "filepath", "path", "file"),
)
"""Fields that name the picture; the first that is there does."""

ID_KEYS = ("image_id", "cocoid", "id")
"""Fields that number the picture."""

REFERENCES = ("captions", "caption")
"""Fields of captions that people wrote, by precedence."""

PREDICTIONS = ("prediction", "caption", "captions")
"""Fields of captions that a captioner wrote, by precedence."""

OTHER_KEYS = (
    *("text", "texts", "prompt", "prompts", "sentence", "sentences", "comment", "comments"),
    *("description", "caption_text", "raw", "prediction", "predictions"),
)
"""Fields of captions where there is none of the former; of several it is unclear which has them."""


_NUMBERED = re.compile(r"(.+?)_?\d+")


@functools.cache
def plain_key(name: str) -> str:
    """A field's name without what varies: "Image Name " is ``image_name``."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def image_key(names: Collection[str]) -> str | None:
    """The field that names the picture, else the one that numbers it; None: neither is there."""
    return next((key for key in (*IMAGE_KEYS, *ID_KEYS) if key in names), None)


def caption_key(names: Collection[str], keys: Sequence[str], place: str) -> str | None:
    """The field of captions, None if there is none.

    Args:
        names: the fields that there are.
        keys: :data:`REFERENCES` or :data:`PREDICTIONS`.
        place: the file, or its line, for errors.

    Raises:
        BadData: it is unclear which one it is.
    """
    for key in keys:
        if key in names:
            return key
    others = [key for key in OTHER_KEYS if key in names]
    if len(others) > 1:
        listed = " and ".join(map(repr, others))
        raise bad(place, "one field of captions", listed, "name the one that counts 'caption'")
    return others[0] if others else None


def base_key(name: str) -> str:
    """A field's name without its number: ``caption`` of ``caption_1``."""
    numbered = _NUMBERED.fullmatch(name)
    return numbered[1] if numbered else name


def caption_columns(names: Sequence[str], keys: Sequence[str], place: str) -> list[str]:
    """The columns of captions by their own names; several are numbered, as in ``caption_1``, ``caption_2``.

    Args:
        keys: as of :func:`caption_key`.

    Raises:
        BadData: it is unclear which they are.
    """
    bases = {name: base_key(plain_key(name)) for name in names}
    key = caption_key(list(bases.values()), keys, place)
    return [name for name, base in bases.items() if base == key]


def entry_of(fields: object, place: str, keys: Sequence[str] = REFERENCES) -> Entry:
    """What a JSON object, or a line of a table, says of a picture.

    Raises:
        BadData: it holds no captions, or a field is no name, no text, or unclear.
    """
    if not isinstance(fields, dict):
        raise bad(place, "a JSON object", show(fields), "write one with 'image' and 'caption'")
    values = {plain_key(name): value for name, value in fields.items()}
    captions, is_whole = _captions(values, keys, place)
    number = next((key for key in ID_KEYS if values.get(key) is not None), None)
    name = image_key(values)
    if number == "id" != name and not is_whole:
        number = None  # of the caption, and not of its picture
    row = CaptionedImage(
        slashed(name_field(values, name, place)) if name else "",
        _optional(values, "split", place) or "",
        captions,
        _optional(values, "flickr8k_split", place),
        id_field(values, number, place) if number else None,
    )
    return Entry(place, row, is_whole, values)


def texts_of(value: Any, keys: Sequence[str], place: str) -> tuple[str, ...] | None:
    """Captions written as a text, a list of texts, or a list of objects with one each; None: as neither."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        return None
    texts = [_inner_text(item, keys, place) if isinstance(item, dict) else item for item in value]
    return tuple(texts) if all(isinstance(text, str) for text in texts) else None


def slashed(name: str) -> str:
    r"""A path with the separators that all systems know: ``test\a.jpg`` is ``test/a.jpg``."""
    return name.replace("\\", "/")


def _captions(values: Mapping[str, Any], keys: Sequence[str], place: str) -> tuple[tuple[str, ...], bool]:
    """The captions, and whether they are a list, of all that the picture has."""
    key = caption_key(values, keys, place)
    if key is None:
        if "error" in values:  # as ``magicap caption --json`` writes of pictures that cannot be read
            return (), True
        names = ", ".join(map(repr, values)) or "no field"
        raise bad(place, "the field 'caption' or 'captions'", f"{names:.80}", "add or rename it")
    texts = texts_of(values[key], keys, place)
    if texts is None:
        expected = f"{key!r} to be a string or a list of strings"
        raise bad(place, expected, show(values[key]), "write it as one")
    return texts, not isinstance(values[key], str)


def _inner_text(item: Mapping[str, Any], keys: Sequence[str], place: str) -> Any:
    """The text of an object in a list of captions, such as ``{"raw": ...}``."""
    return item.get(caption_key(item, keys, place) or "")


def _optional(values: Mapping[str, Any], name: str, place: str) -> str | None:
    return None if values.get(name) is None else string(values, name, place) or None
