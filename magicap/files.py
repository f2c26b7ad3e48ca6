"""Files that results are written to: checked before the work, and whole or not there after it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from magicap.errors import BadSettings


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
