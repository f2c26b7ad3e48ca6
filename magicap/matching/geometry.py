"""One geometry that most matches agree on, found by OpenCV's RANSAC."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from magicap.extras import require

Geometry = Literal["homography", "fundamental"]
"""``"homography"``: planes and turned cameras; ``"fundamental"``: any still scene from two places."""

_FEWEST: dict[str, int] = {"homography": 4, "fundamental": 8}
_ROUNDS, _CONFIDENCE = 10_000, 0.999


def verified(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    geometry: Geometry,
    tolerance: float,
    least: int,
    seed: int,
) -> tuple[NDArray[np.bool_], NDArray[np.float64] | None]:
    """Which of M matches agree on one geometry, (M,), and its matrix (3, 3); none and None where few do.

    Args:
        first: (M, 2) places in the first picture.
        second: (M, 2) places in the second picture.
        geometry: what is looked for.
        tolerance: largest error of a match that agrees, in pixels of the second picture.
        least: fewer matches than these agree by chance.
        seed: of the samples that are drawn.

    Raises:
        MissingPackage: OpenCV is not installed.
    """
    cv2 = require("cv2")
    nothing: NDArray[np.bool_] = np.zeros(len(first), dtype=bool)
    if len(first) < max(least, _FEWEST[geometry]):
        return nothing, None
    # MAGSAC++ (Barath et al. 2020): RANSAC that hardly depends on the tolerance.
    settings: Any = cv2.UsacParams()
    settings.score, settings.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_SIGMA
    settings.threshold, settings.randomGeneratorState = tolerance, seed
    settings.maxIterations, settings.confidence = _ROUNDS, _CONFIDENCE
    find = cv2.findHomography if geometry == "homography" else cv2.findFundamentalMat
    matrix, mask = find(first, second, settings)
    if matrix is None or mask is None or not np.isfinite(matrix).all():
        return nothing, None
    inliers = np.asarray(mask, dtype=bool).reshape(-1)
    if inliers.sum() < least:
        return nothing, None
    return inliers, np.asarray(matrix, dtype=np.float64)
