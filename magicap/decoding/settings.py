"""Decodings by name: each a frozen set of settings that knows its search. Loads no torch by itself.

All have the same face, :class:`Decoding`: a trie with the two models and picture vectors in, an
iterator of steps out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from magicap.errors import BadSettings
from magicap.results import Step

if TYPE_CHECKING:
    from torch import Tensor

    from magicap.decoding.constraints import Constraints
    from magicap.decoding.prefix_cache import PrefixCache
    from magicap.retrieval.caption_memory import CaptionMemory


Steps = Iterator[list[tuple[int, Step]]]
"""For every token position, the steps of all rows still being written, as (row, step)."""


class Decoding(Protocol):
    """A way of searching for captions."""

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        """Write a caption for each picture, all rows in step.

        Args:
            trie: the two models, and what has been computed of prefixes before.
            images: (B, D) unit vectors of the pictures.
            seeds: B seeds, for searches that draw.
            memory: captions that the captioner remembers, if it does.
        """
        ...


@dataclass(frozen=True)
class MagicSearch:
    """Magic search (Su et al. 2022, "Language Models Can See", eq. 5), with its settings for COCO."""

    top_k: int = 45
    """How many most probable next tokens compete."""

    alpha: float = 0.1
    """Weight of the degeneration penalty, 0 to 1; 1 - alpha is the weight of confidence."""

    beta: float = 2.0
    """Weight of the picture; 0 is contrastive search."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    prompted: bool = False
    """Whether the language model is told of the picture, which one must have learned
    (``recipes/tune_prompted.py``)."""

    def __post_init__(self) -> None:
        flag("prompted", self.prompted)
        whole("top_k", self.top_k)
        number("alpha", self.alpha, lambda alpha: 0 <= alpha <= 1, "between 0 and 1")
        number("beta", self.beta, lambda beta: 0 <= beta <= 1e6, "between 0 and a million")
        whole("max_new_tokens", self.max_new_tokens)

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        from magicap.decoding.magic import magic_search

        return magic_search(trie, images, self, memory)


MOST_NEIGHBOURS = 2000
"""More would be held against each other in gigabytes."""


@dataclass(frozen=True)
class BeamMagicSearch:
    """Beam magic search: captions written by a beam, and remembered ones, are chosen among by consensus."""

    top_k: int = 45
    """How many most probable next tokens compete."""

    beam_size: int = 10
    """How many captions are written side by side."""

    finished: int = 30
    """How many captions that ended of themselves compete."""

    memory_weight: float = 0.5
    """Share of the memory's word prior in the probability of a next token, 0 to 1."""

    image_weight: float | None = None
    """What a standard deviation of cosine is worth in nats while beams are written; None: 0 with a memory,
    which says what the picture shows, and 2 without."""

    fit_weight: float = 0.0
    """What a cosine of one is worth in points of expected CIDEr-D (0 to 10), when the caption is chosen."""

    neighbours: int = 200
    """How many of the memory's captions have a say."""

    temperature: float = 2.0
    """Of their weights, in standard deviations of their cosines."""

    max_new_tokens: int = 20
    """A caption is cut after this many tokens."""

    include: tuple[str, ...] = ()
    """Words that the caption must have."""

    exclude: tuple[str, ...] = ()
    """Words that it must not have."""

    min_words: int = 0
    """The fewest words it may have."""

    max_words: int | None = None
    """The most words it may have; None: no limit but ``max_new_tokens``."""

    prompted: bool = False
    """Whether the language model is told of the picture when beams are written, which one must have learned
    (``recipes/tune_prompted.py``)."""

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):  # JSON knows no tuples
            given = getattr(self, name)
            if isinstance(given, Iterable) and not isinstance(given, str):
                object.__setattr__(self, name, tuple(given))
        for name in ("top_k", "beam_size", "finished", "neighbours", "max_new_tokens"):
            whole(name, getattr(self, name))
        if self.neighbours > MOST_NEIGHBOURS:
            raise BadSettings(f"neighbours must be at most {MOST_NEIGHBOURS}, found {self.neighbours}")
        flag("prompted", self.prompted)
        number("memory_weight", self.memory_weight, lambda weight: 0 <= weight <= 1, "between 0 and 1")
        for name in ("image_weight", "fit_weight"):
            value = 0 if name == "image_weight" and self.image_weight is None else getattr(self, name)
            number(name, value, lambda weight: 0 <= weight <= 1e6, "between 0 and a million")
        number("temperature", self.temperature, lambda t: t >= 1e-3, "at least 0.001")
        _ = self.constraints

    @cached_property
    def constraints(self) -> Constraints:
        """What a caption must have, must not have, and how long it may be."""
        from magicap.decoding.constraints import Constraints

        return Constraints(self.include, self.exclude, self.min_words, self.max_words)

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        from magicap.decoding.beam_magic import beam_magic_search

        found = beam_magic_search(trie, images, self, memory)
        yield [(row, choices[0].step) for row, choices in enumerate(found)]


@dataclass(frozen=True)
class ContrastiveSearch:
    """Contrastive search (Su et al. 2022, arXiv 2202.06417): no picture."""

    top_k: int = 45
    """How many most probable next tokens compete."""

    alpha: float = 0.1
    """Weight of the degeneration penalty, 0 to 1."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    def __post_init__(self) -> None:
        MagicSearch(self.top_k, self.alpha, 0.0, self.max_new_tokens)

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        return MagicSearch(self.top_k, self.alpha, 0.0, self.max_new_tokens).search(trie, images, seeds)


@dataclass(frozen=True)
class Greedy:
    """The most probable token each time: no picture, one caption for all."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    def __post_init__(self) -> None:
        whole("max_new_tokens", self.max_new_tokens)

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        return MagicSearch(1, 0.0, 0.0, self.max_new_tokens).search(trie, images, seeds)


@dataclass(frozen=True)
class TopK:
    """Draws from the k most probable tokens (Fan et al. 2018): no picture."""

    top_k: int = 40
    """How many most probable next tokens are drawn from."""

    temperature: float = 1.0
    """Above 1 flattens the distribution, below 1 sharpens it."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    def __post_init__(self) -> None:
        whole("top_k", self.top_k)
        number("temperature", self.temperature, lambda t: t > 0, "above 0")
        whole("max_new_tokens", self.max_new_tokens)

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        from magicap.decoding.sampling import keep_top_k, sample

        return sample(
            trie.language_model,
            lambda p: keep_top_k(p, self.top_k),
            self.temperature,
            self.max_new_tokens,
            seeds,
        )


@dataclass(frozen=True)
class Nucleus:
    """Draws from the fewest tokens that hold a share of probability (Holtzman et al. 2020): no picture."""

    top_p: float = 0.95
    """The share, above 0 and at most 1."""

    temperature: float = 1.0
    """Above 1 flattens the distribution, below 1 sharpens it."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    def __post_init__(self) -> None:
        number("top_p", self.top_p, lambda p: 0 < p <= 1, "above 0 and at most 1")
        number("temperature", self.temperature, lambda t: t > 0, "above 0")
        whole("max_new_tokens", self.max_new_tokens)

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        from magicap.decoding.sampling import keep_nucleus, sample

        return sample(
            trie.language_model,
            lambda p: keep_nucleus(p, self.top_p),
            self.temperature,
            self.max_new_tokens,
            seeds,
        )


SETTINGS = {
    "magic": MagicSearch,
    "beam-magic": BeamMagicSearch,
    "contrastive": ContrastiveSearch,
    "greedy": Greedy,
    "top-k": TopK,
    "nucleus": Nucleus,
}
"""Decodings that a captioner's folder can name."""


def to_dict(decoding: object, table: Mapping[str, type] = SETTINGS) -> dict[str, Any]:
    """``{"kind": name, ...}`` for a decoding of a table.

    Raises:
        BadSettings: the decoding is not one of the table (a memory cannot be written as settings).
    """
    for kind, settings in table.items():
        if type(decoding) is settings:
            return {"kind": kind, **asdict(decoding)}  # type: ignore[call-overload]
    raise BadSettings(f"{type(decoding).__name__} cannot be saved; expected one of {', '.join(table)}")


def from_dict(values: dict[str, Any], table: Mapping[str, type] = SETTINGS) -> Any:
    """The decoding that :func:`to_dict` described.

    Raises:
        BadSettings: an unknown kind or field, or a value out of range.
    """
    if not isinstance(values, dict):
        raise BadSettings(f"expected a decoding as an object with 'kind' and its settings, found {values!r}")
    values = dict(values)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in table:
        raise BadSettings(f"expected a decoding of kind {', '.join(table)}, found {kind!r}")
    known = {field.name for field in fields(table[kind])}
    if unknown := sorted(set(values) - known):
        raise BadSettings(f"{kind} knows {', '.join(sorted(known))}; found {', '.join(unknown)} besides")
    return table[kind](**values)


def whole(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadSettings(f"{name} must be a whole number of at least 1, found {value!r}")


def flag(name: str, value: Any) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise BadSettings(f"{name} must be True or False, found {value!r}")


def number(name: str, value: Any, holds: Callable[[float], bool], expected: str) -> None:
    """Refuse what is no finite number, or one that does not hold."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not holds(value):
        raise BadSettings(f"{name} must be {expected}, found {value!r}")
