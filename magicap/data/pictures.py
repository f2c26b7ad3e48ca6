"""Encoded pictures by name, from tar files and folders alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

from magicap.data.checks import bad, files_below
from magicap.data.tars import TarPictures, has_picture_name
from magicap.errors import ImageNotFound
from magicap.images.reader import ImageLimits
from magicap.printable import without_surrogates
from magicap.reading import read_bytes


class ImageFiles:
    r"""Encoded pictures of tar files and folders, by name. Worker processes may share one.

    Forked workers read beside their parent, and spawned ones get a copy that opens the files for itself.
    Threads may share one unless a tar file is compressed, which also makes reading out of order slow.

    A picture is found by its path inside the tar file or folder, and by any end of its path: ``0001.jpg``,
    ``val/0001.jpg``, and, where ``set/val`` itself was given, still ``val/0001.jpg``. Hidden files and files
    without a picture's suffix are left out, linked folders are not entered. Bytes of a name that are no text
    are written as ``magicap caption --json`` writes them, ``\xff``. Tar files stay open until :meth:`close`
    or the end of a ``with`` block.

    Args:
        paths: tar files and folders, or one of them.

    Raises:
        BadData: a path is neither, two of them hold a picture of one name, or they hold none.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path]) -> None:
        all_paths = [paths] if isinstance(paths, str | Path) else paths
        self._paths = list(dict.fromkeys(map(str, all_paths)))
        self._sources: dict[str, _ImageSource] = {}  # by the picture's path
        self._by_file_name: dict[str, list[str]] = {}  # all paths that end in it
        with ExitStack() as tars:
            for path in self._paths:
                self._add(_image_source(Path(path), tars))
            if not self._sources:
                raise bad(self._where(), "pictures", "none", "give the tar files or folders that hold them")
            self._tars = tars.pop_all()

    def _add(self, source: _ImageSource) -> None:
        for name in source.names:
            if name in self._sources:
                repeated = f"{name!r} in {self._sources[name].path} and in {source.path}"
                raise bad(
                    source.path, "each name once", repeated, "give one of the two, or the folder above both"
                )
            self._sources[name] = source
            self._by_file_name.setdefault(PurePosixPath(name).name, []).append(name)

    def close(self) -> None:
        """Close the tar files; calling it again does nothing."""
        self._tars.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tars": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._tars = ExitStack()
        for source in set(self._sources.values()):
            if isinstance(source, TarPictures):
                self._tars.callback(source.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, name: str) -> bool:
        return len(self._find(name)) == 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def read(self, name: str) -> bytes:
        """The encoded bytes of a picture.

        Raises:
            ImageNotFound: no such picture, or several (a ``KeyError``).
            BadData: a link that leads out of its folder, no plain file any more, or one larger than a picture
                may be (:class:`magicap.images.reader.ImageLimits`).
        """
        paths = self._find(name)
        if len(paths) != 1:
            raise self._not_found(name, paths)
        return self._sources[paths[0]].read(paths[0])

    def _find(self, name: str) -> list[str]:
        """The paths of all pictures that a name can mean."""
        wanted = PurePosixPath(without_surrogates(name))
        if str(wanted) in self._sources:
            return [str(wanted)]
        paths = self._by_file_name.get(wanted.name, ())
        return [path for path in paths if self._parts(path)[-len(wanted.parts) :] == wanted.parts]

    def _parts(self, path: str) -> tuple[str, ...]:
        """The folders above a picture and its file name, those that lead to its source included."""
        return *self._sources[path].above, *PurePosixPath(path).parts

    def _not_found(self, name: str, paths: Sequence[str]) -> ImageNotFound:
        # Another folder's picture of the same name is named in the error, but never read in its place.
        alike = paths or self._by_file_name.get(PurePosixPath(name).name, ())
        count = f"none among {len(self)} pictures" if not alike else _some(alike)
        fix = "name it by its path" if paths else "give the tar file or folder that holds it"
        return ImageNotFound(f"{self._where()}: expected one picture {name!r}, found {count}; {fix}")

    def _where(self) -> str:
        return _some(self._paths) or "no path"


def _some(names: Sequence[str]) -> str:
    """The first three of several names."""
    others = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + others


class _ImageSource(Protocol):
    """A place that holds pictures."""

    @property
    def path(self) -> Path: ...
    @property
    def above(self) -> tuple[str, ...]:
        """The folders that lead to it, where its pictures may be called by them too."""

    @property
    def names(self) -> Collection[str]: ...
    def read(self, name: str) -> bytes: ...


def _image_source(path: Path, tars: ExitStack) -> _ImageSource:
    """A folder, or a tar file that stays open as long as ``tars``."""
    if path.is_dir():
        return _Folder(path)
    source = TarPictures(path)
    tars.callback(source.close)
    return source


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path, self.root = path, path.resolve()
        self.above = self.root.parts
        names = (file.relative_to(self.root).as_posix() for file in files_below(self.root))
        self.names = {without_surrogates(name): name for name in names if has_picture_name(name)}

    def read(self, name: str) -> bytes:
        file = (self.root / self.names[name]).resolve()
        if not file.is_relative_to(self.root):
            fix = "copy the picture in, or give the folder that it lies in"
            raise bad(self.path, f"{name!r} to lie inside", f"a link to {file}", fix)
        if not file.is_file():  # a pipe would be waited for without end
            raise bad(self.root / name, "a picture file", "none, or no plain file", "put it back")
        try:
            return read_bytes(file, ImageLimits.bytes)
        except OSError as error:
            reason = error.strerror or str(error)
            raise bad(self.root / name, "a picture that can be read", reason, "mend or replace it") from error
