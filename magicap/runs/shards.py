"""A run cut into shards: which there are, what each reads and writes, and who captions it now.

A shard is one source with one output file. The file is put in place whole, so it says itself that the shard
is done: workers on any number of machines need nothing in common but the output folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicap.captioners.provenance import Provenance
from magicap.checks import require_int
from magicap.data.hf_datasets import is_saved_dataset
from magicap.errors import BadSettings
from magicap.files import put_in_place, write_whole
from magicap.images.folders import find_images
from magicap.retrieval.header import INDEX_FILE
from magicap.runs.records import SourceUnavailable, in_batches, retrying
from magicap.runs.settings import RunSettings
from magicap.runs.sources import PARQUET, TARS, places_of, require_distinct
from magicap.version import __version__

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner

SHARDS = "_shards"
"""Folder of what a run of shards knows of itself, in its output folder; readers of tables skip such names."""

LIST = ".txt"
"""End of the name of a list file: a picture's path a line, in UTF-8, relative to the folder of the list."""

FORMATS = ("parquet", "jsonl")
"""What the output file of a shard can be."""

_MANIFEST, _CAPTIONER = "manifest.json", "captioner.json"
_FORMAT = 1
_LONGEST_NAME = 60  # characters of a source's name in a shard's id


@dataclass(frozen=True)
class SourceShard:
    """One source of a run of shards."""

    id: str
    """Its number and the name of its source; the output file has it as its name."""

    source: str
    """Absolute path of a tar file, a Parquet table or a list file."""

    rows: int | None = None
    """Pictures of a list file that the plan wrote; None: not known before they are captioned."""


class ShardPlan:
    """The shards of a run, as its manifest has them.

    Args:
        settings: of the whole run; ``out`` is the folder of all output files.
        shards: in the order of the plan.
    """

    def __init__(self, settings: RunSettings, shards: tuple[SourceShard, ...]) -> None:
        self.settings, self.shards = settings, shards
        self.folder = settings.output / SHARDS

    def output_of(self, shard: SourceShard) -> Path:
        """The file of a shard's rows."""
        return self.settings.output / f"{shard.id}.{self.settings.kind}"

    def work_of(self, shard: SourceShard) -> Path:
        """The folder of a shard that is being captioned: its journal, its state, its unfinished file."""
        return self.folder / shard.id

    def is_done(self, shard: SourceShard) -> bool:
        """Whether a shard's file is there, which is put in place whole."""
        return self.output_of(shard).exists()

    def left(self) -> list[SourceShard]:
        """The shards that are not done."""
        return [shard for shard in self.shards if not self.is_done(shard)]

    def pictures_of(self, shard: SourceShard) -> tuple[str, ...]:
        """The sources that a shard stands for: the paths in its list file, or its one file.

        Raises:
            SourceUnavailable: the file is not there, or cannot be read now.
        """
        if not shard.source.endswith(LIST):
            if not os.path.exists(shard.source):
                raise _unavailable(shard.source, "nothing there")
            return (shard.source,)
        try:
            content = retrying(Path(shard.source).read_bytes, shard.source)
        except FileNotFoundError as error:
            raise _unavailable(shard.source, "nothing there") from error
        folder = os.path.dirname(shard.source)
        lines = content.decode("utf-8", "surrogateescape").split("\n")
        return tuple(os.path.join(folder, line) for line in lines if line)

    @contextmanager
    def claim(self, shard: SourceShard, patience: float = 0.0) -> Iterator[bool]:
        """Let no other worker caption a shard meanwhile; gives whether that could be had.

        The lock is one of the operating system on a file in the output folder (``flock``), so it ends with
        the process that holds it. A file system that several machines share must hold such locks between
        them, as NFS does.

        Args:
            patience: seconds to wait for another worker.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / f"{shard.id}.lock")
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            is_ours = False
        else:
            is_ours = True
        try:
            yield is_ours
        finally:
            if is_ours:
                lock.release()

    def require_captioner(self, captioner: BaseCaptioner[Any]) -> None:
        """Refuse a captioner that is not the one of the shards that are done.

        Raises:
            BadSettings: it has other weights, or another decoding.
        """
        made_by, path = Provenance.of(captioner).entries, self.folder / _CAPTIONER
        with _locked(path):
            if not path.exists():
                write_whole(path, json.dumps(made_by, indent=2) + "\n")
                return
            before = _read(path)
        if before != made_by:
            _refuse(self.settings.output, before, made_by)

    def note_failure(self, shard: SourceShard, message: str) -> None:
        """Tell the other workers of this run that a shard failed, so that each is tried once.

        Raises:
            BadSettings: the note cannot be written.
        """
        write_whole(self._failure_of(shard), json.dumps(message) + "\n")

    def failure(self, shard: SourceShard) -> str | None:
        """Why a shard failed since the run was last begun; None: it did not."""
        try:
            return str(json.loads(self._failure_of(shard).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return None

    def forget_failures(self) -> None:
        """Let shards that failed be tried again, when a run is begun or gone on with."""
        for path in self.folder.glob("*.failed"):
            path.unlink(missing_ok=True)

    def _failure_of(self, shard: SourceShard) -> Path:
        return self.folder / f"{shard.id}.failed"


def open_plan(settings: RunSettings, pictures_per_shard: int) -> ShardPlan:
    """The shards of a run: planned now, or read from the manifest of the run that was begun.

    Each tar file, Parquet table and list file is a shard. All other pictures, those of folders too, are
    listed in natural order and cut into list files. The manifest is written once: pictures that come later
    are not of this run. Several workers may call this at once; one of them plans.

    Args:
        settings: ``out`` is a folder, ``format`` one of :data:`FORMATS`; see :data:`LIST` for list files.
        pictures_per_shard: of each list file, at least 1.

    Raises:
        BadSettings: the run that was begun is another, the folder holds other files, or a source is of no
            kind that can be cut into shards, is not there or is given twice.
        BadImage: a folder cannot be listed.
    """
    require_int("pictures_per_shard", pictures_per_shard)
    if settings.kind not in FORMATS:
        raise BadSettings(f"expected shards as {' or '.join(FORMATS)}, found {settings.kind}; choose one")
    identity = {
        "manifest": _FORMAT,
        "version": __version__,
        **settings.identity,
        "pictures_per_shard": pictures_per_shard,
    }
    manifest = _begun(settings.output) / _MANIFEST
    with _locked(manifest):
        if not manifest.exists():
            shards = tuple(_planned(settings.sources, manifest.parent, pictures_per_shard))
            if not shards:
                raise BadSettings(f"no pictures found in {', '.join(settings.sources)}; check the paths")
            plan = {"run": identity, "shards": [asdict(shard) for shard in shards]}
            write_whole(manifest, json.dumps(plan, indent=1) + "\n")
            return ShardPlan(settings, shards)
    plan = _read(manifest)
    if plan["run"] != identity:
        _refuse(settings.output, plan["run"], identity)
    return ShardPlan(settings, tuple(SourceShard(**values) for values in plan["shards"]))


def _begun(output: Path) -> Path:
    """The folder of a run's own files, made if need be.

    Raises:
        BadSettings: files of something else lie in the output folder, or nothing can be written there.
    """
    folder = output / SHARDS
    if output.exists() and not output.is_dir():
        raise BadSettings(f"{output}: expected a folder to write into, found a file; name another --out")
    if output.exists() and not folder.exists() and any(output.iterdir()):
        raise BadSettings(f"{output}: expected an empty folder or one of such a run, found other files")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSettings(f"{folder} cannot be made: {error.strerror}; name another --out") from error
    return folder


def _planned(sources: tuple[str, ...], folder: Path, count: int) -> Iterator[SourceShard]:
    """Shards in order: first the files that are one each, then list files of the other pictures."""
    places = [os.path.abspath(place) for source in sources for place in places_of(source)]
    require_distinct(places)
    files = [place for place in places if _is_shard(place)]
    for number, place in enumerate(files):
        yield SourceShard(f"{number:05d}-{_name_of(place)}", place)
    pictures = chain.from_iterable(map(_pictures, (place for place in places if not _is_shard(place))))
    for number, paths in enumerate(in_batches(pictures, count), start=len(files)):
        path = folder.absolute() / f"{number:05d}{LIST}"
        with put_in_place(path) as part:
            part.write_bytes("".join(f"{line}\n" for line in paths).encode("utf-8", "surrogateescape"))
        yield SourceShard(f"{number:05d}-pictures", str(path), len(paths))


def _is_shard(place: str) -> bool:
    return place.lower().endswith((*TARS, *PARQUET, LIST)) and not os.path.isdir(place)


def _pictures(place: str) -> Iterator[str]:
    """The paths of a picture, or of the pictures in a folder."""
    if not os.path.exists(place):
        raise BadSettings(f"{place}: expected a file or a folder, found nothing there; check the path")
    if os.path.isfile(os.path.join(place, INDEX_FILE)) or is_saved_dataset(place):
        raise BadSettings(
            f"{place}: expected tar files, Parquet tables, lists or pictures, found an index or a data set; "
            "use magicap caption --out for it"
        )
    for path in map(os.fspath, find_images(place)):
        if "\n" in path:
            raise BadSettings(f"{path!r}: expected a path of one line, found a line break; rename it")
        yield path


def _name_of(place: str) -> str:
    """The name of a file, without its end, in letters that any file system takes."""
    name = os.path.basename(place)
    for end in (*TARS, *PARQUET, LIST):
        if name.lower().endswith(end):
            name = name[: -len(end)]
            break
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:_LONGEST_NAME]


def _unavailable(source: str, what: str) -> SourceUnavailable:
    return SourceUnavailable(f"{source}: expected to read it, found {what}; put it back, then run again")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time look whether a file is there, and write it; the others wait.

    Raises:
        BadSettings: nothing can be written there.
    """
    from filelock import FileLock

    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire()
    except OSError as error:
        raise BadSettings(f"{path} cannot be written: {error.strerror}; name another --out") from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadSettings(f"{path}: expected what a run wrote, found {error}; name another --out") from error


def _refuse(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    what = "; ".join(f"{name}: {before.get(name)!r:.80}, now {now.get(name)!r:.80}" for name in names)
    raise BadSettings(
        f"{output}: expected to go on with the run that was begun there, found another ({what}); give the "
        "options of before, or another --out"
    )
