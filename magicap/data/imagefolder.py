"""A folder of pictures with ``metadata.jsonl``, as the library ``datasets`` has it ("imagefolder")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from magicap.data.checks import bad, field, files_below, lines_of, parse_json, read_text, string, strings
from magicap.data.rows import CaptionedImage, Placed, split_in

METADATA = "metadata.jsonl"


def imagefolder_rows(path: Path) -> Iterator[Placed]:
    """Rows of one ``metadata.jsonl``, or of all those below a folder; all of one picture are its captions.

    A picture goes by its path below the folder, and its split is that of the first folder on that path whose
    name contains one. Where no name does, a folder that is itself named like a split is that split, and any
    other is ``train``, as in ``datasets``. Unlike there, one ``metadata.jsonl`` above the split folders will
    do.
    """
    root = path if path.is_dir() else path.parent
    files = list(metadata_below(path)) if path.is_dir() else [path]
    rows = [row for file in files for row in _pictures(file, file.parent.relative_to(root).as_posix())]
    splits = [_split(name) for _, name, _ in rows]
    root_name = root.resolve().name
    default = "" if any(splits) else (root_name.isalpha() and split_in(root_name)) or "train"
    for (place, name, captions), split in zip(rows, splits, strict=True):
        yield place, CaptionedImage(name, split or default, tuple(captions))


def metadata_below(folder: Path) -> Iterator[Path]:
    """Every ``metadata.jsonl`` of a folder and the folders in it."""
    return (file for file in files_below(folder) if file.name == METADATA)


def _pictures(file: Path, folder: str) -> list[tuple[str, str, list[str]]]:
    """Place, name and captions of each picture of one metadata file."""
    pictures: dict[str, tuple[str, list[str]]] = {}
    for place, line in lines_of(file, read_text(file)):
        row = parse_json(line, place)
        name = PurePosixPath(string(row, "file_name", place))
        if not name.name or name.is_absolute() or ".." in name.parts:
            raise bad(place, "'file_name' to name a file inside the folder", repr(str(name)), "move it in")
        texts = [row["text"]] if isinstance(field(row, "text", place), str) else strings(row, "text", place)
        pictures.setdefault(str(folder / name), (place, []))[1].extend(texts)
    return [(place, name, captions) for name, (place, captions) in pictures.items()]


def _split(name: str) -> str:
    """The split that the names of a path's folders contain, the uppermost first; "" if none does."""
    return next(filter(None, map(split_in, PurePosixPath(name).parts[:-1])), "")
