"""Any timm network as a grid of features: what the decoders look at.

Shapes: B pictures, L = h * w locations, D features of each.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from magicap.errors import BadModel
from magicap.images.reader import ImageSource
from magicap.images.transform import ImageTransform, prepare
from magicap.models.backbone import keep_batch_statistics, load_weights


@dataclass(frozen=True)
class GridConfig:
    """Which network, and what pictures it reads."""

    model: str = "mobilenetv2_100"
    """timm's name."""

    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of ``timm.create_model``, such as ``pad_type``."""

    size: int = 224
    """Side in pixels of the square that a picture is squeezed into."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Subtracted from each channel, 0 to 1."""

    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """What each channel is divided by then."""

    interpolation: str = "bicubic"
    """How pictures are resized."""

    @property
    def preprocess(self) -> dict[str, Any]:
        """open_clip's ``preprocess_cfg``."""
        pixels = {key: value for key, value in asdict(self).items() if key not in ("model", "options")}
        return {**pixels, "mode": "RGB", "resize_mode": "squash"}


class GridEncoder(nn.Module):
    """Pictures to grids (B, L, D), by the last feature map or the patch tokens of a timm network.

    Raises:
        BadModel: timm knows no such network, or it gives no grid.
    """

    def __init__(self, config: GridConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = ImageTransform.of(config.preprocess)
        try:
            network: Any = timm.create_model(config.model, num_classes=0, **config.options)
        except (RuntimeError, TypeError, ValueError) as error:
            raise BadModel(f"timm cannot make the network {config.model!r}: {error}") from error
        self.network = network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        with torch.no_grad():
            blank = torch.zeros(1, 3, config.size, config.size)
            _, *extent, self.width = self.eval().feature_map(blank).shape
        self.extent = extent[0], extent[1]
        """h and w: how many locations lie below each other, and side by side."""

    @property
    def locations(self) -> int:
        """L."""
        return self.extent[0] * self.extent[1]

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size), bytes or normalised, to (B, L, D); locations in reading order."""
        normalised = self.transform.normalise(pixels)
        return self.feature_map(normalised.to(next(self.network.parameters()).dtype)).flatten(1, 2)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size) to (B, h, w, D)."""
        features: Tensor = self.network.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        if features.ndim == 3:
            patches: Tensor = features[:, getattr(self.network, "num_prefix_tokens", 0) :]
            grid: Tensor = patches.unflatten(1, self.extent_of(patches.shape[1]))
            return grid
        if features.ndim == 4 and features.shape[1] == self.network.num_features:
            return features.permute(0, 2, 3, 1)
        if features.ndim == 4 and features.shape[3] == self.network.num_features:
            return features
        raise BadModel(f"{self.config.model!r} gives no grid, but features of shape {tuple(features.shape)}")

    def extent_of(self, patches: int) -> tuple[int, int]:
        """Rows and columns of so many patches; one row if the network does not say and it is no square."""
        h, w = getattr(getattr(self.network, "patch_embed", None), "grid_size", None) or (0, 0)
        if h * w == patches:
            return h, w
        side = isqrt(patches)
        return (side, side) if side * side == patches else (1, patches)

    def train(self, mode: bool = True) -> GridEncoder:
        """As any module's, but batch norm keeps the statistics it came with: batches here are small."""
        super().train(mode)
        keep_batch_statistics(self)
        return self

    def pixels(self, image: ImageSource) -> Tensor:
        """One picture as bytes (3, size, size).

        Raises:
            BadImage: it cannot be read.
        """
        return torch.from_numpy(prepare(image, self.transform).pixels)


def load_backbone(encoder: GridEncoder, path: str | Path) -> None:
    """Take over trained weights from a file of any form that :func:`load_weights` reads.

    Raises:
        BadModel: unreadable, or weights of another network.
    """
    load_weights(encoder.network, encoder.config.model, path)
