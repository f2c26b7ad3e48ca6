"""What a run knows of itself between two calls: its lock, what is done, and of what it is a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magicap.errors import BadSettings
from magicap.files import LOCK, only_writer, write_whole
from magicap.runs.settings import ERRORS, RunSettings
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

    @property
    def captions(self) -> int:
        """Pictures that have one of this run."""
        return self.rows - self.errors - self.skipped

    def to_dict(self) -> dict[str, int]:
        """As ``_SUCCESS`` has them."""
        return {**asdict(self), "captions": self.captions}

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
        return self._has_ended and all(self.path_of(shard).exists() for shard in self.shards())

    @property
    def _has_ended(self) -> bool:
        return (self.folder / SUCCESS).exists()

    @property
    def batch_size(self) -> int | None:
        """Of the run that was begun; None: there is none."""
        value = _read(self.folder / MANIFEST).get("batch_size") if self.is_begun else None
        return value if isinstance(value, int) and value > 0 else None

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
        if self.is_begun:
            before = _read(self.folder / MANIFEST)
            changed = {
                name: (before.get(name), value)
                for name, value in manifest.items()
                if before.get(name) != value
            }
            if not self._is_gone_on_with(changed):
                self.forget()
        if not self.is_begun:
            write_whole(self.folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")

    def _is_gone_on_with(self, changed: dict[str, tuple[Any, Any]]) -> bool:
        """Whether the run that was begun is gone on with, not begun anew.

        Args:
            changed: of its identity, before and now.

        Raises:
            RunIsWhole: it has ended, and nothing says that it is to be done once more.
            BadSettings: it has not, and is another.
        """
        settings = self.settings
        if self._has_ended:
            if not changed and self.is_complete and (settings.adds or settings.on_existing == "fail"):
                again = f"to do it once more, remove {self.folder}"
                raise RunIsWhole(f"{settings.output} is there, and whole; {again}")
            return False
        # texts that the run wrote itself would be added to
        may_begin_anew = settings.on_existing == "overwrite" or set(changed) == {"on_existing"}
        if changed and not (may_begin_anew and not settings.adds):
            what = "; ".join(f"{name}: {old!r:.80}, now {new!r:.80}" for name, (old, new) in changed.items())
            raise BadSettings(
                f"{settings.output}: expected to go on with the run that was begun there, found other "
                f"settings ({what}); give those of before, another --out, or remove {self.folder}"
            )
        return not changed

    def shards(self) -> Iterator[Shard]:
        """The files that are whole, in order.

        Raises:
            BadSettings: the state is damaged.
        """
        number = 0
        while (path := self._shard_file(number)).exists():
            values = _read(path)
            try:
                yield Shard(Counts(**values["counts"]), values["digest"], Path(values["file"]).name)
            except (KeyError, TypeError) as error:
                raise damaged(path, error) from error
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
        text = json.dumps(counts.to_dict()) + "\n"
        if self.settings.has_folder:
            write_whole(self.settings.output / SUCCESS, text)
        write_whole(self.folder / SUCCESS, text)

    def forget(self) -> None:
        """Remove what the run knows, and the files that it wrote into a folder of its own."""
        if self.settings.has_folder:
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
            if state.is_complete and settings.on_existing == "fail" and settings.kind != "txt":
                fix = "give --on-existing overwrite, or another --out"
                raise RunIsWhole(f"{settings.output} is there, and whole; {fix}")
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
        for path in (file, *([file.with_name(ERRORS)] if settings.out is None else [])):
            if path.exists() and settings.on_existing == "fail":
                raise BadSettings(f"{path} is there already; give --on-existing overwrite or skip, or --out")
        return
    if settings.out is None or not output.exists():
        return
    if not output.is_dir():
        raise BadSettings(f"{output}: expected a folder to write into, found a file; name another --out")
    if settings.kind != "txt" and any(path != settings.state for path in output.iterdir()):
        raise BadSettings(f"{output}: expected an empty folder or one of a run, found other files; empty it")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds something, or is gone
        folder.rmdir()


def damaged(path: Path, error: Exception) -> BadSettings:
    """The error to raise for a file of a state folder that cannot be understood."""
    reason = f"{type(error).__name__}: {error}"
    return BadSettings(f"{path}: expected a run's state, found it damaged ({reason:.200}); remove its folder")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
        raise TypeError(f"{type(values).__name__}, not an object")
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from error
