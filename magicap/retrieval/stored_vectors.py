"""Unit vectors as a memory holds them: as they are, or as the whole numbers that they were written in.

Whole numbers take a quarter of the room, and are read in a quarter of the time: a search is bound by that.

Shapes: N vectors, R numbers of each, B queries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from magicap.errors import BadSettings
from magicap.models.finite import are_unit

_ROWS = 4096  # made floats at a time: they stay in a core's cache until they are multiplied


class StoredVectors:
    """N unit vectors.

    Attributes:
        numbers: (N, R) float32, or int8 steps.
        lengths: (N,) of the steps' vectors, by which they are divided; None: the numbers are the vectors.
    """

    def __init__(self, numbers: Tensor, lengths: Tensor | None = None) -> None:
        """Of numbers and lengths as the attributes say."""
        self.numbers, self.lengths = numbers, lengths

    @classmethod
    def of(cls, what: str, vectors: Tensor) -> StoredVectors:
        """Vectors as they are.

        Raises:
            BadSettings: some are not of length one; ``what`` they are called in the message.
        """
        require_unit_vectors(what, vectors)
        return cls(vectors)

    @classmethod
    def of_steps(cls, what: str, steps: Tensor) -> StoredVectors:
        """Vectors in the direction of whole numbers (N, R), int8.

        Raises:
            BadSettings: some are zero.
        """
        lengths = torch.cat([part.float().norm(dim=1) for part in steps.split(_ROWS)])
        zero = int((lengths == 0).sum())
        if zero:
            raise BadSettings(f"a memory needs {what} of length one; found {zero} of {len(steps)} of zeros")
        return cls(steps, lengths)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def width(self) -> int:
        """R."""
        return int(self.numbers.shape[1])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.numbers.device

    def to(self, device: str | torch.device) -> StoredVectors:
        """The same on a device."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        return StoredVectors(self.numbers.to(device), lengths)

    def all(self) -> Tensor:
        """(N, R) float32."""
        return self.at(slice(None))

    def at(self, positions: Any) -> Tensor:
        """(..., R) float32, of positions (...)."""
        numbers = self.numbers[positions]
        return numbers if self.lengths is None else numbers.float() / self.lengths[positions, None]

    def select(self, positions: Any) -> StoredVectors:
        """Some of them, (P,) positions."""
        lengths = None if self.lengths is None else self.lengths[positions]
        return StoredVectors(self.numbers[positions], lengths)

    def products(self, queries: Tensor) -> Tensor:
        """(B, N) scalar products with queries (B, R)."""
        if self.lengths is None:
            return queries @ self.numbers.T
        products = queries.new_empty(len(queries), len(self))
        floats = queries.new_empty(_ROWS, self.width)
        for start in range(0, len(self), _ROWS):
            steps = self.numbers[start : start + _ROWS]
            products[:, start : start + _ROWS] = queries @ floats[: len(steps)].copy_(steps).T
        return products.div_(self.lengths)


def require_unit_vectors(what: str, vectors: Tensor) -> None:
    """Refuse vectors that are not of length one.

    Raises:
        BadSettings: they are refused.
    """
    broken = ~are_unit(vectors)
    if bool(broken.any()):
        is_finite = bool(torch.isfinite(vectors[broken]).all())
        raise BadSettings(
            f"a memory needs {what} of length one; found {int(broken.sum())} of {len(vectors)} "
            + ("of another length" if is_finite else "that hold NaN or infinity")
        )
