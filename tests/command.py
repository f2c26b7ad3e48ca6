"""The magicap command in a process of its own, forked, with a limit on its memory and its time.

A fork has the libraries imported already, so a command costs what it does and not two seconds more.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

MEMORY = 1536 << 20
"""Bytes that a command may take beyond what the process holds that forks it."""

SECONDS = 10.0
"""How long a command may take on an idle machine."""

PATIENCE = 6.0
"""Factor on :data:`SECONDS` before a command is ended: machines that run tests are seldom idle."""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int | None
    """Its exit code, minus a signal's number where one ended it; None: it took too long."""

    out: str
    err: str

    seconds: float
    """Processor time that it took, user and system."""

    @property
    def complaints(self) -> list[str]:
        """The lines of stderr."""
        return self.err.splitlines()


def magicap(
    *words: str | os.PathLike[str],
    cwd: str | os.PathLike[str] = ".",
    stdin: str | os.PathLike[str] = os.devnull,
    stdout: str | os.PathLike[str] | None = None,
    stderr: str | os.PathLike[str] | None = None,
    append: bool = False,
    environment: Mapping[str, str] = {},
    closed: Sequence[int] = (),
    file_size: int | None = None,
    signals: Sequence[int] = (),
    once: str = "",
) -> Ended:
    """Run ``magicap WORDS...`` and wait for it.

    Args:
        cwd: folder that it runs in.
        stdin: file that it reads.
        stdout, stderr: files that it writes, which then are not in ``out`` and ``err``.
        append: write behind what stands in these files, as ``>>`` does.
        environment: variables that it sees beside those of this process.
        closed: descriptors that are closed before it starts, as ``>&-`` does.
        file_size: no file may grow beyond so many bytes, as after ``ulimit -f``.
        signals: sent one right after the other once ``once`` stands on stdout or stderr.
    """
    _import_libraries()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(stdout or f"{folder}/out"), Path(stderr or f"{folder}/err")
        streams = [os.fspath(path) for path in (stdin, out, err)]
        child = get_context("fork").Process(
            target=_child,
            args=([os.fspath(word) for word in words], cwd, streams, append, environment, closed, file_size),
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child.start()
        if signals:
            _send(signals, child, once, (out, err))
        child.join(SECONDS * PATIENCE)
        if child.is_alive():
            child.kill()
            child.join()
            code = None
        else:
            code = child.exitcode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Ended(code, "" if stdout else _text(out), "" if stderr else _text(err), seconds)


def assert_refused(ended: Ended, *said: str) -> None:
    """That a command exited with 2, wrote nothing on stdout, and one line on stderr that says all this."""
    assert ended.code == 2, ended
    assert ended.out == "", ended
    assert len(ended.complaints) == 1, ended
    assert ended.err.startswith("magicap: "), ended
    assert not control_characters(ended.err.rstrip("\n")), ended
    for words in said:
        assert words in ended.err, ended
    assert ended.seconds < SECONDS, ended


def control_characters(text: str) -> set[str]:
    """The characters of a text that can move a terminal's cursor or turn its direction."""
    others = {0x2028, 0x2029, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068}
    return {sign for sign in text if ord(sign) < 0x20 or 0x7F <= ord(sign) <= 0x9F or ord(sign) in others}


@functools.cache
def _import_libraries() -> None:
    for name in (
        "magicap.captioners.zero_shot",
        "magicap.evaluation.predictions",
        "open_clip",
        "pyarrow.parquet",
        "transformers.models.auto.modeling_auto",
        "transformers.models.gpt2.modeling_gpt2",
    ):
        importlib.import_module(name)


def _send(signals: Sequence[int], child: Any, once: str, written: Sequence[Path]) -> None:
    while child.is_alive() and not any(path.exists() and once in _text(path) for path in written):
        time.sleep(0.01)
    for number in signals:
        if child.is_alive():
            os.kill(child.pid, number)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _child(
    words: list[str],
    cwd: Any,
    streams: Sequence[str],
    append: bool,
    environment: Mapping[str, str],
    closed: Sequence[int],
    file_size: int | None,
) -> None:
    import torch

    os.setsid()  # a signal to the tests is none to it
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, flags if number else os.O_RDONLY), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - as Python opens them
        for number, mode in enumerate(("r", "w", "w"))
    )
    for number in closed:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python starts without them
    os.chdir(cwd)
    os.environ.update(environment)
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    _run(words)


def _run(words: list[str]) -> None:
    """End this process as ``python -m magicap`` would, its streams flushed."""
    from magicap.cli import main

    sys.argv = ["magicap", *words]
    try:
        code = main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = 120  # as Python does
    os._exit(code)
