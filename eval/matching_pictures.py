"""Match pictures with warped copies of themselves, by ``magicap match`` and by ORB.

    python eval/matching_pictures.py --images $MAGICAP_DATA/flickr8k/images-test.tar --pictures 100

Each picture is seen through a homography that moves its corners by up to ``--corners`` of its sides. With
``--altered`` the copy is blurred, darkened and noisy too. ORB is OpenCV's, matched in the usual way: mutual
nearest neighbours by the Hamming distance, and a ratio test. The geometry of both is found alike.

Figures are means over pictures; the share of pictures whose homography moves the corners to within 16 pixels
of where they belong, on average; and the share of pairs of different pictures (a quarter as many) for which a
homography is found: it should be none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from transformers import HfArgumentParser

from magicap.captioners.load import load_scorer
from magicap.captioners.presets import DEFAULT
from magicap.data.pictures import ImageFiles
from magicap.errors import MagicapError
from magicap.images.reader import open_image
from magicap.matching.features import FeatureSettings, ImageTower
from magicap.matching.geometry import verified
from magicap.matching.pictures import MatchSettings, match_pictures

Array = NDArray[np.float64]
Matcher = Callable[[Image.Image, Image.Image], tuple[Array, Array, NDArray[np.bool_], Array | None]]
DISTANCES = (8, 16)
ORB_RATIO = 0.8


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    pictures: int = field(default=100, metadata={"help": "how many are drawn from them"})
    corners: float = field(
        default=0.2, metadata={"help": "how far corners move at most, as a share of a side"}
    )
    altered: bool = field(default=False, metadata={"help": "blur, darken and roughen the copies, too"})
    orb_features: int = field(default=2000, metadata={"help": "the most that ORB may find"})
    ratio: float = field(default=MatchSettings.ratio, metadata={"help": "of the ratio test"})
    depth: list[float] = field(
        default_factory=lambda: [FeatureSettings.depth], metadata={"help": "which blocks, a row each"}
    )
    shifts: list[int] = field(
        default_factory=lambda: [FeatureSettings.shifts], metadata={"help": "views a side, a row each"}
    )
    preset: str = field(default=DEFAULT, metadata={"help": "whose scorer's tower is used"})
    seed: int = field(default=0, metadata={"help": "of pictures, homographies and noise"})


@dataclass(frozen=True)
class Pair:
    """A picture and its warped copy."""

    picture: Image.Image
    copy: Image.Image
    homography: Array


def main(config: Config) -> None:
    pairs = make_pairs(config)
    tower = ImageTower.of_scorer(load_scorer(config.preset))
    shares = "within 8 px | within 16 px"
    print(f"| features | matches | {shares} | inliers | {shares} | homography | of different pictures | s |")
    print("|---" + "|--:" * 9 + "|")
    print_row("ORB", pairs, orb(config.orb_features))
    for depth in config.depth:
        for shifts in config.shifts:
            settings = MatchSettings(ratio=config.ratio, features=FeatureSettings(depth, shifts))
            print_row(
                f"{config.preset}, depth {depth:g}, {shifts} x {shifts} views", pairs, ours(tower, settings)
            )


def make_pairs(config: Config) -> list[Pair]:
    """Some pictures with warped copies, the same for the same seed."""
    generator = np.random.default_rng(config.seed)
    pairs = []
    with ImageFiles(config.images) as files:
        names = sorted(files)
        for index in generator.choice(len(names), config.pictures, replace=False):
            picture = open_image(files.read(names[index]))
            size = np.array(picture.size, dtype=np.float32)
            corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float32) * size
            moves = generator.uniform(-config.corners, config.corners, (4, 2)) * size
            homography = np.asarray(
                cv2.getPerspectiveTransform(corners, (corners + moves).astype(np.float32)), dtype=np.float64
            )
            pairs.append(Pair(picture, altered(warped(picture, homography), config, generator), homography))
    return pairs


def warped(picture: Image.Image, homography: Array) -> Image.Image:
    """The picture through a homography, in a frame of its own size; black beside it."""
    back = np.linalg.inv(homography)
    coefficients = (back / back[2, 2]).ravel()[:8].tolist()
    return picture.transform(
        picture.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )


def altered(picture: Image.Image, config: Config, generator: np.random.Generator) -> Image.Image:
    """A blurred (1.5 pixels), darker (gamma 2) and noisy (5 %) picture, if that is asked for."""
    if not config.altered:
        return picture
    levels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.5)), dtype=np.float64) / 255
    noisy = levels**2 + generator.normal(0, 0.05, levels.shape)
    return Image.fromarray((noisy.clip(0, 1) * 255).round().astype(np.uint8))


def ours(tower: ImageTower, settings: MatchSettings) -> Matcher:
    def match(
        first: Image.Image, second: Image.Image
    ) -> tuple[Array, Array, NDArray[np.bool_], Array | None]:
        matches = match_pictures(first, second, tower, settings)
        return matches.first_points, matches.second_points, matches.inliers, matches.homography

    return match


def orb(features: int) -> Matcher:
    detector, settings = cv2.ORB.create(features), MatchSettings()
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING)

    def match(
        first: Image.Image, second: Image.Image
    ) -> tuple[Array, Array, NDArray[np.bool_], Array | None]:
        greys = [np.asarray(picture.convert("L")) for picture in (first, second)]
        (keys, codes), (other_keys, other_codes) = (detector.detectAndCompute(grey, None) for grey in greys)
        pairs = []
        if codes is not None and other_codes is not None:
            back = {row[0].queryIdx: row[0].trainIdx for row in matcher.knnMatch(other_codes, codes, 1)}
            pairs = [
                row[0]
                for row in matcher.knnMatch(codes, other_codes, 2)
                if len(row) == 2
                and row[0].distance < ORB_RATIO * row[1].distance
                and back[row[0].trainIdx] == row[0].queryIdx
            ]
        points = np.array([keys[pair.queryIdx].pt for pair in pairs], dtype=np.float64).reshape(-1, 2)
        others = np.array([other_keys[pair.trainIdx].pt for pair in pairs], dtype=np.float64).reshape(-1, 2)
        tolerance = settings.tolerance * max(second.size)
        return (
            points,
            others,
            *verified(points, others, "homography", tolerance, settings.least, settings.seed),
        )

    return match


def print_row(name: str, pairs: list[Pair], matcher: Matcher) -> None:
    """Means over pictures; shares of matches over those pictures that have any."""
    rows, start = [], time.perf_counter()
    for pair in pairs:
        first, second, inliers, estimate = matcher(pair.picture, pair.copy)
        errors = np.linalg.norm(moved(first, pair.homography) - second, axis=1)
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float64) * pair.picture.size
        is_right = estimate is not None and bool(
            np.linalg.norm(moved(corners, estimate) - moved(corners, pair.homography), axis=1).mean()
            < DISTANCES[1]
        )
        shares = [share(chosen, distance) for chosen in (errors, errors[inliers]) for distance in DISTANCES]
        rows.append([len(errors), *shares[:2], inliers.sum(), *shares[2:], is_right])
    seconds = (time.perf_counter() - start) / len(pairs)
    others = list(zip(pairs, [*pairs[1:], pairs[0]], strict=True))[::4]
    in_vain = np.mean([matcher(one.picture, other.picture)[3] is not None for one, other in others])
    matches, *within, homography = np.nanmean(rows, axis=0)
    shown = [f"{100 * value:.1f}" for value in (*within[:2], *within[3:], homography, in_vain)]
    shown.insert(2, f"{within[2]:.0f}")
    print(f"| {name} | {matches:.0f} | {' | '.join(shown)} | {seconds:.2f} |", flush=True)


def moved(points: Array, homography: Array) -> Array:
    """(M, 2) where a homography takes points."""
    ends = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return np.asarray(ends[:, :2] / ends[:, 2:])


def share(errors: Array, distance: float) -> float:
    """The share of errors below a distance; NaN where there are none."""
    return float((errors < distance).mean()) if len(errors) else float("nan")


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"matching_pictures.py: {error}")
