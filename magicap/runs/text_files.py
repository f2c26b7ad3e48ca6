"""A text file beside each picture, as programs that train on captioned pictures read them."""

from __future__ import annotations

import os
from pathlib import Path

from magicap.errors import BadImage, BadSettings
from magicap.printable import without_surrogates
from magicap.reading import read_bytes
from magicap.runs.records import Record
from magicap.runs.rows import Row
from magicap.runs.settings import RunSettings
from magicap.runs.writers import JsonLines

LONGEST_TEXT = 1 << 20
"""Bytes of a text file that is there already and is added to."""

_JOINED_BY = ", "


class ExistingTexts:
    """What pictures' text files hold before a run writes them."""

    def __init__(self, settings: RunSettings) -> None:
        self._folder = settings.text_folder
        self._on_existing = settings.on_existing
        self._claimed: dict[str, str] = {}  # names in the folder of the last picture: memory stays flat
        self._parent: Path | None = None

    def claim(self, record: Record) -> Path:
        """A picture's text file, which is no other picture's. All pictures are asked about, in order.

        Raises:
            BadImage: the picture could not be listed, or another one has a text file of that name.
            BadSettings: the picture is no file by itself, and there is no folder for its text.
        """
        if record.error is not None:
            raise record.error
        path = _text_path(record, self._folder)
        if path.parent != self._parent:
            self._claimed, self._parent = {}, path.parent
        other = self._claimed.setdefault(path.name, record.id)
        if other != record.id:
            message = f"expected a text file of its own, found that {other} has {path.name} too; rename one"
            raise BadImage("path", message, source=record.id)
        return path

    def before(self, record: Record) -> str | None:
        """What its text file holds; None: there is none.

        Raises:
            BadImage: as of :meth:`claim`.
            BadSettings: so too, or there is one, and nothing says what is to become of it.
        """
        path = self.claim(record)
        text = _read_if_there(path)
        if text is not None and self._on_existing == "fail":
            raise BadSettings(
                f"{path} is there already; give --on-existing skip, overwrite, append or prepend"
            )
        return text

    def is_kept(self, text: str | None) -> bool:
        """Whether a picture needs no caption, by what :meth:`before` gave."""
        return text is not None and self._on_existing == "skip"


class TextFiles(JsonLines):
    """A text file beside each picture, or below a folder of its own; all rows as JSON lines too.

    Args:
        folder: where the text files go; None: beside the pictures.
    """

    def __init__(
        self, target: Path, part: Path, columns: tuple[str, ...], folder: Path | None, on_existing: str
    ) -> None:
        super().__init__(target, part, columns)
        self._folder, self._on_existing = folder, on_existing

    def add(self, record: Record, row: Row, earlier: str | None = None) -> None:
        """Add the row, and write the picture's text file; a failed picture gets a row alone.

        Raises:
            BadSettings: the text file has changed since the picture was captioned, or cannot be read.
            OSError: it cannot be written.
        """
        super().add(record, row)
        if row.has_failed or not row.caption:  # that of a picture whose text is kept
            return
        path = _text_path(record, self._folder)
        words = "\n".join(row.captions or (row.caption,))
        if row.tags:
            words = _JOINED_BY.join([words, *row.tags])
        text = _joined(earlier, words, self._on_existing)
        present = _read_if_there(path)
        if present == text:
            return
        if present != earlier:
            raise BadSettings(
                f"{path}: expected the text that stood there when the picture was captioned, found another; "
                "put that back, or remove the run's state to begin anew"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, path)


def _text_path(record: Record, folder: Path | None) -> Path:
    """Where a picture's text file is.

    Raises:
        BadSettings: the picture is no file by itself, and there is no folder.
    """
    if folder is not None:
        name = without_surrogates(record.name)
        return folder / Path(name).with_suffix(".txt")
    if record.path is None:
        raise BadSettings(f"{record.id}: expected a picture's file to write beside, found none; give --out")
    return Path(record.path).with_suffix(".txt")


def _read_if_there(path: Path) -> str | None:
    """A text file's content; None where there is none.

    Raises:
        BadSettings: it cannot be read, is no text, or is no caption by its size.
    """
    try:
        return read_bytes(path, LONGEST_TEXT).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(
            f"{path}: expected a text file to keep or add to, found {error}; move it"
        ) from error


def _joined(earlier: str | None, words: str, on_existing: str) -> str:
    """A text file's new content."""
    before = (earlier or "").strip()
    if on_existing in ("append", "prepend") and before:
        parts = [before, words] if on_existing == "append" else [words, before]
        return _JOINED_BY.join(parts) + "\n"
    return words + "\n"
