"""The one reader of captions, whichever form their data set has."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from magicap.data import flickr8k
from magicap.data.checks import bad, require_short, show
from magicap.data.forms import read_entries, unknown_form
from magicap.data.rows import CaptionedImage, Entry, common_name
from magicap.data.source import Source
from magicap.data.text import normalise_caption
from magicap.errors import BadData
from magicap.images.formats import has_picture_suffix

_FILE_NAME = re.compile(r"\s*([^\s,;|#]+\.\w+)(?:[\s,;|#]|$)")  # at the beginning of a line


def read_captions(path: str | Path, splits: str | Collection[str] | None = None) -> list[CaptionedImage]:
    r"""Captioned pictures of a data set, in the order of its file.

    The form is recognised by the content:

    - ``captions.jsonl``: one JSON object a line, or a list of them, with the picture (``image``,
      ``file_name``, ``image_id``, ...), its ``captions`` or one ``caption`` (``text``, ``prompt``, ...), and
      perhaps ``split``, ``flickr8k_split`` and ``id``;
    - one JSON object of captions by picture, as pycocoevalcap and kohya's tools have it;
    - Karpathy's ``dataset_coco.json``, ``dataset_flickr8k.json``, ``dataset_flickr30k.json``;
    - COCO's ``captions_val2014.json``: the file name tells the split, if any;
    - ``Flickr8k.token.txt`` with ``Flickr_8k.trainImages.txt`` and its like beside it;
    - a table with a header, parted by commas, tabs, semicolons or bars: columns as the fields above,
      ``caption_1``, ``caption_2`` for several captions; or lines of PATH, a tab and a caption;
    - imagefolder: pictures with ``metadata.jsonl`` or ``metadata.csv``, splits as folders;
    - a folder of pictures with a ``.txt`` or ``.caption`` beside each, a caption a line;
    - a folder that ``save_to_disk`` of the library ``datasets`` wrote: see
      :func:`magicap.data.saved_datasets.dataset_entries` for what its pictures are called.

    ``captions.txt`` with a folder ``Images`` beside it, as Kaggle has Flickr8k, and without split files, has
    the splits that :func:`magicap.data.flickr8k.with_drawn_splits` draws, for who asks for some.

    Text is UTF-8, or what a byte order mark says. Backslashes in names part folders.

    Args:
        path: the file, or the folder that holds it.
        splits: keep only rows of these splits; None keeps all. ``dev`` and ``val`` are one split.

    Returns:
        The rows; none if the data set has splits, but not these.

    Raises:
        BadData: no form fits, a row is wrong or unclear, a picture stands twice, there is no row at all, or
            ``splits`` are given for a data set without any.
    """
    entries = read_entries(Path(path))
    if isinstance(entries, Source):
        raise unknown_form(entries)
    return _select(Path(path), list(_pictures(entries)), splits)


def read_sentences(
    path: str | Path,
    splits: str | Collection[str] | None = ("train",),
    held_out: Collection[str] = ("dev", "test"),
) -> list[str]:
    """Normalised captions of any data set that :func:`read_captions` reads, or of a text file, one a line.

    Args:
        path: the data set, the text file, or a table or JSON lines of sentences that name no picture.
        splits: the splits to read from a data set, None reads all; what names no picture has none and is read
            whole.
        held_out: Flickr8k splits whose pictures are left out wherever a row names one, so that a
            model evaluated on Flickr8k never reads the captions that it is evaluated by.

    Raises:
        BadData: as from :func:`read_captions`; a text file holds nothing, names of files, or columns without
            a header.
    """
    path = Path(path)
    entries = read_entries(path)
    if isinstance(entries, Source):
        placed = _plain_sentences(entries)
    else:
        placed = _data_set_sentences(path, list(entries), splits, held_out)
    sentences = (normalise_caption(text) for text in map(_no_file_name, placed))
    return [sentence for sentence in sentences if sentence]


def leave_out(rows: Iterable[CaptionedImage], flickr8k_splits: Collection[str]) -> list[CaptionedImage]:
    """Rows whose pictures stand in none of these splits of Flickr8k, as far as rows name a split."""
    held_out = set(map(common_name, flickr8k_splits))
    return [row for row in rows if common_name(row.flickr8k_split or "") not in held_out]


def _select(
    path: Path, rows: list[CaptionedImage], splits: str | Collection[str] | None
) -> list[CaptionedImage]:
    if not rows:
        raise bad(path, "captioned pictures", "none", "fetch or write it again")
    if splits is None:
        return rows
    wanted = set(map(common_name, [splits] if isinstance(splits, str) else splits))
    if "" not in wanted and not any(row.split for row in rows):
        if flickr8k.is_kaggle(path):
            rows = flickr8k.with_drawn_splits(rows)
            return [row for row in rows if common_name(row.split) in wanted]
        fix = "read it whole, or give one with splits, or a text file with a caption a line"
        raise bad(path, f"a data set with the split {' or '.join(sorted(wanted))}", "one without splits", fix)
    return [row for row in rows if common_name(row.split) in wanted]


def _pictures(entries: Iterable[Entry]) -> Iterator[CaptionedImage]:
    """One row a picture, of captions that may stand in several places."""
    pictures: dict[str, tuple[Entry, list[str]]] = {}
    for entry in entries:
        _require_text(entry)
        if not entry.row.image:
            raise bad(entry.place, "the name of a picture", "none", "name it, as 'image'")
        first, captions = pictures.setdefault(entry.row.image, (entry, []))
        if first is not entry:
            _require_same_picture(first, entry)
        captions += entry.row.captions
    ids: dict[str, str] = {}
    for first, captions in pictures.values():
        if first.row.id is not None and (place := ids.setdefault(first.row.id, first.place)) != first.place:
            raise _twice(first.place, f"id {first.row.id!r}", place)
        yield first.row if first.is_whole else replace(first.row, captions=tuple(captions))


def _require_same_picture(first: Entry, entry: Entry) -> None:
    """That two places may have captions of one picture."""
    if first.is_whole or entry.is_whole:
        raise _twice(entry.place, f"image {entry.row.image!r}", first.place)
    if first.row.split != entry.row.split:
        splits = f"{entry.row.split!r}, and {first.row.split!r} at {first.place}"
        raise bad(entry.place, f"one split of {entry.row.image}", splits, "mend one of the two")


def _twice(place: str, what: str, first: str) -> BadData:
    return bad(
        place, "each picture once", f"{what}, which stands twice (first at {first})", "remove one of the two"
    )


def _require_text(entry: Entry) -> None:
    """That names and captions have a limit, and can be written as UTF-8."""
    for text in (entry.row.image, *entry.row.captions):
        require_short(text, entry.place)
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise bad(entry.place, "whole characters", f"half of one in {show(text)}", "write the text again")


def _data_set_sentences(
    path: Path, entries: list[Entry], splits: str | Collection[str] | None, held_out: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Captions, each with its picture or place."""
    if any(entry.row.image for entry in entries):
        for row in leave_out(_select(path, list(_pictures(entries)), splits), held_out):
            yield from ((f"{path}, {row.image}", text) for text in row.captions)
        return
    if not any(entry.row.captions for entry in entries):
        raise bad(path, "captions", "none", "fetch or write it again")
    for entry in entries:
        _require_text(entry)
        yield from ((entry.place, text) for text in entry.row.captions)


def _plain_sentences(source: Source) -> Iterator[tuple[str, str]]:
    """The lines of a text file, each with its place."""
    if source.document is not None or source.path.suffix in (".csv", ".tsv"):
        raise unknown_form(source)
    lines = list(source.lines())
    if all("\t" in line.strip() for _, line in lines):
        fix = "name the columns in a header, such as image and caption with a tab between"
        raise bad(lines[0][0], "a caption a line", "columns", fix)
    for place, line in lines:
        first = _FILE_NAME.match(line)
        if first and has_picture_suffix(first[1]):
            fix = "write a header such as image,caption, or a tab behind each name"
            raise bad(place, "a caption a line", f"the name of a file, {show(first[1])}", fix)
        for text in line.splitlines():
            require_short(text, place)
        yield from ((place, text) for text in line.splitlines())


def _no_file_name(placed: tuple[str, str]) -> str:
    """A sentence; the name of a picture's file is none."""
    place, text = placed
    if " " not in text and has_picture_suffix(text):
        raise bad(place, "a caption", f"the name of a file, {show(text)}", "name its column or field 'image'")
    return text
