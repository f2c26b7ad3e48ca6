"""A captioner written beside its folder and put in place at once: a save that stops leaves the old one."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from magicap.captioners.folder import SETTINGS_FILE
from magicap.errors import BadSettings
from magicap.files import open_to_readers
from magicap.models.fingerprint import fingerprint


@contextmanager
def put_folder_in_place(folder: str | Path, parts: Sequence[str]) -> Iterator[Path]:
    """An empty folder to write a captioner into, whose content then replaces the captioner in ``folder``.

    If the block raises, ``folder`` stays as it was.

    Args:
        parts: names of the files and folders that a captioner may have, beside its settings. All else in
            ``folder`` stays: a model card, a run's log.

    Raises:
        BadSettings: it cannot be written.
    """
    folder = Path(folder).resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = _parent_to_write_in(folder) / f".{folder.name}.{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)  # of a run with this number that was killed
        new.mkdir()
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield new
        open_to_readers(new)
        try:
            _move(new, folder, (SETTINGS_FILE, *parts))
        except OSError as error:
            raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def as_stored(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy of a module as it is when it was stored in ``dtype`` and loaded in float32."""
    stored = copy.deepcopy(module)
    return (stored if dtype is None else stored.to(dtype)).float()


def weights_fingerprint(module: nn.Module, dtype: torch.dtype | None) -> str:
    """The fingerprint that a module has when it is stored in ``dtype`` and loaded in float32."""
    return fingerprint(as_stored(module, dtype))


def folder_fingerprint(folder: Path) -> str:
    """Twelve hexadecimal digits of the files of a folder, of their names and bytes."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _parent_to_write_in(folder: Path) -> Path:
    """The folder's parent, or the folder itself where files cannot be moved from there."""
    movable = os.access(folder.parent, os.W_OK) and not os.path.ismount(folder)
    return folder.parent if movable or not folder.is_dir() else folder


def _move(new: Path, folder: Path, replaced: Sequence[str]) -> None:
    """Replace what a folder has by what ``new`` has, its settings removed first and put there last."""
    names = sorted((path.name for path in new.iterdir()), key=lambda name: name == SETTINGS_FILE)
    folder.mkdir(exist_ok=True)
    old = new / ".old"
    old.mkdir()
    standing = [name for name in dict.fromkeys([*replaced, *names]) if os.path.lexists(folder / name)]
    moves = [(folder / name, old / name) for name in standing]
    moves += [(new / name, folder / name) for name in names]
    try:
        for source, target in moves:
            source.rename(target)
    except BaseException:  # Ctrl-C too
        for source, target in reversed(moves):
            if not os.path.lexists(source):
                target.rename(source)
        raise


def _unwritable(folder: Path, error: OSError) -> BadSettings:
    return BadSettings(f"{folder} cannot be written ({error.strerror or error}); name another folder")
