"""Flickr8k's own files: captions a line each, the splits as lists of names beside them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from magicap.data.checks import bad, lines_of, read_text, show
from magicap.data.rows import CaptionedImage, Placed

TOKEN_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)")
CSV_HEADER = "image,caption"
SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def token_rows(path: Path, text: str) -> Iterator[Placed]:
    """Rows of ``Flickr8k.token.txt``: picture, ``#``, the caption's number, a tab, the caption."""
    return _grouped(path, _token_lines(path, text))


def csv_rows(path: Path, text: str) -> Iterator[Placed]:
    """Rows of the ``captions.txt`` under which Kaggle has Flickr8k: a CSV file of image and caption."""
    return _grouped(path, _csv_lines(path, text))


def _token_lines(path: Path, text: str) -> Iterator[tuple[str, str, str]]:
    seen: set[tuple[str, str]] = set()
    for place, line in lines_of(path, text):
        parts = TOKEN_LINE.fullmatch(line)
        if parts is None:
            raise bad(place, "'name.jpg#0', a tab and a caption", show(line), "mend the line")
        image, which, caption = parts.groups()
        if (image, which) in seen:
            raise bad(
                place, "each caption once", f"{image}#{which}, which stands twice", "remove one of the two"
            )
        seen.add((image, which))
        yield place, image, caption


def _csv_lines(path: Path, text: str) -> Iterator[tuple[str, str, str]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    rows = (row for row in reader if row)
    try:
        next(rows)  # the header
        for fields in rows:
            if len(fields) != 2:
                raise csv.Error(f"{len(fields)} fields")
            yield f"{path}, line {reader.line_num}", fields[0], fields[1]
    except csv.Error as error:
        place, fix = f"{path}, line {reader.line_num}", 'put a caption that holds a comma between "quotes"'
        raise bad(place, "an image and a caption with a comma between them", str(error), fix) from error


def _grouped(path: Path, lines: Iterable[tuple[str, str, str]]) -> Iterator[Placed]:
    """The captions of each picture; one that no split file names has no split, as some of Flickr8k's own."""
    splits = _splits(path.parent)
    pictures: dict[str, tuple[str, list[str]]] = {}
    for place, image, caption in lines:
        pictures.setdefault(image, (place, []))[1].append(caption)
    for image, (place, _) in splits.items():
        if image not in pictures:
            raise bad(place, f"a picture with captions in {path.name}", image, f"fetch {path.name} again")
    for image, (place, captions) in pictures.items():
        yield place, CaptionedImage(image, splits.get(image, ("", ""))[1], tuple(captions))


def _splits(folder: Path) -> dict[str, tuple[str, str]]:
    """Where each name stands in the split files of a folder, and its split."""
    splits: dict[str, tuple[str, str]] = {}
    for split, name in SPLIT_FILES.items():
        if not (folder / name).is_file():
            continue
        for place, line in lines_of(folder / name, read_text(folder / name)):
            image = line.strip()
            if image in splits:
                raise bad(place, "each picture once", f"{image}, also at {splits[image][0]}", "remove one")
            splits[image] = place, split
    return splits
