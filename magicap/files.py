"""Files that are read with a limit; files that are written whole by one run, and checked before the work."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from magicap.errors import BadSettings

LARGEST_TEXT = 256 << 20
"""Bytes of the largest file of captions that is read."""

MOST_VALUES = 15_000_000
"""Of one such file of JSON: an empty list takes twenty times as many bytes in memory as in its file. The
captions of COCO with their tokens, in Karpathy's form, are twelve million."""

LARGEST_SETTINGS = 1 << 20
"""Bytes of the largest file of settings that is read."""

LARGEST_MODEL_TEXT = 64 << 20
"""Bytes of the largest text file of a model: its configuration, its tokenizer."""

_MODEL_TEXTS = (".json", ".txt", ".jinja", ".model", ".yaml")
_PIECE = 1 << 16


class SpecialFile(OSError):
    """A pipe, socket or device, which has no size and may be waited for without end."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a plain file to read its bytes.

    Raises:
        SpecialFile: it is a pipe, socket or device.
        OSError: it is a folder, or cannot be opened.
    """
    _require_regular(os.stat(path).st_mode)
    # Not to hang if the file became a pipe after the check.
    no_wait = getattr(os, "O_NONBLOCK", 0)
    return open(path, "rb", opener=lambda path, flags: os.open(path, flags | no_wait))


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The whole of a plain file of at most ``most`` bytes; its size is looked at before it is read.

    Raises:
        SpecialFile: it is a pipe, socket or device.
        OSError: it is larger, a folder, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Some files of the system say that they hold nothing.
        content = file.read(max(size, _PIECE) + 1) if size <= most else b""
    _require_size(max(size, len(content)), most)
    return content


def read_text(path: str | os.PathLike[str], most: int = LARGEST_SETTINGS) -> str:
    """The whole of a plain UTF-8 file, lines ended by a line feed alone.

    Raises:
        OSError: as from :func:`read_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, most).decode().replace("\r\n", "\n")


def has_countless_values(json: bytes) -> bool:
    """Whether JSON, of one document or one a line, has more than :data:`MOST_VALUES` values."""
    return len(json) > MOST_VALUES and sum(map(json.count, (b"[", b"{", b","))) > MOST_VALUES


def gunzip(packed: bytes, most: int) -> bytes:
    """What :func:`gzip.compress` packed, as far as it is at most ``most`` bytes; more is not unpacked.

    Raises:
        ValueError: it is more.
        EOFError: it is cut short.
        zlib.error: it is damaged.
    """
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    content = unpacker.decompress(packed, most + 1)
    if len(content) > most:
        raise ValueError(f"{len(packed)} bytes that unpack to more than {most}")
    if not unpacker.eof or unpacker.unused_data:
        raise EOFError("bytes cut short, or with others behind them")
    return content


def require_readable_model(folder: str | os.PathLike[str]) -> None:
    """Refuse a model's folder that a library would wait for, or read until the memory is full.

    Raises:
        OSError: a file in it is a pipe, socket or device, or a text file that is too large; the message
            begins with its path.
    """
    for parent, _, names in os.walk(folder):
        for path in (os.path.join(parent, name) for name in names):
            if not os.path.exists(path):  # a link to nothing is as good as no file
                continue
            info = os.stat(path)
            try:
                _require_regular(info.st_mode)
                if path.endswith(_MODEL_TEXTS):
                    _require_size(info.st_size, LARGEST_MODEL_TEXT)
            except OSError as error:
                raise type(error)(f"{path}: {error.strerror or error}") from error


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise SpecialFile("a pipe, socket or device, which are not read; save what it gives as a file")


def _require_size(size: int, most: int) -> None:
    if size > most:
        raise OSError(f"{size} bytes, of which at most {most} are read; is it the right file?")


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
