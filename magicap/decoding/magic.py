"""Magic search: a pure scoring step, and the loop (Su et al. 2022, arXiv 2205.02655, eq. 5 and algorithm 1).

Shapes: B pictures, K candidates, T tokens of a prefix, D hidden or embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.decoding.conditioning import beginnings
from magicap.decoding.settings import Steps
from magicap.results import Step, added_text

if TYPE_CHECKING:
    from magicap.decoding.prefix_cache import Node, PrefixCache
    from magicap.decoding.settings import MagicSearch
    from magicap.models.language_model import LanguageModel
    from magicap.retrieval.caption_memory import CaptionMemory

_ROUNDING = 1e-5  # float32 misses a cosine or a sum of such size by far less


@dataclass(frozen=True)
class ScoreTerms:
    """What speaks for each candidate; each (B, K)."""

    confidence: Tensor
    degeneration: Tensor
    image: Tensor

    @property
    def score(self) -> Tensor:
        """(B, K) their sum."""
        return self.confidence + self.degeneration + self.image

    def at(self, columns: Tensor) -> ScoreTerms:
        """Those of other columns, (B, N) numbers of candidates."""
        return ScoreTerms(
            *(part.gather(1, columns) for part in (self.confidence, self.degeneration, self.image))
        )


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
    """f (B, K): softmax over the candidates of logit_scale * cosine.

    Args:
        images: (B, D) unit vectors.
        texts: (B, K, D) unit vectors of the prefix with each candidate.
    """
    return torch.softmax(logit_scale * torch.einsum("bd,bkd->bk", images, texts), dim=1)


def can_still_win(known: Tensor, repetition: Tensor, alpha: float, places: int = 1) -> Tensor:
    """(B, K) which candidates can still be among the first.

    The degeneration term lies within alpha of zero where it is not known yet, a cosine being within one of
    it. Whoever could at best stay behind what the leader has at worst has lost.

    Args:
        known: (B, K) scores without the degeneration term.
        repetition: (B, K) cosines, NaN where unknown.
        places: how many of the best are wanted; 1 asks for the winner alone.
    """
    best = known - alpha * repetition.nan_to_num(nan=-1.0)
    worst = known - alpha * repetition.nan_to_num(nan=1.0)
    leader = worst.topk(min(places, known.shape[1]), dim=1).values[:, -1:]
    return best >= leader - _ROUNDING * max(1.0, float(known.max()))


@dataclass(frozen=True)
class Position:
    """One token position of the B rows still being written: who could win, and who did."""

    rows: tuple[int, ...]
    """FloatArray of the pictures."""

    nodes: tuple[Node, ...]
    """The captions so far, with their candidates."""

    parts: ScoreTerms
    """What speaks for each candidate, (B, K); degeneration is minus infinity where it could not matter."""

    winners: tuple[int, ...]
    """Which of its K candidates each row took."""

    def steps(self, language_model: LanguageModel) -> list[tuple[int, Step]]:
        """The step that each row took, as (row, step)."""
        steps = self._steps(language_model, [[column] for column in self.winners])
        return [(row, step) for row, (step,) in zip(self.rows, steps, strict=True)]

    def best(self, language_model: LanguageModel, count: int) -> list[list[Step]]:
        """The steps that each row could have taken, the one it took first, then by falling score."""
        order = self.parts.score.argsort(dim=1, descending=True, stable=True)[:, :count]
        return self._steps(language_model, order.tolist())

    def _steps(self, language_model: LanguageModel, columns: Sequence[Sequence[int]]) -> list[list[Step]]:
        tokens = [
            node.candidates[torch.tensor(each)].tolist()
            for node, each in zip(self.nodes, columns, strict=True)
        ]
        before = language_model.shown([node.ids for node in self.nodes])
        longer = [(*node.ids, token) for node, each in zip(self.nodes, tokens, strict=True) for token in each]
        texts = iter(language_model.shown(longer))
        at = self.parts.at(torch.tensor(columns, device=self.parts.image.device))
        shares = torch.stack([at.confidence, at.degeneration, at.image], dim=2).tolist()
        steps: list[list[Step]] = []
        for was, each, row in zip(before, tokens, shares, strict=True):
            steps.append([])
            for token, (confidence, degeneration, image) in zip(each, row, strict=True):
                text, last = next(texts), token == language_model.end_id
                step = Step(text, added_text(was, text), token, confidence, degeneration, image, last)
                steps[-1].append(step)
        return steps


def magic_search(
    trie: PrefixCache, images: Tensor, settings: MagicSearch, memory: CaptionMemory | None = None
) -> Steps:
    """Write a caption for each picture; all rows advance together and leave at their end token.

    Args:
        images: (B, D) unit vectors of the pictures.
        memory: what a prompted language model is told by, beside the pictures.

    Yields:
        For each position, ``(row, step)`` of every row still being written.
    """
    for position in magic_positions(trie, images, settings, memory):
        yield position.steps(trie.language_model)


def magic_positions(
    trie: PrefixCache,
    images: Tensor,
    settings: MagicSearch,
    memory: CaptionMemory | None = None,
    places: int = 1,
) -> Iterator[Position]:
    """The loop of :func:`magic_search`, with all that was weighed.

    Without ``beta`` the scorer is never asked (contrastive search), without ``alpha`` no candidate's hidden
    state but the winner's is computed.

    Args:
        images: (B, D) unit vectors of the pictures.
        memory: what a prompted language model is told by, beside the pictures.
        places: how many of the best candidates must be among the can_still_win. More cost time and change no
            caption.
    """
    trie.language_model.require_room(settings.max_new_tokens)
    if not len(images):
        return
    alpha, beta, logit_scale = settings.alpha, settings.beta, trie.scorer.logit_scale
    rows = tuple(range(len(images)))
    nodes = beginnings(trie, images, settings, memory)
    for position in range(settings.max_new_tokens):
        probability = torch.stack([node.probabilities for node in nodes])
        fit = torch.zeros_like(probability)
        if beta:
            fit = image_softmax(images[list(rows)], trie.look(nodes), logit_scale)
        known = (1 - alpha) * probability + beta * fit
        repetition = torch.stack([node.repetition for node in nodes])
        wanted = can_still_win(known, repetition, alpha, places)
        repetition, fresh = trie.weigh(nodes, repetition, wanted)
        parts = magic_score(probability, repetition, fit, alpha, beta)
        parts = replace(parts, degeneration=parts.degeneration.masked_fill(~wanted, -torch.inf))
        winners = parts.score.argmax(dim=1).tolist()  # the first of equals, hence the more probable
        yield Position(rows, tuple(nodes), parts, tuple(winners))
        going_on = [
            number
            for number, (node, column) in enumerate(zip(nodes, winners, strict=True))
            if int(node.candidates[column]) != trie.language_model.end_id
        ]
        if not going_on or position + 1 == settings.max_new_tokens:
            return
        rows = tuple(rows[number] for number in going_on)
        nodes = trie.grow([nodes[n] for n in going_on], [winners[n] for n in going_on], fresh)
