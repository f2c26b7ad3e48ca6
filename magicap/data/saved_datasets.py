"""Captions of datasets that ``save_to_disk`` of the library ``datasets`` wrote: what each row says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicap.data import fields
from magicap.data.hf_datasets import image_column, plain_rows, saved_splits
from magicap.data.rows import Entry
from magicap.errors import BadData


def dataset_entries(path: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """What each row of a saved dataset says of a picture; see :func:`magicap.data.forms.read_entries`.

    A picture goes by the file that a column names, or its column of pictures; else by its number; else by the
    folder's name and its row, from 0: ``photos#7``, or ``photos/test#7`` where the folder has several splits.
    References without a number of their own have that as their id too.

    Raises:
        BadData: it is damaged, or a row holds no captions.
        MissingPackage: ``datasets`` is not installed.
    """
    splits = saved_splits(path)
    for split, dataset in splits.items():
        part = f"/{split}" if len(splits) > 1 else ""
        pictures = _column_or_none(dataset)
        captions = fields.caption_columns(dataset.column_names, keys, f"{path}{part}")
        for number, row in enumerate(plain_rows(dataset, pictures, captions)):
            entry = _entry(row, pictures, captions, f"{path}{part}, row {number}", keys)
            by_row = f"{path.resolve().name}{part}#{number}" if pictures else ""
            yield replace(
                entry,
                row=replace(
                    entry.row,
                    image=entry.row.image or by_row,
                    split=entry.row.split or split,
                    id=entry.row.id or (by_row if keys == fields.REFERENCES else "") or None,
                ),
            )


def _column_or_none(dataset: Any) -> str | None:
    try:
        return image_column(dataset)
    except BadData:
        return None


def _entry(
    row: dict[str, Any], pictures: str | None, captions: Sequence[str], place: str, keys: Sequence[str]
) -> Entry:
    file = row.pop(f"{pictures}.path", None)
    values = {name: value for name, value in row.items() if value is not None and value == value}  # no NaN
    if len(captions) > 1:  # numbered
        texts = [values.pop(name) for name in captions if name in values]
        values[fields.base_key(fields.plain_key(captions[0]))] = texts
    if file and not set(map(fields.plain_key, values)) & set(fields.IMAGE_KEYS):
        values["image"] = file
    return fields.entry_of(values, place, keys)
