"""A process that captions for a run: batches on its stdin, captions on its stdout, until stdin ends.

Run as ``python -m magicap.runs.worker_process``. The first message is pickled: what loads the captioner, and
how many threads share a product. All others are the arguments of :func:`captions_of`; an answer is pickled
captions, or the exception in their place.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any

from magicap.errors import MagicapError
from magicap.results import Caption

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner
    from magicap.images.transform import PreparedImage


class WorkerFailed(MagicapError, RuntimeError):
    """What a worker raised that no other process can be told as it is."""


def captions_of(
    captioner: BaseCaptioner[Any],
    pictures: Sequence[PreparedImage],
    decoding: object,
    batch_size: int,
    seed: int,
) -> list[Caption]:
    """The captions of a batch, as :meth:`magicap.captioners.base.BaseCaptioner.caption` gives them."""
    return captioner.caption(list(pictures), decoding, batch_size=batch_size, seed=seed)


def serve() -> None:
    """Load the captioner, say which it is, and caption batches until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to answer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what libraries print is no answer
    import torch

    from magicap.captioners.provenance import Provenance

    load, threads = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    try:
        captioner = load()
        made_by: Any = Provenance.of(captioner).entries
    except Exception as error:
        _say(error, answers)
        return
    _say(made_by, answers)
    while (batch := _next()) is not None:
        _say(_answer(captions_of, captioner, *batch), answers)


def _next() -> Any:
    try:
        return pickle.load(sys.stdin.buffer)
    except (EOFError, pickle.UnpicklingError):  # the run ended, perhaps while it wrote
        return None


def _answer(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except Exception as error:
        return error


def _say(answer: Any, answers: IO[bytes]) -> None:
    try:
        content = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        content = pickle.dumps(WorkerFailed(f"{type(answer).__name__}: {answer}"))
    answers.write(content)
    answers.flush()


if __name__ == "__main__":
    serve()
