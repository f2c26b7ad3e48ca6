"""What a classifier sees in a picture, as text vectors of class names: the class vector.

The class vector of a picture is the sum, over its likeliest classes, of the text vector of "a photo of a
NAME" weighed by the square root of the class's probability. It needs no captioned picture (compare ConSE,
Norouzi et al. 2014, arXiv 1312.5650, which averages word vectors by probability).

Shapes: B pictures, F pooled features of the image trunk, C classes, D the shared space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from magicap.errors import BadModel
from magicap.models.finite import require_finite, require_signal

CLASS_VECTOR_FILE = "class_vector.safetensors"
TOP = 10


class ClassVector(nn.Module):
    """Class vectors of pictures from pooled features, times a matrix that starts as the identity.

    Args:
        classifier: from pooled features (F) to C classes.
        names: (C, D) text vectors of the classes' names; their mean over classes is taken off.
        top: how many of the likeliest classes count.

    Raises:
        BadModel: there are not as many names as classes.
    """

    def __init__(self, classifier: nn.Linear, names: Tensor, top: int = TOP) -> None:
        super().__init__()
        if len(names) != classifier.out_features:
            raise BadModel(
                f"expected a name for each of {classifier.out_features} classes, found {len(names)}; "
                "give one name a class, in the classifier's order"
            )
        self.classifier = classifier
        self.names: Tensor
        self.register_buffer("names", names - names.mean(dim=0))
        self.matrix = nn.Linear(names.shape[1], names.shape[1], bias=False)
        nn.init.eye_(self.matrix.weight)
        self.top = min(top, len(names))

    def forward(self, pooled: Tensor) -> Tensor:
        """Class vectors (B, D), not of unit length, of pooled features (B, F); differentiable."""
        named = self.name(self.classifier(pooled).float().softmax(dim=-1))
        vectors: Tensor = self.matrix(named.to(self.matrix.weight.dtype))
        return vectors

    def name(self, probability: Tensor) -> Tensor:
        """(B, D) names of the likeliest classes, each times the root of its probability, of (B, C)."""
        likeliest, classes = probability.topk(self.top, dim=-1)
        return (likeliest.sqrt()[..., None] * self.names[classes].float()).sum(dim=-2)


class ProjectionWithClassVector(nn.Module):
    """Takes the place of an image tower's projection: what that gives and the class vector are added."""

    def __init__(self, projection: nn.Module, class_vector: ClassVector) -> None:
        super().__init__()
        self.projection, self.class_vector = projection, class_vector

    def forward(self, pooled: Tensor) -> Tensor:
        """Image vectors (B, D) before normalisation, of pooled features (B, F)."""
        vectors: Tensor = self.projection(pooled) + self.class_vector(pooled)
        return vectors


def attach_class_vector(model: Any, class_vector: ClassVector) -> None:
    """Add a class vector to an open_clip model, which then encodes pictures with it everywhere.

    Raises:
        BadModel: the image tower is no timm trunk under a projection, or is of another width.
    """
    visual = model.visual
    if not hasattr(visual, "trunk") or not hasattr(visual, "head"):
        raise BadModel(
            f"expected an image tower with a timm trunk and a projection, found {type(visual).__name__}; "
            "a class vector needs the pooled features between the two"
        )
    weight = next(visual.trunk.parameters())
    if visual.trunk.num_features != class_vector.classifier.in_features:
        raise BadModel(
            f"expected a classifier of {visual.trunk.num_features} features as the image trunk gives, "
            f"found {class_vector.classifier.in_features}"
        )
    visual.head = ProjectionWithClassVector(visual.head, class_vector.to(weight.device, weight.dtype))


def class_vector_of(model: Any) -> ClassVector | None:
    """The class vector of an open_clip model, None where it has none."""
    head = getattr(model.visual, "head", None)
    return head.class_vector if isinstance(head, ProjectionWithClassVector) else None


def split_weights(model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's weights under open_clip's own names, and those of its class vector, which may be none."""
    plain, of_class_vector = {}, {}
    projection, class_vector = "visual.head.projection.", "visual.head.class_vector."
    attached = class_vector_of(model) is not None
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().contiguous()
        if attached and name.startswith(class_vector):
            of_class_vector[name.removeprefix(class_vector)] = tensor
        elif attached and name.startswith(projection):
            plain[f"visual.head.{name.removeprefix(projection)}"] = tensor
        else:
            plain[name] = tensor
    return plain, of_class_vector


def load_class_vector(path: Path) -> ClassVector:
    """Read the file that a scorer's ``save_pretrained`` wrote.

    Raises:
        BadModel: it is damaged or of another kind.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            top = int((file.metadata() or {})["top"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        classes, features = state["classifier.weight"].shape
        names = state["names"].float()
        class_vector = ClassVector(nn.Linear(features, classes), names, top)
        class_vector.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (OSError, KeyError, ValueError, RuntimeError, MemoryError, SafetensorError) as error:
        raise BadModel(f"{path} holds no class vector that can be read: {error}") from error
    what = f"class vector {str(path)!r}"
    require_finite(class_vector, what)
    with torch.inference_mode():
        require_signal(class_vector(torch.ones(1, features)), what)
    return class_vector
