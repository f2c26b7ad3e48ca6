"""Beam search over the prefix cache: sequences scored as wholes, all pictures and beams side by side.

Shapes: B pictures, K candidates, N beams of all pictures, D embedding width.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from magicap.arrays import BoolArray, FloatArray
from magicap.decoding.constraints import Constraints
from magicap.decoding.context import DecodingContext
from magicap.decoding.prefix_cache import CachedPrefix, PrefixCache
from magicap.decoding.retrieval_ngram import RetrievalNgramModel
from magicap.decoding.settings import BeamMagicSearch
from magicap.results import Hypothesis

_SMALLEST = 1e-9  # probability of what neither the language model nor the n-gram model would say


@dataclass(frozen=True)
class _Partial:
    """A caption being written."""

    row: int
    prefix: CachedPrefix
    log_probability: float


@dataclass(frozen=True)
class _Continuation:
    """A partial caption with one of its candidates."""

    partial: _Partial
    column: int
    token: int
    log_probability: float
    score: float


@dataclass(frozen=True)
class BeamTimeStep:
    """What the beams of B pictures hold after a token; of pictures that are done, what they held before."""

    cache: PrefixCache
    rows: tuple[int, ...]
    """Numbers of the pictures whose captions are still being written."""

    continuations: tuple[tuple[_Continuation, ...], ...]
    """Of each picture those that ended and those that go on."""

    def best(self, count: int) -> list[tuple[int, tuple[Hypothesis, ...]]]:
        """The best hypotheses of each picture that is not done, as (row, hypotheses)."""
        chosen = {row: sorted(self.continuations[row], key=lambda c: -c.score)[:count] for row in self.rows}
        end_id = self.cache.language_model.end_id
        ended = [c.token == end_id for row in chosen.values() for c in row]
        hypotheses = iter(_hypotheses(self.cache, [c for row in chosen.values() for c in row], ended))
        return [(row, tuple(next(hypotheses) for _ in of_row)) for row, of_row in chosen.items()]


def beam_time_steps(
    context: DecodingContext,
    settings: BeamMagicSearch,
    ngram_models: Sequence[RetrievalNgramModel | None],
    cosine_std: Sequence[float],
    image_weight: float,
) -> Generator[BeamTimeStep, None, list[list[Hypothesis]]]:
    """Captions of each picture, the best first; where none ended of itself, what the beams hold.

    The picture's part is the cosine of the whole text so far, in standard deviations, so that along a
    sequence the changes add up to the last cosine whatever the number of candidates.

    Args:
        ngram_models: B models of the captions near each picture, interpolated with the language model.
        cosine_std: B standard deviations that each picture's cosines are measured in.
        image_weight: what such a deviation is worth in nats.

    Yields:
        What the beams hold after each token.
    """
    prefixes = context.start_prefixes(settings.top_k, soft_prompt=settings.soft_prompt)
    partials = [_Partial(row, prefix, 0.0) for row, prefix in enumerate(prefixes)]
    finished: list[list[_Continuation]] = [[] for _ in range(len(context))]
    unfinished: list[list[_Continuation]] = [[] for _ in range(len(context))]
    for _ in range(settings.max_new_tokens):
        log_probability = _log_probabilities(partials, ngram_models, settings.ngram_weight)  # (N, K)
        score = log_probability
        if image_weight:
            score = score + image_weight * _standardised_cosines(context, partials, cosine_std)
        if settings.constraints:
            score = np.where(_allowed(context.cache, partials, settings.constraints), score, -np.inf)
        best = _best(partials, log_probability, score, len(context), settings.beam_size)
        kept: list[_Continuation] = []
        for row, continuations in enumerate(best):
            going_on = _prune(continuations, finished[row], context.language_model.end_id, settings)
            unfinished[row] = going_on or unfinished[row]
            kept += going_on
        yield BeamTimeStep(
            context.cache,
            tuple(row for row, continuations in enumerate(best) if continuations),
            tuple((*ended, *open_ones) for ended, open_ones in zip(finished, unfinished, strict=True)),
        )
        if not kept:
            break
        prefixes = context.cache.extend([c.partial.prefix for c in kept], [c.column for c in kept], None)
        partials = [
            _Partial(c.partial.row, prefix, c.log_probability)
            for c, prefix in zip(kept, prefixes, strict=True)
        ]
    return [
        _hypotheses(context.cache, ended or open_ones, [bool(ended)] * len(ended or open_ones))
        for ended, open_ones in zip(finished, unfinished, strict=True)
    ]


def _log_probabilities(
    partials: Sequence[_Partial], ngram_models: Sequence[RetrievalNgramModel | None], ngram_weight: float
) -> FloatArray:
    """(N, K) of each partial caption with each of its candidates."""
    probabilities = torch.stack([partial.prefix.probabilities for partial in partials]).double().cpu().numpy()
    for number, partial in enumerate(partials):
        ngram_model = ngram_models[partial.row]
        if ngram_model is not None and ngram_weight:
            candidates = partial.prefix.candidates.tolist()
            retrieved = ngram_model.probabilities(partial.prefix.ids, candidates)
            probabilities[number] = (1 - ngram_weight) * probabilities[number] + ngram_weight * retrieved
    before = np.array([partial.log_probability for partial in partials])
    return np.asarray(before[:, None] + np.log(np.maximum(probabilities, _SMALLEST)))


def _standardised_cosines(
    context: DecodingContext, partials: Sequence[_Partial], cosine_std: Sequence[float]
) -> FloatArray:
    """(N, K) cosines of pictures and texts so far, over each picture's standard deviation."""
    rows = [partial.row for partial in partials]
    vectors = context.cache.candidate_vectors([partial.prefix for partial in partials])
    cosines = torch.einsum("bd,bkd->bk", context.image_vectors[rows], vectors).double().cpu().numpy()
    return np.asarray(cosines / np.array([cosine_std[row] for row in rows])[:, None])


def _best(
    partials: Sequence[_Partial],
    log_probability: FloatArray,
    score: FloatArray,
    count: int,
    beam_size: int,
) -> list[list[_Continuation]]:
    """For each picture twice as many continuations as there are beams, best first: half of them may end."""
    continuations: list[list[_Continuation]] = [[] for _ in range(count)]
    for number, partial in enumerate(partials):
        columns = np.argsort(-score[number], kind="stable")[: beam_size + 1]
        tokens = partial.prefix.candidates[torch.as_tensor(columns)].tolist()
        for column, token in zip(columns.tolist(), tokens, strict=True):
            total = float(score[number, column])
            if total > -np.inf:  # else the constraints forbid it
                log_p = float(log_probability[number, column])
                continuations[partial.row].append(_Continuation(partial, column, token, log_p, total))
    return [sorted(row, key=lambda c: -c.score)[: 2 * beam_size] for row in continuations]


def _prune(
    continuations: Sequence[_Continuation],
    finished: list[_Continuation],
    end_id: int,
    settings: BeamMagicSearch,
) -> list[_Continuation]:
    """Put what has ended with what ended before; the continuations that are worth going on with.

    A score only falls as a caption grows, but for the picture's part: what is behind as many finished
    captions as are wanted is given up.
    """
    finished += [c for c in continuations if c.token == end_id]
    finished.sort(key=lambda c: -c.score)
    del finished[settings.num_finished :]
    bar = finished[-1].score if len(finished) == settings.num_finished else -np.inf
    going_on = [c for c in continuations if c.token != end_id and c.score > bar]
    return going_on[: settings.beam_size]


def _allowed(cache: PrefixCache, partials: Sequence[_Partial], constraints: Constraints) -> BoolArray:
    """(N, K) which candidates end a caption as it must be, or leave it able to become so."""
    ids = [
        (*partial.prefix.ids, token) for partial in partials for token in partial.prefix.candidates.tolist()
    ]
    texts = cache.language_model.texts(ids)
    ends = [prefix[-1] == cache.language_model.end_id for prefix in ids]
    holds = [
        (constraints.hold if end else constraints.can_hold)(text)
        for text, end in zip(texts, ends, strict=True)
    ]
    return np.array(holds).reshape(len(partials), -1)


def _hypotheses(
    cache: PrefixCache, continuations: Sequence[_Continuation], finished: Sequence[bool]
) -> list[Hypothesis]:
    texts = cache.language_model.texts([(*c.partial.prefix.ids, c.token) for c in continuations])
    return [
        Hypothesis(text.strip(), log_probability=c.log_probability, finished=ended, score=c.score)
        for text, c, ended in zip(texts, continuations, finished, strict=True)
    ]
