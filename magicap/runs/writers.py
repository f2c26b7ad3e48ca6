"""Rows as files of one table each: JSON lines, CSV and Parquet, written whole and renamed."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from magicap.extras import require
from magicap.printable import without_surrogates
from magicap.runs.records import Record
from magicap.runs.rows import Row

_ROW_GROUP = 4096
_TYPES = {
    "id": "string",
    "caption": "string",
    "confidence": "float64",
    "score": "float64",
    "error": "string",
    "width": "int32",
    "height": "int32",
}


class Writer(ABC):
    """Takes rows one by one, and puts the whole of them in place in the end.

    Args:
        target: where the file or folder goes.
        part: under which name it is written; on the same disk.
    """

    def __init__(self, target: Path, part: Path) -> None:
        self.target, self.part = target, part

    @abstractmethod
    def add(self, record: Record, row: Row, earlier: str | None = None) -> None:
        """One more picture's row.

        Args:
            record: the picture; writers that copy pictures read it again.
            row: its caption, or why there is none.
            earlier: what the picture's text file held before the run; None: it was not there.

        Raises:
            OSError: it cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """See that all is on the disk, and let go of it.

        Raises:
            OSError: it is not.
        """

    def finish(self) -> None:
        """Put what was written in place."""
        self.close()
        os.replace(self.part, self.target)

    def abandon(self) -> None:
        """Let go of what is open: the run goes on another time."""
        with suppress(OSError):
            self.close()


class JsonLines(Writer):
    """An object a row, with the same names in each."""

    def __init__(self, target: Path, part: Path, columns: tuple[str, ...]) -> None:
        super().__init__(target, part)
        self._columns = columns
        self._file: IO[str] = open(part, "w", encoding="utf-8", newline="\n")  # noqa: SIM115

    def add(self, record: Record, row: Row, earlier: str | None = None) -> None:
        """Write the row's columns as one object."""
        self.add_object(row.to_dict(self._columns))

    def add_object(self, values: dict[str, Any]) -> None:
        """One line."""
        self._file.write(json.dumps(without_surrogates(values), ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file, synced to disk."""
        close_safely(self._file)


class Csv(Writer):
    """A header and a line a row; of several captions each in a column of its own."""

    def __init__(self, target: Path, part: Path, columns: tuple[str, ...], captions: int) -> None:
        super().__init__(target, part)
        self._columns, self._captions = columns, captions
        self._file: IO[str] = open(part, "w", encoding="utf-8", newline="")  # noqa: SIM115
        self._rows = csv.writer(self._file, lineterminator="\n")
        numbered = [f"caption_{number}" for number in range(2, captions + 1)]
        self._rows.writerow([*(name for name in columns if name != "captions"), *numbered])

    def add(self, record: Record, row: Row, earlier: str | None = None) -> None:
        """Write one line: None is an empty cell, tags are joined by commas."""
        values = without_surrogates(row.to_dict(self._columns))
        others = values.pop("captions", [])[1:]
        if "tags" in values:
            values["tags"] = ", ".join(values["tags"])
        empty = [""] * (self._captions - 1 - len(others))
        self._rows.writerow([*("" if value is None else value for value in values.values()), *others, *empty])

    def close(self) -> None:
        """Close the file, synced to disk."""
        close_safely(self._file)


class Parquet(Writer):
    """A table with the same types in each file, and what made it in its metadata.

    Raises:
        MissingPackage: pyarrow is not installed.
    """

    def __init__(self, target: Path, part: Path, columns: tuple[str, ...], made_by: dict[str, str]) -> None:
        super().__init__(target, part)
        arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
        texts = arrow.list_(arrow.string())
        types = {name: getattr(arrow, _TYPES[name])() if name in _TYPES else texts for name in columns}
        self._schema = arrow.schema(
            types.items(), metadata={f"magicap.{name}": made_by[name] for name in made_by}
        )
        self._table = arrow.Table
        self._columns = columns
        self._file = open(part, "wb")  # noqa: SIM115
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, record: Record, row: Row, earlier: str | None = None) -> None:
        """Buffer the row; every 4,096 rows are written as a row group."""
        self._rows.append(without_surrogates(row.to_dict(self._columns)))
        if len(self._rows) == _ROW_GROUP:
            self._write()

    def finish(self) -> None:
        """Write the rows still buffered and the footer, and put the file in place."""
        self._write()
        self._writer.close()
        super().finish()

    def abandon(self) -> None:
        """Close the writer and the file; rows still buffered are dropped."""
        with suppress(OSError):  # pyarrow complains on stderr of a writer that outlives its file
            self._writer.close()
        super().abandon()

    def close(self) -> None:
        """Close the file, synced to disk; only :meth:`finish` writes rows still buffered."""
        close_safely(self._file)

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def close_safely(file: IO[Any]) -> None:
    """Close a file once all of it is on the disk.

    Raises:
        OSError: it is not.
    """
    if file.closed:
        return
    try:
        file.flush()
        os.fsync(file.fileno())
    finally:
        file.close()
