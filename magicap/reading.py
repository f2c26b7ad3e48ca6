"""Files that are read with a limit: plain ones alone, and their sizes before their contents."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from typing import BinaryIO

LARGEST_TEXT = 256 << 20
"""Bytes of the largest file of captions that is read."""

MOST_VALUES = 15_000_000
"""Of one such file of JSON: an empty list takes twenty times as many bytes in memory as in its file. The
captions of COCO with their tokens, in Karpathy's form, are about twelve million."""

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
    if content is None:  # such as /proc/kmsg: a plain file by name, whose reader waits
        raise SpecialFile("a file of the system that gives nothing to read; save what it gives as a file")
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
