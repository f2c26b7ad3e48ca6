"""What becomes of a picture that is read, as it goes from a reader process to a run."""

from __future__ import annotations

from typing import Any, NamedTuple

from magicap.errors import BadImage
from magicap.images.reader import ImageLimits
from magicap.images.transform import ImageTransform, PreparedImage, prepare
from magicap.runs.records import is_transient


class Answer(NamedTuple):
    """What has become of a picture."""

    result: PreparedImage | BadImage
    is_transient: bool = False
    """Whether a network or a busy machine is what failed it: causes of errors are lost between processes."""


def answer(picture: Any, transform: ImageTransform, limits: ImageLimits) -> Answer:
    """Read and resize a picture, given as a path or as bytes."""
    try:
        return Answer(prepare(picture, transform, limits))
    except BadImage as error:
        return Answer(error, is_transient(error))
