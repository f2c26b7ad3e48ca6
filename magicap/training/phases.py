"""Results of long phases, kept in the folder of a run: what was finished is not computed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from magicap.training import processes

Tensors = TypeVar("Tensors", Tensor, tuple[Tensor, ...])


def load_or_compute(path: Path | None, compute: Callable[[], Tensors]) -> Tensors:
    """The tensor or tensors of a file, which is computed and written whole if there is none yet.

    Args:
        path: None: computed, and not kept. Of several processes the first computes, the others read.
        compute: what the file is to hold.
    """
    if path is None:
        return compute()
    _keep(path, lambda new: torch.save(compute(), new))
    tensors: Tensors = torch.load(path, weights_only=True)
    return tensors


def load_or_write(path: Path | None, write: Callable[[], list[str]]) -> list[str]:
    """The same for texts, as JSON."""
    if path is None:
        return write()
    _keep(path, lambda new: new.write_text(json.dumps(write(), allow_nan=False), encoding="utf-8"))
    texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return texts


def digest(*sources: Any) -> str:
    """Twelve hexadecimal digits of whatever a result depends on; ``repr`` must tell it apart."""
    return blake2b(repr(sources).encode(), digest_size=6).hexdigest()


def _keep(path: Path, write: Callable[[Path], object]) -> None:
    with processes.first_alone():
        if processes.is_first() and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.new")
            write(new)
            new.rename(path)
