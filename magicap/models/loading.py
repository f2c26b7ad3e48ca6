"""Turning the many ways in which loading can fail into one clear sentence."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from magicap.errors import BadModel, MagicapError, MissingPackage, ModelNotFound
from magicap.reading import require_readable_model

_UNREACHABLE = {
    "ConnectionError",
    "ConnectError",
    "EntryNotFoundError",
    "HfHubHTTPError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "RepositoryNotFoundError",
    "TimeoutException",
}
"""Names of the errors, of several libraries, that say the hub does not have a thing or cannot be reached."""

_LONGEST_REASON = 400
"""Characters of a library's message that are passed on."""


@contextmanager
def explain_loading_errors(what: str, source: str, repository: str | None = None) -> Iterator[None]:
    """Re-raise what libraries throw while loading ``source`` as ModelNotFound, BadModel or MissingPackage.

    Args:
        what: "language model" or "scorer", for the message.
        source: the folder or hub id being loaded.
        repository: the hub's repository that holds it, where its name is another.
    """
    try:
        require_readable_model(source)
        yield
    except MagicapError:
        raise
    except Exception as error:  # the libraries raise nearly every kind while loading
        raise _explained(what, source, repository or source, error) from error


def import_open_clip() -> Any:
    """The library open_clip, which imports others of some seconds.

    Raises:
        MissingPackage: torchvision, which it needs, is broken.
        BadModel: it cannot be imported for another reason.
    """
    with explain_loading_errors("open_clip", "open_clip"):
        import open_clip
    return open_clip


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for the second that reading weights from disk takes."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def require_all_weights(info: Mapping[str, Any], what: str, source: str) -> None:
    """Refuse a model of transformers some of whose weights were not in its files.

    Args:
        info: the ``output_loading_info`` of ``from_pretrained``.
        what, source: as of :func:`explain_loading_errors`.

    Raises:
        BadModel: the message names the first five.
    """
    if missing := sorted({*info["missing_keys"], *map(str, info["mismatched_keys"])}):
        raise BadModel(f"the weights of {what} {source!r} lack {', '.join(missing[:5])}")


def _explained(what: str, source: str, repository: str, error: Exception) -> MagicapError:
    chain = _causes(error)
    if broken := next((cause for cause in chain if "torchvision" in str(cause)), None):
        return MissingPackage(
            f"torchvision is missing or does not fit torch {torch.__version__} ({_first_line(broken)}); "
            "install the two together: pip install --force-reinstall torch torchvision"
        )
    reasons = (str(cause).strip().splitlines()[0] for cause in chain if str(cause).strip())
    # open_clip lists every model that it knows.
    reason = shorten(next(reasons, repr(error)), _LONGEST_REASON, placeholder=" ...")
    if any(isinstance(cause, pickle.UnpicklingError) for cause in chain) or "Weights only load failed" in str(
        error
    ):
        return BadModel(
            f"the weights of {what} {source!r} are a pickle that may run code, which is refused; "
            "convert them to safetensors in an environment you trust"
        )
    if _looks_like_path(source) and not Path(source).exists():
        return ModelNotFound(f"no {what} at {source!r}: the folder does not exist")
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if names & _UNREACHABLE and not Path(source).exists():
        return ModelNotFound(
            f"the {what} {source!r} is not on this machine and could not be fetched from the hub ({reason}); "
            f"where there is a network run 'hf download {repository}' once, or pass a local folder"
        )
    return BadModel(f"the {what} {source!r} cannot be loaded: {reason}")


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "~", os.sep, "local-dir:")) or source.count("/") > 1


def _first_line(error: BaseException) -> str:
    return shorten(str(error).strip().splitlines()[0], _LONGEST_REASON, placeholder=" ...")


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
