"""Captions sampled from a language model by the thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from magicap.data.text import normalise_caption

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel

BATCH = 250
"""Captions sampled side by side."""

FEWEST_NEW = 0.05
"""Share of a batch; a model that gives fewer new captions is done."""

TEMPERATURE, MAX_NEW_TOKENS = 0.8, 30


@torch.inference_mode()
def sample_captions(
    language_model: LanguageModel,
    count: int,
    *,
    temperature: float = TEMPERATURE,
    max_new_tokens: int = MAX_NEW_TOKENS,
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
    generator = torch.Generator(language_model.device).manual_seed(seed)
    captions: dict[str, None] = {}
    new = BATCH
    while len(captions) < count and new >= FEWEST_NEW * BATCH:
        before = len(captions)
        captions.update(dict.fromkeys(sample_batch(language_model, generator, temperature, max_new_tokens)))
        new = len(captions) - before
        on_progress(min(len(captions), count) - before)
    return list(captions)[:count]


@torch.inference_mode()
def sample_batch(
    language_model: LanguageModel,
    generator: torch.Generator,
    temperature: float = TEMPERATURE,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """The captions of those samples of one batch that ended of themselves, normalised; some may be equal."""
    tokens = torch.full((BATCH, 1), language_model.start_id, device=language_model.device)
    sampled: list[list[int]] = [[] for _ in range(BATCH)]
    finished: list[list[int]] = []
    rows = torch.arange(BATCH, device=language_model.device)
    cache: Any = None
    for _ in range(min(max_new_tokens, language_model.max_new_tokens)):
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
    return [text for text in map(normalise_caption, language_model.texts(finished)) if text]
