"""Magic search: a pure scoring step, and the loop (Su et al. 2022, arXiv 2205.02655, eq. 5 and algorithm 1).

Shapes: B pictures, K candidates, T tokens of a prefix, D hidden or embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magicap.decoding.context import DecodingContext
from magicap.decoding.prefix_cache import CachedPrefix
from magicap.decoding.settings import MagicSearch
from magicap.models.language_model import LanguageModel
from magicap.results import Step, StepBatches, added_text

_ROUNDING = 1e-5  # float32 misses a cosine or a sum of such size by far less


@dataclass(frozen=True)
class ScoreTerms:
    """What speaks for each candidate; each (B, K)."""

    model_confidence: Tensor
    degeneration_penalty: Tensor
    image_score: Tensor

    @property
    def score(self) -> Tensor:
        """(B, K) their sum."""
        return self.model_confidence + self.degeneration_penalty + self.image_score

    def at(self, columns: Tensor) -> Tensor:
        """(B, N, 3) the three terms of other columns, (B, N) numbers of candidates."""
        terms = self.model_confidence, self.degeneration_penalty, self.image_score
        return torch.stack([term.gather(1, columns) for term in terms], dim=2)


def magic_score(
    probability: Tensor, repetition: Tensor, image_probability: Tensor, alpha: float, beta: float
) -> ScoreTerms:
    """score(v) = (1 - alpha) * p(v) - alpha * max_j cos(h_v, h_xj) + beta * f(v).

    Args:
        probability: (B, K) p, the language model's softmax over the whole vocabulary.
        repetition: (B, K) largest cosine between the candidate's hidden state and one of the prefix.
        image_probability: (B, K) f, see :func:`image_softmax`.
    """
    return ScoreTerms((1 - alpha) * probability, -alpha * repetition, beta * image_probability)


def image_softmax(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """The image score f, (B, K): softmax over the candidates of logit_scale * cosine.

    Args:
        images: (B, D) unit vectors.
        texts: (B, K, D) unit vectors of the prefix with each candidate.
    """
    return torch.softmax(logit_scale * torch.einsum("bd,bkd->bk", images, texts), dim=1)


def can_still_win(known: Tensor, repetition: Tensor, alpha: float, top_n: int = 1) -> Tensor:
    """(B, K) which candidates can still be among the first ``top_n``.

    The degeneration penalty lies within alpha of zero where it is not known yet, a cosine being within one of
    it. Whoever could at best stay behind what the leader has at worst has lost.

    Args:
        known: (B, K) scores without the degeneration penalty.
        repetition: (B, K) cosines, NaN where unknown.
        top_n: how many of the best are wanted; 1 asks for the winner alone.
    """
    best = known - alpha * repetition.nan_to_num(nan=-1.0)
    worst = known - alpha * repetition.nan_to_num(nan=1.0)
    leader = worst.topk(min(top_n, known.shape[1]), dim=1).values[:, -1:]
    return best >= leader - _ROUNDING * max(1.0, float(known.max()))


@dataclass(frozen=True)
class TimeStep:
    """One token position of the B rows still being written: who could win, and who did."""

    rows: tuple[int, ...]
    """Numbers of the pictures."""

    prefixes: tuple[CachedPrefix, ...]
    """The captions so far, with their candidates."""

    terms: ScoreTerms
    """What speaks for each candidate, (B, K); the penalty is minus infinity where it could not matter."""

    winners: tuple[int, ...]
    """Which of its K candidates each row took."""

    def steps(self, language_model: LanguageModel) -> list[tuple[int, Step]]:
        """The step that each row took, as (row, step)."""
        steps = self.token_steps(language_model, [[column] for column in self.winners])
        return [(row, step) for row, (step,) in zip(self.rows, steps, strict=True)]

    def best(self, language_model: LanguageModel, count: int) -> list[list[Step]]:
        """The steps that each row could have taken, the one it took first, then by falling score."""
        order = self.terms.score.argsort(dim=1, descending=True, stable=True)[:, :count]
        return self.token_steps(language_model, order.tolist())

    def token_steps(
        self, language_model: LanguageModel, columns: Sequence[Sequence[int]]
    ) -> list[list[Step]]:
        """The steps that some of each row's candidates would be.

        For rows at "A dog" and "Two" with columns [[0, 4], [2, 1]] these are, by their ``text``:
        [["A dog runs", "A dog on"], ["Two men", "Two dogs"]].

        Args:
            columns: B lists of N numbers of candidates.
        """
        terms = self.terms.at(torch.tensor(columns, device=self.terms.image_score.device)).tolist()
        tokens = [
            [prefix.tokens[column] for column in row]
            for prefix, row in zip(self.prefixes, columns, strict=True)
        ]
        before = language_model.partial_texts([prefix.ids for prefix in self.prefixes])
        longer = [
            (*prefix.ids, token) for prefix, row in zip(self.prefixes, tokens, strict=True) for token in row
        ]
        texts = iter(language_model.partial_texts(longer))
        steps: list[list[Step]] = []
        for start, row_tokens, row_terms in zip(before, tokens, terms, strict=True):
            steps.append([])
            for token, (confidence, penalty, image) in zip(row_tokens, row_terms, strict=True):
                text, last = next(texts), token == language_model.end_id
                added = added_text(start, text)
                steps[-1].append(Step(text, added, token, confidence, penalty, image, last))
        return steps


def magic_search(context: DecodingContext, settings: MagicSearch) -> StepBatches:
    """Write a caption for each picture; all rows advance together and leave at their end token.

    Yields:
        For each position, ``(row, step)`` of every row still being written.
    """
    for time_step in magic_time_steps(context, settings):
        yield time_step.steps(context.language_model)


def magic_time_steps(context: DecodingContext, settings: MagicSearch, top_n: int = 1) -> Iterator[TimeStep]:
    """The loop of :func:`magic_search`, with all that was weighed.

    Without ``beta`` the scorer is never asked (contrastive search), without ``alpha`` no candidate's hidden
    state but the winner's is computed.

    Args:
        top_n: for how many of the best candidates all terms must be exact. More cost time and change no
            caption.
    """
    ids = context.language_model.encode_prefix(settings.prefix, settings.max_new_tokens)
    if len(context):
        starts = context.start_prefixes(settings.top_k, soft_prompt=settings.soft_prompt, ids=ids)
        yield from time_steps_from(starts, context, settings, top_n)


def time_steps_from(
    prefixes: Sequence[CachedPrefix], context: DecodingContext, settings: MagicSearch, top_n: int = 1
) -> Iterator[TimeStep]:
    """:func:`magic_time_steps`, searched on from B prefixes.

    Args:
        prefixes: of one length, each with ``top_k`` candidates; they stand for the settings' prefix.
    """
    cache, images = context.cache, context.image_vectors
    alpha, beta, logit_scale = settings.alpha, settings.beta, context.scorer.logit_scale
    rows = tuple(range(len(context)))
    for position in range(settings.max_new_tokens):
        probability = torch.stack([prefix.probabilities for prefix in prefixes])  # (B, K)
        image_probability = torch.zeros_like(probability)
        if beta:
            texts = cache.candidate_vectors(prefixes)  # (B, K, D)
            image_probability = image_softmax(images[list(rows)], texts, logit_scale)
        known = (1 - alpha) * probability + beta * image_probability
        repetition = torch.stack([prefix.repetition for prefix in prefixes])
        wanted = can_still_win(known, repetition, alpha, top_n)
        repetition, fresh = cache.degeneration(prefixes, repetition, wanted)
        terms = magic_score(probability, repetition, image_probability, alpha, beta)
        penalty = terms.degeneration_penalty.masked_fill(~wanted, -torch.inf)
        terms = replace(terms, degeneration_penalty=penalty)
        winners = terms.score.argmax(dim=1).tolist()  # the first of equals, hence the more probable
        yield TimeStep(rows, tuple(prefixes), terms, tuple(winners))
        unfinished = [
            number
            for number, (prefix, column) in enumerate(zip(prefixes, winners, strict=True))
            if prefix.tokens[column] != context.language_model.end_id
        ]
        if not unfinished or position + 1 == settings.max_new_tokens:
            return
        rows = tuple(rows[number] for number in unfinished)
        columns = [winners[number] for number in unfinished]
        prefixes = cache.extend([prefixes[number] for number in unfinished], columns, fresh)
