"""What a metric gives: a corpus score, a score an image, and a signature of how they were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from magicap.arrays import FloatArray
from magicap.errors import BadSettings, MetricUnavailable
from magicap.version import __version__


def mean_of_images(sums: FloatArray) -> FloatArray:
    """The mean from (..., 2) sums of values and of ones."""
    return np.asarray(sums[..., 0] / sums[..., 1])


@dataclass(frozen=True, eq=False)
class Score:
    """One figure over N images."""

    name: str
    """As papers print it: ``CIDEr-D``, ``BLEU-4``."""

    value: float
    """Of the whole corpus, on the metric's own scale (CIDEr-D 0 to 10, CLIPScore 0 to 2.5, most 0 to 1)."""

    per_image: FloatArray | None = None
    """(N,) of each image alone, in the candidates' order; None where an image alone has no such score."""

    statistics: FloatArray | None = None
    """(N, S); :attr:`aggregate` of their sums is the corpus score. None where it is no function of sums."""

    aggregate: Callable[[FloatArray], FloatArray] = mean_of_images
    """Sums (..., S) to corpus scores (...)."""

    percent: bool = True
    """Whether papers print it times 100; counts are printed as they are."""

    signature: Mapping[str, str] = field(default_factory=dict)
    """How it was measured: metric, settings, tokenizer, number of images, version, ..."""

    @classmethod
    def mean(
        cls, name: str, per_image: FloatArray, signature: Mapping[str, str], *, percent: bool = True
    ) -> Score:
        """The mean of the images' scores (N,), N at least 1.

        Raises:
            MetricUnavailable: a score is not a number.
        """
        if not np.isfinite(per_image).all():
            raise MetricUnavailable(
                f"{name} of {int((~np.isfinite(per_image)).sum())} images is not a number"
            )
        pairs = np.stack([per_image, np.ones_like(per_image)], axis=1)
        return cls(name, float(per_image.mean()), per_image, pairs, percent=percent, signature=signature)

    @classmethod
    def pooled(
        cls,
        name: str,
        per_image: FloatArray,
        statistics: FloatArray,
        aggregate: Callable[[FloatArray], FloatArray],
        signature: Mapping[str, str],
    ) -> Score:
        """A corpus score of statistics (N, S) summed over images, not the mean of the images' scores.

        Raises:
            MetricUnavailable: it is not a number.
        """
        value = float(aggregate(statistics.sum(axis=0)))
        if not np.isfinite(value):
            raise MetricUnavailable(f"{name} of the whole set is not a finite number")
        return cls(name, value, per_image, statistics, aggregate, signature=signature)

    @classmethod
    def count(cls, name: str, value: float, signature: Mapping[str, str], *, percent: bool = False) -> Score:
        """A figure of the corpus alone."""
        return cls(name, float(value), percent=percent, signature=signature)

    def resampled(self, weights: FloatArray) -> FloatArray:
        """Corpus scores (R,) of R resamples, in which image i stands ``weights[r, i]`` times; (R, N) in.

        Raises:
            BadSettings: the score is no function of sums over images.
        """
        if self.statistics is None:
            raise BadSettings(f"{self.name} is a figure of the whole corpus and cannot be resampled by image")
        return self.aggregate(weights @ self.statistics)

    def signed(self, **entries: str) -> Score:
        """The same score with further entries in its signature, e.g. ``split`` and ``model``.

        Raises:
            BadSettings: the signature has such an entry.
        """
        if both := sorted(set(entries) & set(self.signature)):
            raise BadSettings(f"{self.name}'s signature says {', '.join(both)} already; use another key")
        return replace(self, signature={**self.signature, **entries})

    def scaled(self, number: float) -> float:
        """A number on the metric's own scale, as papers print it."""
        return 100 * number if self.percent else number

    @property
    def text(self) -> str:
        """As papers print it."""
        if self.percent:
            return f"{self.scaled(self.value):.2f}"
        return f"{self.value:.0f}" if float(self.value).is_integer() else f"{self.value:.2f}"

    @property
    def caveats(self) -> tuple[str, ...]:
        """What must be said wherever the figure is shown, by its signature; of most figures nothing."""
        caveats = []
        if self.signature.get("scorer", "none") in self.signature.get("steered_by", "").split("+"):
            caveats.append("rated by the scorer that steered captions of this set, which it rates highly")
        if cut := self.signature.get("cut"):
            caveats.append(f"{cut} are longer than the scorer reads, and were rated by their beginnings")
        return tuple(caveats)

    @property
    def signature_text(self) -> str:
        """One line, after sacreBLEU (Post 2018): ``metric:CIDEr-D|tok:...|n:1000|refs:5|version:0.1.0``."""
        parts = (f"{key}:{value}".replace("|", "/") for key, value in self.signature.items())
        return " ".join("|".join(parts).split())


class Metric(Protocol):
    """A measure of captions: N candidates and the references of each, to scores by name."""

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]], /) -> dict[str, Score]:
        """The scores of a set of captions, by the figure's name.

        Args:
            candidates: N captions, one an image.
            references: the reference captions of each image, in the same order.

        Raises:
            BadSettings: not as many references as candidates, an image without any, or no image.
        """


class Tokenizer(Protocol):
    """Words of a caption, and the name under which signatures know the tokenizer."""

    @property
    def name(self) -> str:
        """The name under which signatures of scores record it."""

    def __call__(self, text: str, /) -> list[str]:
        """The tokens of a caption, in order."""


def sign(
    metric: str, candidates: Sequence[str], references: Sequence[Sequence[str]], **settings: str
) -> dict[str, str]:
    """The signature every metric starts from."""
    counts = [len(texts) for texts in references]
    low, high = min(counts, default=0), max(counts, default=0)
    refs = str(low) if low == high else f"{low}-{high}"
    return {"metric": metric, **settings, "n": str(len(candidates)), "refs": refs, "version": __version__}


def require_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]], metric: str) -> None:
    """Refuse what no metric can score.

    Raises:
        BadSettings: not as many references as candidates, an image without any, or no image.
    """
    groups = [candidates, *references]
    if any(isinstance(group, str) or not all(isinstance(text, str) for text in group) for group in groups):
        raise BadSettings(
            f"{metric}: expected a list of captions and a list of lists of captions, found something else; "
            "one image is written ['a dog'], [['a brown dog', 'a dog runs']]"
        )
    if len(candidates) != len(references):
        raise BadSettings(
            f"{metric}: expected the references of each candidate, found {len(candidates)} candidates "
            f"and references of {len(references)} images"
        )
    if not len(candidates):
        raise BadSettings(f"{metric}: expected at least one image, found none")
    without = [position for position, texts in enumerate(references) if not len(texts)]
    if without:
        raise BadSettings(
            f"{metric}: {len(without)} images have no reference caption, the first at position {without[0]}; "
            "leave them out or add references"
        )
