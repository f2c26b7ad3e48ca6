"""Checksums of weights, in a file beside them that ``sha256sum --check`` reads too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from magicap.captioners.presets import BASELINE, EMBEDDED, UNPAIRED_FOLDER

PACKAGE = EMBEDDED.parent
CHECKSUMS = "SHA256SUMS"

_WEIGHTS = ("*.safetensors", "*.gz")


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
        ValueError: it is no file of checksums.
    """
    lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    digests = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    wrong = {name: "missing" for name in digests if not (folder / name).is_file()}
    for name in digests.keys() - wrong.keys():
        if _digest(folder / name) != digests[name]:
            wrong[name] = "damaged"
    return wrong


def weight_files(package: Path) -> Iterator[str]:
    """The weights of the captioners in a package's folder, by their paths in it, in the order of the file."""
    for folder in (EMBEDDED, UNPAIRED_FOLDER, BASELINE):
        files = (path for pattern in _WEIGHTS for path in (package / folder.name).rglob(pattern))
        yield from sorted(path.relative_to(package).as_posix() for path in files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
