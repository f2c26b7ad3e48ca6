"""``magicap caption --out``: many pictures into files, by a run that can be stopped and gone on with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from magicap.checks import require_number
from magicap.commands.options import About, flag
from magicap.commands.output import complain, run_bar
from magicap.commands.shared import SOME_FAILED
from magicap.errors import BadSettings
from magicap.runs.settings import FORMATS, ON_EXISTING, ROWS_PER_FILE, RunSettings
from magicap.runs.state import Counts, RunState, open_state

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner
    from magicap.runs.readers import ReaderPool
    from magicap.runs.rows import Row
    from magicap.runs.workers import CaptionWorkers

SHOWN_ERRORS = 10
"""Errors that are said on stderr; all of them stand in the rows."""

_BATCH_SIZE, _BATCH_SIZE_ON_GPU = 32, 64


@dataclass(frozen=True)
class Options:
    """What ``magicap caption --out`` is to do, beside what ``magicap caption`` is."""

    out: Annotated[str | None, About("PATH")] = None
    """Write a row a picture into this file (.jsonl, .csv, .parquet), or with --format into this folder."""

    format: Annotated[str | None, About(choices=FORMATS)] = None
    """What to write; default: by the suffix of PATH. txt and, for one folder, imagefolder do without --out:
    they write beside the pictures."""

    column: Annotated[str | None, About("NAME")] = None
    """Where tables and data sets have the pictures; default: by name and type. With it a SOURCE may be the
    name of a data set of the hub."""

    split: Annotated[str | None, About("NAME")] = None
    """Split of data sets; default: the only one."""

    on_existing: Annotated[str, About(choices=ON_EXISTING)] = "fail"
    """What becomes of output that is there; append and prepend add to the text files of --format txt."""

    n: int = 1
    """Captions of each picture."""

    tags: bool = False
    """Write tags too: words that the best captions of a picture agree on."""

    text_before: str = ""
    """Put this before each caption; with --prefix captions are searched on from words."""

    text_after: Annotated[str, About(former="suffix")] = ""
    """Put this behind each caption."""

    shard: Annotated[str | None, About("I/N")] = None
    """Caption each N-th picture, beginning with number I, from 0: N such runs caption all."""

    limit: int | None = None
    """Caption the first N pictures alone."""

    rows_per_file: int = ROWS_PER_FILE
    """Rows of a file in an output folder."""

    workers: int = 1
    """Processes that caption on a processor, this one among them; each loads the captioner, and has an equal
    share of the cores."""

    readers: int | None = None
    """Processes that read pictures, or 0 for none beside this one; default: half the cores, at most 4."""

    image_timeout: float = 60.0
    """Seconds that reading one picture may take."""

    max_errors: int | None = None
    """Stop when more pictures than N have failed; default: never."""

    def is_asked_for(self) -> bool:
        """Whether captions are to go into files.

        Raises:
            BadSettings: options for files, and no file.
        """
        if self.out is not None or self.format is not None:
            return True
        if names := [
            flag(known.name) for known in fields(self) if getattr(self, known.name) != known.default
        ]:
            raise BadSettings(f"{', '.join(names)}: for captions that go into files; give --out or --format")
        return False


def run(
    options: Options, sources: Sequence[str], batch_size: int | None, load: Callable[[], AnyCaptioner]
) -> int:
    """Refuse what cannot be written before a model is loaded; then begin the run, or go on with it."""
    from magicap.runs.readers import ReaderPool

    settings = _settings(options, sources, batch_size or _BATCH_SIZE)
    _require_readable(settings)
    require_number("--image-timeout", options.image_timeout, lambda seconds: seconds > 0, "above 0")
    if options.workers < 1:
        raise BadSettings(
            f"--workers: expected at least 1, found {options.workers}; processes that read are --readers"
        )
    if options.readers is not None:
        require_number("--readers", options.readers, lambda count: count >= 0, "at least 0")
    with open_state(settings) as state:
        if state is None:
            complain(f"{settings.replaces or settings.output} is there, and kept; sources were not compared")
            return 0
        count = options.readers if options.readers is not None else _readers()
        with ReaderPool(count, options.image_timeout) as readers:
            captioner = load()
            default = _BATCH_SIZE_ON_GPU if captioner.device.type == "cuda" else _BATCH_SIZE
            # a run that was begun elsewhere goes on with its own
            settings = _settings(options, sources, batch_size or state.batch_size or default)
            with _workers(options.workers, captioner, load) as workers:
                counts = _finish(settings, state, captioner, readers, workers)
    return SOME_FAILED if counts.errors else 0


def _require_readable(settings: RunSettings) -> None:
    """Refuse what would be refused hours later: a package that is missing, sources without a picture."""
    from magicap.retrieval.parquet import require_parquet
    from magicap.runs.sources import Listing

    if settings.kind == "parquet":
        require_parquet()
    listing = Listing(settings.sources, settings.column, settings.split)
    listing.require_tables()
    if next(iter(listing), None) is None:
        raise BadSettings(f"no pictures found in {', '.join(settings.sources[:3])}")


def _workers(
    count: int, captioner: AnyCaptioner, load: Callable[[], AnyCaptioner]
) -> AbstractContextManager[CaptionWorkers | None]:
    """Processes that caption beside this one; None where it does so alone."""
    from magicap.runs.workers import CaptionWorkers

    if count == 1:
        return nullcontext()
    if captioner.device.type != "cpu":
        raise BadSettings(
            f"--workers {count}: expected a processor, found {captioner.device}; give each of several GPUs a "
            "run with --shard I/N, or use recipes/caption_accelerate.py"
        )
    return CaptionWorkers(captioner, load, count - 1, complain)


def _finish(
    settings: RunSettings,
    state: RunState,
    captioner: AnyCaptioner,
    readers: ReaderPool,
    workers: CaptionWorkers | None,
) -> Counts:
    from magicap.runs.run import Run

    began = monotonic()
    with _progress(settings) as progress:
        try:
            counts = Run(settings, state, captioner, readers, progress.add, workers).finish()
        except KeyboardInterrupt:
            complain(f"{progress.counts.rows} rows are kept: the same command goes on with the run")
            raise
    rate = progress.new / max(monotonic() - began, 1e-9)
    complain(
        f"{settings.replaces or settings.output}: {_of(counts.rows, 'row')}, "
        f"{_of(counts.captions, 'caption')}, {_of(counts.errors, 'error')}, {counts.skipped} skipped; "
        f"{rate:.1f} pictures a second"
    )
    return counts


def _settings(options: Options, sources: Sequence[str], batch_size: int) -> RunSettings:
    known = {field.name for field in fields(RunSettings)}
    shared = {field.name: getattr(options, field.name) for field in fields(options) if field.name in known}
    shared |= {"prefix": options.text_before, "suffix": options.text_after}
    return RunSettings(
        **{**shared, "sources": tuple(sources), "shard": _shard(options.shard), "batch_size": batch_size}
    )


def _shard(text: str | None) -> tuple[int, int]:
    """(i, n) of ``--shard I/N``."""
    if text is None:
        return 0, 1
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise BadSettings(f"--shard: expected I/N, such as 0/4, found {text!r}")
    return int(parts[0]), int(parts[1])


def _readers() -> int:
    return min(4, max(1, (os.cpu_count() or 1) // 2))


def _of(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class _Progress:
    """What a run says while it goes on: a bar, and the first errors."""

    def __init__(self, bar: Any) -> None:
        self._bar, self.counts, self.new = bar, Counts(), 0
        self._shown = 0

    def add(self, rows: list[Row], counts: Counts) -> None:
        """One more batch, with its rows where they are new."""
        for row in rows:
            if row.has_failed:
                self._shown += 1
                if self._shown <= SHOWN_ERRORS:
                    complain(f"{row.id}: {row.error}")
                if self._shown == SHOWN_ERRORS:
                    complain("further errors are in the rows alone")
        done, self.counts = counts.rows - self.counts.rows, counts
        self.new += len(rows)
        if not rows and not self._bar.disable:  # done before: the rate is of what is done now
            self._bar.initial += done
        last = next((row.caption for row in reversed(rows) if row.caption), "")
        self._bar.set_postfix_str(f"{_of(counts.errors, 'error')}, {last:.50}", refresh=False)
        self._bar.update(done)


@contextmanager
def _progress(settings: RunSettings) -> Iterator[_Progress]:
    """A bar whose end is known once a thread has counted the pictures."""
    with run_bar() as bar:
        ended = threading.Event()
        if not bar.disable:
            threading.Thread(target=_count, args=[settings, bar, ended], daemon=True).start()
        try:
            yield _Progress(bar)
        finally:
            ended.set()


def _count(settings: RunSettings, bar: Any, ended: threading.Event) -> None:
    """Count the pictures of a run, for its bar; a source that cannot be listed is the run's to report."""
    from magicap.errors import MagicapError
    from magicap.runs.sources import Listing

    count = 0
    try:
        listing = Listing(settings.sources, settings.column, settings.split)
        if listing.is_stream:
            return
        for _ in islice(listing, settings.limit):
            count += 1
            if ended.is_set():
                return
    except (MagicapError, OSError):
        return
    i, shards = settings.shard
    bar.total = len(range(i, count, shards))
