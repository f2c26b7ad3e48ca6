"""Beam search over the prefix trie: sequences scored as wholes, all pictures and beams side by side.

Shapes: B pictures, K candidates, N beams of all pictures, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from magicap.decoding.retrieval_ngram import RetrievalNgramModel
from magicap.metrics.score import FloatArray

if TYPE_CHECKING:
    from magicap.decoding.constraints import Constraints
    from magicap.decoding.prefix_cache import Node, PrefixCache
    from magicap.decoding.settings import BeamMagicSearch

_SMALLEST = 1e-9  # probability of what neither the language model nor the memory would say


@dataclass(frozen=True)
class Written:
    """A caption that beam search wrote."""

    text: str
    score: float
    """log p of the language model mixed with the memory's word prior, plus the weighed cosine."""

    finished: bool
    """Whether it ended of itself."""


@dataclass(frozen=True)
class _Partial:
    """A caption being written."""

    row: int
    node: Node
    log_probability: float


@dataclass(frozen=True)
class _Continuation:
    """A beam with one of its candidates."""

    beam: _Partial
    column: int
    token: int
    log_probability: float
    score: float


def beam_hypotheses(
    trie: PrefixCache,
    roots: Sequence[Node],
    images: Tensor,
    priors: Sequence[RetrievalNgramModel | None],
    units: Sequence[float],
    image_weight: float,
    settings: BeamMagicSearch,
) -> list[list[Written]]:
    """Captions of each picture, the best first; where none ended of itself, what the beams hold.

    The picture's part is the cosine of the whole text so far, in multiples of ``unit``, so that along a
    sequence the changes add up to the last cosine whatever the number of candidates.

    Args:
        roots: B nodes at which their captions begin.
        images: (B, D) unit vectors of the pictures.
        priors: what the memory's captions near each picture go on with.
        units: what each picture's cosines are measured in.
        image_weight: what such a unit is worth in nats.
    """
    beams = [_Partial(row, root, 0.0) for row, root in enumerate(roots)]
    ended: list[list[_Continuation]] = [[] for _ in images]
    unfinished: list[list[_Continuation]] = [[] for _ in images]
    for _ in range(settings.max_new_tokens):
        log_probability = _log_probabilities(beams, priors, settings.memory_weight)
        score = log_probability
        if image_weight:
            rows = [beam.row for beam in beams]
            vectors = trie.look([beam.node for beam in beams])
            cosine = torch.einsum("bd,bkd->bk", images[rows], vectors).double().cpu().numpy()
            score = score + image_weight * cosine / np.array([units[row] for row in rows])[:, None]
        if settings.constraints:
            score = np.where(_allowed(trie, beams, settings.constraints), score, -np.inf)
        open_options: list[_Continuation] = []
        for row, options in enumerate(_best(beams, log_probability, score, len(images), settings.beam_size)):
            going_on = _go_on(trie, options, ended[row], settings)
            unfinished[row] = going_on or unfinished[row]
            open_options += going_on
        if not open_options:
            break
        nodes = trie.grow(
            [each.beam.node for each in open_options], [each.column for each in open_options], None
        )
        beams = [
            _Partial(each.beam.row, node, each.log_probability)
            for node, each in zip(nodes, open_options, strict=True)
        ]
    return [
        _written(trie, done or rest, finished=bool(done))
        for done, rest in zip(ended, unfinished, strict=True)
    ]


def _log_probabilities(
    beams: Sequence[_Partial], priors: Sequence[RetrievalNgramModel | None], memory_weight: float
) -> FloatArray:
    """(N, K) of each beam with each of its candidates."""
    own = torch.stack([beam.node.probabilities for beam in beams]).double().cpu().numpy()
    for number, beam in enumerate(beams):
        prior = priors[beam.row]
        if prior is not None and memory_weight:
            said = prior.probabilities(beam.node.ids, beam.node.candidates.tolist())
            own[number] = (1 - memory_weight) * own[number] + memory_weight * said
    before = np.array([beam.log_probability for beam in beams])
    return np.asarray(before[:, None] + np.log(np.maximum(own, _SMALLEST)))


def _best(
    beams: Sequence[_Partial], log_probability: FloatArray, score: FloatArray, count: int, beam_size: int
) -> list[list[_Continuation]]:
    """For each picture twice as many options as there are beams, the best first: half of them may end."""
    options: list[list[_Continuation]] = [[] for _ in range(count)]
    for number, beam in enumerate(beams):
        columns = np.argsort(-score[number], kind="stable")[: beam_size + 1]
        tokens = beam.node.candidates[torch.as_tensor(columns)].tolist()
        for column, token in zip(columns.tolist(), tokens, strict=True):
            own, total = float(log_probability[number, column]), float(score[number, column])
            options[beam.row].append(_Continuation(beam, column, token, own, total))
    return [
        sorted((option for option in each if option.score > -np.inf), key=lambda option: -option.score)[
            : 2 * beam_size
        ]
        for each in options
    ]


def _go_on(
    trie: PrefixCache, options: Sequence[_Continuation], ended: list[_Continuation], settings: BeamMagicSearch
) -> list[_Continuation]:
    """Put what has ended with what ended before; the options that are worth going on with.

    A score only falls as a caption grows, but for the picture's part: what is behind as many finished
    captions as are wanted is given up.
    """
    end_id = trie.language_model.end_id
    ended += [option for option in options if option.token == end_id]
    ended.sort(key=lambda option: -option.score)
    del ended[settings.finished :]
    bar = ended[-1].score if len(ended) == settings.finished else -np.inf
    open_options = [option for option in options if option.token != end_id and option.score > bar]
    return open_options[: settings.beam_size]


def _allowed(trie: PrefixCache, beams: Sequence[_Partial], constraints: Constraints) -> NDArray[np.bool_]:
    """(N, K) which candidates end a caption as it must be, or leave it able to become so."""
    tokens = [beam.node.candidates.tolist() for beam in beams]
    ids = [(*beam.node.ids, token) for beam, each in zip(beams, tokens, strict=True) for token in each]
    texts = trie.language_model.texts(ids)
    ends = [prefix[-1] == trie.language_model.end_id for prefix in ids]
    holds = [
        (constraints.hold if end else constraints.can_hold)(text)
        for text, end in zip(texts, ends, strict=True)
    ]
    return np.array(holds).reshape(len(beams), -1)


def _written(trie: PrefixCache, options: Sequence[_Continuation], *, finished: bool) -> list[Written]:
    texts = trie.language_model.texts([(*option.beam.node.ids, option.token) for option in options])
    return [
        Written(text.strip(), option.score, finished) for text, option in zip(texts, options, strict=True)
    ]
