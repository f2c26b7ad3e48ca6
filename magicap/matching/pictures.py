"""Two pictures matched, as data that draws itself and writes JSON.

Shapes: M matches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from magicap.checks import require_int, require_number
from magicap.drawing import Drawable, panels, shrunk
from magicap.errors import BadSettings
from magicap.extras import require
from magicap.images.reader import ImageSource, open_image
from magicap.matching.features import FeatureSettings, ImageTower, dense_features
from magicap.matching.geometry import Geometry, verified
from magicap.matching.neighbours import mutual_nearest
from magicap.models.scorer import ImageTextScorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

GEOMETRIES = ("homography", "fundamental")
LINES = 80
"""How many matches are drawn, evenly from all: more cannot be told apart."""

_INCHES = 8.0  # width of a drawing
_GAP = 0.04  # between the two pictures, as a share of their height
_OUTLIER = "#b42318"


@dataclass(frozen=True)
class MatchSettings:
    """What counts as a match, and as an inlier."""

    ratio: float = 0.8
    """Largest distance of a match as a share of that to the second nearest place (Lowe's ratio test)."""

    max_matches: int | None = None
    """Keep so many of the surest; None: all."""

    geometry: Geometry = "homography"
    """What inliers agree on."""

    tolerance: float = 0.02
    """Largest error of an inlier, as a share of the second picture's longer side."""

    least: int = 12
    """Fewer inliers than these are none: they agree by chance."""

    seed: int = 0
    """Of the samples that RANSAC draws."""

    features: FeatureSettings = field(default_factory=FeatureSettings)
    """What is compared."""

    def __post_init__(self) -> None:
        require_number("ratio", self.ratio, lambda ratio: 0 < ratio <= 1, "above 0 and at most 1")
        require_number("tolerance", self.tolerance, lambda share: 0 < share < 1, "above 0 and below 1")
        require_int("least", self.least, least=4)
        require_int("seed", self.seed, least=0, most=2**31 - 1)
        if self.max_matches is not None:
            require_int("max_matches", self.max_matches)
        if self.geometry not in GEOMETRIES:
            raise BadSettings(f"geometry must be one of {', '.join(GEOMETRIES)}, found {self.geometry!r}")


@dataclass(frozen=True, eq=False)
class PictureMatches(Drawable):
    """Places of two pictures that show the same, the surest first."""

    first: Image
    """The first picture, as RGB."""

    second: Image
    """The second picture, as RGB."""

    first_points: NDArray[np.float64]
    """(M, 2) x and y in pixels of the first picture, from its upper left corner."""

    second_points: NDArray[np.float64]
    """(M, 2) where the same is in the second picture."""

    scores: NDArray[np.float64]
    """(M,) cosines of the features, -1 to 1."""

    inliers: NDArray[np.bool_]
    """(M,) which matches agree on one geometry."""

    geometry: Geometry
    """Which geometry was looked for."""

    matrix: NDArray[np.float64] | None
    """(3, 3) of that geometry; None where too few matches agree on one. With p = (x, y, 1) of the first
    picture and q of the second, a homography H has q ~ H p, a fundamental matrix F has q F p = 0."""

    def __len__(self) -> int:
        """M."""
        return len(self.scores)

    @property
    def homography(self) -> NDArray[np.float64] | None:
        """The matrix (3, 3), if it is a homography."""
        return self.matrix if self.geometry == "homography" else None

    def as_json(self) -> dict[str, Any]:
        """All of it but the pixels, as values of JSON; places to a hundredth of a pixel."""
        rows = zip(
            self.first_points.round(2).tolist(),
            self.second_points.round(2).tolist(),
            self.scores.round(4).tolist(),
            self.inliers.tolist(),
            strict=True,
        )
        return {
            "first_size": list(self.first.size),
            "second_size": list(self.second.size),
            "matches": len(self),
            "inliers": int(self.inliers.sum()),
            "geometry": self.geometry,
            "matrix": None if self.matrix is None else self.matrix.tolist(),
            "points": [
                {"first": first, "second": second, "score": score, "inlier": inlier}
                for first, second, score, inlier in rows
            ],
        }

    def draw(self) -> Figure:
        """The two pictures side by side with lines between their places: coloured inliers, faint others.

        Raises:
            MissingPackage: matplotlib is not installed.
        """
        require("matplotlib")
        from matplotlib import colormaps
        from matplotlib.collections import LineCollection

        # Both are drawn at one height; an axis of one picture high.
        widths = [picture.width / picture.height for picture in (self.first, self.second)]
        left = widths[0] + _GAP
        total = left + widths[1]
        figure, (axes,) = panels(1, 1, (_INCHES, _INCHES / total), 0)
        axes.set_axis_off()
        axes.imshow(np.asarray(shrunk(self.first)), extent=(0, widths[0], 1, 0))
        axes.imshow(np.asarray(shrunk(self.second)), extent=(left, total, 1, 0))
        axes.set(xlim=(0, total), ylim=(1, 0))
        first = self.first_points / self.first.height
        second = self.second_points / self.second.height + np.array([left, 0.0])
        for chosen, width, alpha in ((~self.inliers, 0.4, 0.35), (self.inliers, 0.9, 0.9)):
            rows = _spread(chosen, first)
            colours = colormaps["viridis"](first[rows, 1]) if chosen is self.inliers else _OUTLIER
            lines = np.stack([first[rows], second[rows]], axis=1)
            axes.add_collection(
                LineCollection(cast("Any", lines), colors=colours, linewidths=width, alpha=alpha)
            )
        return figure


def match_pictures(
    first: ImageSource,
    second: ImageSource,
    tower: ImageTextScorer | ImageTower,
    settings: MatchSettings | None = None,
) -> PictureMatches:
    """Find places of two pictures that show the same.

    Every place is compared with every other by the states of an image tower; those that are each other's
    nearest, and clearly so, are matches, and those that agree on one geometry are its inliers. No match is
    no error.

    Args:
        first: anything that :func:`magicap.images.reader.open_image` takes.
        second: likewise.
        tower: whose features are compared: a captioner's ``scorer``, or an :class:`ImageTower`.
        settings: what counts as a match; None: the default.

    Raises:
        BadImage: a picture cannot be read.
        BadModel: the tower does not show its patches.
        MissingPackage: OpenCV is not installed.
    """
    settings = settings or MatchSettings()
    require("cv2")
    pictures = open_image(first), open_image(second)
    features = [dense_features(tower, picture, settings.features) for picture in pictures]
    # within a patch of the tower, views see nearly the same
    pairs = mutual_nearest(features[0], features[1], settings.ratio, settings.features.shifts)
    kept = slice(settings.max_matches)
    points = pairs.first[kept], pairs.second[kept]
    tolerance = settings.tolerance * max(pictures[1].size)
    inliers, matrix = verified(*points, settings.geometry, tolerance, settings.least, settings.seed)
    return PictureMatches(*pictures, *points, pairs.scores[kept], inliers, settings.geometry, matrix)


def _spread(chosen: NDArray[np.bool_], places: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of those chosen, at most :data:`LINES`, evenly from the picture's top to its bottom."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.lexsort((places[rows, 0], places[rows, 1]))]
    return rows[np.linspace(0, len(rows) - 1, min(LINES, len(rows))).round().astype(np.intp)]
