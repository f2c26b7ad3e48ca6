"""An index as a folder: vectors as safetensors, items as Parquet, and ``index.json``, which names the two.

The two files carry digits of their content in their names, and ``index.json``, which has their digest, is put
in place last: what it names belongs together, whenever a run is stopped, and is refused when it was changed.

Shapes: N items, D embedding width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from magicap.errors import BadSettings
from magicap.files import digest_of_files, open_to_readers, put_in_place
from magicap.models.finite import are_unit
from magicap.reading import LARGEST_SETTINGS, open_regular
from magicap.retrieval.header import (
    FORMAT,
    WITH_MOMENTS,
    Header,
    damaged,
    remove_others,
    require_index_folder,
)
from magicap.retrieval.items import Item
from magicap.retrieval.parquet import items_table, read_items, require_parquet

_VECTORS = "vectors"


def write_index(
    folder: str | Path,
    items: Sequence[Item],
    vectors: Tensor,
    *,
    scorer: str,
    preset: str,
    scorer_name: str = "",
) -> None:
    """Write an index, and remove the files of the one that it replaces.

    Args:
        items: N items of one kind.
        vectors: (N, D) float32.
        scorer: the fingerprint of what made the vectors.
        preset, scorer_name: what people call that scorer.

    Raises:
        BadIndex: the folder holds something else.
        BadSettings: it cannot be written.
        MissingPackage: pyarrow is not installed.
    """
    parquet = require_parquet()
    folder = Path(folder)
    require_index_folder(folder)
    table = items_table(items, folder)
    vectors = vectors.contiguous()
    digest = hashlib.blake2b(repr(items).encode(), digest_size=6)
    digest.update(vectors.numpy().data)
    header = Header(
        folder,
        scorer=scorer,
        preset=preset,
        scorer_name=scorer_name,
        holds=items[0].kind,
        count=vectors.shape[0],
        width=vectors.shape[1],
        vectors=f"vectors-{digest.hexdigest()}.safetensors",
        items=f"items-{digest.hexdigest()}.parquet",
        format=FORMAT if all(item.time is None for item in items) else WITH_MOMENTS,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with put_in_place(folder / header.vectors) as path:
            save_file({_VECTORS: vectors}, path, metadata={"format": "pt"})
        with put_in_place(folder / header.items) as path:
            parquet.write_table(table, path)
        open_to_readers(folder)
    except (OSError, SafetensorError) as error:
        raise BadSettings(f"{folder} cannot be written ({error}); name another folder") from error
    replace(header, digest=digest_of_files(folder, [header.vectors, header.items])).write()
    remove_others(folder, header.vectors, header.items)


def read_index(header: Header) -> tuple[list[Item], Tensor]:
    """The items of an index, and their vectors (N, D).

    Raises:
        BadIndex: a file is missing or damaged.
        MissingPackage: pyarrow is not installed.
    """
    vectors, items = _read_vectors(header), read_items(header)
    if header.digest and header.digest != digest_of_files(header.folder, [header.vectors, header.items]):
        raise damaged(header.folder / header.vectors, f"it or {header.items} was changed")
    return items, vectors


def _read_vectors(header: Header) -> Tensor:
    path = header.folder / header.vectors
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size > 4 * header.count * header.width + LARGEST_SETTINGS:
            raise ValueError(f"{size} bytes for {header.count} vectors of width {header.width}")
        vectors = load_file(path)[_VECTORS]
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, MemoryError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    if vectors.shape != (header.count, header.width) or vectors.dtype != torch.float32:
        raise damaged(path, f"{vectors.dtype} vectors {tuple(vectors.shape)}")
    if not bool(are_unit(vectors).all()):
        raise damaged(path, "vectors that are not of length one")
    return vectors
