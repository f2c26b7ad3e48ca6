"""Java programs as metrics: run where there is Java, and ended when they hang."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from magicap.errors import MetricUnavailable
from magicap.extras import require

_MESSAGE = 300  # characters of a failed program's own message that are passed on


def package_folder(name: str) -> Path:
    """The folder of an installed package that carries a Java program.

    Raises:
        MissingPackage: the package is not installed.
    """
    return Path(next(iter(require(name).__path__)))


def run_java(metric: str, arguments: Sequence[str], *, folder: Path, stdin: str = "", seconds: float) -> str:
    """What a Java program prints for some input. Its process is gone when this returns or raises.

    Args:
        metric: for whom it runs; named in every error.
        arguments: of ``java``.
        folder: the working folder.
        stdin: what is written to its standard input, as UTF-8.
        seconds: after which it is taken to hang and is ended.

    Raises:
        MetricUnavailable: no Java, or the program hung, failed or could not be started.
    """
    java = shutil.which("java")
    if java is None:
        raise MetricUnavailable(f"{metric} needs Java: there is no 'java' on the PATH")
    try:
        done = subprocess.run(
            [java, *arguments], input=stdin, capture_output=True, encoding="utf-8", errors="replace",
            cwd=folder, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailable(
            f"{metric}: java {' '.join(arguments)} gave no answer within {seconds:.0f} s and was ended"
        ) from error
    except OSError as error:
        raise MetricUnavailable(f"{metric}: {java} cannot be started: {error}") from error
    if done.returncode:
        raise MetricUnavailable(
            f"{metric}: java {' '.join(arguments)} ended with code {done.returncode} after printing "
            f"{done.stdout.count(chr(10))} lines: {_message(done.stderr)}"
        )
    return done.stdout


def _message(stderr: str) -> str:
    """A failed program's own message, without Java's lists of calls."""
    lines = (line.strip() for line in stderr.splitlines() if not line.startswith("\tat "))
    return " ".join(line for line in lines if line)[:_MESSAGE] or "no message"
