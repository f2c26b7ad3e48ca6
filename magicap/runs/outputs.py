"""THE table of output formats: name -> what writes a file of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from magicap.runs.picture_writers import ImageFolder, WebDataset
from magicap.runs.settings import RunSettings
from magicap.runs.text_files import TextFiles
from magicap.runs.writers import Csv, JsonLines, Parquet, Writer


class _Place(NamedTuple):
    """Where one file of a run goes, and what it is to hold."""

    settings: RunSettings
    target: Path
    part: Path
    start: int
    made_by: dict[str, str]


def _jsonl(place: _Place) -> Writer:
    return JsonLines(place.target, place.part, place.settings.columns)


def _csv(place: _Place) -> Writer:
    return Csv(place.target, place.part, place.settings.columns, place.settings.n)


def _parquet(place: _Place) -> Writer:
    return Parquet(place.target, place.part, place.settings.columns, place.made_by)


def _txt(place: _Place) -> Writer:
    settings = place.settings
    return TextFiles(place.target, place.part, settings.columns, settings.text_folder, settings.on_existing)


def _imagefolder(place: _Place) -> Writer:
    settings = place.settings
    return ImageFolder(place.target, place.part, settings.columns, place.start, in_place=settings.is_in_place)


def _webdataset(place: _Place) -> Writer:
    return WebDataset(place.target, place.part, place.settings.columns, place.start)


class _Format(NamedTuple):
    name: str
    """Of a file in an output folder; with its number."""

    new: Callable[[_Place], Writer]


_FORMATS = {
    "jsonl": _Format("part-{:05d}.jsonl", _jsonl),
    "csv": _Format("part-{:05d}.csv", _csv),
    "parquet": _Format("part-{:05d}.parquet", _parquet),
    "txt": _Format("rows-{:05d}.jsonl", _txt),
    "imagefolder": _Format("{:05d}", _imagefolder),
    "webdataset": _Format("{:05d}.tar", _webdataset),
}


def new_writer(settings: RunSettings, state: Path, number: int, made_by: dict[str, str]) -> Writer:
    """What writes one file of a run.

    Args:
        state: the run's state folder, where the file is until it is whole.
        number: of the file, from 0.
        made_by: what made the captions, for formats that can say it.

    Raises:
        OSError: it cannot be written.
        MissingPackage: the format needs a package that is not installed.
    """
    form = _FORMATS[settings.kind]
    name = form.name.format(number)
    if settings.kind == "txt":
        target = state / name
    elif settings.is_one_file or settings.out is None:
        target = settings.output
    else:
        target = settings.output / name
    start = number * settings.rows_per_file
    return form.new(_Place(settings, target, state / f"{name}.part", start, made_by))
