"""The network of YOLOX-Nano: a backbone, paths up and down between three grids, and predictions on each.

Ge et al. 2021, "YOLOX: Exceeding YOLO Series in 2021", arXiv 2107.08430. Batch norm is folded into the
convolutions. Modules are declared in the order in which they run: so are the weights of the released file.

Shapes: B pictures, N = 52 * 52 + 26 * 26 + 13 * 13 places.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 416
"""Of the square of pixels that it reads."""

_CLASSES, _WIDTH = 80, 64  # of the predictions, and of the layers before them


class Convolution(nn.Module):
    """A convolution and its activation (SiLU)."""

    def __init__(self, inputs: int, outputs: int, side: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs, rows, columns) of (B, inputs, rows, columns)."""
        return F.silu(self.conv(x))


class _Separable(nn.Sequential):
    """A convolution channel by channel, then one place by place."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(Convolution(inputs, inputs, 3, stride, groups=inputs), Convolution(inputs, outputs))


class _CrossStage(nn.Module):
    """Bottlenecks beside a short cut (cross-stage partial)."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, *, residual: bool = False) -> None:
        super().__init__()
        half, self.residual = outputs // 2, residual
        self.main, self.side = Convolution(inputs, half), Convolution(inputs, half)
        self.blocks = nn.ModuleList(
            nn.Sequential(Convolution(half, half), _Separable(half, half)) for _ in range(depth)
        )
        self.merge = Convolution(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        main, side = self.main(x), self.side(x)
        for block in self.blocks:
            main = block(main) + main if self.residual else block(main)
        merged: Tensor = self.merge(torch.cat([main, side], dim=1))
        return merged


class _SpatialPyramid(nn.Module):
    """The largest values around each place, at three sizes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.behind = Convolution(width, width // 2), Convolution(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        largest = [F.max_pool2d(x, side, 1, side // 2) for side in (5, 9, 13)]
        pooled: Tensor = self.behind(torch.cat([x, *largest], dim=1))
        return pooled


class _Backbone(nn.Module):
    """Grids at strides of 8, 16 and 32 pixels, each of which knows the others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(12, 16, 3)
        self.stage2 = nn.Sequential(_Separable(16, 32, 2), _CrossStage(32, 32, residual=True))
        self.stage3 = nn.Sequential(_Separable(32, 64, 2), _CrossStage(64, 64, 3, residual=True))
        self.stage4 = nn.Sequential(_Separable(64, 128, 2), _CrossStage(128, 128, 3, residual=True))
        self.stage5 = nn.Sequential(_Separable(128, 256, 2), _SpatialPyramid(256), _CrossStage(256, 256))
        self.lateral5, self.up4 = Convolution(256, 128), _CrossStage(256, 128)
        self.lateral4, self.up3 = Convolution(128, 64), _CrossStage(128, 64)
        self.from3, self.down4 = _Separable(64, 64, 2), _CrossStage(128, 128)
        self.from4, self.down5 = _Separable(128, 128, 2), _CrossStage(256, 256)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        quarters = [pixels[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        grid3 = self.stage3(self.stage2(self.stem(torch.cat(quarters, dim=1))))
        grid4 = self.stage4(grid3)
        lateral5 = self.lateral5(self.stage5(grid4))
        lateral4 = self.lateral4(self.up4(torch.cat([_doubled(lateral5), grid4], dim=1)))
        out3 = self.up3(torch.cat([_doubled(lateral4), grid3], dim=1))
        out4 = self.down4(torch.cat([self.from3(out3), lateral4], dim=1))
        return [out3, out4, self.down5(torch.cat([self.from4(out4), lateral5], dim=1))]


class _Level(nn.Module):
    """The predictions on one grid."""

    def __init__(self, inputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.stem = Convolution(inputs, _WIDTH)
        self.of_classes = nn.Sequential(_Separable(_WIDTH, _WIDTH), _Separable(_WIDTH, _WIDTH))
        self.of_boxes = nn.Sequential(_Separable(_WIDTH, _WIDTH), _Separable(_WIDTH, _WIDTH))
        self.classes = nn.Conv2d(_WIDTH, _CLASSES, 1)
        self.box, self.objectness = nn.Conv2d(_WIDTH, 4, 1), nn.Conv2d(_WIDTH, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, places, 4) and scores (B, places, classes)."""
        x = self.stem(x)
        of_boxes = self.of_boxes(x)
        scores = self.objectness(of_boxes).sigmoid() * self.classes(self.of_classes(x)).sigmoid()
        box = self.box(of_boxes)
        rows, columns = torch.meshgrid(*map(torch.arange, box.shape[2:]), indexing="ij")
        middles = (box[:, :2] + torch.stack([columns, rows]).to(box)) * self.stride
        halves = box[:, 2:].exp() * self.stride / 2
        boxes = torch.cat([middles - halves, middles + halves], dim=1)
        return boxes.flatten(2).transpose(1, 2), scores.flatten(2).transpose(1, 2)


class YoloxNetwork(nn.Module):
    """Boxes and scores of pictures; its weights are still to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Backbone()
        self.levels: Any = nn.ModuleList([_Level(64, 8), _Level(128, 16), _Level(256, 32)])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores on all grids.

        Args:
            pixels: (B, 3, 416, 416): blue, green and red, 0 to 255.

        Returns:
            Left, top, right and bottom (B, N, 4) in these pixels, and a score a class (B, N, 80), 0 to 1.
        """
        outputs = [level(grid) for level, grid in zip(self.levels, self.backbone(pixels), strict=True)]
        return torch.cat([boxes for boxes, _ in outputs], 1), torch.cat([scores for _, scores in outputs], 1)


def _doubled(grid: Tensor) -> Tensor:
    return F.interpolate(grid, scale_factor=2.0)
