"""``index.json``: what an index is, which scorer made it, and where the rest of it is."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicap.errors import BadIndex, BadSettings
from magicap.files import LOCK, write_whole
from magicap.reading import read_text
from magicap.retrieval.items import IMAGE, TEXT

FORMAT, WITH_MOMENTS = 1, 2  # an index without moments of videos is as releases before it wrote it
INDEX_FILE = "index.json"
REBUILD = "make the index anew with 'magicap index --rebuild'"
_HIDDEN = ".magicap-index"
_KEY = b'"magicap_index"'
_OURS = re.compile(r"\.?(index\.json|vectors-[0-9a-f]+\.safetensors|items-[0-9a-f]+\.parquet)(\.\d+)?")


def index_folder(source: str | Path) -> Path:
    """Where the index of a folder or file is kept by default.

    Of a folder it is ``.magicap-index`` inside, which is hidden and so never searched for pictures; of a file
    ``captions.txt`` it is ``captions.txt.magicap-index`` beside it. An index's own folder is its own.
    """
    source = Path(source)
    if source.name.endswith(_HIDDEN) or _has_header(source):
        return source
    return source / _HIDDEN if source.is_dir() else source.with_name(source.name + _HIDDEN)


def require_index_folder(folder: Path) -> None:
    """Check before the work that an index may be written to a folder.

    Raises:
        BadIndex: the folder holds something that is not of an index.
        BadSettings: it is a file, or cannot be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise BadSettings(f"{folder} cannot be written; name a folder that is open to you with --out")
    if existing == folder and (foreign := _foreign_files(folder)):
        raise BadIndex(
            f"{folder}: expected an index or an empty folder, found {foreign[0]!r} in it; "
            "name another folder with --out"
        )


def _foreign_files(folder: Path) -> list[str]:
    """What a folder holds that is not of an index; other programs write ``index.json`` too."""
    has_header = _has_header(folder)
    return sorted(
        name
        for name in os.listdir(folder)
        if name != LOCK and (not _OURS.fullmatch(name) or (name == INDEX_FILE and not has_header))
    )


def _has_header(folder: Path) -> bool:
    """Whether ``index.json`` begins as :meth:`Header.write` lets it, even if the rest is damaged."""
    path = folder / INDEX_FILE
    if not path.is_file():
        return False
    with suppress(OSError), path.open("rb") as file:
        return _KEY in file.read(64)
    return True


def remove_others(folder: Path, *kept: str) -> None:
    """Remove what older indexes, and runs that were stopped, left in an index's folder."""
    for name in os.listdir(folder):
        if _OURS.fullmatch(name) and name not in (INDEX_FILE, *kept):
            (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Header:
    """The content of ``index.json``."""

    folder: Path

    scorer: str
    """The fingerprint of the scorer that made the vectors."""

    preset: str
    """What people call that scorer: a preset, a captioner's folder or a repository; may be empty."""

    holds: str
    """``"image"`` or ``"text"``."""

    count: int
    """N, the number of items."""

    width: int
    """D, the embedding width."""

    vectors: str
    """Name of the file of vectors."""

    items: str
    """Name of the file of items."""

    digest: str = ""
    """Of the two files together; empty in an index of an earlier version."""

    scorer_name: str = ""
    """What the scorer itself was named by, where it took the place of the preset's; else empty."""

    format: int = FORMAT
    """:data:`WITH_MOMENTS` where items are moments of videos."""

    @classmethod
    def read(cls, folder: str | Path) -> Header:
        """The header of the index in a folder.

        Raises:
            BadIndex: there is no index, or none that this version can read.
        """
        folder = Path(folder)
        path = folder / INDEX_FILE
        if not path.exists():
            raise BadIndex(f"no index at {folder}; make one with 'magicap index {_source(folder)}'")
        try:
            values = json.loads(read_text(path))
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}") from error
        if not isinstance(values, dict) or "magicap_index" not in values:
            raise BadIndex(
                f"{path}: expected the header of an index, found another file; name another folder"
            )
        if (version := values["magicap_index"]) not in (FORMAT, WITH_MOMENTS):
            raise BadIndex(
                f"{path}: expected format {FORMAT} or {WITH_MOMENTS}, found {version!r}; "
                f"update magicap, or {REBUILD}"
            )
        values = {"digest": "", _SCORER_NAME: "", **values}
        _check(path, values)
        return cls(folder, format=version, **{name: values[name] for name in _TYPES})

    def write(self) -> None:
        """Put ``index.json`` in place."""
        values = {name: getattr(self, name) for name in _TYPES if name != _SCORER_NAME or self.scorer_name}
        text = json.dumps({"magicap_index": self.format, **values}, indent=2, allow_nan=False)
        write_whole(self.folder / INDEX_FILE, f"{text}\n")

    def require_scorer(self, scorer: str) -> None:
        """Refuse to compare the index's vectors with those of another scorer.

        Args:
            scorer: its fingerprint.

        Raises:
            BadIndex: another scorer made them.
        """
        if scorer != self.scorer:
            made, option = (
                f" (preset {self.preset})" if self.preset else "",
                "the preset that made it with --preset",
            )
            if self.scorer_name:
                made, option = f" ({self.scorer_name})", "that scorer with --scorer"
            raise BadIndex(
                f"{self.folder}: expected an index by the scorer {scorer}, found one by {self.scorer}{made}; "
                f"name {option}, or {REBUILD}"
            )


_SCORER_NAME = "scorer_name"
_TYPES = {
    "scorer": str, "preset": str, "holds": str, "count": int, "width": int, "vectors": str, "items": str,
    "digest": str, _SCORER_NAME: str,
}  # fmt: skip


def damaged(path: Path, reason: str) -> BadIndex:
    """What to raise where a file of an index cannot be read."""
    reason = " ".join(reason.split())
    return BadIndex(f"{path}: expected a whole file of an index, found a damaged one ({reason}); {REBUILD}")


def _check(path: Path, values: dict[str, Any]) -> None:
    for name, kind in _TYPES.items():
        if type(values.get(name)) is not kind:
            raise damaged(path, f"{name} is {values.get(name)!r:.80}")
    if values["holds"] not in (IMAGE, TEXT):
        raise damaged(path, f"holds is {values['holds']!r:.80}")
    for name in ("vectors", "items"):
        if not _OURS.fullmatch(values[name]):  # which may not lead out of the folder
            raise damaged(path, f"{name} is {values[name]!r:.80}")


def _source(folder: Path) -> Path:
    """The folder or file whose index would be here."""
    return folder.parent if folder.name == _HIDDEN else folder.with_name(folder.name.removesuffix(_HIDDEN))
