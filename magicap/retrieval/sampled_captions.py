"""Captions drawn from a language model by the thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from magicap.data.text import normalise_caption

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel

_AT_ONCE = 250
_ENOUGH_NEW = 0.05  # of a batch's draws; a model that says less that is new has said what it has to say


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
    """Different whole captions, each as :func:`normalise_caption` writes it, in the order they were drawn.

    Args:
        count: how many; fewer where the model has no more to say.
        temperature: below 1 draws more of what is probable.
        max_new_tokens: what has not ended by then, or where the model's positions end, is thrown away.
        on_progress: told how many more there are.
    """
    max_new_tokens = min(max_new_tokens, language_model.max_new_tokens)
    dice = torch.Generator(language_model.device).manual_seed(seed)
    captions: dict[str, None] = {}
    found = _AT_ONCE
    while len(captions) < count and found >= _ENOUGH_NEW * _AT_ONCE:
        before = len(captions)
        rows = _draw(language_model, temperature, max_new_tokens, dice)
        captions.update(dict.fromkeys(text for each in rows if (text := normalise_caption(each))))
        found = len(captions) - before
        on_progress(min(len(captions), count) - before)
    return list(captions)[:count]


def _draw(
    language_model: LanguageModel, temperature: float, max_new_tokens: int, dice: torch.Generator
) -> list[str]:
    """The texts of those of a batch of draws that ended of themselves."""
    tokens = torch.full((_AT_ONCE, 1), language_model.start_id, device=language_model.device)
    written: list[list[int]] = [[] for _ in range(_AT_ONCE)]
    ended: list[list[int]] = []
    rows = torch.arange(_AT_ONCE, device=language_model.device)
    cache: Any = None
    for _ in range(max_new_tokens):
        output = language_model.model(tokens, past_key_values=cache, use_cache=True)
        probability = torch.softmax(output.logits[:, -1].float() / temperature, dim=1)
        # The first of exponential clocks to ring is a draw (Gumbel's trick), without sorting the vocabulary.
        clocks = torch.empty_like(probability).exponential_(generator=dice)
        chosen = (probability / clocks).argmax(dim=1)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            written[row].append(token)
            if token == language_model.end_id:
                ended.append(written[row])
        going_on = (chosen != language_model.end_id).nonzero().squeeze(1)
        if not len(going_on):
            break
        cache = output.past_key_values
        cache.batch_select_indices(going_on)
        rows, tokens = rows[going_on], chosen[going_on, None]
    return language_model.texts(ended)
