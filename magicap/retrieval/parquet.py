"""The items of an index as a Parquet table, which any table program reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magicap.errors import MissingPackage
from magicap.retrieval.header import Header, damaged
from magicap.retrieval.items import Item

_COLUMNS = {
    "path": "string", "path_bytes": "binary", "size": "int64", "mtime_ns": "int64", "text": "string"
}  # fmt: skip


def need_pyarrow() -> Any:
    """The module, which only the extra ``search`` brings.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackage(
            f"an index needs pyarrow, which is not installed ({error}): pip install 'magicap[search]'"
        ) from error
    return pyarrow


def items_table(items: Sequence[Item], folder: Path) -> Any:
    """A row an item. Paths below the folder that holds the index are relative to it: they move together."""
    pyarrow = need_pyarrow()
    above = os.path.join(_above(folder), "")
    paths = [None if item.path is None else item.path.removeprefix(above) for item in items]
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
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in _COLUMNS.items()])
    return pyarrow.table(columns, schema=schema)


def read_items(header: Header) -> list[Item]:
    """The items of an index.

    Raises:
        BadIndex: the file is missing or damaged.
        MissingPackage: pyarrow is not installed.
    """
    pyarrow = need_pyarrow()
    path = header.folder / header.items
    try:
        # Not read_table, which takes a folder 'size=3' on the way for one more column.
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read(list(_COLUMNS))
        columns = [table.column(name).to_pylist() for name in _COLUMNS]
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    above = _above(header.folder)
    items = [_item(above, *row) for row in zip(*columns, strict=True)]
    if len(items) != header.count or any(item is None or item.kind != header.holds for item in items):
        raise damaged(path, f"it does not hold {header.count} rows of kind {header.holds}")
    return [item for item in items if item is not None]


def _item(above: str, path: Any, path_bytes: Any, size: Any, mtime_ns: Any, text: Any) -> Item | None:
    """A row as an item; None where it is no whole row."""
    if isinstance(text, str) and path is None:
        return Item(text=text)
    if not isinstance(path, str) or not isinstance(size, int) or not isinstance(mtime_ns, int):
        return None
    name = path if path_bytes is None else os.fsdecode(path_bytes)
    return Item(os.path.join(above, name), None, size, mtime_ns)


def _above(folder: Path) -> str:
    return os.path.dirname(os.path.abspath(folder))


def _as_text(path: str) -> str:
    return path.encode("utf-8", "replace").decode()
