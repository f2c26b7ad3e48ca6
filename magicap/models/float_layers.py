"""Linear layers in the precision of their weights: prepacked for oneDNN where that is faster.

A product of few rows spends half of its time on laying out the weights anew. oneDNN takes weights that were
laid out once (prepacked), through the operators that PyTorch's own compiler uses in a frozen graph. The
numbers are those of ``torch.nn.functional.linear`` within rounding.

Shapes: W width of an attention.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_BYTES = 2 << 30
"""Of prepacked weights of one model; what is more stays as it is."""

_TOLERANCE = 1e-4  # of sums of sixteen products near one
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Activation:
    """A function of each number, and whether oneDNN can compute it with the product before it."""

    function: Callable[[Tensor], Tensor]

    algorithm: str | None = None
    """Of oneDNN's GELU; None for other functions, which are computed by themselves."""

    def __call__(self, x: Tensor) -> Tensor:
        """The function itself."""
        return self.function(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


GELU, GELU_TANH = Activation(F.gelu, "none"), Activation(_gelu_tanh, "tanh")
RELU = Activation(F.relu)  # oneDNN's makes a zero of NaN


class FloatLayers:
    """Products with the linear layers of one model.

    These are ``nn.Linear``, transformers' ``Conv1D``, and the in-projection of ``nn.MultiheadAttention``.
    Weights in float32 are prepacked at their first product in inference mode on an x86 processor, and anew
    when they have changed; changes in place through ``.data`` go unseen.
    """

    def __init__(self) -> None:
        """Of layers that each product names."""
        self._weights: dict[tuple[nn.Module, str], _Prepacked] = {}

    def __reduce__(self) -> tuple[type[FloatLayers], tuple[()]]:
        return FloatLayers, ()  # a copy is for other layers

    @property
    def prepacked_bytes(self) -> int:
        """What prepacked weights take, beside the weights themselves."""
        return sum(one.bytes for one in self._weights.values())

    def product(self, x: Tensor, layer: Any, activation: Activation | None = None) -> Tensor:
        """(..., out) of (..., in), with the activation of it."""
        return self._product(x, layer, "", *_weight_and_bias(layer), activation)

    def queries(self, x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
        """(..., W) queries of (..., W) by an attention's in-projection."""
        width, weight, bias = attention.embed_dim, attention.in_proj_weight, attention.in_proj_bias
        return self._product(x, attention, "queries", weight[:width], bias[:width])

    def keys_and_values(self, x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
        """(..., 2W) keys and values of (..., W)."""
        width, weight, bias = attention.embed_dim, attention.in_proj_weight, attention.in_proj_bias
        return self._product(x, attention, "keys and values", weight[width:], bias[width:])

    def _product(
        self,
        x: Tensor,
        layer: nn.Module,
        part: str,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None = None,
    ) -> Tensor:
        """(..., out) of (..., in) and some rows of a layer's weight (out, in)."""
        prepacked = self._prepacked(layer, part, weight) if _is_worthwhile(x, weight) else None
        if prepacked is None:
            y = F.linear(x, weight, bias)
        elif activation is None or activation.algorithm is None:
            y = torch.ops.mkldnn._linear_pointwise(x, prepacked, bias, "none", [], "")
        else:
            fused: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, prepacked, bias, "gelu", [], activation.algorithm
            )
            return fused
        return y if activation is None else activation(y)

    def _prepacked(self, layer: nn.Module, part: str, weight: Tensor) -> Tensor | None:
        """A weight as oneDNN reads it; None where that would take too much memory."""
        known = self._weights.get((layer, part))
        if known is not None and known.is_of(weight):
            return known.weight
        self._weights.pop((layer, part), None)
        if self.prepacked_bytes + weight.nbytes > MOST_BYTES:
            return None
        made = _Prepacked.of(weight)
        self._weights[layer, part] = made
        return made.weight


@dataclass(frozen=True, eq=False)
class _Prepacked:
    """A weight as oneDNN reads it, and what shows whether it is still that of a layer."""

    weight: Tensor
    bytes: int
    source: tuple[int, int]
    """Address and version of what it was made of."""

    @classmethod
    def of(cls, weight: Tensor) -> _Prepacked:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        return cls(packed, weight.nbytes, (weight.data_ptr(), weight._version))

    def is_of(self, weight: Tensor) -> bool:
        return self.source == (weight.data_ptr(), weight._version)


def _weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Of a layer (out, in) and (out,)."""
    if isinstance(layer, nn.MultiheadAttention):
        return layer.in_proj_weight, layer.in_proj_bias
    return layer.weight if isinstance(layer, nn.Linear) else layer.weight.T, layer.bias


def _is_worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether prepacking makes a product faster: not for one row, which reads each weight once either way."""
    return (
        torch.is_inference_mode_enabled()
        and x.numel() > x.shape[-1]
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.is_cpu
        and not weight.is_inference()  # whose changes leave no trace
        and can_prepack()
    )


@cache
def can_prepack() -> bool:
    """Whether the operators are there, and give what they should for a small product."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.linspace(-1, 1, 64).view(4, 16), torch.linspace(1, -1, 128).view(8, 16)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        product = torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "tanh")
    except (AttributeError, RuntimeError) as error:
        _log.info("weights are not prepacked, this build of torch cannot: %s", error)
        return False
    return bool((product - _gelu_tanh(F.linear(x, weight))).abs().max() <= _TOLERANCE)
