"""Captions that a language model writes behind soft prompts, all side by side: sampled, or greedy.

Shapes: N captions, T tokens, V vocabulary, W hidden width of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magicap.models.language_model import LanguageModel

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""From probabilities (M, V), the numbers (M,) of the captions they belong to and how many tokens these have
behind the start token, to the tokens chosen (M,)."""


@dataclass(frozen=True)
class Rollouts:
    """Captions as they were written."""

    ids: Tensor
    """(N, 1 + T) the start token, then those that were chosen, then padding."""

    mask: Tensor
    """(N, 1 + T) one at the start token and those that were chosen, zero at padding."""

    ended: Tensor
    """(N,) whether the end token is among them."""

    def texts(self, language_model: LanguageModel) -> list[str]:
        """The captions' words."""
        rows = zip(self.ids.tolist(), self.mask.sum(dim=1).tolist(), strict=True)
        return language_model.texts([ids[:length] for ids, length in rows])


@torch.no_grad()
def roll_out(language_model: LanguageModel, prompts: Tensor, max_new_tokens: int, choose: Choose) -> Rollouts:
    """Captions of at most ``max_new_tokens`` tokens, the end token included.

    Args:
        prompts: (N, W) of the language model's soft prompt.
        choose: :func:`greedy` or what :func:`sampling` gives.
    """
    N, device = len(prompts), prompts.device
    ids = torch.full((N, 1 + max_new_tokens), language_model.pad_id, device=device)
    ids[:, 0] = language_model.start_id
    lengths = torch.ones(N, dtype=torch.long, device=device)
    cache = language_model.new_cache(max_new_tokens)
    rows = torch.arange(N, device=device)  # captions that are not finished
    for position in range(max_new_tokens):
        at_start = prompts if position == 0 else None
        hidden = language_model.step(ids[rows, position, None], position, None, cache, at_start)
        chosen = choose(language_model.next_token_probabilities(hidden[:, -1]), rows, position)
        ids[rows, position + 1] = chosen
        lengths[rows] += 1
        unfinished = (chosen != language_model.end_id).nonzero().squeeze(1)
        if len(unfinished) < len(rows):
            rows = rows[unfinished]
            cache.batch_select_indices(unfinished)
        if not len(rows):
            break
    longest = int(lengths.max())
    mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
    ended = torch.ones(N, dtype=torch.bool, device=device)
    ended[rows] = False
    return Rollouts(ids[:, :longest], mask, ended)


def greedy(probabilities: Tensor, rows: Tensor, position: int) -> Tensor:
    """The likeliest token of each caption."""
    return probabilities.argmax(dim=1)


def sampling(seeds: Sequence[int], samples: int, max_new_tokens: int, device: torch.device) -> Choose:
    """Tokens as likely as the model says; those of a picture depend on its own seed alone.

    Args:
        seeds: one a picture.
        samples: captions of each picture, which stand one behind the other.
        max_new_tokens: how many tokens are sampled of each, at most.
    """
    shape = samples, max_new_tokens
    parts = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    uniform = torch.cat(parts).to(device)

    def choose(probabilities: Tensor, rows: Tensor, position: int) -> Tensor:
        cumulative = probabilities.cumsum(dim=1)
        thresholds = uniform[rows, position, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, thresholds, right=True).squeeze(1)
        return chosen.clamp_max(probabilities.shape[1] - 1)

    return choose
