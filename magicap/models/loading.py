"""Turning the many ways in which loading can fail into one clear sentence."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magicap.errors import BadModel, MagicapError, ModelNotFound


@contextmanager
def explain_loading_errors(what: str, source: str) -> Iterator[None]:
    """Re-raise what libraries throw while loading ``source`` as ModelNotFound or BadModel.

    Args:
        what: "language model" or "scorer", for the message.
        source: the folder or hub id being loaded.
    """
    try:
        yield
    except MagicapError:
        raise
    except Exception as error:  # the libraries raise nearly every kind while loading
        raise _explained(what, source, error) from error


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for the second that reading weights from disk takes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _explained(what: str, source: str, error: Exception) -> MagicapError:
    chain = _causes(error)
    names = {type(cause).__name__ for cause in chain}
    first_line = next(
        (str(cause).strip().splitlines()[0] for cause in chain if str(cause).strip()), names.pop()
    )
    if any(isinstance(cause, pickle.UnpicklingError) for cause in chain) or "Weights only load failed" in str(
        error
    ):
        return BadModel(
            f"the weights of {what} {source!r} are a pickle that may run code, which is refused; "
            "convert them to safetensors in an environment you trust"
        )
    if Path(source).exists():
        return BadModel(f"the folder {source!r} holds no usable {what}: {first_line}")
    if _looks_like_path(source):
        return ModelNotFound(f"no {what} at {source!r}: the folder does not exist")
    return ModelNotFound(
        f"the {what} {source!r} is not on this machine and could not be fetched from the hub ({first_line}); "
        f"with network access run 'hf download {source}' once, or pass a local folder"
    )


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "~", os.sep)) or source.count("/") > 1


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
