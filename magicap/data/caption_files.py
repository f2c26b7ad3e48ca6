"""Captions in text files beside their pictures, as tools that tag pictures write and read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from magicap.data.checks import bad, files_below, read_text
from magicap.data.fields import REFERENCES
from magicap.data.rows import CaptionedImage, Entry, split_of_folders
from magicap.images.formats import has_picture_suffix

SUFFIXES = (".txt", ".caption")


def caption_files_below(folder: Path) -> Iterator[Path]:
    """Every caption file of a folder and the folders in it."""
    return (
        file
        for file in files_below(folder)
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )


def caption_file_entries(folder: Path, keys: Sequence[str]) -> Iterator[Entry]:
    """Captions of each picture: the lines of its file that are not blank.

    ``a/dog.txt``, or ``a/dog.jpg.txt``, has those of ``a/dog.jpg``. Folders that are named like splits are
    splits. Predictions need no pictures beside them: then the file's picture is named ``a/dog``.

    Raises:
        BadData: no pictures beside references, or a file that belongs to no picture, or could to several.
    """
    pictures: dict[str, list[str]] = {}  # by the name that their caption files have, less its suffix
    for file in files_below(folder):
        if has_picture_suffix(file):
            name = file.relative_to(folder).as_posix()
            for key in (name, str(Path(name).with_suffix(""))):
                pictures.setdefault(key, []).append(name)
    if not pictures and keys == REFERENCES:
        raise bad(folder, "pictures beside their text files", "none", "give the path of one file")
    for file in caption_files_below(folder):
        name = _picture_of(file, file.relative_to(folder).with_suffix("").as_posix(), pictures)
        text = read_text(file, allow_blank=True)
        captions = tuple(line.strip() for line in text.split("\n") if line.strip())
        yield Entry(str(file), CaptionedImage(name, split_of_folders(name), captions), is_whole=True)


def _picture_of(file: Path, name: str, pictures: dict[str, list[str]]) -> str:
    belonging = pictures.get(name, [])
    if not pictures:
        return name
    if len(belonging) != 1:
        listed = " and ".join(belonging) or "none"
        fix = "call it by the picture's whole name, as in dog.jpg.txt" if belonging else "move it away"
        raise bad(file, f"one picture named {name}", listed, fix)
    return belonging[0]
