"""Pictures in the columns of Parquet tables and data sets, read row group by row group."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from magicap.data.hf_datasets import (
    cell_source,
    encoded_image,
    encoded_images,
    is_saved_dataset,
    is_streamed,
    open_dataset,
    saved_splits,
    with_encoded_images,
)
from magicap.errors import BadData, BadImage
from magicap.extras import require
from magicap.printable import without_surrogates
from magicap.runs.records import Record, retrying, stamp_of

_NAMES = ("image", "img", "picture", "jpg", "png", "webp", "bytes", "path", "image_path", "file_name")
_KEPT_GROUPS = 2  # the one that is read, and the one before it: readers are not quite in order


def parquet_records(place: str, column: str | None) -> Iterator[Record]:
    """The pictures of one table, a row each.

    Args:
        column: holds encoded bytes, paths, or both as ``datasets`` writes them; None: found by name and type.

    Raises:
        BadData: no table, or no such column.
        MissingPackage: pyarrow is not installed.
    """
    table = _Table(place, column)
    stamp, name = stamp_of(place), without_surrogates(place)
    for row in range(table.rows):
        yield Record(f"{name}#{row}", partial(table.cell, row), f"{row:08d}", stamp)


def dataset_records(source: str, column: str | None, split: str | None) -> Iterator[Record]:
    """The pictures of a data set, a row each: a folder that ``datasets`` saved, or a name of the hub.

    Raises:
        BadData: no such data set, split or column.
        MissingPackage: ``datasets`` is not installed.
        SourceUnavailable: the hub cannot be reached.
    """
    dataset = retrying(lambda: open_dataset(source, split), source)
    name = without_surrogates(_name(source, split))
    if is_streamed(dataset):
        for row, image in enumerate(encoded_images(dataset, column)):
            place = f"{name}#{row}"
            yield Record(place, partial(_source, image, place, None), f"{row:08d}")
        return
    encoded = with_encoded_images(dataset, column)
    for row in range(len(encoded)):
        place = f"{name}#{row}"
        yield Record(place, partial(_saved, encoded, row, place), f"{row:08d}")


def _name(source: str, split: str | None) -> str:
    """What a data set's rows are called by, in references too: its split is in it where it has several."""
    several = not is_saved_dataset(source) or len(saved_splits(Path(source))) > 1
    return f"{source}/{split}" if split is not None and several else source


def _saved(encoded: Any, row: int, place: str) -> Any:
    return _source(encoded_image(encoded, row), place, None)


class _Table:
    """One column of a Parquet file."""

    def __init__(self, place: str, column: str | None) -> None:
        parquet = require("pyarrow.parquet")
        arrow = require("pyarrow")
        try:
            self._file = parquet.ParquetFile(place)
        except (arrow.ArrowException, ValueError) as error:
            raise BadData(f"{place}: expected a Parquet table, found {error}; write it again") from error
        self._place, self._folder = place, Path(place).parent
        self._column = _column(place, self._file.schema_arrow, column)
        metadata = self._file.metadata
        groups = range(metadata.num_row_groups)
        self._ends = list(accumulate(metadata.row_group(group).num_rows for group in groups))
        self._groups: dict[int, Any] = {}
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        return self._ends[-1] if self._ends else 0

    def cell(self, row: int) -> Any:
        """What one row's reader opens.

        Raises:
            BadImage: nothing is there.
        """
        group = bisect_right(self._ends, row)
        with self._lock:
            if group not in self._groups:
                self._groups = dict(list(self._groups.items())[-(_KEPT_GROUPS - 1) :])
                self._groups[group] = self._file.read_row_group(group, columns=[self._column]).column(0)
            cells = self._groups[group]
        value: Any = cells[row - (self._ends[group - 1] if group else 0)]
        return _source(cell_source(value.as_py()), f"{self._place}#{row}", self._folder)


def _source(source: Any, place: str, folder: Path | None) -> Any:
    """What a reader opens of a cell of a table or a data set.

    Args:
        folder: what paths are relative to; None: the working folder.

    Raises:
        BadImage: there is nothing.
    """
    if source is None or source == "":
        message = "expected a picture's bytes or path, found none; fill the row in"
        raise BadImage("missing", message, source=place)
    return str(folder / source) if isinstance(source, str) and folder is not None else source


def _column(place: str, schema: Any, column: str | None) -> str:
    """The column of pictures: the one that is named, else by name and type."""
    types: dict[str, Any] = {field.name: field.type for field in schema}
    if column is not None:
        if column not in types:
            raise BadData(
                f"{place}: expected a column {column!r}, found {', '.join(types)}; name one of these"
            )
        return column
    arrow = require("pyarrow")
    for name in _NAMES:
        if name in types:
            return name
    tests = arrow.types.is_struct, arrow.types.is_binary, arrow.types.is_large_binary
    likely = [name for name, kind in types.items() if any(test(kind) for test in tests)]
    if len(likely) == 1:
        return likely[0]
    raise BadData(
        f"{place}: expected one column of pictures, found {', '.join(types)}; name it with --column"
    )
