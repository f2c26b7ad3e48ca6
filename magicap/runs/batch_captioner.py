"""BatchCaptioner: rows in, the same rows with captions out, in the processes of other libraries."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from magicap.captioners.base import BaseCaptioner
from magicap.captioners.folder import SETTINGS_FILE, as_dtype, captioner_folder
from magicap.captioners.load import load_captioner
from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.checks import require_int
from magicap.data.hf_datasets import cell_source, features_with, stored_cells
from magicap.errors import BadImage, BadSettings, ModelNotFound
from magicap.extras import require
from magicap.images.transform import ImageTransform, PreparedImage, prepare
from magicap.runs.records import no_picture
from magicap.runs.rows import Row
from magicap.version import __version__

TYPES = {
    "caption": "string",
    "confidence": "float64",
    "score": "float64",
    "error": "string",
    "width": "int64",
    "height": "int64",
}
"""The columns that are added, and their types as Arrow and ``datasets`` call them."""

_PROCESS = os.getpid()  # that imported torch
_READERS = 4  # threads that decode pictures while the models compute


class BatchCaptioner:
    """Captions the pictures of batches of rows, for libraries that map a function over batches.

    An instance holds settings alone, so its pickle is small and the same before and after use. A process
    loads the captioner at its first batch and keeps it; a forked process computes with one thread.
    ``datasets`` takes the pickle as a key of its cache: a digest of the captioner's settings and parts is in
    it, so another captioner in the same folder is another key.

    Each row gets, whatever became of its picture:

    - ``caption``: text; empty where there is an error;
    - ``confidence``: the probability that the caption is right, 0 to 1; NaN where it is not known;
    - ``score``: see :attr:`magicap.results.Caption.score`; NaN where there is an error;
    - ``error``: the error's code, a colon and what it says; empty where there is none;
    - ``width`` and ``height``: of the picture, upright, in pixels; 0 where it could not be read.

    With ``datasets``, whose stored pictures are read undecoded. On GPUs several processes have to be spawned,
    and the lines have to stand under ``if __name__ == "__main__":``::

        captioner = BatchCaptioner()
        captioned = dataset.map(captioner, batched=True, batch_size=64)

        multiprocess.set_start_method("spawn")  # of the package multiprocess, which datasets uses
        captioned = dataset.map(captioner, batched=True, batch_size=64, num_proc=8, with_rank=True)

    An ``IterableDataset``, or a ``Dataset`` in a format such as ``numpy``, decodes pictures before it hands
    them over, and stops at a broken one, unless it is told not to::

        dataset = dataset.cast_column("image", datasets.Image(decode=False))
        captioned = dataset.map(captioner, batched=True, features=captioner.features(dataset.features))

    With Ray Data, a captioner an actor::

        captioned = ray.data.read_parquet(paths).map_batches(
            BatchCaptioner, fn_constructor_kwargs={"column": "image"}, batch_size=64,
            batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=8), num_gpus=1,
        )

    With Spark, a captioner a Python worker::

        captioner = BatchCaptioner(column="path")
        columns = "path string, caption string, confidence double, score double, error string, width long, "
        captioned = frame.select("path").mapInPandas(
            lambda batches: map(captioner, batches), columns + "height long"
        )

    Args:
        preset: a preset's name or a captioner's folder.
        column: where batches have the pictures.
        prefix: stands before the names of the columns that are added, as in ``predicted_caption``.
        decoding: how to search; None takes the captioner's own. Where it samples, a row's seed is its place
            in its batch.
        device: where to compute; None takes the GPU of the process's ``rank``, else a GPU if there is one.
        dtype: float32 (exact), bfloat16, float16 or, on processors and of zero-shot captioners, int8.
        batch_size: pictures that are searched together, as of :meth:`magicap.Captioner.caption`.

    Raises:
        BadSettings: another ``dtype``, or a ``batch_size`` below 1.
    """

    def __init__(
        self,
        preset: str | Path = DEFAULT,
        *,
        column: str = "image",
        prefix: str = "",
        decoding: Any = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None:
            require_int("batch_size", batch_size)
        # processes elsewhere have other working folders
        self.preset = (
            os.path.abspath(preset) if os.path.isdir(preset) and preset not in PRESETS else str(preset)
        )
        self.column = column
        self.prefix = prefix
        self.decoding = decoding
        self.device = None if device is None else str(device)
        self.dtype = str(as_dtype(dtype, int8=True)).removeprefix("torch.")
        self.batch_size = batch_size
        self._digest = _digest(self.preset)

    def __repr__(self) -> str:
        return f"BatchCaptioner({self.preset!r}, column={self.column!r}, prefix={self.prefix!r})"

    def __call__(self, batch: Any, rank: int | None = None) -> Any:
        """Caption the pictures of B rows; a row whose picture cannot be read gets an error, and no caption.

        Args:
            batch: columns of B values by name, as lists, numpy arrays, tensors or Arrow arrays; or a pandas
                ``DataFrame`` or a pyarrow ``Table``. It is not changed. Pictures are encoded bytes, paths,
                structs of ``bytes`` and ``path``, PIL images, arrays (H, W) or (H, W, C), or None; the whole
                column may be one array (B, H, W, C).
            rank: number of the process, from 0: it computes on GPU ``rank`` of those there are, in turn.

        Returns:
            What came, as what it came, with the columns that are added: as numpy arrays where one of the
            columns is one, else as lists. Of a batch of ``Dataset.map`` the new columns alone, since it keeps
            the others itself.

        Raises:
            BadSettings: the batch has no column of pictures, or has a column of a name that is added.
            ModelNotFound, BadModel: from loading the captioner.
        """
        names = list(batch.column_names if hasattr(batch, "append_column") else batch)
        self._require_columns(names)
        stored = stored_cells(batch, self.column)
        if stored is None:
            self._require_rows(batch[self.column])
        rows = self._rows(_cells(batch[self.column]) if stored is None else stored, rank)
        added = {f"{self.prefix}{name}": [_value(row, name) for row in rows] for name in TYPES}
        if hasattr(batch, "append_column"):
            return self._with_columns(batch, added)
        if hasattr(batch, "assign"):
            return batch.assign(**self._arrays(added))
        columns = {} if stored is not None else {name: batch[name] for name in names}
        if any(isinstance(column, np.ndarray) for column in columns.values()):
            return {**columns, **self._arrays(added)}
        return {**columns, **added}

    def features(self, features: Any) -> Any:
        """The ``datasets.Features`` of what ``map`` gives, for its argument ``features``.

        Args:
            features: those of the dataset, less what ``map`` is told to remove.

        Raises:
            MissingPackage: ``datasets`` is not installed.
        """
        return features_with(features, self._types)

    @property
    def _types(self) -> dict[str, str]:
        return {f"{self.prefix}{name}": dtype for name, dtype in TYPES.items()}

    def _require_rows(self, column: Any) -> None:
        if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__len__"):
            raise BadSettings(
                f"expected several rows, found {type(column).__name__} as column {self.column!r}; map with "
                "batched=True, or put the one row into lists"
            )

    def _require_columns(self, names: Sequence[str]) -> None:
        listed = ", ".join(map(repr, names)) or "none"
        if self.column not in names:
            raise BadSettings(
                f"expected a column {self.column!r} of pictures, found {listed}; name it with column=..."
            )
        if repeated := [name for name in self._types if name in names]:
            raise BadSettings(
                f"expected no column {repeated[0]!r}, which is added, found one among {listed}; rename it, "
                "or give the added columns other names with prefix='predicted_'"
            )

    def _arrays(self, added: Mapping[str, list[Any]]) -> dict[str, Any]:
        return {
            name: np.array(added[name], dtype=np.str_ if dtype == "string" else dtype)
            for name, dtype in self._types.items()
        }

    def _with_columns(self, table: Any, added: Mapping[str, list[Any]]) -> Any:
        arrow = require("pyarrow")
        for name, dtype in self._types.items():
            table = table.append_column(name, arrow.array(added[name], arrow.type_for_alias(dtype)))
        return table

    def _rows(self, cells: Sequence[Any], rank: int | None) -> list[Row]:
        if not cells:
            return []
        captioner = self._captioner(rank)
        sizes: list[BadImage | tuple[int, int]] = []

        def readable() -> Iterator[PreparedImage]:
            for picture in pool.map(partial(_read, captioner.transform), cells):
                if isinstance(picture, BadImage):
                    sizes.append(picture)
                else:
                    sizes.append((picture.width, picture.height))
                    yield picture

        with ThreadPoolExecutor(_READERS, "magicap-reader") as pool:
            captions = list(captioner.caption(readable(), self.decoding, batch_size=self.batch_size))
        remaining = iter(captions)
        return [
            Row.failed("", size) if isinstance(size, BadImage) else Row.of("", next(remaining), size)
            for size in sizes
        ]

    def _captioner(self, rank: int | None) -> BaseCaptioner[Any]:
        if os.getpid() != _PROCESS:
            # OpenMP hangs in a forked process whose parent computed with several threads
            torch.set_num_threads(1)
        device = self.device
        if device is None and torch.cuda.is_available():
            device = f"cuda:{(rank or 0) % torch.cuda.device_count()}"
        with _loading:
            return captioner_of_process(self.preset, device, self.dtype, self._digest)


_loading = Lock()


@lru_cache(maxsize=1)
def captioner_of_process(preset: str, device: str | None, dtype: str, digest: str) -> BaseCaptioner[Any]:
    """The captioner of a process, loaded once; the one before is let go of.

    Args:
        preset: a preset's name or a captioner's folder.
        device: where to compute; None takes a GPU if there is one.
        dtype: float32, bfloat16, float16 or int8.
        digest: of its folder, so that another one there is loaded anew.
    """
    return load_captioner(preset, device=device, dtype=dtype)


def _digest(preset: str) -> str:
    """Sixteen digits that tell a captioner from others of its name: of its settings, and of this version."""
    try:
        folder = captioner_folder(preset)
        settings = b"" if folder is None else (folder / SETTINGS_FILE).read_bytes()
    except (ModelNotFound, OSError):  # it may be where the rows are, and not here
        settings = b""
    return hashlib.blake2b(__version__.encode() + settings, digest_size=8).hexdigest()


def _cells(column: Any) -> list[Any]:
    return list(column.to_pylist() if hasattr(column, "to_pylist") else column)


def _read(transform: ImageTransform, cell: Any) -> PreparedImage | BadImage:
    """One picture as the models read it, or why it cannot be."""
    source = cell_source(cell)
    if source is None:
        return no_picture()
    try:
        return prepare(source, transform)
    except BadImage as error:
        return error


def _value(row: Row, name: str) -> Any:
    """A value of a row; NaN where the row has none, so that no column is ever of None alone."""
    value = getattr(row, name)
    return math.nan if value is None else value
