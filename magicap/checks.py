"""Validators of single settings: expected and found, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from magicap.errors import BadSettings


def require_int(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number, one below ``least``, or one above ``most``.

    Raises:
        BadSettings: it is refused.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadSettings(f"{name} must be a whole number of at least {least}, found {value!r:.80}")
    if most is not None and value > most:
        raise BadSettings(f"{name} must be at most {most}, found {value!r:.80}")


def require_bool(name: str, value: Any) -> None:
    """Refuse what is neither true nor false.

    Raises:
        BadSettings: it is refused.
    """
    if not isinstance(value, bool):
        raise BadSettings(f"{name} must be True or False, found {value!r}")


def require_number(name: str, value: Any, holds: Callable[[float], bool], expected: str) -> None:
    """Refuse what is no finite number, or one for which ``holds`` is false.

    Args:
        name: what the error calls it.
        value: anything; bool is no number.
        holds: whether a finite number is allowed.
        expected: what ``holds`` asks for, in words: "between 0 and 1".

    Raises:
        BadSettings: it is refused.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not holds(value):
        raise BadSettings(f"{name} must be {expected}, found {value!r}")
