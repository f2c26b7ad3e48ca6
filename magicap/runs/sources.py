"""What a run captions: files, folders, globs, tar files, tables, indexes and data sets, picture by picture.

Nothing is listed before it is asked for, but for the names of one folder or one tar file at a time.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

from magicap.data.hf_datasets import is_saved_dataset
from magicap.data.tars import TarPictures
from magicap.errors import BadData, BadImage, BadSettings
from magicap.images.folders import find_images, natural_key
from magicap.images.formats import has_picture_suffix, is_picture_file
from magicap.images.reader import describe_source
from magicap.printable import without_surrogates
from magicap.retrieval.header import INDEX_FILE, Header
from magicap.retrieval.parquet import read_items
from magicap.runs.columns import dataset_records, parquet_records
from magicap.runs.records import Record, is_transient, retrying, stamp_of

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Ends of the names of tar files."""

PARQUET = (".parquet", ".pq")
"""Ends of the names of Parquet tables."""

_OPENED = 20  # tables that are looked at before a run


@dataclass(frozen=True)
class Listing:
    """The pictures of some sources, in an order that is the same each time they are listed."""

    sources: tuple[str, ...]
    """Pictures, folders, globs, tar files (WebDataset shards too), Parquet tables, folders of an index or of
    a data set, and names of data sets."""

    column: str | None = None
    """Where tables and data sets have the pictures; None: found by name and type."""

    split: str | None = None
    """Of data sets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", [place for source in self.sources for place in places_of(source)])
        require_distinct(self._places)

    _places: Sequence[str] = field(init=False, default=(), repr=False)

    @property
    def is_stream(self) -> bool:
        """Whether a source is read from the hub, so that listing it takes as long as reading it."""
        return self.column is not None and any(map(_is_name, self._places))

    def __iter__(self) -> Iterator[Record]:
        for place in self._places:
            yield from self._records(place)

    def require_tables(self) -> None:
        """Open the first tables and data sets, before anything is captioned.

        Raises:
            BadData, BadSettings: one has no such column or split, or is none.
            SourceUnavailable: one cannot be reached now.
        """
        tables = (
            place for place in self._places if place.lower().endswith(PARQUET) or is_saved_dataset(place)
        )
        for place in islice(tables, _OPENED):
            next(iter(self._records(place)), None)

    def _records(self, place: str) -> Iterator[Record]:
        if os.path.isfile(os.path.join(place, INDEX_FILE)):
            return _index_records(place)
        if is_saved_dataset(place) or (self.column is not None and _is_name(place)):
            return dataset_records(place, self.column, self.split)
        if place.lower().endswith(TARS) and os.path.isfile(place):
            return _or_error(place, _tar_records)
        if place.lower().endswith(PARQUET) and os.path.isfile(place):
            return _or_error(place, partial(parquet_records, column=self.column))
        return _file_records(place)


def places_of(source: str) -> Iterator[str]:
    """What a glob stands for, in natural order; anything else is what it is.

    Raises:
        BadSettings: there are no files of such names.
    """
    if os.path.lexists(source) or not glob.has_magic(source):
        yield source
        return
    is_recursive = "**" in source
    matches = glob.glob(source, recursive=is_recursive)
    # with ** folders and what lies in them both match
    places = [
        match
        for match in matches
        if (not is_recursive if os.path.isdir(match) else _is_source(match) or is_picture_file(match))
    ]
    if not places and not set(source) & set("*?"):  # brackets stand in names too
        yield source
        return
    if not places:
        raise BadSettings(f"{source}: expected files of such names, found none; check the pattern")
    yield from sorted(places, key=lambda place: [natural_key(part) for part in Path(place).parts])


def _is_source(place: str) -> bool:
    """Whether it is a file that holds many pictures, by its name."""
    return place.lower().endswith((*TARS, *PARQUET))


def _is_name(place: str) -> bool:
    """Whether it can be a data set's name: no file or folder, no picture's name, and at most one slash."""
    is_file = os.path.lexists(place) or has_picture_suffix(place) or _is_source(place)
    return not is_file and place.count("/") <= 1 and not place.startswith((".", "/"))


def _file_records(place: str) -> Iterator[Record]:
    errors: list[BadImage] = []
    root = place if os.path.isdir(place) else ""
    for path in find_images(place, on_error=errors.append):
        yield from map(Record.of_error, errors)
        errors.clear()
        yield Record.of_file(os.fspath(path), root)
    yield from map(Record.of_error, errors)


def _tar_records(place: str) -> Iterator[Record]:
    pictures = TarPictures(Path(place))
    stamp = stamp_of(place)
    for name in pictures.names:
        id = f"{without_surrogates(place)}/{name}"
        yield Record(id, partial(_member, pictures, name, id), name, stamp)


def _member(pictures: TarPictures, name: str, id: str) -> bytes:
    try:
        return pictures.read(name)
    except BadData as error:
        raise BadImage("unreadable", str(error), source=id) from error


def _index_records(folder: str) -> Iterator[Record]:
    header = Header.read(Path(folder))
    for item in read_items(header):
        if item.path is None:
            raise BadSettings(f"{folder}: expected an index of pictures, found one of sentences")
        yield Record.of_file(item.path)


def _or_error(place: str, records: Callable[[str], Iterator[Record]]) -> Iterator[Record]:
    """The pictures of a file that holds many; one error where it cannot be read."""
    try:
        listed = retrying(lambda: _begun(records(place)), place)
    except (BadData, OSError) as error:
        if is_transient(error):
            raise
        message = str(error).removeprefix(f"{place}: ")
        yield Record.of_error(BadImage("unreadable", message, source=describe_source(place)))
        return
    yield from listed


def _begun(records: Iterator[Record]) -> Iterator[Record]:
    """The same records, the first of them listed: what cannot be opened has raised then."""
    return chain(list(islice(records, 1)), records)


def require_distinct(sources: Sequence[str]) -> None:
    """Refuse sources that would give one picture twice.

    Raises:
        BadSettings: one is named twice, or lies in another.
    """
    first: dict[str, str] = {}
    for source in sources:
        path = os.path.realpath(source)
        if path in first:
            raise BadSettings(f"expected each source once, found {source} twice (as {first[path]}); drop one")
        first[path] = source
    folders = {path for path, source in first.items() if os.path.isdir(source)}
    for parent, path in ((os.path.dirname(path), path) for path in first):
        for folder in folders and _with_parents(parent):
            if folder in folders and folder != path:
                raise BadSettings(
                    f"expected each picture once, found {first[path]} inside {first[folder]}; drop one"
                )


def _with_parents(folder: str) -> Iterator[str]:
    """A folder and all above it."""
    while folder != (parent := os.path.dirname(folder)):
        yield folder
        folder = parent
    yield folder
