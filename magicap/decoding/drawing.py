"""Captions drawn from a language model: by the thousand, or by the dozen for a picture that it is told of.

Shapes: B pictures, N draws, V vocabulary, W hidden width of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from magicap.data.text import normalise_caption
from magicap.models.token_cache import as_cache

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel

_AT_ONCE = 250
_ENOUGH_NEW = 0.05  # of a batch's draws; a model that says less that is new has said what it has to say


@torch.inference_mode()
def draw_captions(
    language_model: LanguageModel,
    count: int,
    *,
    temperature: float = 0.8,
    max_new_tokens: int = 30,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> list[str]:
    """Different whole captions, each as :func:`normalise_caption` writes it, in the order they were drawn.

    Args:
        count: how many; fewer where the model has no more to say.
        temperature: below 1 draws more of what is probable.
        max_new_tokens: what has not ended by then, or where the model's positions end, is thrown away.
        progress: told how many more there are.
    """
    dice = [torch.Generator(language_model.device).manual_seed(seed)]
    captions: dict[str, None] = {}
    found = _AT_ONCE
    while len(captions) < count and found >= _ENOUGH_NEW * _AT_ONCE:
        before = len(captions)
        (rows,) = _draw(language_model, None, _AT_ONCE, temperature, max_new_tokens, dice)
        captions.update(dict.fromkeys(text for each in rows if (text := normalise_caption(each))))
        found = len(captions) - before
        progress(min(len(captions), count) - before)
    return list(captions)[:count]


@torch.inference_mode()
def draw_for_pictures(
    language_model: LanguageModel,
    prompts: Tensor,
    count: int,
    *,
    temperature: float,
    max_new_tokens: int,
    seeds: Sequence[int],
) -> list[list[str]]:
    """For each picture the captions that ended of themselves, each as often as it was drawn.

    Args:
        prompts: (B, W) what the language model is told of the pictures.
        count: draws a picture.
        seeds: B seeds; a picture's draws depend on its own alone, whatever stands beside it.
    """
    dice = [torch.Generator(language_model.device).manual_seed(seed) for seed in seeds]
    return _draw(language_model, prompts, count, temperature, max_new_tokens, dice)


def _draw(
    language_model: LanguageModel,
    prompts: Tensor | None,
    count: int,
    temperature: float,
    max_new_tokens: int,
    dice: Sequence[torch.Generator],
) -> list[list[str]]:
    """For each of the dice, the texts of those of ``count`` draws that ended of themselves."""
    max_new_tokens = min(max_new_tokens, language_model.max_new_tokens)
    owners = torch.arange(len(dice), device=language_model.device).repeat_interleave(count)
    rows = torch.arange(len(owners), device=language_model.device)
    first = language_model.start(prompts).select(owners)
    last, cache = first.last, as_cache(first.cache)
    written: list[list[int]] = [[] for _ in rows]
    ended: list[list[list[int]]] = [[] for _ in dice]
    for _ in range(max_new_tokens):
        chosen = _drawn(language_model.probabilities(last).log() / temperature, owners, dice)
        for row, owner, token in zip(rows.tolist(), owners.tolist(), chosen.tolist(), strict=True):
            written[row].append(token)
            if token == language_model.end_id:
                ended[owner].append(written[row])
        going_on = (chosen != language_model.end_id).nonzero().squeeze(1)
        if not len(going_on):
            break
        cache.batch_select_indices(going_on)
        rows, owners, tokens = rows[going_on], owners[going_on], chosen[going_on, None]
        output: Any = language_model.model.base_model(tokens, past_key_values=cache, use_cache=True)
        last = output.last_hidden_state[:, -1]
    return [language_model.texts(each) for each in ended]


def _drawn(logits: Tensor, owners: Tensor, dice: Sequence[torch.Generator]) -> Tensor:
    """(N,) a token for each row of logits (N, V), by the dice of its owner; an owner's rows stand together.

    The first of exponential clocks to ring is a draw (Gumbel's trick), without sorting the vocabulary.
    """
    counts = owners.bincount(minlength=len(dice)).tolist()
    clocks = torch.cat(
        [
            torch.empty_like(part).exponential_(generator=each)
            for part, each in zip(logits.split(counts), dice, strict=True)
        ]
    )
    return (logits - clocks.log()).argmax(dim=1)
