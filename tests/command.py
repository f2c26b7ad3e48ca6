"""The magicap command in a process of its own, forked, with a limit on its memory and its time.

A fork has the libraries imported already, so a command costs what it does and not two seconds more. It is
forked from a server that does nothing else: the process of the tests has threads, and a fork of it could
wait for ever for a lock that one of them held.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

MEMORY = 2048 << 20
"""Bytes of address space that a command may take beyond what its libraries take."""

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

    seconds: float | None
    """Processor time that it took, user and system; None: a signal ended it."""

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
    patches: Mapping[str, object] = {},
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
        patches: module attributes that it sees, by their dotted names.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(stdout or f"{folder}/out"), Path(stderr or f"{folder}/err")
        streams = [os.path.abspath(path) for path in (stdin, out, err)]
        command = _Command(
            [os.fspath(word) for word in words],
            os.path.abspath(cwd),
            streams,
            append,
            {**os.environ, **environment},
            closed,
            file_size,
            patches,
            Path(folder, "seconds"),
        )
        child = _server().Process(target=command.run)
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
        seconds = float(_text(command.seconds)) if command.seconds.exists() else None
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
    assert ended.seconds is not None, ended
    assert ended.seconds < SECONDS, ended


def control_characters(text: str) -> set[str]:
    """The characters of a text that can move a terminal's cursor or turn its direction."""
    others = {0x2028, 0x2029, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068}
    return {sign for sign in text if ord(sign) < 0x20 or 0x7F <= ord(sign) <= 0x9F or ord(sign) in others}


@functools.cache
def _server() -> Any:
    """The context whose server has imported the libraries, as it stands when the first command is run."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [
            "magicap.captioners.zero_shot",
            "magicap.cli",
            "magicap.evaluation.predictions",
            "open_clip",
            "pyarrow.parquet",
            "transformers.models.auto.modeling_auto",
            "transformers.models.gpt2.modeling_gpt2",
        ]
    )
    return context


def _send(signals: Sequence[int], child: Any, once: str, written: Sequence[Path]) -> None:
    while child.is_alive() and not any(path.exists() and once in _text(path) for path in written):
        time.sleep(0.01)
    for number in signals:
        if child.is_alive():
            os.kill(child.pid, number)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class _Command:
    """What :func:`magicap` was asked for, run in the forked process."""

    words: list[str]
    cwd: str
    streams: list[str]
    append: bool
    environment: dict[str, str]
    closed: Sequence[int]
    file_size: int | None
    patches: Mapping[str, object]
    seconds: Path

    def run(self) -> None:
        """Set this process up, run the command, and end the process as ``python -m magicap`` would."""
        set_start_method("fork", force=True)  # as in a process that nobody forked
        os.setsid()  # a signal to the tests is none to it
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored by what runs the tests
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self._open_streams()
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        self._limit()
        for name, value in self.patches.items():
            module, _, attribute = name.rpartition(".")
            setattr(pkgutil.resolve_name(module), attribute, value)
        code = _exit_code(self.words)
        if self.file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        took = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        self.seconds.write_text(str(sum(each.ru_utime + each.ru_stime for each in took)))
        os._exit(code)

    def _open_streams(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if self.append else os.O_TRUNC)
        for number, path in enumerate(self.streams):
            os.dup2(os.open(path, flags if number else os.O_RDONLY), number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - as Python opens them
            for number, mode in enumerate(("r", "w", "w"))
        )
        for number in self.closed:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python starts without them

    def _limit(self) -> None:
        import torch

        torch.set_num_threads(1)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if self.file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_size, resource.RLIM_INFINITY))


def _exit_code(words: list[str]) -> int:
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
    return code
