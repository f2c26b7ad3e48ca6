"""Checkpoints on disk: a kill at any moment leaves a whole one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from magicap.training import processes

_NAME = "checkpoint"


def complete_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run left in its folder, the older one if it was killed while it replaced that."""
    return next((path for path in (folder / _NAME, _old(folder)) if path.is_dir()), None)


def replace_checkpoint(folder: Path, write: Callable[[Path], object]) -> None:
    """Write a checkpoint beside the old one, then put it in its place.

    Args:
        folder: of the run.
        write: fills a new folder; called in every process, each of which writes what is its own.
    """
    new, checkpoint = folder / f"{_NAME}.new", folder / _NAME
    with processes.first_alone():
        if processes.is_first():
            shutil.rmtree(new, ignore_errors=True)
    write(new)
    processes.wait()
    with processes.first_alone():
        if processes.is_first():
            if checkpoint.is_dir():
                shutil.rmtree(_old(folder), ignore_errors=True)
                checkpoint.rename(_old(folder))
            new.rename(checkpoint)
            shutil.rmtree(_old(folder), ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove whatever a run could resume from, and what a kill left half written."""
    for path in (folder / _NAME, _old(folder), folder / f"{_NAME}.new"):
        shutil.rmtree(path, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder / f"{_NAME}.old"
