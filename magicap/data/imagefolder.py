"""A folder of pictures with ``metadata.jsonl`` or ``metadata.csv``, as the library ``datasets`` has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from magicap.data.checks import bad, files_below
from magicap.data.json_rows import row_entries
from magicap.data.rows import Entry, split_in, split_of_folders
from magicap.data.source import Source
from magicap.data.table import is_table, table_entries

METADATA = ("metadata.jsonl", "metadata.csv")
_DRIVE = re.compile(r"[A-Za-z]:")


def is_metadata(source: Source) -> bool:
    """Whether it is the metadata of an imagefolder: by its name, or by fields that no other form has."""
    return source.path.name in METADATA or {"file_name", "text"} <= set(source.fields)


def metadata_entries(source: Source, keys: Sequence[str]) -> Iterator[Entry]:
    """What one metadata file says; see :func:`imagefolder_entries`."""
    return _with_splits(source.path.parent, _entries(source, PurePosixPath(), keys))


def imagefolder_entries(folder: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """What all metadata files below a folder say; all captions of one picture are its own.

    A picture goes by its path below the folder, and its split is that of the first folder on that path whose
    name contains one. Where no name does, a folder that is itself named like a split is that split, and any
    other is ``train``, as in ``datasets``. Unlike there, one metadata file above the split folders will do.
    """
    entries = (
        entry
        for file in metadata_below(folder)
        for entry in _entries(Source.read(file), PurePosixPath(file.parent.relative_to(folder)), keys)
    )
    return _with_splits(folder, entries)


def metadata_below(folder: Path) -> Iterator[Path]:
    """Every metadata file of a folder and the folders in it.

    Raises:
        BadData: two of them in one folder.
    """
    before = None
    for file in files_below(folder):
        if file.name in METADATA:
            if before == file.parent:
                raise bad(before, "one metadata file", " and ".join(METADATA), "remove one of the two")
            before = file.parent
            yield file


def _entries(source: Source, folder: PurePosixPath, keys: Sequence[str]) -> Iterator[Entry]:
    """What one file says, of pictures that are named by their paths below another folder."""
    read = table_entries if is_table(source) else row_entries
    for entry in read(source, keys):
        name = PurePosixPath(entry.row.image)
        if not name.name or name.is_absolute() or ".." in name.parts or _DRIVE.match(name.parts[0]):
            named = repr(str(name)) if name.name else "none"
            raise bad(entry.place, "'file_name' to name a file inside the folder", named, "move it in")
        yield replace(entry, row=replace(entry.row, image=str(folder / name)), is_whole=False)


def _with_splits(root: Path, entries: Iterable[Entry]) -> Iterator[Entry]:
    placed = [(entry, entry.row.split or split_of_folders(entry.row.image)) for entry in entries]
    root_name = root.resolve().name
    default = "" if any(split for _, split in placed) else _split_named(root_name) or "train"
    for entry, split in placed:
        yield replace(entry, row=replace(entry.row, split=split or default))


def _split_named(folder: str) -> str:
    """The split that a folder is called like."""
    return split_in(folder) if folder.isalpha() else ""
