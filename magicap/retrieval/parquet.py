"""The items of an index as a Parquet table, which any table program reads."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicap.extras import require
from magicap.reading import LARGEST_SETTINGS, open_regular
from magicap.retrieval.header import FORMAT, INDEX_FILE, Header, damaged
from magicap.retrieval.items import Item

_MOST_BYTES = 8192  # of a row on average: a path has up to 4096, a sentence a few hundred
_TEXTS = ["path", "path_bytes", "text"]
THRIFT_LIMITS = {"thrift_string_size_limit": LARGEST_SETTINGS, "thrift_container_size_limit": 1 << 16}
_COLUMNS = {
    "path": "string", "path_bytes": "binary", "size": "int64", "mtime_ns": "int64", "text": "string"
}  # fmt: skip
_OF_MOMENTS = {"time": "float64", "every": "float64"}
"""Columns of an index that holds moments of videos; null for its pictures."""


def require_parquet() -> Any:
    """The module ``pyarrow.parquet``, which only the extra ``search`` brings.

    Raises:
        MissingPackage: it is not installed.
    """
    require("pyarrow")
    return require("pyarrow.parquet")


def items_table(items: Sequence[Item], folder: Path) -> Any:
    """A row an item. Paths below the folder that holds the index are relative to it: they move together."""
    pyarrow = require("pyarrow")
    parent = os.path.join(_parent(folder), "")
    paths = [None if item.path is None else item.path.removeprefix(parent) for item in items]
    columns = {
        "path": [path if path is None else _as_text(path) for path in paths],
        # File names need not be text.
        "path_bytes": [
            None if path is None or path == _as_text(path) else os.fsencode(path) for path in paths
        ],
        "size": [item.size for item in items],
        "mtime_ns": [item.mtime_ns for item in items],
        "text": [item.text for item in items],
    }
    kinds = dict(_COLUMNS)
    if any(item.time is not None for item in items):
        kinds |= _OF_MOMENTS
        columns["time"] = [item.time for item in items]
        columns["every"] = [None if item.time is None else item.every for item in items]
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in kinds.items()])
    return pyarrow.table(columns, schema=schema)


def read_items(header: Header) -> list[Item]:
    """The items of an index.

    Raises:
        BadIndex: the file is missing or damaged.
        MissingPackage: pyarrow is not installed.
    """
    pyarrow, parquet = require("pyarrow"), require_parquet()
    path = header.folder / header.items
    try:
        # Not read_table, which takes a folder 'size=3' on the way for one more column.
        with (
            open_regular(path) as content,
            parquet.ParquetFile(content, read_dictionary=_TEXTS, **THRIFT_LIMITS) as file,
        ):
            _require_expected(file, header)
            columns = [_cells(file.read([name]).column(name), header.count) for name in _columns(header)]
            rows = list(zip(*columns, strict=True))  # a damaged column may be shorter
    except (OSError, ValueError, KeyError, MemoryError, pyarrow.ArrowException) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    parent = _parent(header.folder)
    items = [_item(parent, *row) for row in rows]
    if len(items) != header.count or any(item is None or item.kind != header.holds for item in items):
        raise damaged(path, f"it does not hold {header.count} rows of kind {header.holds}")
    return [item for item in items if item is not None]


def _columns(header: Header) -> dict[str, str]:
    """The columns of an index's items with their types."""
    return _COLUMNS if header.format == FORMAT else _COLUMNS | _OF_MOMENTS


def _require_expected(file: Any, header: Header) -> None:
    """Compare what a Parquet file says of itself with the index's header, before any row is read.

    Raises:
        ValueError: other columns or rows, or cells that are too large.
    """
    pyarrow = require("pyarrow")
    types = {name: getattr(pyarrow, kind)() for name, kind in _columns(header).items()}
    types |= {name: pyarrow.dictionary(pyarrow.int32(), types[name]) for name in _TEXTS}
    if {field.name: field.type for field in file.schema_arrow} != types:
        raise ValueError(f"columns other than {', '.join(_columns(header))}")
    if file.metadata.num_rows != header.count:
        raise ValueError(f"{file.metadata.num_rows} rows, where {INDEX_FILE} counts {header.count}")
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    _require_size(sum(group.total_byte_size for group in groups), header.count)


def _cells(column: Any, rows: int) -> list[Any]:
    """A column's cells. A text that many rows share stands once in the file, and would many times here.

    Raises:
        ValueError: they are too large.
    """
    if column.type in ("int64", "float64"):
        return list(column.to_pylist())
    compute = require("pyarrow.compute")
    lengths = [compute.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
    _require_size(sum(compute.sum(chunk).as_py() or 0 for chunk in lengths), rows)
    return [cell for chunk in column.chunks for cell in chunk.dictionary_decode().to_pylist()]


def _require_size(size: int, rows: int) -> None:
    if size > LARGEST_SETTINGS + _MOST_BYTES * rows:
        raise ValueError(f"{size} bytes in {rows} rows")


def _item(
    parent: str,
    path: Any,
    path_bytes: Any,
    size: Any,
    mtime_ns: Any,
    text: Any,
    time: Any = None,
    every: Any = None,
) -> Item | None:
    """A row as an item; None where it is no whole row."""
    if isinstance(text, str) and path is None and time is None:
        return Item(text=text)
    if not isinstance(path, str) or not isinstance(size, int) or not isinstance(mtime_ns, int):
        return None
    name = path if path_bytes is None else os.fsdecode(path_bytes)
    file = Item(os.path.join(parent, name), None, size, mtime_ns)
    if time is None:
        return file
    if not all(isinstance(value, float) and math.isfinite(value) and value >= 0 for value in (time, every)):
        return None
    return replace(file, time=time, every=every)


def _parent(folder: Path) -> str:
    return os.path.dirname(os.path.abspath(folder))


def _as_text(path: str) -> str:
    return path.encode("utf-8", "replace").decode()
