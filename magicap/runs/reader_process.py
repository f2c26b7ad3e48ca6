"""A process that reads pictures for a run: a task on its stdin, an answer on its stdout, until stdin ends.

Run as ``python -m magicap.runs.reader_process``. Tasks are pickled pairs of a picture and a transform,
answers pickled objects of :class:`PreparedImage` or :class:`BadImage`.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

from magicap.errors import BadImage
from magicap.images.transform import prepare

READY = "ready"
"""The first answer, once everything is imported."""


def serve() -> None:
    """Answer tasks until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to answer
    tasks = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what libraries print is no answer
    import torch

    torch.set_num_threads(1)
    pickle.dump(READY, answers)
    answers.flush()
    while True:
        try:
            picture, transform = pickle.load(tasks)
        except EOFError:
            return
        answer: object
        try:
            answer = prepare(picture, transform)
        except BadImage as error:
            answer = error
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    serve()
