"""The forward pass of a causal network, a position at a time: by blocks of our own for a plain GPT-2.

Shapes: B rows, Q new tokens a row, P cached tokens a row, N hidden states, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from magicap.errors import BadSettings
from magicap.models.float_layers import FloatLayers
from magicap.models.gpt2 import Gpt2Blocks
from magicap.models.int8 import Int8Product
from magicap.models.token_cache import ConcatenatedCache, GrowingCache, KeysAndValues, TokenCache


class CausalSteps:
    """A view on a network; owns no weights, but for those in int8 and prepacked ones.

    Attributes:
        network: whose embeddings, blocks and output head are used.
        is_int8: whether blocks and output head compute in int8, of the weights as they were.
        is_plain: whether it is a plain GPT-2, which takes a step of our own and can compute in int8.
    """

    def __init__(self, network: Any, *, int8: bool = False) -> None:
        """Of a network; ``int8`` of a plain one alone."""
        self.network, self.is_int8 = network, int8
        blocks = Gpt2Blocks.of(network)
        self.is_plain = blocks is not None
        self._blocks, self._head = blocks, None
        self._layers = blocks.layers if blocks and isinstance(blocks.layers, FloatLayers) else FloatLayers()
        if int8 and blocks is not None:
            head = network.get_output_embeddings()
            self._blocks, self._head = blocks.in_int8(), Int8Product.of(head.weight.T, head.bias)

    def logits(self, last: Tensor) -> Tensor:
        """(N, V) of last hidden states (N, D): the output head, capped where the model caps it (Gemma 2)."""
        head: Any = self._head or self.network.get_output_embeddings()
        logits: Tensor = self._layers.product(last, head) if type(head) is nn.Linear else head(last)
        cap = getattr(self.network.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def new_cache(self, capacity: int) -> TokenCache:
        """What :meth:`step` keeps keys and values in: at most ``capacity`` columns of a row."""
        if self._blocks is not None:
            return GrowingCache(capacity)
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        return cache  # type: ignore[no-any-return]

    def step(
        self,
        ids: Tensor,
        position: int,
        visible: Tensor | None,
        cache: TokenCache,
        prompts: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states (B, Q, D), as the output head reads them, of tokens that stand at one position.

        Args:
            ids: (B, Q) of the tokens.
            position: how many tokens stand before each.
            visible: (B or 1, 1, Q, P + Q) which columns of the cache, themselves included, each of them sees;
                None: all.
            cache: of the P columns before, which takes up theirs.
            prompts: (B, D) of a soft prompt, added to each row's embeddings.

        Raises:
            BadSettings: more columns than the network can look back at.
        """
        self._require_columns(0 if visible is None else visible.shape[-1])
        embeddings = self.network.get_input_embeddings()(ids)
        if prompts is not None:
            embeddings = embeddings + prompts[:, None].to(embeddings)
        mask = None
        if visible is not None:
            least = torch.finfo(embeddings.dtype).min
            mask = torch.zeros_like(visible, dtype=embeddings.dtype).masked_fill_(~visible, least)
        if self._blocks is not None:
            return self._blocks(embeddings, position, mask, cache)
        output: Any = self.network.base_model(
            inputs_embeds=embeddings,
            past_key_values=cache,
            position_ids=torch.full_like(ids, position),
            attention_mask=mask,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _require_columns(self, count: int) -> None:
        """GPT-Neo's local layers take a token's column for its position, wherever it stands in its text."""
        most = getattr(self.network.config, "window_size", None)
        if most is not None and count > most:
            raise BadSettings(
                f"this language model takes at most {most} tokens side by side, found {count}; "
                "lower beam_size, top_k or max_new_tokens"
            )

    def side_by_side(
        self, ids: Tensor, past: tuple[KeysAndValues, ...], position: int, prompts: Tensor | None = None
    ) -> tuple[Tensor, tuple[KeysAndValues, ...]]:
        """Hidden states (B, Q, D) and grown cache of tokens that see their prefix, but not each other."""
        width = ids.shape[1]
        visible = torch.eye(width, position + width, dtype=torch.bool, device=ids.device).roll(position, 1)
        visible[:, :position] = True
        if self._blocks is not None:
            grown = ConcatenatedCache(past)
            return self.step(ids, position, visible[None, None], grown, prompts), tuple(grown.layers)
        cache: Any = self.new_cache(position + width)
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        hidden = self.step(ids, position, visible[None, None], cache, prompts)
        return hidden, tuple((layer.keys, layer.values) for layer in cache.layers)
