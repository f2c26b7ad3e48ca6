"""What a run knows of itself between two calls: its lock, what is done, and of what it is a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magicap.errors import BadSettings
from magicap.files import LOCK, only_writer, write_whole
from magicap.runs.settings import RunSettings
from magicap.version import __version__

MANIFEST, SUCCESS, SHARDS = "manifest.json", "_SUCCESS", "shards"
_FORMAT = 1


class RunIsWhole(BadSettings):
    """A run that has nothing left to do."""


@dataclass(frozen=True)
class Counts:
    """Rows of a run, or of one of its files."""

    rows: int = 0
    """Pictures, whatever became of them."""

    errors: int = 0
    """Those that could not be read or captioned."""

    skipped: int = 0
    """Those whose text file was there, and was kept."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows + other.rows, self.errors + other.errors, self.skipped + other.skipped)


@dataclass(frozen=True)
class Shard:
    """One file of a run's output that is whole."""

    counts: Counts
    digest: str
    """Of the pictures' names and stamps."""

    file: str
    """Its name in the output folder."""


class RunState:
    """The state folder of a run, held by this process alone."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings, self.folder = settings, settings.state

    @property
    def is_complete(self) -> bool:
        """Whether the run has ended, and what it wrote is there still."""
        file = self.settings.replaces
        return (self.folder / SUCCESS).exists() and (file is None or file.exists())

    @property
    def is_begun(self) -> bool:
        """Whether there is a run at all."""
        return (self.folder / MANIFEST).exists()

    def begin(self, identity: dict[str, Any]) -> None:
        """Begin the run, or go on with it.

        Args:
            identity: what must be the same for a run to be gone on with.

        Raises:
            BadSettings: the unfinished run is one of other settings, sources or models.
        """
        manifest = {"state": _FORMAT, "version": __version__, **identity}
        if not self.is_begun:
            write_whole(self.folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
            return
        before = _read(self.folder / MANIFEST)
        changed = [name for name in manifest if before.get(name) != manifest[name]]
        if not changed and self.is_complete:  # else it would be added once more where the end was not seen
            raise RunIsWhole(f"{self.settings.output} is whole; to add once more, remove {self.folder}")
        if not changed:
            return
        if self.settings.on_existing == "overwrite" or self.is_complete:
            self.forget()
            self.begin(identity)
            return
        what = "; ".join(f"{name}: {before.get(name)!r:.80}, now {manifest[name]!r:.80}" for name in changed)
        raise BadSettings(
            f"{self.settings.output}: expected to go on with the run that was begun there, found other "
            f"settings ({what}); give those of before, --on-existing overwrite, or another --out"
        )

    def shards(self) -> Iterator[Shard]:
        """The files that are whole, in order."""
        number = 0
        while (path := self._shard_file(number)).exists():
            values = _read(path)
            yield Shard(Counts(**values["counts"]), values["digest"], values["file"])
            number += 1

    def path_of(self, shard: Shard) -> Path:
        """Where one of them is."""
        folder = self.folder if self.settings.kind == "txt" else self.settings.output
        return self.settings.replaces or folder / shard.file

    def keep(self, number: int, shard: Shard) -> None:
        """Note that a file is whole."""
        (self.folder / SHARDS).mkdir(exist_ok=True)
        write_whole(self._shard_file(number), json.dumps(asdict(shard)) + "\n")

    def complete(self, counts: Counts) -> None:
        """Note that the run has ended, with its counts, in the output folder too."""
        text = json.dumps({**asdict(counts), "captions": counts.rows - counts.errors - counts.skipped}) + "\n"
        if not self.settings.is_one_file and self.settings.out is not None:
            write_whole(self.settings.output / SUCCESS, text)
        write_whole(self.folder / SUCCESS, text)

    def forget(self) -> None:
        """Remove what the run knows, and the files that it wrote into a folder of its own."""
        if not self.settings.is_one_file and self.settings.out is not None:
            for path in map(self.path_of, self.shards()):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            (self.settings.output / SUCCESS).unlink(missing_ok=True)
        # what says that there is a run goes last: whoever is killed here begins with this again
        last = [self.folder / MANIFEST, self.folder / SUCCESS]
        others = [path for path in self.folder.iterdir() if path.name != LOCK and path not in last]
        for path in [*others, *last]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def remove_parts(self) -> None:
        """Remove what a process that was killed had written beside the places where it was to go."""
        for folder, pattern in ((self.folder, ".*.[0-9]*"), (self.settings.output, f".{SUCCESS}.[0-9]*")):
            for path in folder.glob(pattern) if folder.is_dir() else ():
                path.unlink()
        for path in (self.folder / SHARDS).glob(".*"):
            path.unlink()

    def _shard_file(self, number: int) -> Path:
        return self.folder / SHARDS / f"{number:05d}.json"


@contextmanager
def open_state(settings: RunSettings) -> Iterator[RunState | None]:
    """The state of a run, locked; None where its output is there and is to be kept.

    A state folder that nothing was written into goes again.

    Raises:
        BadSettings: the output is there and ``on_existing`` is ``fail``, it is not a run's and cannot be
            replaced, another process writes it, or nothing can be written there.
    """
    state = RunState(settings)
    if not state.is_begun:
        _require_free(settings)
    is_there = settings.replaces is not None and settings.replaces.exists() and not state.is_begun
    if settings.on_existing == "skip" and settings.kind != "txt" and (is_there or state.is_complete):
        yield None
        return
    was_there = settings.output.exists()
    try:
        state.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSettings(f"{state.folder} cannot be made: {error.strerror}; name another --out") from error
    try:
        with only_writer(state.folder):
            if state.is_complete and settings.on_existing == "fail":
                fix = "give --on-existing overwrite, or another --out"
                raise RunIsWhole(f"{settings.output} is there, and whole; {fix}")
            if (state.folder / SUCCESS).exists() and not settings.adds:
                state.forget()
            state.remove_parts()
            yield state
    finally:
        _remove_if_empty(state.folder)
        if not was_there and settings.output.is_dir():
            _remove_if_empty(settings.output)


def _require_free(settings: RunSettings) -> None:
    """Refuse an output that no run wrote, unless it is a file that may be replaced or kept."""
    output, file = settings.output, settings.replaces
    if file is not None:
        if file.is_dir():
            raise BadSettings(f"{file}: expected a file to write, found a folder; name another --out")
        if file.exists() and settings.on_existing == "fail":
            raise BadSettings(
                f"{file} is there already; give --on-existing overwrite or skip, or another --out"
            )
        return
    if settings.out is None or not output.exists():
        return
    if not output.is_dir():
        raise BadSettings(f"{output}: expected a folder to write into, found a file; name another --out")
    if settings.kind != "txt" and any(path != settings.state for path in output.iterdir()):
        raise BadSettings(f"{output}: expected an empty folder or one of a run, found other files; empty it")


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except (OSError, ValueError) as error:
        raise BadSettings(f"{path}: expected a run's state, found {error}; remove its folder") from error
    raise BadSettings(f"{path}: expected a run's state, found something else; remove its folder")
