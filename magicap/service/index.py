"""An index that is searched beside the captioners, and what strangers may know of its paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from magicap.models.scorer import ImageTextScorer
from magicap.retrieval.header import index_folder
from magicap.retrieval.index import RetrievalIndex


@dataclass(frozen=True)
class ServedIndex:
    """An index, and the folder that it lies in, from which its pictures are named."""

    index: RetrievalIndex
    root: Path

    @classmethod
    def load(cls, place: str, scorer: ImageTextScorer) -> ServedIndex:
        """An index, or that of what was indexed; errors as of :meth:`RetrievalIndex.load`."""
        return cls(RetrievalIndex.load(place, scorer), index_folder(place).resolve().parent)

    def name(self, path: str) -> str:
        """A picture's path as strangers may know it: from the index's folder, or its last part alone."""
        prefix = os.path.join(self.root, "")
        return path.removeprefix(prefix) if path.startswith(prefix) else os.path.basename(path)
