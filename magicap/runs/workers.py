"""Who captions the batches of a run: this process, or beside it others with captioners of their own.

Batches are what one process would have captioned together, and come back in their order, so a run with any
number of workers writes the same rows, and may go on with another number.
"""

from __future__ import annotations

import pickle
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch

from magicap.captioners.provenance import Provenance
from magicap.images.transform import PreparedImage
from magicap.results import Caption
from magicap.runs.reader import started
from magicap.runs.worker_process import WorkerFailed, captions_of

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner

MODULE = "magicap.runs.worker_process"
"""What worker processes run."""

_ATTEMPTS = 2  # at a batch that ends its process, which something else may have done


class InTurn:
    """This process captions a batch when its captions are asked for."""

    ahead = 0
    """Batches that may be submitted before the first of them is asked for."""

    def __init__(self, captioner: BaseCaptioner[Any]) -> None:
        self._captioner = captioner

    def submit(
        self, pictures: Sequence[PreparedImage], decoding: object, batch_size: int, seed: int
    ) -> Callable[[], list[Caption]]:
        """What captions a batch; the arguments are those of ``captioner.caption``."""
        return partial(captions_of, self._captioner, pictures, decoding, batch_size, seed)


@dataclass(eq=False)
class _Task:
    """A batch to caption."""

    number: int
    batch: tuple[Sequence[PreparedImage], object, int, int]
    future: Future[list[Caption]] = field(default_factory=Future)
    ended: int = 0
    """How many processes ended with it."""


class CaptionWorkers:
    """This process and others caption a batch each, all with an equal share of torch's threads.

    A process that ends, for want of memory for example, is reported and not started anew; its batch goes to
    another worker. What captions here is a thread, so one worker is always left.

    Args:
        captioner: of this process; on a processor.
        load: loads the same captioner in another process; can be pickled.
        others: how many processes there are beside this one.
        on_ended: is called with a message for each process that ended, by the thread that asks for captions.
    """

    def __init__(
        self,
        captioner: BaseCaptioner[Any],
        load: Callable[[], BaseCaptioner[Any]],
        others: int,
        on_ended: Callable[[str], object] = lambda message: None,
    ) -> None:
        self._captioner, self._on_ended = captioner, on_ended
        self.ahead = 2 * others + 1  # each has a batch, and the next one waits for it
        self._made_by = Provenance.of(captioner).entries
        self._threads_before = torch.get_num_threads()
        self._threads_each = max(1, self._threads_before // (1 + others))
        first_message = pickle.dumps((load, self._threads_each))
        torch.set_num_threads(self._threads_each)
        self._tasks: queue.PriorityQueue[tuple[int, _Task | None]] = queue.PriorityQueue()
        self._count, self._left = 0, 1 + others
        self._messages: deque[str] = deque()
        self._is_closed = threading.Event()
        self._processes = [started(MODULE, self._threads_each) for _ in range(others)]
        self._threads = [
            threading.Thread(target=self._caption, name="magicap-worker", daemon=True),
            *(
                threading.Thread(
                    target=self._feed, args=[process, first_message], name="magicap-worker", daemon=True
                )
                for process in self._processes
            ),
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, pictures: Sequence[PreparedImage], decoding: object, batch_size: int, seed: int
    ) -> Callable[[], list[Caption]]:
        """Have a batch captioned by whoever is free first; the arguments are those of ``captioner.caption``.

        Returns:
            What waits for the captions. It raises what the captioner raised, and WorkerFailed of a batch with
            which several processes ended.
        """
        task = _Task(self._count, (pictures, decoding, batch_size, seed))
        self._count += 1
        self._tasks.put((task.number, task))

        def captions() -> list[Caption]:
            try:
                return task.future.result()
            finally:
                while self._messages:
                    self._on_ended(self._messages.popleft())

        return captions

    def close(self) -> None:
        """End the processes at once, and this one's thread after its batch."""
        self._is_closed.set()
        for process in self._processes:
            process.kill()
        for number in range(len(self._threads)):
            self._tasks.put((-1 - number, None))  # before all batches
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            _reap(process)
        torch.set_num_threads(self._threads_before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _caption(self) -> None:
        """Caption batches in this process."""
        torch.set_num_threads(self._threads_each)
        while (task := self._tasks.get()[1]) is not None:
            try:
                task.future.set_result(captions_of(self._captioner, *task.batch))
            except BaseException as error:  # whoever waits for the captions raises it
                task.future.set_exception(error)

    def _feed(self, process: subprocess.Popen[bytes], first_message: bytes) -> None:
        """Have a process load its captioner, then caption batches until it ends."""
        _send(first_message, process)
        made_by = _receive(process)
        if made_by is None or isinstance(made_by, Exception) or made_by != self._made_by:
            self._lose(process, _why(made_by))
            return
        while (task := self._tasks.get()[1]) is not None:
            try:
                message = pickle.dumps(task.batch, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:  # a decoding of one's own; whoever waits for the captions raises it
                task.future.set_exception(error)
                continue
            _send(message, process)
            answer = _receive(process)
            if answer is None:
                self._give_back(task)
                self._lose(process)
                return
            if isinstance(answer, Exception):
                task.future.set_exception(answer)
            else:
                task.future.set_result(answer)

    def _give_back(self, task: _Task) -> None:
        """Let another worker caption a batch, if it has not ended too many."""
        task.ended += 1
        if self._is_closed.is_set():
            task.future.set_exception(CancelledError())
        elif task.ended == _ATTEMPTS:
            task.future.set_exception(
                WorkerFailed(
                    f"expected pictures that workers survive, found that {_ATTEMPTS} ended with the batch "
                    f"from picture {task.batch[3]} on; run the same command again, with fewer workers where "
                    "memory is short"
                )
            )
        else:
            self._tasks.put((task.number, task))

    def _lose(self, process: subprocess.Popen[bytes], why: str = "") -> None:
        """Report a process that is no worker any more."""
        if self._is_closed.is_set():
            return
        process.kill()
        code = process.wait()
        self._left -= 1
        why = why or (f"signal {-code}" if code < 0 else f"exit code {code}")
        self._messages.append(f"a worker ended ({why}); its pictures go to the {self._left} that are left")


def _why(made_by: Any) -> str:
    """Why a process cannot be a worker; empty where it just ended."""
    if made_by is None:
        return ""
    if isinstance(made_by, Exception):
        return " ".join(f"{type(made_by).__name__}: {made_by}".split())
    return "it loaded another captioner"


def _send(message: bytes, process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(OSError):  # it has ended, which is seen when its answer is asked for
            process.stdin.write(message)
            process.stdin.flush()


def _receive(process: subprocess.Popen[bytes]) -> Any:
    """What a process says next; None where it has ended."""
    try:
        return None if process.stdout is None else pickle.load(process.stdout)  # of our own process
    except Exception:  # an answer that was cut short can raise nearly everything
        return None


def _reap(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):  # what was to be written has nobody to read it
                stream.close()
    process.wait()
