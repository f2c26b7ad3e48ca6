"""Captions sampled from a language model by the thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from magicap.data.text import normalise_caption

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel

_BATCH = 250  # captions sampled side by side
_FEWEST_NEW = 0.05  # share of a batch; a model that gives fewer new captions is done


@torch.inference_mode()
def sample_captions(
    language_model: LanguageModel,
    count: int,
    *,
    temperature: float = 0.8,
    max_new_tokens: int = 30,
    seed: int = 0,
    on_progress: Callable[[int], object] = lambda count: None,
) -> list[str]:
    """Different whole captions, each as :func:`normalise_caption` writes it, in the order they were sampled.

    Args:
        count: how many; fewer where the model hardly gives new ones.
        temperature: below 1 prefers the probable.
        max_new_tokens: what has not ended by then, or where the model's positions end, is thrown away.
        on_progress: called with how many more there are.
    """
    max_new_tokens = min(max_new_tokens, language_model.max_new_tokens)
    generator = torch.Generator(language_model.device).manual_seed(seed)
    captions: dict[str, None] = {}
    new = _BATCH
    while len(captions) < count and new >= _FEWEST_NEW * _BATCH:
        before = len(captions)
        texts = map(normalise_caption, _sample_batch(language_model, temperature, max_new_tokens, generator))
        captions.update(dict.fromkeys(text for text in texts if text))
        new = len(captions) - before
        on_progress(min(len(captions), count) - before)
    return list(captions)[:count]


def _sample_batch(
    language_model: LanguageModel, temperature: float, max_new_tokens: int, generator: torch.Generator
) -> list[str]:
    """The texts of those samples of a batch that ended of themselves."""
    tokens = torch.full((_BATCH, 1), language_model.start_id, device=language_model.device)
    sampled: list[list[int]] = [[] for _ in range(_BATCH)]
    finished: list[list[int]] = []
    rows = torch.arange(_BATCH, device=language_model.device)
    cache: Any = None
    for _ in range(max_new_tokens):
        output = language_model.model(tokens, past_key_values=cache, use_cache=True)
        probability = torch.softmax(output.logits[:, -1].float() / temperature, dim=1)
        # Of exponential variables with these rates the smallest is a sample (Gumbel's trick), without a sort.
        exponentials = torch.empty_like(probability).exponential_(generator=generator)
        chosen = (probability / exponentials).argmax(dim=1)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            sampled[row].append(token)
            if token == language_model.end_id:
                finished.append(sampled[row])
        unfinished = (chosen != language_model.end_id).nonzero().squeeze(1)
        if not len(unfinished):
            break
        cache = output.past_key_values
        cache.batch_select_indices(unfinished)
        rows, tokens = rows[unfinished], chosen[unfinished, None]
    return language_model.texts(finished)
