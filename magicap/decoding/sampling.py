"""Text-only floors that draw: what the language model says with its eyes shut.

Greedy and contrastive search need no code here: they are magic search with beta = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.decoding.settings import Steps
from magicap.results import Step, added_text

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel


def keep_top_k(probabilities: Tensor, top_k: int) -> Tensor:
    """(B, V) with all but each row's k most probable tokens set to zero; exactly k stay, ties or not."""
    top = probabilities.topk(min(top_k, probabilities.shape[1]), dim=1)
    return torch.zeros_like(probabilities).scatter(1, top.indices, top.values)


def keep_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(B, V) with only the fewest most probable tokens whose sum reaches ``top_p``; at least one stays."""
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    return torch.zeros_like(probabilities).scatter(1, order, ordered.masked_fill(before >= top_p, 0.0))


def sample(
    language_model: LanguageModel,
    keep: Callable[[Tensor], Tensor],
    temperature: float,
    max_new_tokens: int,
    seeds: list[int],
) -> Steps:
    """Draw a caption for each seed; a row's draws depend on its own seed alone, whatever stands beside it.

    Args:
        keep: sets the probabilities (B, V) of tokens that may not be drawn to zero.
        seeds: B seeds.
    """
    language_model.require_room(max_new_tokens)
    if not seeds:
        return
    rows = torch.arange(len(seeds), device=language_model.device)
    dice = [torch.Generator().manual_seed(seed) for seed in seeds]
    prefixes = language_model.start().select(torch.zeros_like(rows))
    before = [""] * len(seeds)
    for _ in range(max_new_tokens):
        if not len(rows):
            return
        probabilities = language_model.probabilities(prefixes.last)
        surprise = probabilities.log()
        surprise = surprise - surprise.max(dim=1, keepdim=True).values  # the best stays finite however cold
        tempered = torch.softmax(surprise / temperature, dim=1)
        weights = keep(tempered).cpu()
        draws = [torch.multinomial(weights[i], 1, generator=dice[row]) for i, row in enumerate(rows.tolist())]
        chosen = torch.cat(draws).to(rows.device)[:, None]
        confidence = probabilities.gather(1, chosen).squeeze(1).tolist()
        extension = language_model.extend(prefixes, chosen)
        prefixes = language_model.choose(extension, torch.zeros_like(rows))
        after = language_model.shown(prefixes.ids.tolist())
        yield [
            (row, Step(new, added_text(old, new), token, p, 0.0, 0.0, last=token == language_model.end_id))
            for row, old, new, token, p in zip(
                rows.tolist(), before, after, chosen.squeeze(1).tolist(), confidence, strict=True
            )
        ]
        going_on = (chosen.squeeze(1) != language_model.end_id).nonzero().squeeze(1)
        rows, prefixes = rows[going_on], prefixes.select(going_on)
        before = [after[i] for i in going_on.tolist()]
