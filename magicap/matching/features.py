"""Dense local features: the states of an image tower's patches, on a grid finer than the tower's own.

The tower reads a picture several times, shifted by parts of a patch, and the grids of all these views
interleave into one.

Shapes: V views, L = rows * columns places, W width of the tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch import Tensor

from magicap.checks import require_int, require_number
from magicap.errors import BadModel
from magicap.images.reader import ImageSource, open_image
from magicap.images.transform import ImageTransform
from magicap.models.fine_grained.local_features import patch_states, require_patches
from magicap.models.loading import explain_loading_errors
from magicap.models.scorer import ImageTextScorer

_FLAT = 1e-4  # length, before scaling, of a state that is that of an empty picture
_BATCH = 16  # views at a time


@dataclass(frozen=True)
class FeatureSettings:
    """What a local feature is read from."""

    depth: float = 0.33
    """Which block's states are read, as a share of all blocks: early ones know where, late ones know what."""

    shifts: int = 4
    """Views a side: the grid is so many times finer than the tower's; the time grows by its square."""

    texture: float = 2.0
    """Places around which the grey levels, 0 to 255, have a smaller standard deviation are left out: flat
    areas look the same everywhere."""

    def __post_init__(self) -> None:
        require_number("depth", self.depth, lambda share: 0 < share <= 1, "above 0 and at most 1")
        require_int("shifts", self.shifts, most=8)
        require_number("texture", self.texture, lambda level: level >= 0, "at least 0")


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """The local features of one picture."""

    vectors: Tensor
    """(rows, columns, W) unit vectors; zero where there is nothing to see."""

    x: NDArray[np.float64]
    """(columns,) the middles of the places, in pixels of the picture from its left edge."""

    y: NDArray[np.float64]
    """(rows,) likewise from its upper edge."""

    size: tuple[int, int]
    """Width and height of the picture, in pixels."""

    @property
    def places(self) -> NDArray[np.float64]:
        """(L, 2) x and y of all places, row by row."""
        return np.stack(np.meshgrid(self.x, self.y), axis=-1).reshape(-1, 2)

    @property
    def seen(self) -> Tensor:
        """(rows, columns) whether there is anything to see."""
        return self.vectors.any(dim=-1)


class ImageTower:
    """A network that shows its patches, and how pictures are prepared for it.

    Args:
        network: with ``forward_intermediates``, as networks of timm and open_clip have it.
        transform: size and normalisation of what it reads. Pictures are squeezed into this size, whatever
            the transform's own way: every part of a picture can be matched.

    Raises:
        BadModel: it does not show its patches.
    """

    def __init__(self, network: Any, transform: ImageTransform) -> None:
        self.network, self.transform = require_patches(network), transform

    @classmethod
    def of_scorer(cls, scorer: ImageTextScorer) -> ImageTower:
        """That of a scorer.

        Raises:
            BadModel: it does not show its patches.
        """
        return cls(scorer.model.visual, scorer.transform)

    @classmethod
    def of_timm(cls, name: str, device: str | torch.device = "cpu", *, pretrained: bool = True) -> ImageTower:
        """Any network of timm that shows its features, with its published weights.

        Args:
            name: timm's, such as ``vit_small_patch14_dinov2``.
            pretrained: False: random weights, for tests.

        Raises:
            ModelNotFound: timm does not know it, or its weights can neither be fetched nor are cached.
            BadModel: it cannot be made, or does not show its features.
        """
        with explain_loading_errors("timm network", name):
            import timm
            from timm.data.config import resolve_data_config

            network: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
            config: dict[str, Any] = resolve_data_config(model=network)
        height, width = config["input_size"][1:]
        transform = ImageTransform((height, width), mean=config["mean"], std=config["std"])
        return cls(network.eval().to(device), transform)

    @torch.inference_mode()
    def states(self, pixels: Tensor, depth: float) -> Tensor:
        """(V, W, rows, columns) of views (V, 3, H, W), bytes; ``depth`` as of :class:`FeatureSettings`."""
        parameter = next(self.network.parameters())
        batches = [
            patch_states(
                self.network, self.transform.normalise(batch.to(parameter.device)).to(parameter), depth
            )
            for batch in pixels.split(_BATCH)
        ]
        states = torch.cat(batches)
        if not states.isfinite().all():
            raise BadModel("expected finite states of patches, found others; take another network")
        return states


def dense_features(
    tower: ImageTower | ImageTextScorer, image: ImageSource, settings: FeatureSettings | None = None
) -> DenseFeatures:
    """The local features of one picture.

    Args:
        tower: whose states are read: an :class:`ImageTower`, or that of a scorer.
        image: anything that :func:`magicap.images.reader.open_image` takes.
        settings: which states, and how densely; None: the default.

    Raises:
        BadImage: the picture cannot be read.
        BadModel: the tower does not show its patches.
    """
    settings = settings or FeatureSettings()
    if isinstance(tower, ImageTextScorer):
        tower = ImageTower.of_scorer(tower)
    picture = open_image(image)
    height, width = tower.transform.size
    squeezed = np.asarray(picture.resize((width, height), Resampling.BICUBIC))
    empty = np.broadcast_to(squeezed.mean(axis=(0, 1)).round().astype(np.uint8), squeezed.shape)
    background = tower.states(_as_pixels([empty]), settings.depth)
    rows, columns = background.shape[2:]
    patch = height / rows, width / columns
    down, right = (_offsets(side, settings.shifts) for side in patch)
    views = [_shifted(squeezed, y, x, ceil(max(patch))) for y in down for x in right]
    # What the tower says of an empty picture is where the patch lies, not what it shows.
    states = tower.states(_as_pixels(views), settings.depth) - background
    whole = states.unflatten(0, (len(down), len(right))).permute(3, 0, 4, 1, 2).flatten(2, 3).flatten(0, 1)
    ys = np.add.outer((np.arange(rows) + 0.5) * patch[0], down).ravel()
    xs = np.add.outer((np.arange(columns) + 0.5) * patch[1], right).ravel()
    seen = _textured(squeezed, ys, xs, patch, settings.texture) & (whole.norm(dim=-1) > _FLAT).cpu()
    mean = whole[seen].mean(dim=0) if seen.any() else 0
    vectors = F.normalize((whole - mean) * seen[..., None].to(whole), dim=-1)
    return DenseFeatures(vectors, xs * picture.width / width, ys * picture.height / height, picture.size)


def _as_pixels(views: Sequence[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(views).transpose(0, 3, 1, 2)))


def _offsets(patch: float, shifts: int) -> list[int]:
    """By how many pixels views are shifted, so that the middles of their patches lie evenly."""
    step = patch / shifts
    return [round(step * shift - (patch - step) / 2) for shift in range(shifts)]


def _shifted(pixels: NDArray[np.uint8], y: int, x: int, margin: int) -> NDArray[np.uint8]:
    """What a window sees that is moved down and right; a mirror stands around the picture."""
    height, width = pixels.shape[:2]
    mirrored = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    return mirrored[margin + y : margin + y + height, margin + x : margin + x + width]


def _textured(
    pixels: NDArray[np.uint8],
    ys: NDArray[np.float64],
    xs: NDArray[np.float64],
    patch: tuple[float, float],
    least: float,
) -> Tensor:
    """(rows, columns) whether the grey levels of the patch around a place differ by at least so much."""
    grey = torch.from_numpy(pixels.astype(np.float64).mean(axis=2))
    sums = F.pad(torch.stack([grey, grey**2]).cumsum(1).cumsum(2), (1, 0, 1, 0))
    (top, bottom), (left, right) = (
        (
            torch.from_numpy((middle - side / 2).round().clip(0, extent - 1)).long(),
            torch.from_numpy((middle + side / 2).round().clip(1, extent)).long(),
        )
        for middle, side, extent in zip((ys, xs), patch, pixels.shape[:2], strict=True)
    )
    boxes = sums[:, bottom][:, :, right] - sums[:, top][:, :, right]
    boxes = boxes - sums[:, bottom][:, :, left] + sums[:, top][:, :, left]
    mean, square = boxes / ((bottom - top)[:, None] * (right - left))
    textured: Tensor = square - mean**2 >= max(least, 0.1) ** 2
    return textured
