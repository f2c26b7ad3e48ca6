"""Files that are written: checked before the work, by one run, and whole or not there after it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from magicap.errors import BadSettings

LOCK = ".lock"
"""What the name of the file ends in that a run holds while it writes."""


def require_writable(path: str | Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse a file that cannot be written, before minutes of work and not after.

    Args:
        inputs: files that are read, which must not be written over.

    Raises:
        BadSettings: it is a folder, lies where nothing can be written, or is one of the inputs.
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise BadSettings(f"{path} cannot be written: name a file in a folder that is there and open to you")
    for other in inputs:
        if other is not None and path.exists() and os.path.exists(other) and os.path.samefile(path, other):
            raise BadSettings(f"{path} is read, so it must not be written over; name another file")


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file at once: a reader, or a run that is stopped, never sees half of it.

    Raises:
        BadSettings: it cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe or a device has no name to be put under
        with _explaining(path):
            path.write_text(text, encoding="utf-8", newline="")
        return
    with put_in_place(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


@contextmanager
def only_writer(output: str | Path | None) -> Iterator[None]:
    """Let no second run write a file, or into a folder, meanwhile. A lock ends with its process, or before.

    Args:
        output: a folder that is there, a file that need not be; None, or a device: nothing is locked.

    Raises:
        BadSettings: another run writes it, or nothing can be written there.
    """
    if output is None or (
        os.path.exists(output) and not os.path.isfile(output) and not os.path.isdir(output)
    ):
        yield
        return
    from filelock import FileLock, Timeout

    output = Path(output)
    lock = FileLock(output / LOCK if output.is_dir() else output.with_name(f".{output.name}{LOCK}"))
    with _explaining(output):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise BadSettings(
                f"another run writes {output}; wait until it has ended, or name another output"
            ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(
            missing_ok=True
        )  # while it is held; who opened it before sees that it is gone
        lock.release()


@contextmanager
def put_in_place(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write under; what stands there at the end of the block becomes ``path``.

    Raises:
        BadSettings: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with _explaining(path):
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def digest_of_files(folder: Path, names: Iterable[str]) -> str:
    """Twelve hexadecimal digits that change with any byte of some files of a folder, taken together.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.blake2b(digest_size=6)
    for name in names:
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def open_to_readers(folder: str | Path) -> None:
    """Let whoever may read a folder read its safetensors too, which are written for their owner alone."""
    folder = Path(folder)
    for path in folder.glob("*.safetensors"):
        with suppress(OSError):  # where files have no modes
            path.chmod(folder.stat().st_mode & 0o666)


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadSettings(f"{path} cannot be written: {error.strerror}; name another file") from error
