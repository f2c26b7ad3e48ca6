"""Linear layers in int8: one step size an output channel of the weights, and one a row of what they read.

Rows are rounded each by itself, so what else is in a batch changes no number. The products go through
``torch._int_mm``, on which torchao's own int8 layers rest: torch's quantised tensors (``torch.qint8``), and
with them ``torch.ops.quantized.linear_dynamic``, are deprecated (pytorch/pytorch#184982).

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from magicap.models.float_layers import Activation

_LARGEST = 127
_SMALLEST_STEP = 1e-30  # of a row or channel of zeros, which stay zeros


@dataclass(frozen=True, eq=False)
class Int8Product:
    """A linear layer whose weights are whole numbers of steps."""

    numbers: Tensor
    """(in, out) int8."""

    steps: Tensor
    """(out,) float32: the size of a step of each output channel."""

    bias: Tensor | None
    """(out,) float32."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int8Product:
        """Of weights (in, out) in float32."""
        numbers, steps = _rounded(weight.detach().T)
        return cls(numbers.T.contiguous(), steps[:, 0], None if bias is None else bias.detach())

    def outputs(self, first: int | None, end: int | None) -> Int8Product:
        """The same for some of the output channels."""
        part = slice(first, end)
        bias = None if self.bias is None else self.bias[part]
        return Int8Product(self.numbers[:, part].contiguous(), self.steps[part], bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., out) of (..., in), both float32. A row that holds NaN or infinity becomes NaN."""
        numbers, steps = _rounded(x.flatten(0, -2))
        product = torch._int_mm(numbers, self.numbers).float().mul_(self.steps).mul_(steps)
        if self.bias is not None:
            product.add_(self.bias)
        shaped: Tensor = product.unflatten(0, x.shape[:-1])
        return shaped


class Int8Layers:
    """Linear layers of a model in int8, by the layers that they are made of."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        """Of ``nn.Linear``, transformers' ``Conv1D``, and ``nn.MultiheadAttention`` for its in-projection."""
        self._products: dict[nn.Module, tuple[Int8Product, ...]] = {
            layer: _products(layer) for layer in layers
        }

    def product(self, x: Tensor, layer: nn.Module, activation: Activation | None = None) -> Tensor:
        """(..., out) of (..., in), with the activation of it."""
        y = self._products[layer][0](x)
        return y if activation is None else activation(y)

    def queries(self, x: Tensor, attention: nn.Module) -> Tensor:
        """(..., W) queries of (..., W) by an attention's in-projection."""
        return self._products[attention][1](x)

    def keys_and_values(self, x: Tensor, attention: nn.Module) -> Tensor:
        """(..., 2W) keys and values of (..., W)."""
        return self._products[attention][2](x)


def _products(layer: Any) -> tuple[Int8Product, ...]:
    """A layer's; of an in-projection also its parts: the last block asks for some tokens' queries alone."""
    if isinstance(layer, nn.MultiheadAttention):
        whole = Int8Product.of(layer.in_proj_weight.T, layer.in_proj_bias)
        return whole, whole.outputs(None, layer.embed_dim), whole.outputs(layer.embed_dim, None)
    weight = layer.weight.T if isinstance(layer, nn.Linear) else layer.weight
    return (Int8Product.of(weight, layer.bias),)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, D) as int8 numbers of steps, and the steps (N, 1)."""
    steps = rows.abs().amax(dim=1, keepdim=True).clamp_(min=_SMALLEST_STEP).div_(_LARGEST)
    return rows.div(steps).round_().to(torch.int8), steps
