"""Decodings by name: each a frozen set of settings, which knows no search and loads no torch.

Which search belongs to which settings stands in :mod:`magicap.decoding.searches`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from magicap.checks import require_bool, require_int, require_number
from magicap.decoding.constraints import MOST_INCLUDED, Constraints, require_words
from magicap.errors import BadSettings
from magicap.printable import without_surrogates
from magicap.settings_io import added, renamed

MOST_NEIGHBOURS = 2000
"""More evidence would take gigabytes to compare."""

MOST_BEAMS, MOST_FINISHED = 500, 1000
"""More partial captions would take gigabytes of states; more whole ones, seconds to compare."""

MOST_PREFIX = 2000
"""Characters of a prefix, far more than any caption has."""

SMALLEST = 1e-30
"""Of a temperature and a nucleus, well above what float32 takes for zero."""

_EXPECTED_WEIGHT = "between 0 and a million"


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _is_weight(value: float) -> bool:
    return 0 <= value <= 1e6


def _strip_prefix(decoding: object, prefix: object) -> None:
    """Take the white space around a prefix away: words begin with the space before them.

    Raises:
        BadSettings: it is no text, or far too long.
    """
    if not isinstance(prefix, str) or len(prefix) > MOST_PREFIX or without_surrogates(prefix) != prefix:
        raise BadSettings(f"prefix must be a text of at most {MOST_PREFIX} characters, found {prefix!r:.80}")
    object.__setattr__(decoding, "prefix", prefix.strip())


@dataclass(frozen=True)
class MagicSearch:
    """Magic search (Su et al. 2022, "Language Models Can See", eq. 5), with its settings for COCO."""

    top_k: int = 45
    """How many most probable next tokens compete."""

    alpha: float = 0.1
    """Weight of the degeneration penalty, 0 to 1; 1 - alpha is the weight of model confidence."""

    beta: float = 2.0
    """Weight of the picture; 0 is contrastive search."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    soft_prompt: bool = renamed("prompted", False)
    """Whether the language model is conditioned on the picture by its soft prompt, which it must have
    learned (``recipes/tune_prompted.py``)."""

    prefix: str = added("")
    """What the caption begins with: it is searched on from these words, which are a part of it."""

    def __post_init__(self) -> None:
        _strip_prefix(self, self.prefix)
        require_bool("soft_prompt", self.soft_prompt)
        require_int("top_k", self.top_k)
        require_number("alpha", self.alpha, _is_share, "between 0 and 1")
        require_number("beta", self.beta, _is_weight, _EXPECTED_WEIGHT)
        require_int("max_new_tokens", self.max_new_tokens)


@dataclass(frozen=True)
class BeamMagicSearch:
    """Beam magic search: a beam's captions and the memory's nearest compete, minimum Bayes risk chooses."""

    top_k: int = 45
    """How many most probable next tokens compete."""

    beam_size: int = 10
    """How many partial captions are kept while captions are written (N), at most 500."""

    num_finished: int = renamed("finished", 30)
    """How many captions that ended of themselves compete (F), at most 1000."""

    ngram_weight: float = renamed("memory_weight", 0.5)
    """Interpolation weight of the retrieval n-gram model in the probability of a next token, 0 to 1."""

    image_weight: float | None = None
    """Weight of the picture while captions are written: what a standard deviation of cosine is worth in nats;
    None: 0 with a memory, whose captions already depend on the picture, and 2 without."""

    rerank_weight: float = renamed("fit_weight", 0.0)
    """Weight of the picture when the caption is chosen: what a cosine of one is worth in points of expected
    CIDEr-D (0 to 10). It makes captions more specific."""

    rerank_top: int | None = None
    """How many captions, those with the largest expected utility, are re-ranked by the picture; None: all."""

    neighbours: int = 200
    """How many captions of the memory are the evidence (M), at most 2000."""

    temperature: float = 2.0
    """Temperature of the evidence's weights, in standard deviations of its cosines; greater is more even."""

    max_new_tokens: int = 20
    """A caption is cut after this many tokens; longer ones of the memory are not chosen."""

    include: tuple[str, ...] = ()
    """Words that the caption must have, at most 100."""

    exclude: tuple[str, ...] = ()
    """Words that the caption must not have, at most 10,000."""

    min_words: int = 0
    """The fewest words of a caption."""

    max_words: int | None = None
    """The most words of a caption; None: no limit but ``max_new_tokens``."""

    soft_prompt: bool = renamed("prompted", False)
    """Whether the language model is conditioned on the picture by its soft prompt, which it must have
    learned (``recipes/tune_prompted.py``)."""

    num_hypotheses: int = 5
    """How many of the captions that competed are kept with the chosen one, itself included."""

    prefix: str = added("")
    """What the caption begins with: it is searched on from these words, which are a part of it."""

    prefer: tuple[str, ...] = added(())
    """Words that the caption should have if that suits it, at most 100."""

    prefer_weight: float = added(1.0)
    """What all words of ``prefer`` together are worth in points of expected CIDEr-D (0 to 10)."""

    def __post_init__(self) -> None:
        _strip_prefix(self, self.prefix)
        for name in ("include", "exclude", "prefer"):  # JSON knows no tuples
            words = getattr(self, name)
            if isinstance(words, Iterable) and not isinstance(words, str):
                object.__setattr__(self, name, tuple(words))
        for name in ("top_k", "max_new_tokens", "num_hypotheses"):
            require_int(name, getattr(self, name))
        require_int("beam_size", self.beam_size, most=MOST_BEAMS)
        require_int("num_finished", self.num_finished, most=MOST_FINISHED)
        require_int("neighbours", self.neighbours, most=MOST_NEIGHBOURS)
        if self.rerank_top is not None:
            require_int("rerank_top", self.rerank_top)
        require_bool("soft_prompt", self.soft_prompt)
        require_number("ngram_weight", self.ngram_weight, _is_share, "between 0 and 1")
        if self.image_weight is not None:
            require_number("image_weight", self.image_weight, _is_weight, _EXPECTED_WEIGHT)
        require_number("rerank_weight", self.rerank_weight, _is_weight, _EXPECTED_WEIGHT)
        require_number("temperature", self.temperature, lambda t: t >= 1e-3, "at least 0.001")
        require_words("prefer", self.prefer, MOST_INCLUDED)
        require_number("prefer_weight", self.prefer_weight, _is_weight, _EXPECTED_WEIGHT)
        if self.constraints and not self.constraints.can_hold(self.prefix):
            raise BadSettings(
                f"prefix must keep to exclude and max_words, found {self.prefix!r:.80}; change one of them"
            )

    @cached_property
    def constraints(self) -> Constraints:
        """What a caption must have, must not have, and how long it may be."""
        return Constraints(self.include, self.exclude, self.min_words, self.max_words)


@dataclass(frozen=True)
class ContrastiveSearch:
    """Contrastive search (Su et al. 2022, arXiv 2202.06417): no picture."""

    top_k: int = 45
    """How many most probable next tokens compete."""

    alpha: float = 0.1
    """Weight of the degeneration penalty, 0 to 1; 1 - alpha is the weight of model confidence."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    prefix: str = added("")
    """What the caption begins with: it is searched on from these words, which are a part of it."""

    def __post_init__(self) -> None:
        _strip_prefix(self, self.prefix)
        _ = self.magic

    @property
    def magic(self) -> MagicSearch:
        """The same search as magic search without the picture."""
        return MagicSearch(self.top_k, self.alpha, 0.0, self.max_new_tokens, prefix=self.prefix)


@dataclass(frozen=True)
class Greedy:
    """The most probable token each time: no picture, one caption for all."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    prefix: str = added("")
    """What the caption begins with: it is searched on from these words, which are a part of it."""

    def __post_init__(self) -> None:
        _strip_prefix(self, self.prefix)
        require_int("max_new_tokens", self.max_new_tokens)

    @property
    def magic(self) -> MagicSearch:
        """The same search as magic search with one candidate."""
        return MagicSearch(1, 0.0, 0.0, self.max_new_tokens, prefix=self.prefix)


@dataclass(frozen=True)
class TopK:
    """Samples from the k most probable tokens (Fan et al. 2018): no picture."""

    top_k: int = 40
    """How many most probable next tokens are sampled from."""

    temperature: float = 1.0
    """Above 1 flattens the distribution, below 1 sharpens it."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    prefix: str = added("")
    """What the caption begins with: it is searched on from these words, which are a part of it."""

    def __post_init__(self) -> None:
        _strip_prefix(self, self.prefix)
        require_int("top_k", self.top_k)
        require_number("temperature", self.temperature, lambda t: t >= SMALLEST, f"at least {SMALLEST}")
        require_int("max_new_tokens", self.max_new_tokens)


@dataclass(frozen=True)
class Nucleus:
    """Samples from the fewest tokens that hold a share of probability (Holtzman et al. 2020): no picture."""

    top_p: float = 0.95
    """The share of probability that is sampled from, above 0 and at most 1."""

    temperature: float = 1.0
    """Above 1 flattens the distribution, below 1 sharpens it."""

    max_new_tokens: int = 15
    """A caption is cut after this many tokens."""

    prefix: str = added("")
    """What the caption begins with: it is searched on from these words, which are a part of it."""

    def __post_init__(self) -> None:
        _strip_prefix(self, self.prefix)
        require_number("top_p", self.top_p, lambda p: SMALLEST <= p <= 1, f"between {SMALLEST} and 1")
        require_number("temperature", self.temperature, lambda t: t >= SMALLEST, f"at least {SMALLEST}")
        require_int("max_new_tokens", self.max_new_tokens)


DECODINGS: dict[str, type] = {
    "magic": MagicSearch,
    "beam-magic": BeamMagicSearch,
    "contrastive": ContrastiveSearch,
    "greedy": Greedy,
    "top-k": TopK,
    "nucleus": Nucleus,
}
"""Decodings that a captioner's folder can name."""
