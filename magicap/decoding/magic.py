"""Magic search: a pure scoring step, and the loop (Su et al. 2022, arXiv 2205.02655, eq. 5 and algorithm 1).

Shapes: B pictures, K candidates, T tokens of a prefix, D hidden or embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.decoding.settings import Steps
from magicap.results import Step, added_text

if TYPE_CHECKING:
    from magicap.decoding.settings import MagicSearch
    from magicap.models.language_model import LanguageModel, Prefixes
    from magicap.models.scorer import ImageTextScorer

_ROUNDING = 1e-5  # float32 misses a cosine or a sum of such size by far less


@dataclass(frozen=True)
class Contributions:
    """What speaks for each candidate; each (B, K)."""

    confidence: Tensor
    degeneration: Tensor
    image: Tensor

    @property
    def score(self) -> Tensor:
        """(B, K) their sum."""
        return self.confidence + self.degeneration + self.image

    def at(self, columns: Tensor) -> Contributions:
        """Those of other columns, (B, N) numbers of candidates."""
        return Contributions(
            *(part.gather(1, columns) for part in (self.confidence, self.degeneration, self.image))
        )


def magic_score(
    probability: Tensor, repetition: Tensor, image_probability: Tensor, alpha: float, beta: float
) -> Contributions:
    """score(v) = (1 - alpha) * p(v) - alpha * max_j cos(h_v, h_xj) + beta * f(v).

    Args:
        probability: (B, K) p, the language model's softmax over the whole vocabulary.
        repetition: (B, K) largest cosine between the candidate's hidden state and one of the prefix.
        image_probability: (B, K) f, see :func:`image_softmax`.
    """
    return Contributions((1 - alpha) * probability, -alpha * repetition, beta * image_probability)


def image_softmax(images: Tensor, texts: Tensor, logit_scale: float) -> Tensor:
    """f (B, K): softmax over the candidates of logit_scale * cosine.

    Args:
        images: (B, D) unit vectors.
        texts: (B, K, D) unit vectors of the prefix with each candidate.
    """
    return torch.softmax(logit_scale * torch.einsum("bd,bkd->bk", images, texts), dim=1)


def repetition(candidates: Tensor, prefix: Tensor) -> Tensor:
    """(B, K) largest cosine of each candidate's hidden state with those of the prefix.

    Args:
        candidates: (B, K, D) unit vectors.
        prefix: (B, T, D) unit vectors of every position, the start token's included.
    """
    return (candidates @ prefix.transpose(1, 2)).max(dim=2).values


def contenders(known: Tensor, alpha: float, places: int = 1) -> Tensor:
    """Columns (B, N) of the candidates that can still be among the first, most probable first.

    The unknown part of a score is -alpha * cosine and lies within alpha of zero, so whoever is more than
    2 * alpha behind the leader has lost. Rows with fewer contenders are filled up with their next best.

    Args:
        known: (B, K) scores without the degeneration term, columns in order of falling probability.
        places: how many of the best are wanted; 1 asks for the winner alone.
    """
    behind = known.topk(min(places, known.shape[1]), dim=1).values[:, -1:] - known
    rounding = _ROUNDING * max(1.0, float(known.max()))
    count = int((behind <= 2 * alpha + rounding).sum(dim=1).max())
    return known.topk(count, dim=1).indices.sort(dim=1).values


@dataclass(frozen=True)
class Position:
    """One token position of the B rows still being written: who could win, and who did."""

    rows: Tensor
    """(B,) numbers of the pictures."""

    prefixes: Prefixes
    """The captions so far."""

    candidates: Tensor
    """(B, N) token ids of the contenders."""

    parts: Contributions
    """What speaks for each, (B, N)."""

    winner: Tensor
    """(B,) which of the N was chosen."""

    def steps(self, language_model: LanguageModel) -> list[tuple[int, Step]]:
        """The step that each row took, as (row, step)."""
        pick = self.winner[:, None]
        steps = _steps(language_model, self.prefixes, self.candidates.gather(1, pick), self.parts.at(pick))
        return [(row, step) for row, (step,) in zip(self.rows.tolist(), steps, strict=True)]

    def best(self, language_model: LanguageModel, count: int) -> list[list[Step]]:
        """The steps that each row could have taken, the one it took first, then by falling score."""
        order = self.parts.score.argsort(dim=1, descending=True, stable=True)[:, :count]
        return _steps(language_model, self.prefixes, self.candidates.gather(1, order), self.parts.at(order))


def magic_search(
    language_model: LanguageModel, scorer: ImageTextScorer, images: Tensor, settings: MagicSearch
) -> Steps:
    """Write a caption for each picture; all rows advance together and leave at their end token.

    Args:
        images: (B, D) unit vectors of the pictures.

    Yields:
        For each position, ``(row, step)`` of every row still being written.
    """
    for position in magic_positions(language_model, scorer, images, settings):
        yield position.steps(language_model)


def magic_positions(
    language_model: LanguageModel,
    scorer: ImageTextScorer,
    images: Tensor,
    settings: MagicSearch,
    places: int = 1,
) -> Iterator[Position]:
    """The loop of :func:`magic_search`, with all that was weighed.

    Without ``beta`` the scorer is never asked (contrastive search), without ``alpha`` no candidate's hidden
    state but the winner's is computed.

    Args:
        images: (B, D) unit vectors of the pictures.
        places: how many of the best candidates must be among the contenders. More cost time and change no
            caption.
    """
    language_model.require_room(settings.max_new_tokens)
    if not len(images):
        return
    alpha, beta, logit_scale = settings.alpha, settings.beta, scorer.logit_scale
    rows = torch.arange(len(images), device=images.device)
    encoder = scorer.text_prefix_cache()
    prefixes, captions = language_model.start(len(images)), encoder.start(len(images))
    for _ in range(settings.max_new_tokens):
        if not len(rows):
            return
        top = prefixes.probabilities.topk(min(settings.top_k, prefixes.probabilities.shape[1]), dim=1)
        image_probability = torch.zeros_like(top.values)
        if beta:
            text_extension = encoder.extend(captions, texts_with(language_model, prefixes, top.indices))
            image_probability = image_softmax(images[rows], text_extension.vectors, logit_scale)
        columns = contenders((1 - alpha) * top.values + beta * image_probability, alpha, places)
        candidates = top.indices.gather(1, columns)
        extension = language_model.extend(prefixes, candidates)
        parts = magic_score(
            top.values.gather(1, columns),
            repetition(extension.hidden, prefixes.hidden),
            image_probability.gather(1, columns),
            alpha,
            beta,
        )
        winner = parts.score.argmax(dim=1)  # the first of equals, hence the more probable
        grown = language_model.choose(extension, winner)
        yield Position(rows, prefixes, candidates, parts, winner)
        going_on = (grown.ids[:, -1] != language_model.end_id).nonzero().squeeze(1)
        rows, prefixes = rows[going_on], grown.select(going_on)
        if beta:
            column = columns.gather(1, winner[:, None]).squeeze(1)
            captions = encoder.choose(text_extension, column).select(going_on)


def texts_with(language_model: LanguageModel, prefixes: Prefixes, candidates: Tensor) -> list[list[str]]:
    """decode(x + v): B lists of K captions, each prefix with each of its candidates (B, K)."""
    batch, count = candidates.shape
    flat = language_model.texts(_ids_with(prefixes, candidates))
    return [flat[row * count : (row + 1) * count] for row in range(batch)]


def _ids_with(prefixes: Prefixes, candidates: Tensor) -> list[list[int]]:
    """B * K token sequences, each prefix with each of its candidates (B, K)."""
    before = prefixes.ids[:, None].expand(-1, candidates.shape[1], -1)
    whole: list[list[int]] = torch.cat([before, candidates[:, :, None]], dim=2).flatten(0, 1).tolist()
    return whole


def _steps(
    language_model: LanguageModel, prefixes: Prefixes, candidates: Tensor, parts: Contributions
) -> list[list[Step]]:
    """A step for each of B prefixes with each of its N candidates."""
    old = language_model.shown(prefixes.ids.tolist())
    new = iter(language_model.shown(_ids_with(prefixes, candidates)))
    shares = torch.stack([parts.confidence, parts.degeneration, parts.image], dim=2).tolist()
    steps: list[list[Step]] = []
    for was, tokens, row in zip(old, candidates.tolist(), shares, strict=True):
        steps.append([])
        for token, (confidence, degeneration, image) in zip(tokens, row, strict=True):
            text, last = next(new), token == language_model.end_id
            step = Step(text, added_text(was, text), token, confidence, degeneration, image, last)
            steps[-1].append(step)
    return steps
