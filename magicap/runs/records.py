"""One picture of a run's sources: its name, and what its reader opens."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from magicap.errors import BadImage, MagicapError

T = TypeVar("T")

TRANSIENT = frozenset(
    getattr(errno, name)
    for name in "EIO ESTALE ETIMEDOUT ECONNRESET ECONNABORTED ECONNREFUSED EHOSTDOWN EHOSTUNREACH ENETDOWN "
    "ENETUNREACH ENETRESET EREMOTEIO ENOTCONN EAGAIN EMFILE ENFILE".split()
    if hasattr(errno, name)
)
"""Errors of a network or a busy machine, which may be gone a moment later; none of them is a picture's."""

WAITS = (0.5, 2.0, 8.0)
"""Seconds before reading is tried again."""


class SourceUnavailable(MagicapError, OSError):
    """A place that cannot be read now, though it was there: the run stops, and goes on when it is back."""


@dataclass(frozen=True)
class Record:
    """One picture of the sources."""

    id: str
    """Its path, or where it stands in a tar file, a table or a data set; different for each of a run."""

    load: Callable[[], Any]
    """Gives its path or its encoded bytes.

    Raises:
        BadImage: there is none.
        OSError: it cannot be read.
    """

    name: str = ""
    """A relative path to write beside: below the source that it came from, with slashes; without: its row."""

    stamp: str = ""
    """Changes when the picture does, as far as that can be told without reading it."""

    path: str | None = None
    """Its file, where it is one by itself."""

    error: BadImage | None = None
    """Why it cannot be listed."""

    @classmethod
    def of_file(cls, path: str, root: str = "") -> Record:
        """A picture's file, whether it is there or not.

        Args:
            root: the folder that was searched for it.
        """
        name = os.path.relpath(path, root) if root else os.path.basename(path)
        return cls(path, lambda: path, Path(name).as_posix(), stamp_of(path), path)

    @classmethod
    def of_error(cls, error: BadImage) -> Record:
        """A source that gives an error and no picture."""

        def fail() -> Any:
            raise error

        return cls(error.source, fail, os.path.basename(error.source), error=error)


def stamp_of(path: str | os.PathLike[str]) -> str:
    """Size and time of last change of a file; empty where there is none."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{info.st_size}-{info.st_mtime_ns}"


def no_picture(source: str = "image") -> BadImage:
    """The error of a row of a table or a data set that has no picture."""
    message = "expected a picture's bytes or path, found none; fill the row in"
    return BadImage("missing", message, source=source)


def in_batches(items: Iterable[T], size: int, *, first: int | None = None) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last of what is left.

    Args:
        items: read only as far as the lists are.
        size: of the full lists.
        first: of the first list; each next one has twice as many, up to ``size``. None: ``size``.
    """
    iterator, count = iter(items), first or size
    while batch := list(islice(iterator, count)):
        yield batch
        count = min(2 * count, size)


class ListingDigest:
    """Digits that change with any name or stamp of some records, and with their order."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, record: Record) -> None:
        """Count one more record in."""
        self._hash.update(f"{record.id}\0{record.stamp}\0".encode("utf-8", "surrogateescape"))

    def hexdigest(self) -> str:
        """Sixteen hexadecimal digits of the records so far."""
        return self._hash.hexdigest()


def retrying(
    work: Callable[[], T],
    what: str,
    *,
    waits: Iterable[float] = WAITS,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """What ``work`` gives; tried again where a network or a busy machine failed it.

    Args:
        work: what may fail; only errors of :func:`is_transient` are tried again, others are raised at once.
        what: what is read, for the error.
        waits: seconds before each further try.
        sleep: what waits; tests give another.

    Raises:
        SourceUnavailable: it failed so to the last.
    """
    for wait in waits:
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
        sleep(wait)
    try:
        return work()
    except Exception as error:
        if not is_transient(error):
            raise
        raise SourceUnavailable(
            f"{what}: expected to read it, found {error}; run the same command again once it is back"
        ) from error


def is_transient(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is of a network or a busy machine."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            return True
        error = error.__cause__
    return False
