"""A language model read: by transformers, or without it where a folder holds a plain GPT-2.

Shapes: B rows, T tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from magicap.errors import BadModel
from magicap.models.loading import no_loading_bar, require_all_weights
from magicap.models.plain_gpt2 import PLAIN_KIND, Gpt2Folder, PlainGpt2
from magicap.models.plain_tokenizer import PlainTokenizer


def read_language_model(
    source: str | Path, tokens: Collection[str], dtype: torch.dtype, revision: str | None
) -> tuple[Any, Any]:
    """Model and tokenizer, as :class:`LanguageModel` takes them.

    Args:
        source: a folder, or a hub id.
        tokens: those without which only transformers can make the model fit.
        revision: commit, branch or tag of the hub's repository.

    Raises:
        BadModel: there are weights that the model needs and the folder lacks. Others raise what they like.
    """
    plain = _read_plain(Path(source), tokens, dtype)
    return plain or by_transformers(str(source), dtype, revision or "main")


def kind_of(network: nn.Module) -> str:
    """The name that transformers has for the class of a language model."""
    return PLAIN_KIND if isinstance(network, PlainGpt2) else type(network).__name__


def most_tokens(network: Any) -> int:
    """How long a text may be: within the positions, and within the window that attention looks back at.

    Steps see all tokens before them, which is what a window shows of a text that is no longer.

    Raises:
        BadModel: the number of positions is not fixed.
    """
    positions = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        raise BadModel(
            f"expected a language model with a fixed number of positions, found {kind_of(network)}"
        )
    windows = (getattr(network.config, name, None) for name in ("sliding_window", "window_size"))
    return min([positions, *(window for window in windows if isinstance(window, int))])


def run_in_full(network: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states (B, T, D) and logits (B, T, V) of whole rows (B, T), by the model's own forward."""
    if isinstance(network, PlainGpt2):
        states, logits = network(ids)
        return states, logits
    mask = torch.ones_like(ids)
    output = network(ids, attention_mask=mask)
    # Not by output_hidden_states: transformers keeps hooks for it, with which no model pickles.
    return network.base_model(ids, attention_mask=mask).last_hidden_state, output.logits


@torch.no_grad()
def add_rows(network: Any, count: int) -> None:
    """Give a model of transformers embeddings, and an output head, of ``count`` tokens.

    Each new row is the mean of the others: transformers' own draws around it would make another model, with
    another fingerprint, at every load.
    """
    tables = network.get_input_embeddings, network.get_output_embeddings
    before = tables[0]().weight.shape[0]
    network.resize_token_embeddings(count, mean_resizing=False)
    for table in tables:
        weight = table().weight
        weight[before:] = weight[:before].mean(dim=0)


def _read_plain(
    folder: Path, tokens: Collection[str], dtype: torch.dtype
) -> tuple[Gpt2Folder, PlainTokenizer] | None:
    """What a folder of a plain GPT-2 holds, read without transformers; None where that has to read it."""
    tokenizer = PlainTokenizer.read(folder) if folder.is_dir() else None
    if tokenizer is None or not set(tokens) <= tokenizer.get_vocab().keys():
        return None
    model = Gpt2Folder.read(folder, dtype)
    if model is None or len(tokenizer) > model.model.config.vocab_size:
        return None
    return model, tokenizer


def by_transformers(source: str, dtype: torch.dtype, revision: str) -> tuple[Any, Any]:
    """What transformers reads: model and tokenizer.

    Raises:
        BadModel: weights are missing.
    """
    with no_loading_bar():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=dtype, weights_only=True, output_loading_info=True
        )
    model, info = loaded
    require_all_weights(info, "language model", source)
    return model, tokenizer
