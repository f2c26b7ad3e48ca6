"""What a run is to do: sources, output, how many captions; all that decides what comes out of it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicap.checks import require_int, require_number
from magicap.errors import BadSettings
from magicap.printable import without_surrogates
from magicap.runs.rows import COLUMNS

FORMATS = ("jsonl", "csv", "parquet", "txt", "imagefolder", "webdataset")
ON_EXISTING = ("fail", "skip", "overwrite", "append", "prepend")
ROWS_PER_FILE = 10_000
_NAMED = 20  # sources that a manifest lists by name
METADATA, ERRORS = "metadata.jsonl", "_errors.jsonl"
"""Files of an imagefolder: the rows that have captions, and those that have not."""

STATE = "_run"
"""Folder of a run's state in its output folder; beside a file it is that file's name and ``.run``."""

STATE_BESIDE = ".magicap-run"
"""The same where captions go beside their pictures: hidden, so that it is not searched for pictures."""

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}


@dataclass(frozen=True)
class RunSettings:
    """What a run reads, and what it writes where.

    Raises:
        BadSettings: values out of range, or that contradict each other.
    """

    sources: tuple[str, ...]
    """See :class:`magicap.runs.sources.Listing`."""

    out: str | None = None
    """A file or a folder; None: beside the pictures, which only ``txt`` and ``imagefolder`` do."""

    format: str | None = None
    """One of ``FORMATS``; None: by the suffix of ``out``."""

    column: str | None = None
    """Where tables and data sets have the pictures."""

    split: str | None = None
    """Of data sets."""

    n: int = 1
    """Captions of each picture."""

    tags: bool = False
    """Whether rows have tags too."""

    prefix: str = ""
    """Stands before each caption."""

    suffix: str = ""
    """Stands behind each caption."""

    shard: tuple[int, int] = (0, 1)
    """(i, n): of the pictures, each n-th is captioned, the i-th from 0 first."""

    limit: int | None = None
    """Pictures at most, before they are shared among shards."""

    rows_per_file: int = ROWS_PER_FILE
    """Of an output folder."""

    batch_size: int = 32
    """Pictures that are searched together."""

    on_existing: str = "fail"
    """What becomes of an output that is there: one of ``ON_EXISTING``. ``skip`` keeps it; ``append`` and
    ``prepend`` are for ``txt``."""

    max_errors: int | None = None
    """Pictures that may fail before the run stops; None: all."""

    def __post_init__(self) -> None:
        for name in ("n", "rows_per_file", "batch_size"):
            require_int(name, getattr(self, name))
        if self.limit is not None:
            require_int("limit", self.limit)
        if self.max_errors is not None:
            require_number("max_errors", self.max_errors, lambda count: count >= 0, "at least 0")
        if not all(self.sources):
            raise BadSettings("expected paths of pictures, found an empty one; leave it out")
        i, count = self.shard
        if not 0 <= i < count:
            raise BadSettings(f"expected --shard I/N with I from 0 to N - 1, found {i}/{count}")
        if self.on_existing not in ON_EXISTING:
            raise BadSettings(f"expected on_existing of {', '.join(ON_EXISTING)}, found {self.on_existing!r}")
        if self.adds and self.kind != "txt":
            raise BadSettings(f"--on-existing {self.on_existing} is for --format txt, found {self.kind}")
        if self.out is None and self.kind not in ("txt", "imagefolder"):
            raise BadSettings(f"--format {self.kind} needs --out: a file or a folder to write")
        if self.out is not None and self.kind == "imagefolder":
            for source in self.sources:
                if self.output.resolve().is_relative_to(Path(source).resolve()):
                    raise BadSettings(
                        f"{self.out} lies in {source}, whose pictures it would hold too; move it"
                    )
        if self.is_in_place:
            if len(self.sources) != 1 or not os.path.isdir(self.sources[0]):
                raise BadSettings(
                    "--format imagefolder without --out is for one folder of pictures: give --out"
                )
            if self.shard != (0, 1):
                raise BadSettings("--format imagefolder without --out writes one file: leave out --shard")

    @property
    def kind(self) -> str:
        """The format, given or by the suffix of the output.

        Raises:
            BadSettings: none of the known ones.
        """
        if self.format is not None:
            if self.format not in FORMATS:
                raise BadSettings(f"expected --format of {', '.join(FORMATS)}, found {self.format!r}")
            if _SUFFIXES.get(Path(self.out or "").suffix.lower(), self.format) != self.format:
                raise BadSettings(
                    f"{self.out} is no name for {self.format}; leave out --format, or rename it"
                )
            return self.format
        suffix = Path(self.out or "").suffix.lower()
        if suffix not in _SUFFIXES:
            known = ", ".join(_SUFFIXES)
            raise BadSettings(f"{self.out}: expected a name that ends in {known}, or --format; give one")
        return _SUFFIXES[suffix]

    @property
    def is_one_file(self) -> bool:
        """Whether all rows go into one file that is named, not into a folder of files."""
        return self.out is not None and _SUFFIXES.get(Path(self.out).suffix.lower()) == self.kind

    @property
    def has_folder(self) -> bool:
        """Whether it writes into a folder of its own."""
        return self.out is not None and not self.is_one_file

    @property
    def text_folder(self) -> Path | None:
        """Where text files go; None: beside their pictures."""
        return None if self.out is None else self.output

    @property
    def output(self) -> Path:
        """The file, or the folder; with shards a file has the shard in its name."""
        if self.out is None:
            first = self.sources[0]
            return Path(first if os.path.isdir(first) else os.path.dirname(first) or ".")
        path = Path(self.out)
        if not path.name or path.name == "..":
            path = Path(os.path.abspath(path))
        i, count = self.shard
        if count == 1:
            return path
        return path.with_name(f"{path.stem}-{i:05d}-of-{count:05d}{path.suffix}")

    @property
    def adds(self) -> bool:
        """Whether captions are added to the texts that are there."""
        return self.on_existing in ("append", "prepend")

    @property
    def is_in_place(self) -> bool:
        """Whether rows go into a file of the pictures' own folder, which names them."""
        return self.out is None and self.kind == "imagefolder"

    @property
    def replaces(self) -> Path | None:
        """The one file that the run puts in place; None: it writes several."""
        if self.is_one_file:
            return self.output
        return self.output / METADATA if self.is_in_place else None

    @property
    def state(self) -> Path:
        """Folder of what the run knows of itself."""
        if self.out is None:
            i, count = self.shard
            return self.output / (STATE_BESIDE if count == 1 else f"{STATE_BESIDE}-{i:05d}-of-{count:05d}")
        return self.output.with_name(f"{self.output.name}.run") if self.is_one_file else self.output / STATE

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the rows."""
        return (*COLUMNS, *(["captions"] if self.n > 1 else []), *(["tags"] if self.tags else []))

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be gone on with: all that decides what its rows are."""
        return {
            "sources": self._sources,
            "column": self.column,
            "split": self.split,
            "format": self.kind,
            "n": self.n,
            "tags": self.tags,
            "prefix": self.prefix,
            "suffix": self.suffix,
            "shard": list(self.shard),
            "limit": self.limit,
            "rows_per_file": None if self.replaces else self.rows_per_file,
            "batch_size": self.batch_size,
            **({"on_existing": self.on_existing} if self.kind == "txt" else {}),
        }

    @property
    def _sources(self) -> list[str] | str:
        """The sources by their absolute paths; of many only how many, and a digest."""
        paths = [os.path.abspath(path) if os.path.lexists(path) else path for path in self.sources]
        if len(paths) <= _NAMED:
            return without_surrogates(paths)  # type: ignore[no-any-return]
        digest = hashlib.blake2b("\0".join(paths).encode("utf-8", "surrogateescape"), digest_size=8)
        return f"{len(paths)} of digest {digest.hexdigest()}"
