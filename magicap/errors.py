"""What can go wrong, by name. Every message says what was expected, what was found and what to do."""

from __future__ import annotations

from functools import partial
from typing import Any


class MagicapError(Exception):
    """Root of the errors this package raises on purpose."""


class BadImage(MagicapError, ValueError):
    """A picture that cannot be read safely.

    Attributes:
        message: what was expected, what was found and what to do.
        code: a short, stable reason for programs (the table is ``magicap.images.reader.REASONS``; captioners
            have two more, ``magicap.results.BROKEN`` and ``WORDLESS``).
        source: the picture's name for people: its path, or what kind of object it was.
    """

    def __init__(self, code: str, message: str, *, source: str = "image") -> None:
        super().__init__(f"{source}: {message}")
        self.code = code
        self.message = message
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), source=self.source), (self.code, self.message)


class BadVideo(BadImage):
    """A video that cannot be read safely; the codes are in ``magicap.video.container.REASONS``."""


class OutputFailed(MagicapError, OSError):
    """A stdout or a file that results cannot be written to: it is closed, full, or another run's."""


class ModelNotFound(MagicapError, OSError):
    """A model, preset or captioner folder that is not where it was looked for."""


class BadModel(MagicapError, ValueError):
    """A model that was found but cannot be used: incomplete, unsafe or of another kind."""


class BadSettings(MagicapError, ValueError):
    """Settings that contradict each other or lie outside their range."""


class BrokenNumbers(MagicapError, ArithmeticError):
    """A model that gives NaN or infinity for an input, though its weights are finite."""


class MetricUnavailable(MagicapError, RuntimeError):
    """A metric that cannot be computed on this machine; the message says what is missing."""


class MissingPackage(MagicapError, ImportError):
    """A package that is missing or broken; the message has the command that installs it."""


class TrainingFailed(MagicapError, RuntimeError):
    """Training that cannot go on; the message says what to change before it is resumed."""


class TrainingStopped(MagicapError, RuntimeError):
    """Training that ended before its last step, as it was asked to, with a checkpoint to go on from.

    Attributes:
        exit_code: of a recipe that stops: 0 where its time was up, else what shells have for the signal.
    """

    def __init__(self, message: str, *, exit_code: int = 0) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class BadIndex(MagicapError, ValueError):
    """A retrieval index that is not there, is damaged, or was made by another scorer."""


class BadData(MagicapError, ValueError):
    """A data set that cannot be read: of no known form, damaged, or holding something twice."""


class ImageNotFound(MagicapError, KeyError):
    """A picture that is not among the tar files and folders where it was looked for."""

    __str__ = Exception.__str__  # KeyError would put the message between quotes
