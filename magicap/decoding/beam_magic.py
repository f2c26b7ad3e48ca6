"""Beam magic search: whole captions compete, and the one that the others agree with most wins.

Magic search chooses word by word and never goes back. Here beams are scored as wholes, by the language model
mixed with what the memory's captions nearest to the picture go on with, and by the picture. What they write
competes with those captions themselves, and that is taken which the captions nearest to the picture agree
with most: minimum Bayes risk (Kumar and Byrne 2004) with CIDEr-D as the gain, as consensus captioning takes
it (Devlin et al. 2015).

Shapes: B pictures, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from magicap.decoding.beam import Written, beam_hypotheses
from magicap.decoding.conditioning import beginnings
from magicap.decoding.minimum_bayes_risk import (
    MIN_STD,
    EvidenceSet,
    evidence_from_hypotheses,
    retrieve_evidence,
)
from magicap.decoding.retrieval_ngram import RetrievalNgramModel
from magicap.errors import BadSettings
from magicap.results import Step

if TYPE_CHECKING:
    from magicap.decoding.prefix_cache import PrefixCache
    from magicap.decoding.settings import BeamMagicSearch
    from magicap.models.scorer import ImageTextScorer
    from magicap.retrieval.caption_memory import CaptionMemory

_UNREMEMBERING = 2.0  # image_weight where no memory says what the picture shows; chosen on Flickr8k dev


@dataclass(frozen=True)
class Choice:
    """A whole caption that competed."""

    text: str

    consensus: float
    """Expected CIDEr-D, 0 to 10."""

    fit: float
    """``fit_weight`` times the cosine of picture and caption."""

    finished: bool
    """Whether it ended of itself."""

    @property
    def score(self) -> float:
        """What was compared."""
        return self.consensus + self.fit

    @property
    def step(self) -> Step:
        """The whole caption as one step of a search."""
        return Step(self.text, self.text, -1, self.consensus, 0.0, self.fit, self.finished)


def beam_magic_search(
    trie: PrefixCache, images: Tensor, settings: BeamMagicSearch, memory: CaptionMemory | None
) -> list[list[Choice]]:
    """For each picture the captions that competed, the best first; of equals the memory's, then the likelier.

    Args:
        images: (B, D) unit vectors of the pictures.
        memory: captions with their vectors; without one, what was written competes and agrees alone.

    Raises:
        BadSettings: no room for so many tokens, or constraints that no caption meets.
    """
    trie.language_model.require_room(settings.max_new_tokens)
    if not len(images):
        return []
    if memory is None and (settings.include or settings.min_words):
        raise BadSettings(
            "include and min_words choose among captions that are remembered; this captioner has no memory"
        )
    near: Sequence[EvidenceSet | None] = [None] * len(images)
    if memory is not None:
        allowed = memory.where(settings.constraints)
        near = retrieve_evidence(allowed, images, settings.neighbours, settings.temperature)
    priors = [_prior(trie, electorate) for electorate in near]
    units = [each.unit for each in near if each] or _first_words_std(trie, images, settings)
    weight = settings.image_weight
    if weight is None:
        weight = _UNREMEMBERING if memory is None else 0.0
    roots = beginnings(trie, images, settings, memory)
    written = beam_hypotheses(trie, roots, images, priors, units, weight, settings)
    return [_select(trie.scorer, *each, settings) for each in zip(images, written, near, strict=True)]


def _first_words_std(trie: PrefixCache, images: Tensor, settings: BeamMagicSearch) -> list[float]:
    """What cosines are measured in where no captions are remembered: how far first words differ."""
    (vectors,) = trie.look([trie.root(settings.top_k)])
    spread: list[float] = (images @ vectors.T).std(dim=1, correction=0).clamp_min(MIN_STD).tolist()
    return spread


def _prior(trie: PrefixCache, near: EvidenceSet | None) -> RetrievalNgramModel | None:
    if near is None:
        return None
    language_model = trie.language_model
    captions = language_model.encode_captions(near.texts)
    return RetrievalNgramModel(captions, len(captions) * near.weights)


def _select(
    scorer: ImageTextScorer,
    image: Tensor,
    written: Sequence[Written],
    near: EvidenceSet | None,
    settings: BeamMagicSearch,
) -> list[Choice]:
    """The captions that compete, the best first."""
    own: dict[str, Written] = {}
    for each in written:
        if settings.constraints.hold(each.text):
            own.setdefault(each.text, each)
    if near is None and not own:  # words that are banned can end what was written, but not the run
        best = written[0] if written else Written("", 0.0, False)
        own = {text: replace(best, finished=False) for text in [settings.constraints.shortened(best.text)]}
    electorate = near or evidence_from_hypotheses(list(own), [each.score for each in own.values()])
    known = set(electorate.texts)
    more = [text for text in own if text not in known]
    texts = [*electorate.texts, *more]
    fit = [0.0] * len(texts)
    if settings.fit_weight:
        fit = (settings.fit_weight * (scorer.encode_texts(texts) @ image)).tolist()
    agreed = electorate.agreement(more).tolist()
    choices = [
        Choice(text, consensus, cosine, text not in own or own[text].finished)
        for text, consensus, cosine in zip(texts, agreed, fit, strict=True)
    ]
    return sorted(choices, key=lambda choice: -choice.score)
