"""How a supervised captioner searches: frozen sets of settings, which know no search and load no torch.

Which search belongs to which settings stands in :mod:`magicap.supervised.searches`.
"""

from __future__ import annotations

from dataclasses import dataclass

from magicap.checks import require_int, require_number

MOST_BEAMS, MOST_SAMPLES = 500, 20_000
"""Captions of one picture, written side by side: more would take gigabytes of states."""

MOST_TOKENS = 1000
"""Of one caption; all take room from the beginning."""


@dataclass(frozen=True)
class BeamSearch:
    """The likeliest caption, as far as a beam can see."""

    beam_size: int = 3
    """How many partial captions are kept; 1 is greedy search."""

    length_penalty: float = 1.0
    """The exponent on a caption's tokens by which its log-probability is divided, 0 to 10; above 1 prefers
    longer captions."""

    max_new_tokens: int = 20
    """A caption is cut after this many tokens, at most 1000."""

    num_hypotheses: int = 5
    """How many of the beam's captions are kept with the chosen one, itself included."""

    def __post_init__(self) -> None:
        require_int("beam_size", self.beam_size, most=MOST_BEAMS)
        require_int("max_new_tokens", self.max_new_tokens, most=MOST_TOKENS)
        require_int("num_hypotheses", self.num_hypotheses)
        require_number("length_penalty", self.length_penalty, lambda p: 0 <= p <= 10, "between 0 and 10")


@dataclass(frozen=True)
class Sampling:
    """Samples captions and gives the likeliest of them."""

    captions: int = 1
    """How many are sampled."""

    temperature: float = 1.0
    """Above 1 flattens the distribution, below 1 sharpens it."""

    length_penalty: float = 1.0
    """The exponent on a caption's tokens by which its log-probability is divided, 0 to 10; above 1 prefers
    longer captions."""

    max_new_tokens: int = 20
    """A caption is cut after this many tokens, at most 1000."""

    num_hypotheses: int = 5
    """How many of the sampled captions are kept with the chosen one, itself included."""

    def __post_init__(self) -> None:
        require_int("captions", self.captions, most=MOST_SAMPLES)
        require_int("max_new_tokens", self.max_new_tokens, most=MOST_TOKENS)
        require_int("num_hypotheses", self.num_hypotheses)
        require_number("temperature", self.temperature, lambda t: t >= 1e-30, "at least 1e-30")
        require_number("length_penalty", self.length_penalty, lambda p: 0 <= p <= 10, "between 0 and 10")


SUPERVISED_DECODINGS: dict[str, type] = {"beam": BeamSearch, "sampling": Sampling}
"""Decodings that a supervised captioner's folder can name."""
