"""The one place that writes to stdout and stderr: escaped, a whole line at once, beside a progress bar."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from magicap.errors import OutputFailed
from magicap.printable import printable, without_surrogates

_bars: list[Any] = []  # those that are drawn on stderr now


class ReaderLeft(Exception):
    """Who read stdout has left, as ``head`` does: what is to come is not wanted."""


def print_line(*fields: str) -> None:
    """A line on stdout, its fields between tabs.

    Raises:
        OutputFailed: it cannot be written; nothing of it stands in a file then.
        ReaderLeft: nobody reads it.
    """
    print_text("\t".join(map(printable, fields)) + "\n")


def print_json(value: Any, *, indent: int | None = None) -> None:
    """A JSON value on stdout, in ASCII and without lone surrogates. Errors as of :func:`print_line`."""
    print_text(json.dumps(without_surrogates(value), indent=indent, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Our own text on stdout, as it is. Errors as of :func:`print_line`."""
    try:
        _write(sys.stdout, text)
    except BrokenPipeError as error:
        _abandon_stdout()
        raise ReaderLeft from error
    except OSError as error:
        _abandon_stdout()
        raise OutputFailed(
            f"stdout cannot be written: {error.strerror or error}; make room, or write to another place"
        ) from error


def complain(message: str) -> None:
    """A line of our own on stderr."""
    # Where stderr cannot be written there is no one left to tell; the exit code says the rest.
    with suppress(OSError):
        _write(sys.stderr, f"magicap: {printable(message)}\n")


def require_streams() -> None:
    """Refuse a stdout that is closed or another run's, and let what is said on a closed stderr go nowhere.

    Raises:
        OutputFailed: stdout cannot be written.
    """
    if sys.stderr is None:  # 2>&-
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:  # >&-
        raise OutputFailed("stdout cannot be written: it is closed; send it to a file, or to /dev/null")
    _lock_stdout()


def _lock_stdout() -> None:
    """Keep a second run from writing over the lines of this one; runs that append (``>>``) share a file."""
    try:
        import fcntl

        descriptor = sys.stdout.fileno()
    except (ImportError, OSError):  # no such locks here; a stand-in without a descriptor
        return
    appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    if appends or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputFailed("another run writes the file that stdout is; send stdout to another") from error
    except OSError:  # a file system without locks
        return


def _abandon_stdout() -> None:
    """Send nowhere what libraries still hold for a stdout that failed: Python would complain at its exit."""
    with suppress(OSError):  # a stand-in without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress_bar(total: int, unit: str = "picture") -> Iterator[Callable[[int], object]]:
    """A bar on stderr, moved by how many more are done; none for a few, or where stderr is no terminal."""
    with _bar(total=total, unit=unit, disable=None if total > 3 else True) as bar:
        yield bar.update


@contextmanager
def run_bar() -> Iterator[Any]:
    """The tqdm bar of a run whose pictures are still being counted; none where stderr is no terminal."""
    with _bar(total=None, unit="picture", disable=None) as bar:
        yield bar


@contextmanager
def _bar(**settings: Any) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(dynamic_ncols=True, **settings) as bar:
        _bars.append(bar)
        try:
            yield bar
        finally:
            _bars.remove(bar)


def _write(stream: TextIO, text: str) -> None:
    for bar in _bars:
        bar.clear(nolock=True)  # tqdm's own way to write beside a bar takes locks, which signals upset
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # what a program put in its place
        stream.write(text)
        stream.flush()
    else:
        stream.flush()
        _write_whole(getattr(buffer, "raw", buffer), text.encode(stream.encoding, "backslashreplace"))
    for bar in _bars:
        bar.refresh(nolock=True)


def _write_whole(raw: Any, data: bytes) -> None:
    """Write to an unbuffered stream; if that fails on the way, take back what is written."""
    written = 0
    try:
        while written < len(data):
            count = raw.write(data[written:])
            if count is None:  # a full pipe that somebody made non-blocking
                select.select([], [raw], [])
            written += count or 0
    except OSError:
        _cut_back(raw.fileno(), written)
        raise


def _cut_back(descriptor: int, count: int) -> None:
    """Take the last bytes off a file, if they end it: it holds whole lines then."""
    info = os.fstat(descriptor)
    if count and stat.S_ISREG(info.st_mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == info.st_size:
        os.ftruncate(descriptor, info.st_size - count)
        os.lseek(descriptor, 0, os.SEEK_END)
