"""Beam magic search: whole captions compete, and that with the largest expected utility is taken.

Magic search chooses token by token and never goes back. Here beams are scored as wholes, by the language
model interpolated with an n-gram model of the memory's captions nearest to the picture. What the beams wrote
competes with those captions themselves, which are the evidence: minimum Bayes risk decides.

Shapes: B pictures, M evidence captions, D embedding width.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from magicap.decoding.beam import BeamTimeStep, beam_time_steps
from magicap.decoding.constraints import Constraints
from magicap.decoding.context import DecodingContext
from magicap.decoding.minimum_bayes_risk import (
    Competition,
    EvidenceSet,
    evidence_from_hypotheses,
    evidence_from_neighbours,
    rerank_hypotheses,
    select_hypothesis,
)
from magicap.decoding.retrieval_ngram import RetrievalNgramModel
from magicap.decoding.settings import BeamMagicSearch
from magicap.errors import BadSettings
from magicap.generators import Returning
from magicap.models.scorer import ImageTextScorer
from magicap.results import Hypothesis
from magicap.retrieval.caption_memory import MIN_STD

_START_AND_END = 2  # tokens that encode_captions adds
_IMAGE_WEIGHT = 2.0  # where no memory says what the picture shows; chosen on Flickr8k dev


def beam_magic_search(context: DecodingContext, settings: BeamMagicSearch) -> list[Competition]:
    """For each picture the captions that competed; of equals the memory's come first, then the likelier.

    Without a memory what the beams wrote is its own evidence.

    Raises:
        BadSettings: no room for so many tokens, or constraints that no caption meets.
    """
    return Returning(beam_magic_time_steps(context, settings)).exhausted()


def beam_magic_time_steps(
    context: DecodingContext, settings: BeamMagicSearch
) -> Generator[BeamTimeStep, None, list[Competition]]:
    """:func:`beam_magic_search`, with what the beams hold after each token."""
    context.language_model.require_room(settings.max_new_tokens)
    if not len(context):
        return []
    evidence = retrieve_evidence(context, settings)
    evidence_ids = [
        [] if of_picture is None else context.language_model.encode_captions(of_picture.texts)
        for of_picture in evidence
    ]
    ngram_models = [
        None if of_picture is None else RetrievalNgramModel(captions, len(captions) * of_picture.weights)
        for captions, of_picture in zip(evidence_ids, evidence, strict=True)
    ]
    cosine_std = [of_picture.cosine_std for of_picture in evidence if of_picture] or _first_tokens_std(
        context, settings
    )
    image_weight = settings.image_weight
    if image_weight is None:
        image_weight = _IMAGE_WEIGHT if context.memory is None else 0.0
    written = yield from beam_time_steps(context, settings, ngram_models, cosine_std, image_weight)
    lengths = [[len(ids) - _START_AND_END for ids in captions] for captions in evidence_ids]
    return [
        _select(context.scorer, *picture, settings)
        for picture in zip(context.image_vectors, written, evidence, lengths, strict=True)
    ]


def needs_memory(settings: BeamMagicSearch) -> bool:
    """Whether only the memory can meet the constraints: beams cannot aim at a word or a length."""
    return bool(settings.include or settings.min_words)


def retrieve_evidence(context: DecodingContext, settings: BeamMagicSearch) -> list[EvidenceSet | None]:
    """For each picture the memory's captions nearest to it that the constraints allow; None without a memory.

    Raises:
        BadSettings: the constraints forbid every caption of the memory.
    """
    memory = context.memory
    if memory is None:
        return [None] * len(context)
    constraints = settings.constraints
    if constraints:
        memory = memory.where(constraints.hold, key=constraints, asked=constraints.asked)
        neighbours = memory.nearest(context.image_vectors.to(memory.device), settings.neighbours)
    else:
        neighbours = context.nearest(settings.neighbours)
    return [*evidence_from_neighbours(memory, *neighbours, settings.temperature)]


def _first_tokens_std(context: DecodingContext, settings: BeamMagicSearch) -> list[float]:
    """B standard deviations of the cosines of first tokens: a scale where no captions are remembered."""
    starts = context.start_prefixes(settings.top_k, soft_prompt=settings.soft_prompt)
    vectors = context.cache.candidate_vectors(starts)  # (B, K, D)
    cosines = torch.einsum("bd,bkd->bk", context.image_vectors, vectors)
    std: list[float] = cosines.std(dim=1, correction=0).clamp_min(MIN_STD).tolist()
    return std


def _select(
    scorer: ImageTextScorer,
    image: Tensor,
    written: Sequence[Hypothesis],
    evidence: EvidenceSet | None,
    lengths: Sequence[int],
    settings: BeamMagicSearch,
) -> Competition:
    """The captions that compete: the evidence's own, and what the beams wrote besides.

    Args:
        lengths: tokens of the evidence's captions; those of too many stand behind all others.

    Raises:
        BadSettings: the constraints leave none but captions of too many tokens.
    """
    competing = _distinct(written, settings.constraints)
    if evidence is None:
        competing = competing or [_shortened(written, settings.constraints)]
        evidence = evidence_from_hypotheses(competing)
    else:
        competing = _with_evidence(competing, evidence)
    too_long = _too_long(competing, lengths, settings.max_new_tokens)
    by_utility = select_hypothesis(competing, evidence)
    long = [hypothesis for hypothesis in by_utility if hypothesis.text in too_long]
    short = [hypothesis for hypothesis in by_utility if hypothesis.text not in too_long]
    if not short:
        raise BadSettings(
            f"no caption of at most {settings.max_new_tokens} tokens (max_new_tokens) meets the constraints; "
            "allow more tokens, or leave a constraint out"
        )
    if settings.rerank_weight:
        vectors = scorer.encode_texts([hypothesis.text for hypothesis in short[: settings.rerank_top]])
        short = rerank_hypotheses(short, (vectors @ image).tolist(), settings.rerank_weight)
    return Competition([*short, *long], evidence)


def _too_long(hypotheses: Sequence[Hypothesis], lengths: Sequence[int], most: int) -> set[str]:
    """The evidence's captions, which come first, of more tokens than a beam may write."""
    return {
        hypothesis.text
        for hypothesis, length in zip(hypotheses, lengths, strict=False)
        if length > most and hypothesis.log_probability is None
    }


def _distinct(written: Sequence[Hypothesis], constraints: Constraints) -> list[Hypothesis]:
    """Hypotheses as they must be, the first of those that read alike."""
    distinct: dict[str, Hypothesis] = {}
    for hypothesis in written:
        if constraints.hold(hypothesis.text):
            distinct.setdefault(hypothesis.text, hypothesis)
    return list(distinct.values())


def _shortened(written: Sequence[Hypothesis], constraints: Constraints) -> Hypothesis:
    """The best hypothesis cut to what the constraints allow: excluded words may end a caption, not a run."""
    best = written[0] if written else Hypothesis("")
    return replace(best, text=constraints.shortened(best.text), finished=False)


def _with_evidence(hypotheses: Sequence[Hypothesis], evidence: EvidenceSet) -> list[Hypothesis]:
    """The evidence's captions as hypotheses, in its order, then other hypotheses."""
    written = {hypothesis.text: hypothesis for hypothesis in hypotheses}
    retrieved = [
        Hypothesis(
            text,
            cosine=cosine,
            log_probability=written[text].log_probability if text in written else None,
            source="memory",
            finished=text not in written or written[text].finished,
        )
        for text, cosine in zip(evidence.texts, evidence.cosines.tolist(), strict=True)
    ]
    return [*retrieved, *(h for h in hypotheses if h.text not in set(evidence.texts))]
