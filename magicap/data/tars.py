"""Pictures of tar files, by name: known by headers that are read with a limit, read each by itself."""

from __future__ import annotations

import importlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from magicap.data.checks import bad
from magicap.errors import MagicapError
from magicap.images.formats import has_picture_suffix
from magicap.images.reader import ImageLimits
from magicap.printable import without_surrogates
from magicap.reading import open_regular

LONGEST_HEADER = 1 << 20
"""Bytes of the headers of one member: its name, which may be stored like a file, and the map of its holes."""

MOST_MEMBERS = 1_000_000
"""Of one tar file."""

FREELY_UNPACKED, MOST_UNPACKED = 1 << 28, 100
"""Bytes that a packed tar file may unpack to: in all, or for each of its own. Pictures hardly shrink."""

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "lzma"}  # by how they begin: their modules


class _Place(NamedTuple):
    """Where a picture is in a tar file."""

    offset: int
    size: int
    """As a file; its holes are not stored."""

    pieces: tuple[tuple[int, int], ...]
    """Offset in the picture and length of all that is stored of it, one behind the other."""


class TarPictures:
    """Pictures of one tar file.

    Reading a plain tar moves no place in it, so threads and forked processes may share it. A packed one each
    process opens for itself, and a copy made by pickle, as a spawned process gets one, opens its own.

    Raises:
        BadData: no tar file, a damaged one, one beyond the limits, or with names that lead out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.above: tuple[str, ...] = ()
        try:
            self._module, self.names = _places(path)
        except MagicapError:
            raise
        except Exception as error:  # each way of packing has errors of its own
            # tarfile lists what it tried, a line each.
            reason = getattr(error, "strerror", None) or (str(error) or repr(error)).splitlines()[0]
            fix = "check the path, or fetch it again"
            raise bad(path, "a tar file or a folder", reason.rstrip(":"), fix) from error
        self._file: Any = None
        self._process, self._is_closed = os.getpid(), False
        self._opened()

    def close(self) -> None:
        """Close the file; reading a picture raises ``OSError`` afterwards."""
        self._is_closed = True
        if self._file is not None:
            self._file.close()

    def read(self, name: str) -> bytes:
        """The bytes of a picture.

        Raises:
            BadData: it is larger than a picture may be, or the file was cut since.
        """
        place = self.names[name]
        if place.size > ImageLimits.bytes:
            expected = f"pictures of at most {ImageLimits.bytes} bytes"
            raise bad(self.path, expected, f"{name!r} of {place.size}", "shrink it, or leave it out")
        picture, offset = bytearray(place.size), place.offset
        for start, length in place.pieces:
            piece = self._read_at(offset, length) if start + length <= place.size else b""
            if len(piece) < length:
                raise bad(self.path, f"{name!r} whole", "the end of the file", "fetch it again")
            picture[start : start + length] = piece
            offset += length
        return bytes(picture)

    def _read_at(self, offset: int, size: int) -> bytes:
        file = self._opened()
        if not self._is_shared:
            file.seek(offset)
            return cast(bytes, file.read(size))
        data = b""
        while len(data) < size:  # a call may read less than it was asked for
            more = os.pread(file.fileno(), size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    @property
    def _is_shared(self) -> bool:
        return self._module is None and hasattr(os, "pread")

    def _opened(self) -> Any:
        if self._is_closed:
            raise OSError(f"{self.path} is closed")
        if self._file is None or (not self._is_shared and self._process != os.getpid()):
            self._file, self._process = _opened(self.path, self._module), os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}


class _Headers:
    """What :mod:`tarfile` sees of a tar file: no more of it for one member than :data:`LONGEST_HEADER`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.start()

    def start(self) -> None:
        """Begin with the next member."""
        self._left = LONGEST_HEADER

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"a member with more than {LONGEST_HEADER} bytes of headers")
        return cast(bytes, self._file.read(size))


def _places(path: Path) -> tuple[str | None, Mapping[str, _Place]]:
    """The module that unpacks a tar file, None for a plain one, and where its pictures are."""
    places: dict[str, _Place] = {}
    with open_regular(path) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(8)
    module = next((module for magic, module in _PACKED.items() if head.startswith(magic)), None)
    with _opened(path, module) as file:
        for member, end in _members(path, file):
            if module and end > max(FREELY_UNPACKED, MOST_UNPACKED * size):  # before it is unpacked
                unpacked = f"a tar file that unpacks to at most {MOST_UNPACKED} times its size"
                raise bad(path, unpacked, f"{end} bytes from {size}", "unpack it yourself, if you trust it")
            name = without_surrogates(str(PurePosixPath(member.name)))
            linked = places.get(without_surrogates(str(PurePosixPath(member.linkname))))
            if member.islnk() and linked is not None and has_picture_name(name):
                _require_inside(path, name)
                places[name] = linked
            elif member.isfile() and has_picture_name(name):
                _require_inside(path, name)
                pieces = cast(Any, member).sparse if member.issparse() else [(0, member.size)]
                places[name] = _Place(member.offset_data, member.size, tuple(pieces))
    return module, places


def _members(path: Path, file: Any) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The members of a tar file, each with the offset of its end."""
    headers = _Headers(file)
    with cast(Any, tarfile.open(fileobj=cast(Any, headers), mode="r:")) as tar:
        for _ in range(MOST_MEMBERS):
            if (member := tar.next()) is None:
                return
            yield member, tar.offset
            headers.start()
            tar.members.clear()  # which would keep them all
        raise bad(path, f"at most {MOST_MEMBERS} members", "more", "split it")


def _require_inside(path: Path, name: str) -> None:
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise bad(path, "names that stay inside the tar file", repr(name), "make it anew, without that")


def _opened(path: Path, module: str | None) -> Any:
    """A file object of what a tar file holds, by the module that unpacks it."""
    return open_regular(path) if module is None else importlib.import_module(module).open(path)


def has_picture_name(name: str) -> bool:
    """Whether a file is a picture by its name, and not hidden."""
    return has_picture_suffix(name) and not PurePosixPath(name).name.startswith(".")
