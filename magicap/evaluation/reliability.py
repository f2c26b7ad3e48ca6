"""Whether captions are as often right as their confidence says, and whether it tells good from bad.

Shapes: N captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from magicap.arrays import BoolArray, FloatArray, IntArray
from magicap.decoding.confidence import RIGHT_ABOVE
from magicap.drawing import FAINT, INK, LINE, panels
from magicap.errors import BadSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10
"""Groups of captions, of the same size, whose confidence is compared with how many are right."""

KEPT = 0.6
"""Share of the captions that are kept, those with the largest confidence."""

_SIZE = 3.6  # inches of the diagram's side


def are_right(cider_d: FloatArray) -> BoolArray:
    """(N,) which captions are right, by their CIDEr-D, 0 to 10."""
    return np.asarray(cider_d > RIGHT_ABOVE)


@dataclass(frozen=True, eq=False)
class Rated:
    """N captions with their confidence, and how good they are."""

    confidence: FloatArray
    """(N,) probabilities that they are right, 0 to 1."""

    cider_d: FloatArray
    """(N,) of each caption, 0 to 10."""

    def __post_init__(self) -> None:
        if not len(self.confidence) or len(self.confidence) != len(self.cider_d):
            raise BadSettings(
                f"expected a CIDEr-D for each confidence, and one at least; found {len(self.cider_d)} "
                f"and {len(self.confidence)}"
            )

    @property
    def right(self) -> BoolArray:
        """(N,) which captions are right."""
        return are_right(self.cider_d)

    def part(self, rows: IntArray) -> Rated:
        """Some of the captions, by number; one may stand there twice."""
        return Rated(self.confidence[rows], self.cider_d[rows])


@dataclass(frozen=True)
class Bin:
    """A group of captions of about the same confidence."""

    confidence: float
    """Mean confidence."""

    right: float
    """Share of captions that are right."""

    count: int


def reliability_bins(rated: Rated, count: int = BINS) -> list[Bin]:
    """Captions by rising confidence in groups of the same size, or of one less; no empty ones."""
    order = np.argsort(rated.confidence, kind="stable")
    groups = np.array_split(order, min(count, len(order)))
    return [
        Bin(float(rated.confidence[rows].mean()), float(rated.right[rows].mean()), len(rows))
        for rows in groups
    ]


def calibration_error(rated: Rated) -> float:
    """Expected calibration error, 0 to 1: by how much confidence and share of right captions differ.

    The mean over :data:`BINS` groups of the same size, each weighed by its captions. Of few captions it is
    above 0 even where the confidence is exact.
    """
    bins = reliability_bins(rated)
    return sum(one.count * abs(one.confidence - one.right) for one in bins) / len(rated.confidence)


def area_under_curve(rated: Rated) -> float:
    """Of the receiver operating characteristic, 0 to 1; NaN where all captions are right, or none is.

    The probability that a right caption has a larger confidence than a wrong one; equal ones count half.
    """
    right, wrong = np.sort(rated.confidence[rated.right]), np.sort(rated.confidence[~rated.right])
    if not len(right) or not len(wrong):
        return float("nan")
    below, up_to = np.searchsorted(wrong, right, "left"), np.searchsorted(wrong, right, "right")
    return float((below + up_to).mean() / 2 / len(wrong))


def kept_ratio(rated: Rated, share: float = KEPT) -> float:
    """Mean CIDEr-D of the captions with the largest confidence over that of all; NaN where that is 0.

    Args:
        share: of the captions that are kept, above 0 and at most 1; rounded up to a whole number of them.
    """
    mean = rated.cider_d.mean()
    if not mean:
        return float("nan")
    return float(rated.cider_d[_most_confident(rated, share)].mean() / mean)


def kept_threshold(rated: Rated, share: float = KEPT) -> float:
    """The smallest confidence of the captions that :func:`kept_ratio` keeps."""
    return float(rated.confidence[_most_confident(rated, share)].min())


def _most_confident(rated: Rated, share: float) -> IntArray:
    return np.argsort(-rated.confidence, kind="stable")[: ceil(share * len(rated.confidence))]


FIGURES: dict[str, Callable[[Rated], float]] = {
    "area under the curve": area_under_curve,
    "expected calibration error": calibration_error,
    f"CIDEr-D of the surest {100 * KEPT:.0f} % over that of all": kept_ratio,
}
"""What is reported of a confidence, by name."""


def bootstrap_interval(
    rated: Rated, figure: Callable[[Rated], float], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of a figure, by resampling captions; NaN of a resample is left out."""
    rng, N = np.random.default_rng(seed), len(rated.confidence)
    values = [figure(rated.part(rng.integers(0, N, N))) for _ in range(resamples)]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def reliability_diagram(rated: Rated) -> Figure:
    """A new figure: share of right captions over confidence, a point a group; exact ones lie on the diagonal.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    figure, (axes,) = panels(1, 1, (_SIZE, _SIZE), 0)
    bins = reliability_bins(rated)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, zorder=1)
    confidence, right = [one.confidence for one in bins], [one.right for one in bins]
    axes.plot(confidence, right, "o-", color=INK, linewidth=1, markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("confidence", color=INK)
    axes.set_ylabel("captions that are right", color=INK)
    groups = f"{len(rated.confidence):,} captions, {len(bins)} groups of the same size"
    axes.set_title(groups, color=FAINT, fontsize="small")
    axes.tick_params(colors=FAINT, length=0)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    return figure
