"""A detector of everyday things: YOLOX-Nano, 0.9 million parameters, trained by others on COCO's 80 classes.

Megvii published it with its weights under Apache-2.0; the network is written anew here, the weights are a
file of the user's.

Shapes: N places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from magicap.errors import BadModel, ModelNotFound
from magicap.images.region import Box, outer_box
from magicap.models.finite import require_finite
from magicap.models.loading import explain_loading_errors
from magicap.regions.proposals import MIN_AREA, Proposal, area, without_overlaps
from magicap.regions.yolox import SIDE, Convolution, YoloxNetwork

CLASSES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
    "backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball "
    "bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, "
    "spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, "
    "couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, "
    "microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, "
    "toothbrush"
).split(", ")
"""What it knows, in the order of its scores."""

_GREY = 114  # what stands beside a picture in the square that the network reads


class YoloxNano:
    """Finds the things of :data:`CLASSES`.

    Args:
        weights: a safetensors file of the tensors of the released ``yolox_nano.onnx`` under their names
            there: numbers for hidden convolutions, each with its bias behind it, which rise in the order in
            which they run, and ``head.{cls,reg,obj}_preds.{0,1,2}.{weight,bias}``. Batch norm is folded in.
        score_threshold: score below which a box is none, 0 to 1.

    Attributes:
        network: what computes boxes and scores.

    Raises:
        ModelNotFound: there is no such file.
        BadModel: its weights are those of another network, or damaged.
    """

    def __init__(self, weights: str | Path, score_threshold: float = 0.3) -> None:
        self.network, self.score_threshold = _read_network(Path(weights)), score_threshold

    @torch.inference_mode()
    def scores(self, picture: Image) -> Tensor:
        """(N, 80) of each place of an RGB picture and each of :data:`CLASSES`, 0 to 1."""
        scores: Tensor = self.network(_letterboxed(picture, SIDE / max(picture.size))[None])[1][0]
        return scores

    @torch.inference_mode()
    def propose(self, picture: Image, max_regions: int) -> list[Proposal]:
        """At most so many boxes of an RGB picture, the surest first, with the names of their classes."""
        scale = SIDE / max(picture.size)
        corners, all_scores = (output[0] for output in self.network(_letterboxed(picture, scale)[None]))
        scores, classes = all_scores.max(dim=1)  # (N,)
        proposals: dict[Box, Proposal] = {}
        for place in scores.argsort(descending=True).tolist():
            if scores[place] < self.score_threshold:
                break
            box = outer_box((corners[place] / scale).tolist(), picture.size)
            if area(box) >= MIN_AREA * picture.width * picture.height:
                proposals.setdefault(box, Proposal(box, float(scores[place]), CLASSES[int(classes[place])]))
        return [proposals[box] for box in without_overlaps(list(proposals))[:max_regions]]


def _read_network(path: Path) -> YoloxNetwork:
    if not path.is_file():
        raise ModelNotFound(f"no detector at {str(path)!r}: expected a safetensors file of YOLOX-Nano")
    with explain_loading_errors("detector", str(path)):
        from safetensors.torch import load_file

        tensors = load_file(path)
    network = YoloxNetwork()
    convolutions = [part.conv for part in network.modules() if isinstance(part, Convolution)]
    parameters: list[Any] = [weights for conv in convolutions for weights in (conv.weight, conv.bias)]
    values = [tensors.pop(name) for name in sorted(filter(str.isdigit, tensors), key=int)]
    for number, level in enumerate(network.levels):
        for kind, layer in (("cls", level.classes), ("reg", level.box), ("obj", level.objectness)):
            parameters += [layer.weight, layer.bias]
            names = [f"head.{kind}_preds.{number}.{part}" for part in ("weight", "bias")]
            values += [tensors.pop(name) for name in names if name in tensors]
    if tensors or [weights.shape for weights in parameters] != [tensor.shape for tensor in values]:
        raise BadModel(
            f"expected the weights of YOLOX-Nano in {str(path)!r}, found those of another network; "
            "name the right file"
        )
    with torch.no_grad():
        for weights, tensor in zip(parameters, values, strict=True):
            weights.copy_(tensor)
    require_finite(network, f"detector {str(path)!r}")
    return network.requires_grad_(False).eval()


def _letterboxed(picture: Image, scale: float) -> Tensor:
    """(3, 416, 416) of an RGB picture, in the upper left corner: blue, green and red, 0 to 255."""
    width, height = (max(1, int(side * scale)) for side in picture.size)
    pixels = np.full((SIDE, SIDE, 3), _GREY, dtype=np.float32)
    pixels[:height, :width] = np.asarray(picture.resize((width, height), Resampling.BILINEAR))
    return torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
