"""Datasets of the library ``datasets``: opened, and their pictures and captions read, a row at a time.

The library is imported here alone, and only where a dataset is opened or read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from magicap.data import fields
from magicap.data.checks import bad, show
from magicap.data.rows import common_name
from magicap.errors import BadSettings
from magicap.extras import require
from magicap.images.reader import ImageLimits

_SAVED = (("dataset_dict.json",), ("state.json", "dataset_info.json"))  # by which a saved dataset is known
_HUB = "hf://"
_PLACE = "the dataset"


class MapDataset(Protocol):
    """What type checkers see of ``datasets.Dataset``: N rows that can be read in any order."""

    def __len__(self) -> int: ...
    def cast_column(self, column: str, feature: Any) -> Any:
        """The dataset with a column read as another feature: ``Image(decode=False)`` gives bytes."""

    def select_columns(self, column_names: Any) -> Any:
        """The dataset with these columns alone."""


class StreamedDataset(Protocol):
    """What type checkers see of ``datasets.IterableDataset``: rows that are read one after the other."""

    def cast_column(self, column: str, feature: Any) -> Any:
        """As of :class:`MapDataset`."""

    def select_columns(self, column_names: Any) -> Any:
        """As of :class:`MapDataset`."""

    def state_dict(self) -> Any:
        """The position in the stream, from which ``load_state_dict`` resumes."""


def is_dataset(value: object) -> bool:
    """Whether it is a ``Dataset`` or ``IterableDataset``, or a dict of them by split as the library has it.

    Does not import the library: no dataset exists before somebody did.
    """
    return _is_instance(value, "Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")


def is_streamed(dataset: object) -> bool:
    """Whether it is an ``IterableDataset``, whose length is not known."""
    return _is_instance(dataset, "IterableDataset")


def is_saved_dataset(path: str | Path) -> bool:
    """Whether it is a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote."""
    return any(all(Path(path, name).is_file() for name in names) for names in _SAVED)


def open_dataset(source: str | Path, split: str | None = None) -> Any:
    """A saved dataset, or a dataset by its name.

    Args:
        source: a folder that ``save_to_disk`` wrote, which gives a ``Dataset``; else a name or a folder that
            ``datasets.load_dataset`` takes, which gives an ``IterableDataset``: it is streamed.
        split: needed where there are several; ``dev`` and ``val`` are one split.

    Raises:
        BadData: there is none, it is damaged, the hub cannot be reached (then the error's cause is a
            ``ConnectionError``), or there is no such split, or several and none is named.
        MissingPackage: ``datasets`` is not installed.
    """
    datasets = require("datasets")
    if is_saved_dataset(source):
        return one_split(_load_saved(Path(source)), split)
    try:
        dataset = datasets.load_dataset(str(source), streaming=True)
    except ConnectionError as error:
        fix = "run it again where there is a network, or save it there with save_to_disk and give its folder"
        raise bad(
            source, "a folder that save_to_disk wrote, or the hub in reach", _reason(error), fix
        ) from error
    except Exception as error:  # what a dataset can be made of has errors of its own
        fix = "check the name, or open it with datasets.load_dataset and give the dataset"
        raise bad(source, "a saved dataset or one of the hub", _reason(error), fix) from error
    return one_split(dataset, split)


def one_split(dataset: Any, split: str | None = None) -> Any:
    """One dataset of several: the one of a split; without a name the only one.

    Args:
        dataset: a dataset, which is returned as it is, or a dict of them by split.

    Raises:
        BadData: no such split, or several and none is named; the error lists them.
    """
    is_dict = isinstance(dataset, dict)
    names = list(dataset) if is_dict else [_split_name(dataset)]
    alike = [name for name in names if split is not None and common_name(name) == common_name(split)]
    chosen = [split] if split in names else alike if split is not None else names
    if len(chosen) == 1:
        return dataset[chosen[0]] if is_dict else dataset
    expected = f"the split {split!r}" if split is not None else "one split"
    listed = ", ".join(repr(name) for name in names if name) or "none that is named"
    raise bad(_PLACE, expected, listed, "name one of these, or leave the split out where there is one")


def image_column(dataset: Any, column: str | None = None) -> str:
    """The name of the column of pictures.

    Args:
        column: its name; None takes the only column of the type ``Image``, else the one called ``image``.

    Raises:
        BadData: there is none such; the error lists the columns.
    """
    return _image_column(_features(dataset), column)


def _image_column(features: Mapping[str, Any], column: str | None) -> str:
    if column is not None:
        _require_column(features, column)
        return column
    images = [name for name, feature in features.items() if _is_image(feature)]
    if len(images) == 1:
        return images[0]
    if "image" in features:
        return "image"
    fix = "name it, or rename it to 'image'"
    raise bad(_PLACE, "one column of pictures", f"the columns {_listed(features)}", fix)


def with_encoded_images(dataset: Any, column: str | None = None) -> Any:
    """The dataset of its column of pictures alone, which are not decoded; its format is reset.

    Args:
        column: as of :func:`image_column`.

    Raises:
        BadData: no such column.
    """
    return _encoded(one_split(dataset), column)[0]


def _encoded(dataset: Any, column: str | None) -> tuple[Any, str]:
    """As :func:`with_encoded_images`, and the column's name."""
    features = _features(dataset)
    name = _image_column(features, column)
    alone = dataset.with_format(None).select_columns([name])
    if _is_image(features[name]):
        alone = alone.cast_column(name, require("datasets").Image(decode=False))
    return alone, name


def encoded_image(dataset: Any, row: int) -> Any:
    """The picture of one row, as :func:`encoded_images` gives it.

    Args:
        dataset: a ``Dataset`` as :func:`with_encoded_images` gives it.
        row: 0 to N - 1.
    """
    return cell_source(dataset[row][dataset.column_names[0]])


def encoded_images(dataset: Any, column: str | None = None) -> Iterator[Any]:
    """The pictures of a dataset as they are stored, in order, for a reader that decodes them.

    Args:
        dataset: a ``Dataset``, an ``IterableDataset``, or a dict with one of them.
        column: of the type ``Image``, or of bytes, paths, or structs of ``bytes`` and ``path``; None: as of
            :func:`image_column`.

    Returns:
        For every row its encoded bytes; else the path of a file; None where there is neither. A file in an
        archive or on the hub, which a streamed dataset can name by an address, is read through the library;
        where that fails the address is given as it is. What a generator made without features gives is
        passed on: PIL images, arrays.

    Raises:
        BadData: no such column; raised at once.
    """
    dataset = one_split(dataset)
    is_stream = is_streamed(dataset)
    encoded, name = _encoded(dataset, column)
    sources = (cell_source(row[name]) for row in encoded)
    return (_fetched(source) if is_stream else source for source in sources)


def cell_source(cell: Any) -> Any:
    """What a reader opens of one cell of a column of pictures.

    Args:
        cell: a struct of ``bytes`` and ``path`` gives its bytes, else its path; NaN and pandas' NA, which
            tables have where something is missing, give None; anything else is returned as it is.
    """
    if cell is getattr(sys.modules.get("pandas"), "NA", None):
        return None
    if isinstance(cell, Mapping):
        data = cell.get("bytes")
        return cell.get("path") if data is None else data
    return None if isinstance(cell, float) and cell != cell else cell


def stored_cells(batch: Any, column: str) -> list[Any] | None:
    """The cells of a column of a batch that ``Dataset.map`` gives, as they are stored: nothing is decoded.

    Returns:
        None where the batch is another; where its column was decoded or changed before, what it is now.
    """
    undecoded = getattr(batch, "keys_to_format", None)
    if undecoded is None:
        return None
    return list(batch.pa_table.column(column).to_pylist() if column in undecoded else batch[column])


def features_with(features: Mapping[str, Any], types: Mapping[str, str]) -> Any:
    """``Features`` with more columns.

    Args:
        types: of the columns by name, as ``datasets.Value`` calls them.
    """
    datasets = require("datasets")
    return datasets.Features({**features, **{name: datasets.Value(dtype) for name, dtype in types.items()}})


def image_paths(dataset: Any, column: str | None = None) -> Iterator[str]:
    """The local files of a dataset's pictures, in order.

    Args:
        column: as of :func:`image_column`.

    Raises:
        BadData: no such column.
        BadSettings: a picture is no local file, but bytes in the dataset, or missing.
    """
    for number, source in enumerate(encoded_images(dataset, column)):
        if not isinstance(source, str) or "://" in source:
            actual = "none" if source is None else show(source) if isinstance(source, str) else "its bytes"
            raise BadSettings(
                f"row {number} of the dataset: expected a picture in a local file, found {actual}; write the "
                "pictures into a folder and give their paths"
            )
        yield source


def texts_of(dataset: Any, column: str | None = None) -> Iterator[str]:
    """The captions or sentences of a dataset, in order; several of one row one after the other.

    Args:
        column: of texts, or of lists of them; None takes what files of captions call it: ``captions``,
            ``caption``, ``text``, ``sentences``, ..., also numbered ones: ``caption_0``, ``caption_1``.

    Raises:
        BadData: no such column, several that could be meant, or a row of it holds something else.
    """
    dataset = one_split(dataset)
    features = _features(dataset)
    columns = (
        [column] if column is not None else fields.caption_columns(list(features), fields.REFERENCES, _PLACE)
    )
    for name in columns:
        _require_column(features, name)
    if not columns:
        raise bad(_PLACE, "a column of captions", f"the columns {_listed(features)}", "name one of these")
    return _texts(dataset.with_format(None).select_columns(columns), columns)


def _texts(dataset: Any, columns: Sequence[str]) -> Iterator[str]:
    for number, row in enumerate(dataset):
        for name in columns:
            if row[name] is None:
                continue
            place = f"row {number} of the dataset"
            texts = fields.texts_of(row[name], fields.REFERENCES, place)
            if texts is None:
                expected = f"{name!r} to be a string or a list of strings"
                raise bad(place, expected, show(row[name]), "name another column")
            yield from texts


def saved_splits(path: Path) -> dict[str, Any]:
    """The datasets of a folder that ``save_to_disk`` wrote, by split; "" where one has none.

    Raises:
        BadData: it is damaged.
        MissingPackage: ``datasets`` is not installed.
    """
    loaded = _load_saved(path)
    return dict(loaded) if isinstance(loaded, dict) else {_split_name(loaded): loaded}


def plain_rows(dataset: Any, pictures: str | None, captions: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The captions, numbers and texts of each row of a ``Dataset``, and its picture's path, not its bytes.

    Args:
        pictures: the column of pictures, whose path is called ``{pictures}.path`` where it is one of structs.
        captions: the columns of captions, of any type.
    """
    kept = {*captions, *(name for name, feature in dataset.features.items() if _is_plain(feature))}
    feature = dataset.features.get(pictures)
    if _is_image(feature) or isinstance(feature, dict):
        kept.add(pictures)
    plain = dataset.with_format(None).select_columns([name for name in dataset.column_names if name in kept])
    if _is_image(feature):
        plain = plain.cast_column(pictures, require("datasets").Image(decode=False))
    flat = plain.flatten()
    return iter(flat.remove_columns([name for name in flat.column_names if name == f"{pictures}.bytes"]))


def _is_plain(feature: Any) -> bool:
    """Whether it is the type of texts or numbers, as JSON has them."""
    plain = ("string", "large_string", "bool", "int", "uint", "float")
    return _is_instance(feature, "Value") and feature.dtype.startswith(plain)


def _load_saved(path: Path) -> Any:
    load = require("datasets").load_from_disk
    try:
        return load(str(path))
    except Exception as error:  # of Arrow, of JSON, of the file system
        raise bad(path, "a dataset as save_to_disk writes it", _reason(error), "save it again") from error


def _split_name(dataset: Any) -> str:
    """The split that a dataset was loaded from: ``train`` of ``train[:10%]``; "" where it does not say."""
    return str(dataset.split or "").partition("[")[0]


def _features(dataset: Any) -> dict[str, Any]:
    """The type of each column; None of those of a generator without features, known by its first row."""
    dataset = one_split(dataset)
    if dataset.features is not None:
        return dict(dataset.features)
    return dict.fromkeys(next(iter(dataset.take(1)), {}))


def _require_column(features: Mapping[str, Any], column: str) -> None:
    if column not in features:
        raise bad(_PLACE, f"the column {column!r}", f"the columns {_listed(features)}", "name one of these")


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, features)) or "none"


def _is_image(feature: Any) -> bool:
    return _is_instance(feature, "Image")


def _is_instance(value: object, *names: str) -> bool:
    """``isinstance`` of classes of the library, without importing it."""
    library = sys.modules.get("datasets")
    return isinstance(value, tuple(getattr(library, name) for name in names if hasattr(library, name)))


def _fetched(source: Any) -> Any:
    """The bytes of a file in a local archive or on the hub; anything else as it is."""
    if not isinstance(source, str) or "://" not in source:
        return source
    outermost = source.rpartition("::")[2]
    if "://" in outermost and not outermost.startswith(_HUB):
        return source  # an address elsewhere, which the reader refuses
    try:
        with require("datasets.utils.file_utils").xopen(source, "rb") as file:
            return file.read(ImageLimits.bytes + 1)  # one more than the reader takes
    except Exception:  # each file system has errors of its own; the reader refuses the address
        return source


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{lines[0] if lines else repr(error):.300}"
