"""Linear layers as their weights are, prepacked for oneDNN where that is faster; or in fewer bits, prepacked.

A product of few rows spends half of its time on laying out the weights anew. oneDNN takes weights that were
laid out once (prepacked), through the operators that PyTorch's own compiler uses in a frozen graph. The
numbers are those of ``torch.nn.functional.linear`` within rounding.

Shapes: W width of an attention.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.optim.optimizer import register_optimizer_step_post_hook

MOST_BYTES = 2 << 30
"""Of prepacked weights of one tower or language model; what is more stays as it is."""

_SIZES = 16
"""Different numbers of rows that are multiplied as they are; others are filled up to one of few sizes.

For every size oneDNN compiles code, which takes a millisecond, and keeps it, about a megabyte.
"""

_TOLERANCE = 1e-4  # of sums of sixteen products near one
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Activation:
    """A function of each number, and whether oneDNN can compute it with the product before it."""

    function: Callable[[Tensor], Tensor]

    gelu: str | None = None
    """The algorithm of oneDNN's GELU; None for other functions, which are computed by themselves."""

    def __call__(self, x: Tensor) -> Tensor:
        """The function itself."""
        return self.function(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


GELU, GELU_TANH = Activation(F.gelu, "none"), Activation(_gelu_tanh, "tanh")
RELU = Activation(F.relu)  # oneDNN's makes a zero of NaN


def prepack(weight: Tensor) -> Tensor:
    """A weight (out, in) as oneDNN reads it."""
    prepacked: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return prepacked


def multiply(x: Tensor, prepacked: Tensor, bias: Tensor | None, gelu: str | None) -> Tensor:
    """(..., out) of (..., in).

    Args:
        gelu: the algorithm of a GELU of the product; None: of the product itself.
    """
    function, algorithm = ("none", "") if gelu is None else ("gelu", gelu)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, prepacked, bias, function, [], algorithm)
    return product


class FloatLayers:
    """Products with the linear layers of one model.

    These are ``nn.Linear``, transformers' ``Conv1D``, and the in-projection of ``nn.MultiheadAttention``.
    Weights in float32 are prepacked at their first product in inference mode on an x86 processor, and anew
    when they have changed; changes in place through ``.data`` go unseen. Layers of other types, and those
    with hooks, are called as they are.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Of layers that each product names.

        Args:
            dtype: what prepacked weights and what they multiply are rounded to. Products are float32, but
                for those with a GELU of oneDNN's, which another product reads as they are.
        """
        self.dtype = dtype
        self._weights: dict[_Key, _Prepacked] = {}
        self._sizes: set[int] = set()  # numbers of rows that are multiplied as they are

    def __reduce__(self) -> tuple[type[FloatLayers], tuple[torch.dtype]]:
        return FloatLayers, (self.dtype,)  # a copy is for other layers

    @property
    def prepacked_bytes(self) -> int:
        """What prepacked weights take, beside the weights themselves."""
        return sum(one.bytes for one in list(self._weights.values()))  # another thread may add some

    def product(self, x: Tensor, layer: Any, activation: Activation | None = None) -> Tensor:
        """(..., out) of (..., in), with the activation of it."""
        if isinstance(layer, nn.MultiheadAttention):
            return self._product(x, (layer, _ALL), layer.in_proj_weight, layer.in_proj_bias, activation)
        if not _is_plain(layer):
            y: Tensor = layer(self._exact(x))
            return y if activation is None else activation(y)
        return self._product(x, (layer, _ALL), layer.weight, layer.bias, activation)

    def queries(self, x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
        """(..., W) queries of (..., W) by an attention's in-projection."""
        bias = attention.in_proj_bias[: attention.embed_dim]
        return self._product(x, (attention, _QUERIES), attention.in_proj_weight, bias)

    def keys_and_values(self, x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
        """(..., 2W) keys and values of (..., W)."""
        bias = attention.in_proj_bias[attention.embed_dim :]
        return self._product(x, (attention, _KEYS_AND_VALUES), attention.in_proj_weight, bias)

    def _product(
        self, x: Tensor, key: _Key, weight: Tensor, bias: Tensor | None, activation: Activation | None = None
    ) -> Tensor:
        """(..., out) of (..., in) and all of a layer's weight, or a part."""
        prepacked = self._prepacked(key, weight) if self._is_worthwhile(x) else None
        gelu = None if activation is None else activation.gelu
        if prepacked is not None:
            y = self._multiplied(x, prepacked, bias, gelu)
        else:
            y, gelu = F.linear(self._exact(x), _part(key, weight), bias), None
        return y if activation is None or gelu is not None else activation(y)

    def _exact(self, x: Tensor) -> Tensor:
        """What a layer reads that is not prepacked: float32 where a product left it in fewer bits."""
        return x.float() if x.dtype is self.dtype is not torch.float32 else x

    def _is_worthwhile(self, x: Tensor) -> bool:
        """Whether prepacking makes a product faster: not for one row, which reads each weight once anyway."""
        return (
            (x.dtype is torch.float32 or x.dtype is self.dtype)
            and x.is_cpu
            and torch.is_inference_mode_enabled()
            and x.numel() > x.shape[-1]
            and can_prepack()
        )

    def _multiplied(self, x: Tensor, prepacked: Tensor, bias: Tensor | None, gelu: str | None) -> Tensor:
        rows = math.prod(x.shape[:-1])
        if rows not in self._sizes:
            if len(self._sizes) >= _SIZES:
                padded = F.pad(x.flatten(0, -2), (0, 0, 0, _rounded_up(rows) - rows))
                product = self._run(padded, prepacked, bias, gelu)
                return product[:rows].view(*x.shape[:-1], -1)
            self._sizes.add(rows)
        return self._run(x, prepacked, bias, gelu)

    def _run(self, x: Tensor, prepacked: Tensor, bias: Tensor | None, gelu: str | None) -> Tensor:
        bias = None if bias is None else bias.to(self.dtype)
        product = multiply(x.to(self.dtype), prepacked, bias, gelu)
        return product if gelu is not None else product.float()

    def _prepacked(self, key: _Key, weight: Tensor) -> Tensor | None:
        """A weight, or a part, as oneDNN reads it; None where that cannot be or takes too much memory."""
        known = self._weights.get(key)
        if known is not None and known.is_of(weight):
            return known.weight
        self._weights.pop(key, None)
        if type(weight) not in (Tensor, nn.Parameter) or weight.dtype is not torch.float32:
            return None
        if weight.is_inference():  # whose changes leave no trace
            return None
        part = _part(key, weight)
        size = part.numel() * self.dtype.itemsize
        if self.prepacked_bytes + size > MOST_BYTES:
            return None
        _watch_optimizers()
        state = _state_of(weight)  # before its numbers are read: another thread may change them meanwhile
        packed = prepack(part.detach().to(self.dtype))
        self._weights[key] = _Prepacked(packed, size, weight, weight.detach(), state)
        return packed


_ALL, _QUERIES, _KEYS_AND_VALUES = "all", "queries", "keys and values"
_Key = tuple[nn.Module, str]
"""A layer, and which part of its weight."""


@dataclass(frozen=True, eq=False, slots=True)
class _Prepacked:
    """A weight as oneDNN reads it, and what shows whether it is still that of a layer."""

    weight: Tensor
    bytes: int
    source: Tensor
    """What it was made of."""

    numbers: Tensor
    """The same, to keep its storage, or another could come to lie at its address."""

    state: tuple[int, int, int]

    def is_of(self, weight: Tensor) -> bool:
        return self.source is weight and self.state == _state_of(weight)


_steps: dict[int, int] = {}  # of optimizers, by the id of each weight: fused ones leave versions as they are


@cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_count_step)


def _count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            _steps[id(weight)] = _steps.get(id(weight), 0) + 1


def _state_of(weight: Tensor) -> tuple[int, int, int]:
    """What is another once a weight has changed."""
    return weight.data_ptr(), weight._version, _steps.get(id(weight), 0)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer does nothing but to multiply and add."""
    kind = type(layer)
    known = kind is nn.Linear or kind is NonDynamicallyQuantizableLinear or kind.__name__ == "Conv1D"
    return known and not layer._forward_hooks and not layer._forward_pre_hooks


def _part(key: _Key, weight: Tensor) -> Tensor:
    """(out, in) of a layer's weight, whose first rows are the queries of an in-projection."""
    layer, part = key
    if part == _QUERIES:
        return weight[: weight.shape[1]]
    if part == _KEYS_AND_VALUES:
        return weight[weight.shape[1] :]
    return weight if isinstance(layer, (nn.Linear, nn.MultiheadAttention)) else weight.T


def _rounded_up(rows: int) -> int:
    """The next of eight sizes between a power of two and the next."""
    step = max(8, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


@cache
def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 numbers faster than float32, and weights can be prepacked."""
    return can_prepack() and torch.cpu._is_avx512_bf16_supported()


@cache
def can_prepack() -> bool:
    """Whether the operators are there, and give what they should for a small product."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    with torch.device("cpu"), torch.autocast("cpu", enabled=False):  # whatever stands around the first call
        x = torch.linspace(-1, 1, 64, dtype=torch.float32).view(4, 16)
        weight = torch.linspace(1, -1, 128, dtype=torch.float32).view(8, 16)
        try:
            product = multiply(x, prepack(weight), None, "tanh")
        except (AttributeError, RuntimeError) as error:
            _log.info("weights are not prepacked, this build of torch cannot: %s", error)
            return False
        return bool((product - _gelu_tanh(F.linear(x, weight))).abs().max() <= _TOLERANCE)
