"""open_clip's causal text tower, run over as many tokens as there are instead of the full context.

Shapes: B rows, Q new tokens a row, P cached tokens a row, W tower width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicap.models.float_layers import GELU, GELU_TANH, Activation, FloatLayers
from magicap.models.int8 import Int8Layers
from magicap.models.plain_clip import PlainClip
from magicap.models.token_cache import KeysAndValues


@dataclass(frozen=True)
class CausalTextTower:
    """A view on the text half of an open_clip ``CLIP`` or ``CustomTextCLIP``; owns prepacked weights alone.

    open_clip's own ``encode_text`` demands the full context length. In a causal tower no token sees what
    follows it, so the vector pooled at the end token is the same when everything behind it is left out,
    and keys and values of a prefix can be kept.
    """

    part: Any
    """The module that holds embeddings, blocks and projection: the model itself or its ``text``."""

    pool_type: str
    """``argmax`` (the largest id is the end token) or ``eos`` (the first ``eos_id`` is)."""

    eos_id: int | None
    """Id of the end token, for ``eos`` pooling."""

    layers: FloatLayers | Int8Layers = field(default_factory=FloatLayers)
    """How linear layers of the blocks are computed."""

    @classmethod
    def of(cls, model: nn.Module) -> CausalTextTower | None:
        """The tower of an open_clip model, or None where the model's config makes no causal one."""
        if isinstance(model, PlainClip):
            return cls(model, model.text_pool_type, model.text_eos_id)
        from open_clip.transformer import ResidualAttentionBlock

        part: Any = getattr(model, "text", model)
        nested = part is not model
        blocks = getattr(getattr(part, "transformer", None), "resblocks", ())
        pool_type = getattr(part, "pool_type" if nested else "text_pool_type", None)
        causal = (
            len(blocks) > 0
            and all(type(block) is ResidualAttentionBlock for block in blocks)
            and all(type(block.attn) is nn.MultiheadAttention for block in blocks)
            and getattr(part, "attn_mask", None) is not None
            and getattr(part, "cls_emb", None) is None
            and pool_type in ("argmax", "eos")
        )
        if not causal:
            return None
        return cls(part, str(pool_type), getattr(part, "eos_id" if nested else "text_eos_id", None))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.part.positional_embedding.device
        return device

    def in_int8(self) -> CausalTextTower:
        """The same with the blocks' layers in int8, of the weights as they are now; it cannot learn."""
        blocks = self.part.transformer.resblocks
        layers: list[Any] = [block.attn for block in blocks]
        for block in blocks:
            layers += [block.attn.out_proj, *filter(_is_linear, block.mlp)]
        return replace(self, layers=Int8Layers(layers))

    def cut(self, ids: Sequence[int]) -> list[int]:
        """The ids up to and with the one that is pooled; nothing behind it can matter."""
        if self.pool_type == "argmax":
            end = max(range(len(ids)), key=ids.__getitem__)
        else:
            end = ids.index(self.eos_id) if self.eos_id in ids else 0
        return list(ids[: end + 1])

    def encode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors (B, D) of token rows as :meth:`cut` returns them; differentiable.

        Rows of about equal length run together (:func:`encode_by_length`).
        """

        def encode(part: Sequence[int]) -> Tensor:
            padded = [rows[row] for row in part]
            return self.pool(self.hidden_states(padded)[-1], padded)

        return encode_by_length(list(map(len, rows)), encode, self.device)

    def hidden_states(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """What each block gives for rows of ids: (B, Q, W) a block, Q the longest row, padding behind."""
        width = max(map(len, rows))
        device = self.device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        positions = torch.arange(width, device=device).expand_as(ids)
        return [hidden for hidden, _ in self._blocks(ids, positions, (), causal)]

    def pool(self, hidden: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors (B, D) of the last block's hidden states (B, Q, W) of rows that :meth:`cut` made."""
        last = torch.tensor([len(row) - 1 for row in rows], device=hidden.device)
        return self.project(hidden[torch.arange(len(rows), device=hidden.device), last])

    def run(
        self, ids: Tensor, positions: Tensor, past: Sequence[KeysAndValues], mask: Tensor, ends: Tensor
    ) -> tuple[Tensor, tuple[KeysAndValues, ...]]:
        """Run tokens behind cached ones; in the last block all but keys and values is run at ``ends`` alone.

        Args:
            ids: (B, Q) token ids.
            positions: (B, Q) where each stands in its text.
            past: keys and values a block, each (B, heads, P, W / heads); empty for none.
            mask: (B, 1, Q, P + Q) boolean, true where a token may look.
            ends: (B, E) columns of the tokens whose hidden states are returned.

        Returns:
            Their hidden states (B, E, W), and keys and values of the P + Q tokens a block.
        """
        blocks = list(self._blocks(ids, positions, past, mask, ends))
        return blocks[-1][0], tuple(cache for _, cache in blocks)

    def _blocks(
        self,
        ids: Tensor,
        positions: Tensor,
        past: Sequence[KeysAndValues],
        mask: Tensor,
        ends: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, KeysAndValues]]:
        """Block by block: hidden states (B, Q, W), the last at ``ends`` alone; keys and values."""
        dtype = self.part.transformer.get_cast_dtype()
        x = self.part.token_embedding(ids).to(dtype) + self.part.positional_embedding.to(dtype)[positions]
        blocks = self.part.transformer.resblocks
        for layer, block in enumerate(blocks):
            tokens = queries = block.ln_1(x)
            if ends is not None and layer == len(blocks) - 1:
                rows = torch.arange(len(x), device=x.device)[:, None]
                x, queries, mask = x[rows, ends], tokens[rows, ends], mask[rows, 0, ends][:, None]
            attended, cache = self._attend(block.attn, queries, tokens, past[layer] if past else None, mask)
            x = x + block.ls_1(attended)
            x = x + block.ls_2(self._feed_forward(block.ln_2(x), block.mlp))
            yield x, cache

    def _feed_forward(self, x: Tensor, modules: nn.Sequential) -> Tensor:
        """(B, Q, W) of (B, Q, W); an activation is computed with the layer before it."""
        is_computed = False  # with the layer before
        for module, following in zip(modules, [*modules[1:], None], strict=True):
            if _is_linear(module):
                activation = _activation(following)
                x, is_computed = self.layers.product(x, module, activation), activation is not None
            else:
                x, is_computed = (x if is_computed else module(x)), False
        return x

    def _attend(
        self,
        attention: nn.MultiheadAttention,
        queries: Tensor,
        tokens: Tensor,
        past: KeysAndValues | None,
        mask: Tensor,
    ) -> tuple[Tensor, KeysAndValues]:
        """Attention of (B, E, W), all or some of the tokens (B, Q, W), over P cached and Q new tokens."""
        heads, layers = attention.num_heads, self.layers

        def by_head(projected: Tensor, parts: int) -> Tensor:
            split: Tensor = projected.unflatten(2, (parts, heads, -1))
            return split.permute(2, 0, 3, 1, 4)

        if queries is tokens:
            query, keys, values = by_head(layers.product(tokens, attention), 3)
        else:
            (query,) = by_head(layers.queries(queries, attention), 1)
            keys, values = by_head(layers.keys_and_values(tokens, attention), 2)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return layers.product(attended.transpose(1, 2).flatten(2), attention.out_proj), (keys, values)

    def project(self, hidden: Tensor) -> Tensor:
        """Unit vectors (..., D) in float32 of pooled hidden states (..., W)."""
        pooled = self.part.ln_final(hidden)
        projection = self.part.text_projection
        if isinstance(projection, nn.Linear):
            pooled = projection(pooled)
        elif projection is not None:
            pooled = pooled @ projection
        return F.normalize(pooled.float(), dim=-1)


def encode_by_length(
    lengths: Sequence[int], encode: Callable[[Sequence[int]], Tensor], device: torch.device
) -> Tensor:
    """Vectors (B, D) of B texts, of which those of about equal length run together: little is padding.

    Args:
        lengths: of each text, in tokens.
        encode: numbers of texts to their vectors.
        device: where that happens: on a CPU 64 at a time, on a GPU, where a launch costs more than padding,
            1,024.
    """
    chunk = 64 if device.type == "cpu" else 1024
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    vectors = torch.cat([encode(order[start : start + chunk]) for start in range(0, len(order), chunk)])
    inverse = torch.empty(len(order), dtype=torch.long)
    inverse[order] = torch.arange(len(order))
    return vectors[inverse.to(vectors.device)]


def _activation(module: nn.Module | None) -> Activation | None:
    """What a module computes, where it is one of those that can be computed with the layer before it."""
    if type(module) is not nn.GELU:
        return None
    return GELU_TANH if module.approximate == "tanh" else GELU


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
