"""A step of GPT-2 in few calls: the blocks of a transformers model, read from its own weights.

The same numbers as its own forward within rounding, without what that spends on masks, caches and modules.

Shapes: B rows, Q new tokens a row, P cached tokens a row, H heads of width d, W hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from magicap.models.float_layers import GELU, GELU_TANH, RELU, Activation, FloatLayers
from magicap.models.int8 import Int8Layers
from magicap.models.token_cache import TokenCache

ACTIVATIONS = {"gelu_new": GELU_TANH, "gelu_pytorch_tanh": GELU_TANH, "gelu": GELU, "relu": RELU}
"""By their names in a configuration of transformers."""


@dataclass(frozen=True)
class Gpt2Blocks:
    """A view on the blocks of a ``GPT2LMHeadModel`` or a :class:`PlainGpt2`; owns prepacked weights alone."""

    transformer: Any
    """The module that holds positions and blocks."""

    heads: int
    activation: Activation
    scales: tuple[float, ...]
    """By which each block's products of queries and keys are multiplied."""

    layers: FloatLayers | Int8Layers
    """What computes the products with its linear layers, (N, out) of (N, in)."""

    @classmethod
    def of(cls, model: nn.Module) -> Gpt2Blocks | None:
        """The blocks of a model, or None where it is no plain GPT-2."""
        config: Any = getattr(model, "config", None)
        activation = ACTIVATIONS.get(str(getattr(config, "activation_function", "")))
        if type(model).__name__ not in ("GPT2LMHeadModel", "PlainGpt2") or activation is None:
            return None
        blocks = getattr(getattr(model, "transformer", None), "h", ())
        plain = all(type(layer).__name__ == "Conv1D" for block in blocks for layer in _layers(block))
        if not plain or not len(blocks) or config.reorder_and_upcast_attn or config.add_cross_attention:
            return None
        scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        by_layer = config.scale_attn_by_inverse_layer_idx
        scales = tuple(scale / (layer + 1 if by_layer else 1) for layer in range(len(blocks)))
        return cls(model.transformer, config.n_head, activation, scales, FloatLayers())

    def in_int8(self) -> Gpt2Blocks:
        """The same with layers in int8, of the weights as they are now."""
        layers = (layer for block in self.transformer.h for layer in _layers(block))
        return replace(self, layers=Int8Layers(layers))

    def __call__(self, embeddings: Tensor, position: int, mask: Tensor | None, cache: TokenCache) -> Tensor:
        """Last hidden states (B, Q, W) of new tokens that all stand at one position.

        Args:
            embeddings: (B, Q, W) of the tokens, without their position.
            mask: broadcast to (B, H, Q, P + Q), added to the products of queries and keys; None: all is seen.
            cache: of the tokens before, which takes up those of the new ones.
        """
        transformer, product = self.transformer, self.layers.product
        B, Q, W = embeddings.shape
        x = (embeddings + transformer.wpe.weight[position]).view(B * Q, W)
        for layer, (block, scale) in enumerate(zip(transformer.h, self.scales, strict=True)):
            qkv = product(_normed(x, block.ln_1), block.attn.c_attn)
            query, key, value = qkv.view(B, Q, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
            keys, values = cache.update(key, value, layer)
            seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
            x = x + product(seen.transpose(1, 2).reshape(B * Q, W), block.attn.c_proj)
            inner = product(_normed(x, block.ln_2), block.mlp.c_fc, self.activation)
            x = x + product(inner, block.mlp.c_proj)
        return _normed(x, transformer.ln_f).view(B, Q, W)


def _layers(block: Any) -> tuple[Any, ...]:
    """A block's linear layers."""
    return block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj


def _normed(x: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
