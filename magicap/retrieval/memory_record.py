"""``memory.json``: which text tower encoded a memory's captions, and the digest of its files together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from magicap.errors import BadModel
from magicap.files import digest_of_files, write_whole
from magicap.reading import read_text

RECORD_FILE = "memory.json"


@dataclass(frozen=True)
class MemoryRecord:
    """What a memory's folder says of itself."""

    text_tower: str | None
    """Fingerprint of the text tower that encoded the captions, as it loads in float32; None: not known."""

    digest: str | None
    """Of captions, vectors and n-grams: one that is damaged, reordered or of another memory changes it."""

    texts: str | None = None
    """Of the captions alone; None: not known."""

    @classmethod
    def read(cls, folder: Path, files: Sequence[str]) -> MemoryRecord:
        """The record of a folder, held against its files; nothing is known where earlier versions wrote none.

        Raises:
            BadModel: the record is damaged, or the files are not those that it was written for.
        """
        path = folder / RECORD_FILE
        try:
            values = json.loads(read_text(path))
            record = cls(values["text_tower"], values["digest"], values.get("texts"))
        except FileNotFoundError:
            return cls(None, None)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadModel(f"{path} is no record of a memory (text_tower and digest): {error!r}") from error
        if record.digest != digest_of_files(folder, files):
            raise BadModel(
                f"{folder}: expected the captions and vectors that {RECORD_FILE} was written for, found "
                "others, or damaged or reordered ones; copy the whole folder anew"
            )
        return record

    @classmethod
    def write(cls, folder: Path, files: Sequence[str], text_tower: str | None, texts: str | None) -> str:
        """Write the record of a folder whose other files are written, and return their digest."""
        digest = digest_of_files(folder, files)
        text = json.dumps(asdict(cls(text_tower, digest, texts)), indent=2, allow_nan=False)
        write_whole(folder / RECORD_FILE, f"{text}\n")
        return digest
