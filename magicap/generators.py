"""A generator's values and, in the end, what it returns."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

YieldT = TypeVar("YieldT")
ReturnT = TypeVar("ReturnT")


class Returning(Generic[YieldT, ReturnT]):
    """Iterates over a generator and keeps what it returns.

    Attributes:
        value: what the generator returned, once it has ended.
    """

    value: ReturnT

    def __init__(self, generator: Generator[YieldT, None, ReturnT]) -> None:
        self._generator = generator

    def __iter__(self) -> Iterator[YieldT]:
        self.value = yield from self._generator

    def exhausted(self) -> ReturnT:
        """What the generator returns; what it yields is dropped."""
        for _ in self:
            pass
        return self.value
