"""What several commands need: exit codes, a captioner loaded quickly."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner
    from magicap.models.scorer import ImageTextScorer

SOME_FAILED = 2


def load_captioner(preset: str, device: str | None = None, dtype: str = "float32") -> AnyCaptioner:
    """A preset's or folder's captioner of either kind, as :func:`magicap.load_captioner` gives it."""
    with _no_garbage_collection():
        from magicap.captioners import load

        return load.load_captioner(preset, device=device, dtype=dtype)


def load_scorer(preset: str, device: str | None = None) -> ImageTextScorer:
    """The scorer of a preset's or folder's captioner alone."""
    with _no_garbage_collection():
        from magicap.captioners import zero_shot

        return zero_shot.load_scorer(preset, device=device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # Importing the model libraries makes millions of objects that all stay: looking for garbage among them
    # takes an eighth of a cold start.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
