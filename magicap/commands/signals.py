"""Signals that end a command as Ctrl-C does: what is done so far is kept, and no traceback is printed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from magicap.commands.output import complain

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interruption:
    """A signal that asked a command to end, if one came."""

    def __init__(self) -> None:
        self._number = 0
        self._is_told = False

    def tell(self) -> int:
        """Say once that the command was interrupted; gives the exit code that shells have for the signal."""
        if not self._is_told:
            self._is_told = True
            complain("interrupted")
        return 128 + (self._number or signal.SIGINT)

    def receive(self, number: int, _: Any) -> None:
        """What signals call: the first raises KeyboardInterrupt, the second ends the process at once."""
        if self._number:
            os._exit(self.tell())  # everything is written whole or not at all, so there is nothing to mend
        self._number = number
        raise KeyboardInterrupt

    def __bool__(self) -> bool:
        return bool(self._number)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt inside; one that is ignored (``nohup``) stays so."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():  # others may not handle signals
        yield interruption
        return
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interruption.receive) for number in heeded}
    try:
        yield interruption
    finally:
        if not interruption:  # else the process is about to end, and one more signal must not disturb it
            for number, handler in before.items():
                signal.signal(number, handler)
