"""Which errors of other libraries a user's files, names and folders cause, and how to say so in one line."""

from __future__ import annotations

import json
import textwrap
import traceback
from pathlib import Path

LOADERS = {
    "create_model": "model_name",
    "from_pretrained": "pretrained_model_name_or_path",
    "load_file": "filename",
    "load_state_dict": "",
}
"""Functions of others that read a model, and their argument that says which; empty: it does not say."""

OURS = (Path(__file__).parent, Path(__file__).parents[1] / "magicap")
LONGEST = 300
"""Characters of another library's message; some list every key of a network."""


def user_error(error: Exception) -> str | None:
    """What is wrong with what the user gave, in one line; None where the program itself may be wrong.

    An error is the user's where a file cannot be opened, holds neither UTF-8 nor JSON where it must, or where
    another library fails while it loads a model.
    """
    message = repr(error) if isinstance(error, KeyError) else str(error) or repr(error)
    reason = textwrap.shorten(message, LONGEST, placeholder=" ...")
    if (loaded := _loaded(error)) is not None:
        return f"{loaded or 'weights'} cannot be loaded: {reason}"
    if isinstance(error, OSError):
        return reason if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, UnicodeDecodeError):
        return f"expected text in UTF-8, found other bytes: {reason}"
    if isinstance(error, json.JSONDecodeError):
        return f"expected JSON, found {textwrap.shorten(error.doc, 40)!r}: {reason}"
    return None


def _loaded(error: Exception) -> str | None:
    """What another library was loading; None if it was loading nothing, empty if it does not say what."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        is_ours = any(Path(code.co_filename).is_relative_to(folder) for folder in OURS)
        if code.co_name in LOADERS and not is_ours:
            return str(frame.f_locals.get(LOADERS[code.co_name], ""))
    return None
