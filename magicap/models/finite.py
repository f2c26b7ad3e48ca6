"""Weights and vectors that hold numbers: what is broken is refused by name, before anything is made of it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from magicap.errors import BadImage, BadModel
from magicap.images.reader import describe_source
from magicap.results import BROKEN

_TOLERANCE = 5e-4  # of a length: bfloat16 models give vectors that are not quite of length one


def require_finite(module: nn.Module, what: str, *, besides: Collection[str] = ()) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        what: the model, for the message: ``scorer 'folder'``.
        besides: names of what may hold them, as before it was first set.

    Raises:
        BadModel: there are such weights; the message names the first.
    """
    for name, weight in module.state_dict().items():
        # NaN and infinity pass on to a sum, which takes a fifth of the time; a sum alone may overflow.
        if name not in besides and not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all():
            raise BadModel(
                f"expected finite weights of the {what}, found NaN or infinity in {name}; "
                "fetch or write it anew"
            )


def are_unit(vectors: Tensor) -> Tensor:
    """Which of vectors (..., D) are of length one, as booleans (...); none with NaN or infinity is."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return (lengths - 1).abs() <= _TOLERANCE


def broken_image(image: object, reason: str = "vectors that are not of length one") -> BadImage:
    """What to raise, or to report, of a picture for which the models give no usable numbers."""
    return BadImage(
        BROKEN,
        f"expected finite numbers of the models for this picture, found {reason}; leave it out, or compute "
        "in float32",
        source=describe_source(image),
    )


def require_unit(vectors: Tensor, what: str) -> None:
    """Refuse a model whose vectors (..., D) for a probe are not of length one.

    Args:
        what: the model or its part, for the message.

    Raises:
        BadModel: a vector is zero, NaN or infinite.
    """
    if not bool(are_unit(vectors).all()):
        raise _broken("vectors of length one", vectors, what)


def require_signal(output: Tensor, what: str) -> None:
    """Refuse a part whose output for a probe is not finite, or zero throughout.

    Raises:
        BadModel: it is.
    """
    if not bool(torch.isfinite(output).all()) or not bool(output.any()):
        raise _broken("finite numbers other than zero", output, what)


def _broken(expected: str, output: Tensor, what: str) -> BadModel:
    is_finite = bool(torch.isfinite(output).all())
    return BadModel(
        f"expected {expected} of the {what}, found {'zeros' if is_finite else 'NaN or infinity'}; "
        "fetch or write it anew"
    )
