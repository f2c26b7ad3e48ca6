"""Beam search: sequences scored as wholes, all pictures and beams side by side, as tensors.

All tokens that the beams of a picture ever wrote lie in one row of keys and values, and a mask says which of
them each beam descends from (tree attention). So beams are born, pruned and reordered without copying any.

Shapes: B pictures, N beams of each (one at the start), K candidates, F captions that ended, T tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magicap.decoding.beam_images import BeamImageScores
from magicap.decoding.constraints import Constraints
from magicap.decoding.context import DecodingContext
from magicap.decoding.retrieval_ngram import RetrievalNgramModel
from magicap.decoding.settings import BeamMagicSearch
from magicap.errors import BrokenNumbers
from magicap.models.language_model import LanguageModel
from magicap.models.token_cache import GrowingCache
from magicap.results import Hypothesis

_SMALLEST = 1e-9  # probability of what neither the language model nor the n-gram model would say
_STEPS_BETWEEN_CHECKS = 4  # on a GPU, where asking whether all have ended waits for it


@dataclass(frozen=True)
class Partials:
    """Captions being written, or written: N of each of B pictures, the best first."""

    tokens: Tensor
    """(B, N, T) token ids, the start token first; the end token behind what ended earlier."""

    log_probability: Tensor
    """(B, N) float64."""

    score: Tensor
    """(B, N) float64, minus infinity where there is none."""

    @classmethod
    def none(cls, count: int, most: int, start: Tensor) -> Partials:
        """Room for ``most`` captions of each of so many pictures, none there yet.

        Args:
            start: (B, 1, T) tokens that captions begin with.
        """
        nothing = torch.full((count, most), -torch.inf, dtype=torch.float64, device=start.device)
        return cls(start.expand(-1, most, -1), torch.zeros_like(nothing), nothing)

    @property
    def exist(self) -> Tensor:
        """(B, N) which of them there are."""
        return self.score > -torch.inf

    def at(self, columns: Tensor) -> Partials:
        """Those of other columns, (B, M)."""
        tokens = self.tokens.gather(1, columns[:, :, None].expand(-1, -1, self.tokens.shape[2]))
        return Partials(tokens, self.log_probability.gather(1, columns), self.score.gather(1, columns))

    def where(self, rows: Tensor, others: Partials) -> Partials:
        """These in some rows, (B,) of truth, and others elsewhere."""
        rows = rows[:, None]
        return Partials(
            torch.where(rows[:, :, None], self.tokens, others.tokens),
            torch.where(rows, self.log_probability, others.log_probability),
            torch.where(rows, self.score, others.score),
        )

    def beside(self, others: Partials) -> Partials:
        """These, then others, of each picture."""
        pairs = (
            (self.tokens, others.tokens),
            (self.log_probability, others.log_probability),
            (self.score, others.score),
        )
        return Partials(*(torch.cat(pair, dim=1) for pair in pairs))

    def only(self, holds: Tensor) -> Partials:
        """Those for which (B, N) holds; the others are no more."""
        return Partials(self.tokens, self.log_probability, self.score.masked_fill(~holds, -torch.inf))

    def widened(self, count: int) -> Partials:
        """The same, and room for more, up to ``count`` of each picture."""
        missing = torch.zeros_like(self.tokens[:, :1, 0]).expand(-1, count - self.score.shape[1])
        others = self.at(missing)
        return self.beside(others.only(torch.zeros_like(others.exist)))

    def best(self, count: int) -> tuple[Partials, Tensor]:
        """The ``count`` best of each picture, of equals the earlier, and their columns (B, count)."""
        columns = self.score.sort(dim=1, descending=True, stable=True).indices[:, :count]
        return self.at(columns), columns

    def ended(self, end_id: int) -> Partials:
        """The same with one more end token behind each."""
        end = torch.full_like(self.tokens[:, :, :1], end_id)
        return Partials(torch.cat([self.tokens, end], dim=2), self.log_probability, self.score)


@dataclass(frozen=True)
class BeamTimeStep:
    """What the beams of B pictures hold after a token; of pictures that are done, what they held before."""

    language_model: LanguageModel
    finished: Partials
    """Captions that ended."""

    open: Partials
    """Captions that go on, or that did last."""

    written: Tensor
    """(B,) whether anything was written of each picture in this step."""

    def best(self, count: int) -> list[tuple[int, tuple[Hypothesis, ...]]]:
        """The best hypotheses of each picture that is not done, as (row, hypotheses)."""
        rows = self.written.nonzero()[:, 0].tolist()
        chosen, columns = self.finished.beside(self.open).best(count)
        ended = columns < self.finished.score.shape[1]
        hypotheses = _hypotheses(self.language_model, chosen, ended)
        return [(row, tuple(hypotheses[row])) for row in rows]


def beam_time_steps(
    context: DecodingContext,
    settings: BeamMagicSearch,
    ngram_model: RetrievalNgramModel | None,
    image_scores: BeamImageScores | None,
    ids: Sequence[int] = (),
) -> Generator[BeamTimeStep, None, list[list[Hypothesis]]]:
    """Captions of each picture, the best first; where none ended of itself, what the beams hold.

    Args:
        ngram_model: of the captions near each picture, interpolated with the language model.
        image_scores: adds what the picture says of the texts so far.
        ids: tokens that captions begin with, behind the start token.

    Yields:
        What the beams hold after each token.

    Raises:
        BrokenNumbers: the language model gives NaN or infinity.
    """
    beams = _Beams(context, settings, ngram_model, image_scores, ids)
    for position in range(settings.max_new_tokens):
        with context.threads(len(context) * settings.beam_size):
            if position:
                beams.extend()
            time_step = beams.choose()
        yield time_step
        if beams.are_done(position):
            break
        beams.drop_columns()
    beams.require_finite()
    finished, unfinished = beams.finished, beams.last_open
    hypotheses = _hypotheses(context.language_model, finished, torch.ones_like(finished.exist))
    others = _hypotheses(context.language_model, unfinished, torch.zeros_like(unfinished.exist))
    return [ended or open_ones for ended, open_ones in zip(hypotheses, others, strict=True)]


class _Beams:
    """The state of a beam search."""

    def __init__(
        self,
        context: DecodingContext,
        settings: BeamMagicSearch,
        ngram_model: RetrievalNgramModel | None,
        image_scores: BeamImageScores | None,
        ids: Sequence[int],
    ) -> None:
        self._language_model, self._settings = context.language_model, settings
        self._ngram_model, self._image_scores = ngram_model, image_scores
        device, B = context.image_vectors.device, len(context)
        start = torch.tensor([self._language_model.start_id, *ids], device=device).expand(B, -1)  # (B, T)
        zeros = torch.zeros((B, 1), dtype=torch.float64, device=device)
        self.open = Partials(start[:, None], zeros, zeros)
        self.last_open = Partials.none(B, settings.beam_size, start[:, None])
        self.finished = Partials.none(B, settings.num_finished, start[:, None])
        self._contexts = None
        if ngram_model is not None:
            self._contexts = ngram_model.start(self._language_model.start_id, *ids)[:, None]  # (B, 1, orders)
        capacity = start.shape[1] + settings.beam_size * (settings.max_new_tokens - 1)
        self._cache = self._language_model.new_cache(capacity)
        prompts = context.soft_prompts() if settings.soft_prompt else None
        for position, token in enumerate(start.split(1, dim=1)):
            added = None if position else prompts
            self._hidden = self._language_model.step(token, position, None, self._cache, added)  # (B, N, W)
        self._visible = torch.ones((B, 1, start.shape[1]), dtype=torch.bool, device=device)  # (B, N, columns)
        self._broken = torch.zeros((), dtype=torch.bool, device=device)
        self._needed: tuple[Tensor, int] | None = None  # (B, columns) of truth; of how many at most in a row

    def choose(self) -> BeamTimeStep:
        """Let continuations compete: what ended, and what is worth going on with, the best first."""
        B, N = self.open.score.shape
        settings, end_id = self._settings, self._language_model.end_id
        probability, candidates = self._candidates()  # (B, N, K)
        behind = None
        if self._ngram_model is not None and self._contexts is not None and settings.ngram_weight:
            retrieved, behind = self._ngram_model.probabilities(
                self._contexts.flatten(0, 1), candidates.flatten(0, 1)
            )
            weight = settings.ngram_weight
            probability = (1 - weight) * probability + weight * retrieved.unflatten(0, (B, N))
        log_probability = self.open.log_probability[:, :, None] + probability.clamp_min(_SMALLEST).log()
        score = log_probability
        if self._image_scores is not None:
            score = score + self._image_scores.of(self.open.tokens, candidates, self.open.exist)
        if settings.constraints:
            allowed = _allowed(self._language_model, self.open, candidates, settings.constraints)
            score = score.masked_fill(~allowed, -torch.inf)
        score = score.masked_fill(~self.open.exist[:, :, None], -torch.inf)

        # Of each beam as many as there are beams and one that may end it, then of each picture twice as many.
        columns = score.sort(dim=2, descending=True, stable=True).indices[:, :, : settings.beam_size + 1]
        width = columns.shape[2]
        beams = torch.arange(N, device=score.device).repeat_interleave(width).expand(B, -1)
        columns = columns.flatten(1)
        cells = beams * candidates.shape[2] + columns  # (B, N * width)
        order = score.flatten(1).gather(1, cells).sort(dim=1, descending=True, stable=True).indices
        cells = cells.gather(1, order[:, : 2 * settings.beam_size])
        parents, token = cells // candidates.shape[2], candidates.flatten(1).gather(1, cells)
        tokens = self.open.at(parents).tokens
        grown = Partials(
            torch.cat([tokens, token[:, :, None]], dim=2),
            log_probability.flatten(1).gather(1, cells),
            score.flatten(1).gather(1, cells),
        )
        written = grown.exist.any(dim=1)
        kept = self._prune(grown, token == end_id)
        self._parents = parents.gather(1, kept)
        if behind is not None:
            behind = behind.unflatten(0, (B, N)).flatten(1, 2)  # (B, N * K, orders)
            rows = cells.gather(1, kept)[:, :, None].expand(-1, -1, behind.shape[2])
            self._contexts = behind.gather(1, rows)
        ancestors = self._parents[:, :, None].expand(-1, -1, self._visible.shape[2])
        self._visible = self._visible.gather(1, ancestors)
        return BeamTimeStep(self._language_model, self.finished, self.last_open, written)

    def extend(self) -> None:
        """Run the language model over the last token of every caption that goes on."""
        B, N = self.open.score.shape
        itself = torch.eye(N, dtype=torch.bool, device=self._visible.device).expand(B, -1, -1)
        self._visible = torch.cat([self._visible, itself], dim=2)
        if self._image_scores is not None:
            self._image_scores.reorder(self._parents)
        last = self.open.tokens[:, :, -1]
        position = self.open.tokens.shape[2] - 1
        self._hidden = self._language_model.step(last, position, self._visible[:, None], self._cache)

    def are_done(self, position: int) -> bool:
        """Whether no caption goes on; on a GPU that is not asked at every position."""
        self._needed = None
        if self.open.score.is_cuda and position % _STEPS_BETWEEN_CHECKS:
            return False
        seen = (self._visible & self.open.exist[:, :, None]).any(dim=1)  # (B, columns)
        goes_on, width = torch.stack([self.open.exist.any(), seen.sum(dim=1).max()]).tolist()
        self._needed = seen, width
        return not goes_on

    def drop_columns(self) -> None:
        """Keep the columns that :meth:`are_done` found to be needed, where the others are at least half."""
        if self._needed is None or not isinstance(self._cache, GrowingCache):
            return
        seen, width = self._needed
        if 2 * width <= seen.shape[1]:
            columns = seen.byte().argsort(dim=1, descending=True, stable=True)[:, :width]  # in their order
            self._cache.select_columns(columns)
            self._visible = self._visible.gather(2, columns[:, None].expand(-1, self._visible.shape[1], -1))

    def require_finite(self) -> None:
        """Refuse numbers that broke.

        Raises:
            BrokenNumbers: a row's were NaN or infinity.
        """
        if bool(self._broken):
            raise BrokenNumbers("expected finite logits of the language model, found NaN or infinity")

    def _candidates(self) -> tuple[Tensor, Tensor]:
        """(B, N, K) float64 probabilities of the likeliest next tokens, and their ids."""
        B, N = self.open.score.shape
        values, ids = self._language_model.likeliest(self._hidden.flatten(0, 1), self._settings.top_k)
        broken = values[:, 0].isnan().view(B, N) & self.open.exist  # a row is NaN throughout, or nowhere
        self._broken = self._broken | broken.any()
        return values.double().unflatten(0, (B, N)), ids.unflatten(0, (B, N))

    def _prune(self, grown: Partials, ends: Tensor) -> Tensor:
        """Put what has ended with what ended before; the columns of what is worth going on with.

        A score only falls as a caption grows, but for the picture's part: what is behind as many finished
        captions as are wanted is given up.
        """
        earlier = self.finished.ended(self._language_model.end_id)
        self.finished, _ = earlier.beside(grown.only(ends)).best(self._settings.num_finished)
        bar = self.finished.score[:, -1:]  # minus infinity until there are so many
        self.open, columns = grown.only(~ends & (grown.score > bar)).best(self._settings.beam_size)
        before = self.last_open.ended(self._language_model.end_id)
        widened = self.open.widened(self._settings.beam_size)
        self.last_open = widened.where(self.open.exist.any(dim=1), before)
        return columns


def _allowed(
    language_model: LanguageModel, partials: Partials, candidates: Tensor, constraints: Constraints
) -> Tensor:
    """(B, N, K) which candidates end a caption as it must be, or leave it able to become so."""
    B, N, K = candidates.shape
    longer = torch.cat([partials.tokens[:, :, None].expand(-1, -1, K, -1), candidates[..., None]], dim=3)
    exist = partials.exist.flatten().tolist()
    ids = [row for row, one in zip(longer.flatten(0, 1).tolist(), exist, strict=True) if one]
    flat = [prefix for row in ids for prefix in row]
    texts = language_model.texts(flat)
    holds = iter(
        [
            (constraints.hold if prefix[-1] == language_model.end_id else constraints.can_hold)(text)
            for prefix, text in zip(flat, texts, strict=True)
        ]
    )
    rows = [[one and next(holds) for _ in range(K)] for one in exist]
    return torch.tensor(rows, device=candidates.device).view(B, N, K)


def _hypotheses(
    language_model: LanguageModel, partials: Partials, finished: Tensor
) -> list[list[Hypothesis]]:
    """Of each picture those captions that there are.

    Args:
        finished: (B, N) whether each ended of itself.
    """
    cells = partials.exist.nonzero().tolist()
    ids = partials.tokens[partials.exist].tolist()
    numbers = torch.stack([partials.log_probability, partials.score, finished.double()], dim=2)
    texts = language_model.texts(ids)
    hypotheses: list[list[Hypothesis]] = [[] for _ in partials.score]
    rows = numbers[partials.exist].tolist()
    for (row, _), text, (log_probability, score, ended) in zip(cells, texts, rows, strict=True):
        hypothesis = Hypothesis(
            text.strip(), log_probability=log_probability, finished=bool(ended), score=score
        )
        hypotheses[row].append(hypothesis)
    return hypotheses
