"""Memory that the C library keeps for later, given back to the system now and then.

Searches take and free pieces of all sizes. What lies between pieces that are still in use is kept by glibc,
so that a process that captions thousands of pictures would grow all the while.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache

PICTURES = 256
"""After so many memory is given back, which takes a thousandth of their time."""

_lock = threading.Lock()
_captioned = 0


def give_back_memory(pictures: int) -> None:
    """To be called after so many pictures were captioned; once they are many, memory is given back."""
    global _captioned
    with _lock:
        _captioned += pictures
        if _captioned < PICTURES:
            return
        _captioned = 0
    trim = malloc_trim()
    if trim is not None:
        trim(0)


@cache
def malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None where the C library has none."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # musl, macOS, Windows
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
