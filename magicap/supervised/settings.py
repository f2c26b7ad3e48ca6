"""How a supervised captioner writes: each way a frozen set of settings that knows its search. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from magicap.decoding.settings import number, whole

if TYPE_CHECKING:
    from torch import Tensor

    from magicap.supervised.decoder import Decoder
    from magicap.supervised.search import Written


class SupervisedDecoding(Protocol):
    """A way of writing captions."""

    @property
    def length_penalty(self) -> float:
        """By which the best of a picture's captions is chosen, see :meth:`Written.scores`."""
        ...

    def write(self, decoder: Decoder, grid: Tensor, seeds: Sequence[int]) -> Written:
        """Captions of pictures, from their grids (B, L, D) and B seeds."""
        ...


@dataclass(frozen=True)
class BeamSearch:
    """The likeliest caption, as far as a beam can see."""

    beam_size: int = 3
    """How many beginnings are kept; 1 is greedy search."""

    length_penalty: float = 1.0
    """The exponent on a caption's tokens by which its log-probability is divided."""

    max_new_tokens: int = 20
    """A caption is cut after this many tokens."""

    def __post_init__(self) -> None:
        whole("beam_size", self.beam_size)
        number("length_penalty", self.length_penalty, lambda p: 0 <= p <= 10, "between 0 and 10")
        whole("max_new_tokens", self.max_new_tokens)

    def write(self, decoder: Decoder, grid: Tensor, seeds: Sequence[int]) -> Written:
        from magicap.supervised.search import beam_search

        return beam_search(decoder, grid, self.beam_size, self.max_new_tokens)


@dataclass(frozen=True)
class Sampling:
    """Draws captions and gives the likeliest of them."""

    captions: int = 1
    """How many are drawn."""

    temperature: float = 1.0
    """Above 1 flattens the distribution, below 1 sharpens it."""

    length_penalty: float = 1.0
    """The exponent on a caption's tokens by which its log-probability is divided."""

    max_new_tokens: int = 20
    """A caption is cut after this many tokens."""

    def __post_init__(self) -> None:
        whole("captions", self.captions)
        number("temperature", self.temperature, lambda t: t > 0, "above 0")
        number("length_penalty", self.length_penalty, lambda p: 0 <= p <= 10, "between 0 and 10")
        whole("max_new_tokens", self.max_new_tokens)

    def write(self, decoder: Decoder, grid: Tensor, seeds: Sequence[int]) -> Written:
        from magicap.supervised.search import sample

        return sample(decoder, grid, seeds, self.captions, self.max_new_tokens, self.temperature)


SUPERVISED_DECODINGS = {"beam": BeamSearch, "sampling": Sampling}
"""Decodings that a supervised captioner's folder can name."""
