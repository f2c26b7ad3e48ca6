"""A process that reads pictures for a run: a task on its stdin, an answer on its stdout, until stdin ends.

Run as ``python -m magicap.runs.reader_process``. Tasks are pickled triples of a picture, a transform and
limits, answers pickled :class:`magicap.runs.answers.Answer` objects.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from typing import Any

from magicap.runs.answers import answer

READY = "ready"
"""What the process says first, once everything is imported."""


def serve() -> None:
    """Answer tasks until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to answer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what libraries print is no answer
    import torch

    torch.set_num_threads(1)
    pickle.dump(READY, answers)
    answers.flush()
    # read as they come: whoever writes a task does not wait for the answer before it
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_take, args=[tasks], daemon=True).start()
    while (task := tasks.get()) is not None:
        pickle.dump(answer(*task), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _take(tasks: queue.SimpleQueue[Any]) -> None:
    """Read tasks until stdin ends."""
    while True:
        try:
            tasks.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            tasks.put(None)
            return


if __name__ == "__main__":
    serve()
