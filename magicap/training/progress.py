"""Progress and time left on stderr: a bar on a terminal, a line now and then where stderr is piped."""

from __future__ import annotations

import io
import sys
from typing import Any

from tqdm import tqdm

from magicap.training import processes

LINES_EVERY = 30.0
"""Seconds between two lines where stderr is piped."""


class _Lines(tqdm):  # type: ignore[misc]
    """A bar that is printed as lines, none of them for what is done before the first is due."""

    def display(self, *_: Any, **__: Any) -> None:
        if self.format_dict["elapsed"] >= LINES_EVERY:
            print(str(self), file=sys.stderr, flush=True)


def progress(total: int, description: str, *, unit: str = "it", initial: int = 0) -> Any:
    """A tqdm bar; piped, a line every half minute. Only the first of several processes shows it.

    Args:
        total: how many there are.
        description: the phase, in a word or two.
        unit: what is counted.
        initial: how many were done by an earlier run.
    """
    settings = {"total": total, "desc": description, "unit": unit, "initial": initial}
    if sys.stderr.isatty() or not processes.is_first():
        return tqdm(**settings, dynamic_ncols=True, disable=not processes.is_first())
    ignored = io.StringIO()  # what a bar writes around its lines
    return _Lines(**settings, mininterval=LINES_EVERY, ncols=100, bar_format=_LINE, file=ignored)


_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} passed, {remaining} left{postfix}"
