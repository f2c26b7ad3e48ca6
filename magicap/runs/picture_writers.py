"""Rows with their pictures: a folder that ``datasets`` reads as imagefolder, WebDataset shards."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from magicap.errors import BadImage, BadSettings
from magicap.images.formats import SUFFIXES, is_avif
from magicap.images.reader import ImageLimits
from magicap.printable import without_surrogates
from magicap.reading import read_bytes
from magicap.runs.records import Record, SourceUnavailable, retrying
from magicap.runs.rows import Row
from magicap.runs.settings import ERRORS, METADATA
from magicap.runs.writers import JsonLines, Writer, close_safely

_MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


class ImageFolder(Writer):
    """Copies of the pictures with ``metadata.jsonl``; the rows of those that failed in ``_errors.jsonl``.

    Args:
        target: the folder; that of the pictures themselves where nothing is to be copied.
        start: row number of the first picture, by which copies are named.
        in_place: write the two files into ``target`` alone.
    """

    def __init__(
        self, target: Path, part: Path, columns: tuple[str, ...], start: int, *, in_place: bool
    ) -> None:
        super().__init__(target, part)
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir(parents=True)
        self._rows = JsonLines(part / METADATA, part / METADATA, columns)
        self._errors = JsonLines(part / ERRORS, part / ERRORS, columns)
        self._columns, self._number, self._in_place = columns, start, in_place

    def add(self, record: Record, row: Row, earlier: str | None = None) -> None:
        """Copy the picture, named by its row number, and write its row; one that failed is an error row."""
        number, self._number = self._number, self._number + 1
        if row.has_failed:
            self._errors.add(record, row)
            return
        if self._in_place:
            name = record.name
        else:
            data = encoded(record)
            name = f"{number:08d}{_suffix(record, data)}"
            (self.part / name).write_bytes(data)
        values = row.to_dict(self._columns)
        self._rows.add_object({"file_name": name, "text": values.pop("caption"), **values})

    def close(self) -> None:
        """Close both files of rows, synced to disk."""
        self._rows.close()
        self._errors.close()

    def finish(self) -> None:
        """Replace the target folder, or, in place, its files of rows; an empty file of errors is removed."""
        self.close()
        if not (self.part / ERRORS).stat().st_size:
            (self.part / ERRORS).unlink()
        if not self._in_place:
            shutil.rmtree(self.target, ignore_errors=True)  # put there before a crash
            os.replace(self.part, self.target)
            return
        (self.target / ERRORS).unlink(missing_ok=True)
        for file in self.part.iterdir():
            os.replace(file, self.target / file.name)
        self.part.rmdir()


class WebDataset(Writer):
    """A tar file with each picture, its caption as ``.txt``, its row as ``.json``, of errors that alone."""

    def __init__(self, target: Path, part: Path, columns: tuple[str, ...], start: int) -> None:
        super().__init__(target, part)
        self._columns, self._number = columns, start
        self._file = open(part, "wb")  # noqa: SIM115
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, record: Record, row: Row, earlier: str | None = None) -> None:
        """Append the picture's members, named by its row number; a failed one gets its ``.json`` alone."""
        key, self._number = f"{self._number:08d}", self._number + 1
        values = without_surrogates(row.to_dict(self._columns))
        if not row.has_failed:
            data = encoded(record)
            self._put(key + _suffix(record, data), data)
            self._put(f"{key}.txt", row.caption.encode())
        self._put(f"{key}.json", json.dumps(values, ensure_ascii=False, allow_nan=False).encode())

    def finish(self) -> None:
        """Write the end of the tar file and put it in place."""
        self._tar.close()
        super().finish()

    def close(self) -> None:
        """Close the file, synced to disk; only :meth:`finish` writes the end of the tar format."""
        close_safely(self._file)

    def _put(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # no time and no owner: the same rows are the same bytes
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def encoded(record: Record) -> bytes:
    """The bytes of a picture's file.

    Raises:
        BadSettings: it is gone since it was captioned.
        SourceUnavailable: it cannot be read for the moment.
    """

    def read() -> Any:
        image = record.load()
        return read_bytes(image, ImageLimits.bytes) if isinstance(image, str) else image

    try:
        return bytes(retrying(read, record.id))
    except SourceUnavailable:
        raise
    except (BadImage, OSError) as error:
        raise BadSettings(
            f"{record.id}: expected the picture that was captioned, found {error}; put it back, or remove "
            "the run's state to begin anew"
        ) from error


def _suffix(record: Record, data: bytes) -> str:
    """What a copy's name ends in: as the picture's own, else by how it begins."""
    own = os.path.splitext(record.name)[1].lower()
    if own in SUFFIXES:
        return own
    if is_avif(data[:16]):
        return ".avif"
    return next((suffix for start, suffix in _MAGIC.items() if data.startswith(start)), ".jpg")
