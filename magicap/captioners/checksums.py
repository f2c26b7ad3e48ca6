"""Checksums of weights, in a file beside them that ``sha256sum --check`` reads too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from magicap.captioners.presets import BASELINE, EMBEDDED, UNPAIRED_FOLDER
from magicap.errors import BadModel

PACKAGE = EMBEDDED.parent
CHECKSUMS = "SHA256SUMS"

_WEIGHTS = ("*.safetensors", "*.gz")
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write_checksums(folder: Path = PACKAGE, names: Iterable[str] | None = None) -> None:
    """Write the file into a folder.

    Args:
        names: paths in the folder of the files to list; None: the weights of the captioners that ship.
    """
    listed = weight_files(folder) if names is None else names
    lines = (f"{_digest(folder / name)}  {name}\n" for name in listed)
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def damaged_files(folder: Path = PACKAGE) -> dict[str, str]:
    """What is wrong with the listed files of a folder, by their paths in it; empty if all are whole.

    Raises:
        OSError: the file of checksums, or one that it lists, cannot be read.
        BadModel: it is no file of checksums, or it lists a file outside the folder.
    """
    digests = _listed(folder)
    wrong = {name: "missing" for name in digests if not (folder / name).is_file()}
    for name in digests.keys() - wrong.keys():
        if _digest(folder / name) != digests[name]:
            wrong[name] = "damaged"
    return wrong


def unlisted_weights(folder: Path) -> list[str]:
    """The weights below a folder that its file of checksums does not list, by their paths in it, in order.

    Raises:
        OSError, BadModel: as of :func:`damaged_files`.
    """
    return sorted(set(_weights_below(folder, folder)) - _listed(folder).keys())


def weight_files(package: Path) -> Iterator[str]:
    """The weights of the captioners in a package's folder, by their paths in it, in the order of the file."""
    for folder in (EMBEDDED, UNPAIRED_FOLDER, BASELINE):
        yield from sorted(_weights_below(package / folder.name, package))


def _weights_below(folder: Path, root: Path) -> Iterator[str]:
    files = (path for pattern in _WEIGHTS for path in folder.rglob(pattern))
    return (path.relative_to(root).as_posix() for path in files)


def _listed(folder: Path) -> dict[str, str]:
    """Path in the folder -> SHA-256, of the files that the file of checksums lists."""
    path = folder / CHECKSUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadModel(f"{path}: expected lines as sha256sum writes them, found no UTF-8 text") from error
    digests = {}
    for line in lines:
        if (match := _LINE.fullmatch(line)) is None:
            raise BadModel(f"{path}: expected lines as sha256sum writes them, found {line!r:.80}")
        digest, name = match.groups()
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BadModel(f"{path}: expected files below its folder, found {name!r:.80}")
        digests[name] = digest
    return digests


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
