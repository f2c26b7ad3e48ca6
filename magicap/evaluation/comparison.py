"""Several captioners on the same images: figures, intervals, and whether differences are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from magicap.arrays import FloatArray
from magicap.errors import BadSettings
from magicap.metrics.score import Score
from magicap.metrics.suite import Report

FEWEST = 30
"""With fewer images there are no intervals: the bootstrap would find significance where there is none."""

CERTAIN = 0.05
"""Differences with a smaller p-value are marked."""

_AT_A_TIME = 200  # resamples; bounds memory


@dataclass(frozen=True)
class System:
    """One captioner's captions of N images."""

    name: str
    """As tables call it; unique in a comparison."""

    captions: Sequence[str]
    """N captions, in the images' order."""

    baseline: bool = False
    """Whether it is one of the baselines that every captioner should beat."""

    about: Mapping[str, str] | None = None
    """Where the captions come from: model fingerprint, decoding, file, ..."""

    finished: Sequence[bool] | None = None
    """Whether the search for each came to an end; None where that is not known."""


@dataclass(frozen=True)
class Estimate:
    """A corpus score, its interval, and its difference from the system compared against."""

    score: Score
    low: float | None = None
    """Lower end of the interval, on the metric's own scale; None where the score cannot be resampled, or
    there are fewer images than :data:`FEWEST`."""

    high: float | None = None
    difference: float | None = None
    """Score minus that of the system compared against; None for that system, or where it has none."""

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
    an image is hard for all. Intervals are percentiles. CIDEr-D's document frequencies stay those of the
    full set. Every figure is tested by itself, without correction for many tests.

    Args:
        title: what was measured on, for headings.
        images: N names.
        references: the reference captions of each image.
        systems: names and captions, N each.
        reports: the figures of each system, in the systems' order.
        against: name of the system that differences are taken from.
        confidence: of the intervals, in (0, 1).
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        BadSettings: names that are not unique or unknown, other numbers of images, or settings out of range.
    """
    _require_consistent(systems, reports, len(images), against, confidence, resamples)
    names = [system.name for system in systems]
    resampled = [_resampled(report.scores, len(images), resamples, seed) for report in reports]
    return Comparison(
        title,
        images,
        references,
        systems,
        against,
        _estimates(names, reports, resampled, against, tail=(1 - confidence) / 2),
        _absent(names, reports),
        confidence,
        resamples,
        seed,
    )


def _require_consistent(
    systems: Sequence[System],
    reports: Sequence[Report],
    images: int,
    against: str,
    confidence: float,
    resamples: int,
) -> None:
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise BadSettings(f"systems need names of their own, found {', '.join(names)}")
    if against not in names:
        raise BadSettings(f"no system {against!r} to compare against: expected one of {', '.join(names)}")
    if len(reports) != len(systems):
        raise BadSettings(f"expected the figures of {len(systems)} systems, found {len(reports)}")
    for system in systems:
        if len(system.captions) != images:
            raise BadSettings(
                f"{system.name}: expected captions of {images} images, found {len(system.captions)}"
            )
    if not 0 < confidence < 1:
        raise BadSettings(f"confidence must lie between 0 and 1, as 0.95 does; found {confidence}")
    if resamples < 1:
        raise BadSettings(f"resamples must be at least 1, found {resamples}")


def _absent(names: Sequence[str], reports: Sequence[Report]) -> dict[str, str]:
    """Metric -> reason; with the system's name where others have the metric."""
    absent = {}
    for metric in dict.fromkeys(metric for report in reports for metric in report.absent):
        lacking = [name for name, report in zip(names, reports, strict=True) if metric in report.absent]
        for name in lacking if len(lacking) < len(names) else lacking[:1]:
            reason = reports[names.index(name)].absent[metric]
            absent[metric if len(lacking) == len(names) else f"{metric} of {name}"] = reason
    return absent


def _resampled(scores: Mapping[str, Score], images: int, resamples: int, seed: int) -> dict[str, FloatArray]:
    """Resampled values (R,) of each score that is a function of sums; one seed, the same resamples."""
    rng = np.random.default_rng(seed)
    pooled = {name: score for name, score in scores.items() if score.statistics is not None}
    values: dict[str, list[FloatArray]] = {name: [] for name in pooled}
    if images < FEWEST:
        return {}
    for start in range(0, resamples, _AT_A_TIME):
        count = min(_AT_A_TIME, resamples - start)
        weights = rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)
        for name, score in pooled.items():
            values[name].append(score.resampled(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _estimates(
    names: Sequence[str],
    reports: Sequence[Report],
    resampled: Sequence[Mapping[str, FloatArray]],
    against: str,
    *,
    tail: float,
) -> dict[str, dict[str, Estimate]]:
    """By system, then by metric; ``tail`` is what lies beyond either end of an interval."""
    base = reports[names.index(against)].scores
    base_values = resampled[names.index(against)]
    return {
        name: {
            metric: _estimate(
                score,
                values.get(metric),
                None if name == against else base.get(metric),
                base_values.get(metric),
                tail,
            )
            for metric, score in report.scores.items()
        }
        for name, report, values in zip(names, reports, resampled, strict=True)
    }


def _estimate(
    score: Score, values: FloatArray | None, base: Score | None, base_values: FloatArray | None, tail: float
) -> Estimate:
    """With the difference from ``base``, where there is one."""
    difference = None if base is None else score.value - base.value
    if values is None:
        return Estimate(score, difference=difference)
    low, high = np.quantile(values, [tail, 1 - tail])
    if base is None or base_values is None:
        return Estimate(score, float(low), float(high), difference)
    differences = values - base_values
    difference_low, difference_high = np.quantile(differences, [tail, 1 - tail])
    # One is added above and below: with R resamples no p-value is smaller than about 2 / R.
    fewer = min((differences <= 0).sum(), (differences >= 0).sum())
    p = min(1.0, 2 * (float(fewer) + 1) / (len(differences) + 1))
    return Estimate(
        score, float(low), float(high), difference, float(difference_low), float(difference_high), p
    )
