"""Pictures in the columns of Parquet tables and data sets, read row group by row group."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
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
from magicap.errors import BadData, BadImage, BadSettings
from magicap.extras import require
from magicap.printable import without_surrogates
from magicap.reading import open_regular
from magicap.retrieval.parquet import THRIFT_LIMITS, require_parquet
from magicap.runs.records import Record, no_picture, retrying, stamp_of

_NAMES = ("image", "img", "picture", "jpg", "png", "webp", "bytes", "path", "image_path", "file_name")
_ROWS = 32  # that are read together
_KEPT = 8  # of these: readers are not quite in order
_BUFFER = 1 << 20  # bytes


def parquet_records(place: str, column: str | None) -> Iterator[Record]:
    """The pictures of one table, a row each.

    Args:
        column: holds encoded bytes, paths, or both as ``datasets`` writes them; None: found by name and type.

    Raises:
        BadData: no table.
        BadSettings: no such column, or several that could be meant.
        MissingPackage: pyarrow is not installed.
    """
    table = _Table(place, column)
    stamp, name = stamp_of(place), without_surrogates(place)
    for row in range(table.rows):
        yield Record(f"{name}#{row}", partial(table.cell, row), f"{Path(name).stem}/{row:08d}", stamp)


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
    stamp = str(getattr(dataset, "_fingerprint", ""))
    for row in range(len(encoded)):
        place = f"{name}#{row}"
        yield Record(place, partial(_saved, encoded, row, place), f"{Path(source).name}/{row:08d}", stamp)


def _name(source: str, split: str | None) -> str:
    """What a data set's rows are called by, in references too: its split is in it where it has several."""
    several = not is_saved_dataset(source) or len(saved_splits(Path(source))) > 1
    return f"{source}/{split}" if split is not None and several else source


def _saved(encoded: Any, row: int, place: str) -> Any:
    return _source(encoded_image(encoded, row), place, None)


class _Table:
    """One column of a Parquet file, read a few rows at a time."""

    def __init__(self, place: str, column: str | None) -> None:
        arrow, parquet = require("pyarrow"), require_parquet()
        try:
            opened = open_regular(place)
            self._file = parquet.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False, **THRIFT_LIMITS)
        except (arrow.ArrowException, ValueError, OSError) as error:
            raise BadData(f"{place}: expected a Parquet table, found {error}; write it again") from error
        self._place, self._folder = place, Path(place).parent
        self._column = _column(place, self._file.schema_arrow, column)
        metadata = self._file.metadata
        groups = range(metadata.num_row_groups)
        self.ends = list(accumulate(metadata.row_group(group).num_rows for group in groups))
        self._lock = threading.Lock()
        self._cursors = [_Cursor(self), _Cursor(self)]  # of who reads ahead, and of who writes behind

    @property
    def rows(self) -> int:
        return self.ends[-1] if self.ends else 0

    def group(self, row: int) -> int:
        """The number of the row group that a row is in."""
        return bisect_right(self.ends, row)

    def batches(self, group: int) -> Iterator[Any]:
        """The cells of the column from a row group on, a few rows at a time."""
        groups = list(range(group, len(self.ends)))
        batches = self._file.iter_batches(_ROWS, row_groups=groups, columns=[self._column])
        return (batch.column(0) for batch in batches)

    def cell(self, row: int) -> Any:
        """What one row's reader opens.

        Raises:
            BadImage: nothing is there, or the table is damaged.
        """
        place = f"{self._place}#{row}"
        try:
            with self._lock:
                # whoever is at the row, else the one with the shortest way to it
                cursor = min(self._cursors, key=lambda cursor: cursor.distance(row))
                value = cursor.value(row)
        except require("pyarrow").ArrowException as error:
            message = f"expected a row that can be read, found {error}; write the table again"
            raise BadImage("unreadable", message, source=place) from error
        return _source(cell_source(value), place, self._folder)


class _Cursor:
    """A place in a table, with the rows before it."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._batches: Iterator[Any] = iter(())
        self._position = table.rows  # the row behind the last that was read: none is, so the first is sought
        self._kept: deque[tuple[int, Any]] = deque(maxlen=_KEPT)

    def distance(self, row: int) -> int:
        """Rows to be read to get to a row."""
        if self._batch(row) is not None:
            return 0
        is_behind = row < self._position or self._table.group(row) > self._table.group(self._position)
        return self._table.rows + 1 if is_behind else row - self._position + 1

    def value(self, row: int) -> Any:
        """The cell of a row, read on from the beginning of its group where that is not on the way."""
        if self.distance(row) > self._table.rows:
            group = self._table.group(row)
            self._batches = self._table.batches(group)
            self._position = self._table.ends[group - 1] if group else 0
            self._kept.clear()
        while (batch := self._batch(row)) is None:
            cells = next(self._batches)
            self._kept.append((self._position, cells))
            self._position += len(cells)
        start, cells = batch
        return cells[row - start].as_py()

    def _batch(self, row: int) -> tuple[int, Any] | None:
        """The first row and the cells of what is kept and has a row; None: nothing has."""
        return next((kept for kept in self._kept if kept[0] <= row < kept[0] + len(kept[1])), None)


def _source(source: Any, place: str, folder: Path | None) -> Any:
    """What a reader opens of a cell of a table or a data set.

    Args:
        folder: what paths are relative to; None: the working folder.

    Raises:
        BadImage: there is nothing.
    """
    if source is None or source == "":
        raise no_picture(place)
    return str(folder / source) if isinstance(source, str) and folder is not None else source


def _column(place: str, schema: Any, column: str | None) -> str:
    """The column of pictures: the one that is named, else by name and type."""
    types: dict[str, Any] = {field.name: field.type for field in schema}
    if column is not None:
        if column not in types:
            raise BadSettings(f"{place}: expected a column {column!r}, found {', '.join(types)}; name one")
        return column
    arrow = require("pyarrow").types
    tests = arrow.is_struct, arrow.is_binary, arrow.is_large_binary
    likely = [name for name, kind in types.items() if any(test(kind) for test in tests)]
    if len(likely) == 1:
        return likely[0]
    for name in _NAMES:
        if name in (likely or types):
            return name
    raise BadSettings(
        f"{place}: expected one column of pictures, found {', '.join(types)}; name it with --column"
    )
