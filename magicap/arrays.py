"""Types of numpy arrays, by what they hold; and the distinct values of one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_MULTIPLIERS = [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93]


def distinct(values: IntArray) -> tuple[IntArray, IntArray]:
    """What ``np.unique(values, return_inverse=True)`` gives, two to three times as fast where many are equal.

    Values are hashed to slots, and in each slot one of them represents those that equal it; the others go on
    to the next hash. So only the distinct ones are sorted.

    Args:
        values: (N,) integers of 64 bits, with or without sign.

    Returns:
        The (D,) distinct values, rising, and the position among them of each value (N,).
    """
    keys = values.view(np.uint64)
    shift = np.uint64(64 - max(4, len(values).bit_length() + 1))
    slots = np.empty(1 << (64 - int(shift)), dtype=np.int64)
    number, inverse = np.empty(len(values), dtype=np.int64), np.empty(len(values), dtype=np.int64)
    representatives, count, hashes = [np.zeros(0, dtype=np.int64)], 0, 0
    pending = np.arange(len(values))
    while len(pending):
        slot = (keys[pending] * np.uint64(_MULTIPLIERS[hashes % len(_MULTIPLIERS)])) >> shift
        slots[slot] = pending  # of several in one slot the last is kept
        representative = slots[slot]
        new = pending[representative == pending]
        number[new] = np.arange(count, count + len(new))
        representatives.append(new)
        count, hashes = count + len(new), hashes + 1
        same = keys[representative] == keys[pending]
        inverse[pending[same]] = number[representative[same]]
        pending = pending[~same]
    unique = values[np.concatenate(representatives)]
    order = np.argsort(unique)
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    return unique[order], rank[inverse]
