"""Several captioners on the same images: figures, intervals, and whether differences are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from magicap.errors import BadSettings
from magicap.metrics.score import Numbers, Score
from magicap.metrics.suite import Report


@dataclass(frozen=True)
class System:
    """One captioner's captions of N images."""

    name: str
    """As tables call it; unique in a comparison."""

    captions: Sequence[str]
    """N captions, in the images' order."""

    floor: bool = False
    """Whether it is one of the floors that every captioner should beat."""

    about: Mapping[str, str] | None = None
    """Where the captions come from: model fingerprint, decoding, file, ..."""


@dataclass(frozen=True)
class Estimate:
    """A corpus score, its interval, and its difference from the system compared against."""

    score: Score
    low: float | None = None
    """Lower end of the interval, on the metric's own scale; None where the score cannot be resampled."""

    high: float | None = None
    difference: float | None = None
    """Score minus that of the system compared against; None for that system itself."""

    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    """Two-sided: how often resamples put the difference on the other side of zero, doubled."""


@dataclass(frozen=True)
class Comparison:
    """Systems on N images, with everything that tables and reports show."""

    title: str
    images: Sequence[str]
    """N names."""

    references: Sequence[Sequence[str]]
    """The references of each image."""

    systems: Sequence[System]
    against: str
    """The system that differences are taken from."""

    estimates: Mapping[str, Mapping[str, Estimate]]
    """By system, then by the metric's printed name."""

    absent: Mapping[str, str]
    """Metrics that could not be computed, with the reason."""

    confidence: float
    resamples: int
    seed: int

    @property
    def metrics(self) -> list[str]:
        """Printed names of all metrics, in order."""
        return list(dict.fromkeys(name for row in self.estimates.values() for name in row))


def compare(
    title: str,
    images: Sequence[str],
    references: Sequence[Sequence[str]],
    systems: Sequence[System],
    reports: Sequence[Report],
    *,
    against: str,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare systems by paired bootstrap over images (Koehn 2004).

    Every resample draws N images with replacement, the same for all systems, so that what is hard about
    an image is hard for all. Intervals are percentiles. CIDEr-D's document frequencies stay
    those of the full set.

    Args:
        reports: the figures of each system, in the systems' order.
        against: name of the system that differences are taken from.

    Raises:
        BadSettings: names that are not unique or unknown, or systems of other numbers of images.
    """
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise BadSettings(f"systems need names of their own, found {', '.join(names)}")
    if against not in names:
        raise BadSettings(f"no system {against!r} to compare against: expected one of {', '.join(names)}")
    for system in systems:
        if len(system.captions) != len(images):
            raise BadSettings(
                f"{system.name}: expected captions of {len(images)} images, found {len(system.captions)}"
            )
    weights = _resamples(len(images), resamples, seed)
    base = reports[names.index(against)].scores
    base_values = {name: _resampled(score, weights) for name, score in base.items()}
    tail = (1 - confidence) / 2
    estimates = {
        name: {
            metric: _estimate(
                score, _resampled(score, weights), base[metric], base_values[metric], tail, name == against
            )
            for metric, score in report.scores.items()
            if metric in base
        }
        for name, report in zip(names, reports, strict=True)
    }
    absent = {name: reason for report in reports for name, reason in report.absent.items()}
    return Comparison(
        title, images, references, systems, against, estimates, absent, confidence, resamples, seed
    )


def _resamples(images: int, count: int, seed: int) -> Numbers:
    """(R, N) how often each image is drawn."""
    draws = np.random.default_rng(seed).integers(images, size=(count, images))
    weights = np.zeros((count, images))
    np.add.at(weights, (np.arange(count)[:, None], draws), 1.0)
    return weights


def _resampled(score: Score, weights: Numbers) -> Numbers | None:
    return None if score.statistics is None else score.resampled(weights)


def _estimate(
    score: Score, values: Numbers | None, base: Score, base_values: Numbers | None, tail: float, itself: bool
) -> Estimate:
    if values is None or base_values is None:
        return Estimate(score, difference=None if itself else score.value - base.value)
    low, high = np.quantile(values, [tail, 1 - tail])
    if itself:
        return Estimate(score, float(low), float(high))
    apart = values - base_values
    apart_low, apart_high = np.quantile(apart, [tail, 1 - tail])
    # One is added above and below: with R resamples no p-value is smaller than about 2 / R.
    rarer = min((apart <= 0).sum(), (apart >= 0).sum())
    p = min(1.0, 2 * (float(rarer) + 1) / (len(apart) + 1))
    return Estimate(
        score, float(low), float(high), score.value - base.value, float(apart_low), float(apart_high), p
    )
