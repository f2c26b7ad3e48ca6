"""Searches that sample from the language model alone: top-k and nucleus. No picture is seen.

Greedy and contrastive search need no code here: they are magic search with beta = 0.

Shapes: B captions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from magicap.decoding.context import DecodingContext
from magicap.decoding.settings import Nucleus, TopK
from magicap.results import Step, StepBatches, added_text


def top_k_sampling(context: DecodingContext, settings: TopK) -> StepBatches:
    """Sample each token from the k most probable ones (Fan et al. 2018, arXiv 1805.04833)."""
    return sample_tokens(context, lambda p: keep_top_k(p, settings.top_k), settings)


def nucleus_sampling(context: DecodingContext, settings: Nucleus) -> StepBatches:
    """Sample each token from the nucleus of the distribution (Holtzman et al. 2020, arXiv 1904.09751)."""
    return sample_tokens(context, lambda p: keep_nucleus(p, settings.top_p), settings)


def keep_top_k(probabilities: Tensor, top_k: int) -> Tensor:
    """(B, V) with all but each row's k most probable tokens set to zero; exactly k stay, ties or not."""
    top = probabilities.topk(min(top_k, probabilities.shape[1]), dim=1)
    return torch.zeros_like(probabilities).scatter(1, top.indices, top.values)


def keep_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(B, V) with only the fewest most probable tokens whose sum reaches ``top_p``; at least one stays."""
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    return torch.zeros_like(probabilities).scatter(1, order, ordered.masked_fill(before >= top_p, 0.0))


def sample_tokens(
    context: DecodingContext, keep: Callable[[Tensor], Tensor], settings: TopK | Nucleus
) -> StepBatches:
    """Sample a caption for each seed; a row's samples depend on its own seed alone.

    Args:
        keep: sets the probabilities (B, V) of tokens that may not be sampled to zero.
    """
    language_model, seeds = context.language_model, context.seeds
    ids = language_model.encode_prefix(settings.prefix, settings.max_new_tokens)
    if not seeds:
        return
    rows = torch.arange(len(seeds), device=language_model.device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prefixes = language_model.start()
    for token in ids:
        prefixes = language_model.append(prefixes, token)
    prefixes = prefixes.select(torch.zeros_like(rows))
    before = language_model.partial_texts(prefixes.ids.tolist())
    for _ in range(settings.max_new_tokens):
        if not len(rows):
            return
        probabilities = language_model.probabilities(prefixes.last)
        log_p = probabilities.log()
        log_p = log_p - log_p.max(dim=1, keepdim=True).values  # the best stays finite however cold
        weights = keep(torch.softmax(log_p / settings.temperature, dim=1)).cpu()
        samples = [
            torch.multinomial(weights[i], 1, generator=generators[row]) for i, row in enumerate(rows.tolist())
        ]
        chosen = torch.cat(samples).to(rows.device)[:, None]
        probability = probabilities.gather(1, chosen).squeeze(1).tolist()
        extension = language_model.extend(prefixes, chosen)
        prefixes = language_model.choose(extension, torch.zeros_like(rows))
        after = language_model.partial_texts(prefixes.ids.tolist())
        yield [
            (row, Step(new, added_text(old, new), token, p, 0.0, 0.0, last=token == language_model.end_id))
            for row, old, new, token, p in zip(
                rows.tolist(), before, after, chosen.squeeze(1).tolist(), probability, strict=True
            )
        ]
        unfinished = (chosen.squeeze(1) != language_model.end_id).nonzero().squeeze(1)
        rows, prefixes = rows[unfinished], prefixes.select(unfinished)
        before = [after[i] for i in unfinished.tolist()]
