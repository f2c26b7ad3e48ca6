"""Runs over small pictures: a folder of odd ones, a run in this process or a killed one, what was written."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
from PIL import Image
from pyarrow import parquet

from magicap.runs.readers import ReaderPool
from magicap.runs.run import Run
from magicap.runs.settings import RunSettings
from magicap.runs.state import Counts, open_state

KILLED = "killed"


def pictures_in(folder: Path, count: int) -> Path:
    """A folder of ``count`` pictures, some in a folder below, every seventh broken."""
    (folder / "more").mkdir(parents=True)
    for number, pixels in enumerate(tiny.pictures(count)):
        path = folder / ("more" if number % 3 == 2 else "") / f"picture {number}.png"
        if number % 7 == 3:
            path.write_bytes(b"<html>404</html>" if number % 2 else b"")
        else:
            Image.fromarray(pixels).save(path)
    return folder


def run(
    captioner: Any, *sources: str | Path, out: str | Path | None = None, **settings: Any
) -> Counts | None:
    """A run in this process, in batches of four; None where the output was kept."""
    chosen = {"batch_size": 4, **settings}
    of = RunSettings(tuple(map(str, sources)), None if out is None else str(out), **chosen)
    with open_state(of) as state, ReaderPool(0) as readers:
        return None if state is None else Run(of, state, captioner, readers).finish()


def written(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path, but for locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def killed_at(call: int, work: Callable[[], object]) -> bool:
    """Do some work in a fork that is killed at its ``call``-th step on the way to the disk, from 0.

    Steps are flushing a file to the disk, renaming one, and writing to it, before and after.

    Returns:
        Whether it was killed; False: it had fewer steps.
    """
    child = os.fork()
    if child == 0:
        try:
            _kill_at(call)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def _kill_at(call: int) -> None:
    count = -1

    def step() -> None:
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("fsync", "replace", "unlink"):
        whole = getattr(os, name)

        def around(*arguments: Any, whole: Any = whole, **more: Any) -> Any:
            step()
            result = whole(*arguments, **more)
            step()
            return result

        setattr(os, name, around)


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, pixels in enumerate(tiny.pictures(count)):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """The rows of all output files of a run."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
