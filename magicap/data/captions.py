"""The one reader of captions, whichever of five forms their data set has."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from magicap.data.checks import (
    bad,
    id_field,
    lines_of,
    parse_json,
    read_text,
    require_short,
    show,
    string,
    strings,
)
from magicap.data.coco import annotation_rows, karpathy_rows
from magicap.data.flickr8k import CSV_HEADER, TOKEN_LINE, csv_rows, token_rows
from magicap.data.imagefolder import METADATA, imagefolder_rows, metadata_below
from magicap.data.rows import CaptionedImage, Placed, common_name
from magicap.data.text import normalise_caption
from magicap.errors import BadData

# The files by which a folder is known as a data set.
_FOLDER_FILES = (
    "captions.jsonl",
    "dataset_*.json",
    "captions_*.json",
    "Flickr8k.token.txt",
    "captions.txt",
    METADATA,
)
_FORMS = (
    "captions.jsonl, Karpathy's dataset_*.json, COCO's captions_*.json, Flickr8k.token.txt, a CSV file "
    f"headed '{CSV_HEADER}', or a folder with one of these or with {METADATA}"
)


def read_captions(path: str | Path, splits: str | Collection[str] | None = None) -> list[CaptionedImage]:
    """Captioned pictures of a data set, in the order of its file.

    The form is recognised by the content:

    - ``captions.jsonl``: one JSON object a line with ``image``, ``split``, ``captions``, and perhaps
      ``flickr8k_split`` and ``id``;
    - Karpathy's ``dataset_coco.json``, ``dataset_flickr8k.json``, ``dataset_flickr30k.json``;
    - COCO's ``captions_val2014.json``: the file name tells the split, if any;
    - ``Flickr8k.token.txt``, or Kaggle's ``captions.txt``, with ``Flickr_8k.trainImages.txt`` and its like
      beside it;
    - imagefolder: pictures with ``metadata.jsonl`` (``file_name``, ``text``), splits as folders.

    Args:
        path: the file, or the folder that holds it.
        splits: keep only rows of these splits; None keeps all. ``dev`` and ``val`` are one split.

    Returns:
        The rows; none if the data set has splits, but not these.

    Raises:
        BadData: no form fits, a row is wrong, a picture stands twice, there is no row at all, or
            ``splits`` are given for a data set without any.
    """
    return _select(Path(path), _rows(Path(path)), splits)


def read_sentences(
    path: str | Path,
    splits: str | Collection[str] | None = ("train",),
    held_out: Collection[str] = ("dev", "test"),
) -> list[str]:
    """Normalised captions of any data set that :func:`read_captions` reads, or of a text file, one a line.

    Args:
        path: the data set or the text file.
        splits: the splits to read from a data set, None reads all; a text file has none and is read whole.
        held_out: Flickr8k splits whose pictures are left out wherever a row names one, so that a
            model evaluated on Flickr8k never reads the captions that it is evaluated by.

    Raises:
        BadData: as from :func:`read_captions`; a text file is not UTF-8 or holds nothing.
    """
    path = Path(path)
    rows = _rows(path)
    if rows is None and path.suffix not in (".csv", ".tsv"):
        texts = read_text(path).splitlines()
        for number, text in enumerate(texts, start=1):
            require_short(text, f"{path}, line {number}")
    else:
        texts = [text for row in leave_out(_select(path, rows, splits), held_out) for text in row.captions]
    sentences = (normalise_caption(text) for text in texts)
    return [sentence for sentence in sentences if sentence]


def leave_out(rows: Iterable[CaptionedImage], flickr8k_splits: Collection[str]) -> list[CaptionedImage]:
    """Rows whose pictures stand in none of these splits of Flickr8k, as far as rows name a split."""
    held_out = set(map(common_name, flickr8k_splits))
    return [row for row in rows if common_name(row.flickr8k_split or "") not in held_out]


def _select(
    path: Path, placed: Iterable[Placed] | None, splits: str | Collection[str] | None
) -> list[CaptionedImage]:
    if placed is None:
        raise _unknown(path, _head(read_text(path)))
    rows = list(_checked(placed))
    if not rows:
        raise bad(path, "captioned pictures", "none", "fetch or write it again")
    if splits is None:
        return rows
    wanted = set(map(common_name, [splits] if isinstance(splits, str) else splits))
    if "" not in wanted and not any(row.split for row in rows):
        fix = "read it whole, or give one with splits"
        raise bad(path, f"a data set with the split {' or '.join(sorted(wanted))}", "one without splits", fix)
    return [row for row in rows if common_name(row.split) in wanted]


def _checked(rows: Iterable[Placed]) -> Iterator[CaptionedImage]:
    """What holds for a row of any form: it is named, stands once, and its text can be written as UTF-8."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for place, row in rows:
        if not row.image:
            raise bad(place, "the name of a picture", "an empty one", "name it")
        for field, value, places in (("image", row.image, names), ("id", row.id, ids)):
            if value is not None and (first := places.setdefault(value, place)) != place:
                repeated = f"{field} {value!r}, which stands twice (first at {first})"
                raise bad(place, "each picture once", repeated, "remove one of the two")
        for text in (row.image, *row.captions):
            require_short(text, place)
            if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
                raise bad(place, "whole characters", f"half of one in {show(text)}", "write the text again")
        yield row


def _rows(path: Path) -> Iterator[Placed] | None:
    """The rows of a data set, each with its place; None for text that no form fits."""
    if path.is_dir():
        path = _file_in(path)
    if path.is_dir():
        return imagefolder_rows(path)
    text = read_text(path)
    head = _head(text)
    if head.startswith(("{", "[")):
        return _json_rows(path, text, head)
    if TOKEN_LINE.fullmatch(head):
        return token_rows(path, text)
    return csv_rows(path, text) if head.strip() == CSV_HEADER else None


def _json_rows(path: Path, text: str, head: str) -> Iterator[Placed] | None:
    document = _document(path, text, head)
    fields = set(document) if isinstance(document, dict) else set()
    if "images" in fields:
        return (annotation_rows if "annotations" in fields else karpathy_rows)(path, document)
    if "file_name" in fields:
        return imagefolder_rows(path)
    # A .jsonl of no known form is read as magicap's too, for an error that names line and field.
    if {"image", "captions"} & fields or path.suffix == ".jsonl":
        return _magicap_rows(path, text)
    if document is not None:
        raise _unknown(path, head)
    return None


def _unknown(path: Path, head: str) -> BadData:
    return bad(path, _FORMS, show(head), "bring it into one of these forms")


def _head(text: str) -> str:
    """The first line that is not blank."""
    return re.search(r"\S.*", text)[0]  # type: ignore[index] # read_text refuses blank files


def _document(path: Path, text: str, head: str) -> Any:
    """The JSON of the first line, else of the whole file; None if there is none."""
    for part in (head, text):
        try:
            return json.loads(part)
        except (ValueError, RecursionError):
            continue
    return parse_json(text, path) if path.suffix == ".json" else None


def _file_in(folder: Path) -> Path:
    """The one data set in a folder: its file, or the folder itself if that is an imagefolder."""
    files = [file for pattern in _FOLDER_FILES for file in sorted(folder.glob(pattern))]
    if len(files) > 1:
        raise bad(folder, "one data set", " and ".join(file.name for file in files), "give the path of one")
    if files and files[0].name != METADATA:
        return files[0]
    if not files and next(metadata_below(folder), None) is None:
        raise bad(folder, _FORMS, "a folder without any", "give the path of the file")
    return folder


def _magicap_rows(path: Path, text: str) -> Iterator[Placed]:
    """Rows of magicap's own ``captions.jsonl``."""
    for place, line in lines_of(path, text):
        row = parse_json(line, place)
        image, split = string(row, "image", place), string(row, "split", place)
        captions = strings(row, "captions", place)
        flickr8k = row.get("flickr8k_split") and string(row, "flickr8k_split", place)
        key = id_field(row, "id", place) if row.get("id") is not None else None
        yield place, CaptionedImage(image, split, captions, flickr8k or None, key)
