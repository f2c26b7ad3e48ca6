"""Beam magic search: whole captions compete, and that with the largest expected utility is taken.

Magic search chooses token by token and never goes back. Here beams are scored as wholes, by the language
model interpolated with an n-gram model of the memory's captions nearest to the picture. What the beams wrote
competes with those captions themselves, which are the evidence: minimum Bayes risk decides.

Shapes: B pictures, M evidence captions, D embedding width.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch

from magicap.arrays import BoolArray, IntArray
from magicap.decoding.beam import BeamTimeStep, beam_time_steps
from magicap.decoding.beam_images import BeamImageScores
from magicap.decoding.constraints import Constraints
from magicap.decoding.context import DecodingContext
from magicap.decoding.minimum_bayes_risk import (
    Competition,
    EvidenceSet,
    Ranking,
    evidence_from_hypotheses,
    evidence_from_neighbours,
    rank_by_utility,
)
from magicap.decoding.preferred_words import PreferredWords, bring_captions
from magicap.decoding.retrieval_ngram import RetrievalNgramModel
from magicap.decoding.settings import BeamMagicSearch
from magicap.errors import BadSettings
from magicap.generators import Returning
from magicap.models.language_model import LanguageModel
from magicap.packed_texts import PackedTexts
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
    ids = context.language_model.encode_prefix(settings.prefix, settings.max_new_tokens)
    if not len(context):
        return []
    rows, ngram_model, lengths = len(context) * settings.beam_size, None, None
    with context.threads(rows):
        evidence = retrieve_evidence(context, settings)
        if evidence is not None:
            ngram_model, lengths = _ngram_model(context.language_model, evidence)
            lengths = [tokens - len(ids) for tokens in lengths]
    image_weight = settings.image_weight
    if image_weight is None:
        image_weight = _IMAGE_WEIGHT if context.memory is None else 0.0
    image_scores = None
    if image_weight:
        std = (
            _first_tokens_std(context, settings, ids)
            if evidence is None
            else [one.cosine_std for one in evidence]
        )
        image_scores = BeamImageScores(context, std, image_weight)
    written = yield from beam_time_steps(context, settings, ngram_model, image_scores, ids)
    with context.threads(rows):
        return _compete(context, settings, written, evidence, lengths, len(ids))


def needs_memory(settings: BeamMagicSearch) -> bool:
    """Whether only the memory can meet the constraints: beams cannot aim at a word or a length."""
    return bool(settings.include or settings.min_words)


def retrieve_evidence(context: DecodingContext, settings: BeamMagicSearch) -> list[EvidenceSet] | None:
    """For each picture the memory's captions nearest to it that the constraints allow; None without a memory.

    Raises:
        BadSettings: the constraints forbid every caption of the memory.
    """
    memory = context.memory
    if memory is None:
        return None
    constraints = settings.constraints
    if constraints:
        memory = memory.where(constraints.hold, key=constraints, asked=constraints.asked)
        neighbours = memory.nearest(context.image_vectors.to(memory.device), settings.neighbours)
    else:
        neighbours = context.nearest(settings.neighbours)
    return evidence_from_neighbours(memory, *neighbours, settings.temperature)


def _ngram_model(
    language_model: LanguageModel, evidence: Sequence[EvidenceSet]
) -> tuple[RetrievalNgramModel, list[IntArray]]:
    """The n-gram model of the evidence of B pictures, and of each (M,) tokens of its captions."""
    counts = [len(one.texts) for one in evidence]
    captions = PackedTexts.concatenated([PackedTexts.of(one.texts) for one in evidence])
    tokens, lengths = language_model.encode_packed(captions)
    model = RetrievalNgramModel(
        tokens,
        lengths,
        np.repeat(np.arange(len(evidence)), counts),
        np.concatenate([len(one.texts) * one.weights for one in evidence]),
        max(language_model.vocabulary_size, int(tokens.max()) + 1),
        language_model.device,
    )
    return model, np.split(lengths - _START_AND_END, np.cumsum(counts)[:-1])


def _first_tokens_std(context: DecodingContext, settings: BeamMagicSearch, ids: Sequence[int]) -> list[float]:
    """B standard deviations of the cosines of first tokens: a scale where no captions are remembered."""
    starts = context.start_prefixes(settings.top_k, soft_prompt=settings.soft_prompt, ids=ids)
    vectors = context.cache.candidate_vectors(starts)  # (B, K, D)
    cosines = torch.einsum("bd,bkd->bk", context.image_vectors, vectors)
    std: list[float] = cosines.std(dim=1, correction=0).clamp_min(MIN_STD).tolist()
    return std


def _compete(
    context: DecodingContext,
    settings: BeamMagicSearch,
    written: Sequence[Sequence[Hypothesis]],
    evidence: Sequence[EvidenceSet] | None,
    lengths: Sequence[IntArray] | None,
    prefix_tokens: int,
) -> list[Competition]:
    """The captions that compete: the evidence's own, and what the beams wrote besides.

    With a prefix those of the memory that do not begin with it do not compete.

    Args:
        lengths: of each picture (M,) tokens of the evidence's captions, behind the prefix; those of too many
            stand behind all others.
        prefix_tokens: how many tokens the prefix has.

    Raises:
        BadSettings: the constraints leave none but captions of too many tokens.
    """
    competitions = []
    brought = _brought(context, settings, prefix_tokens)
    for number, hypotheses in enumerate(written):
        competing = _distinct([*hypotheses, *brought[number]], settings.constraints)
        if evidence is None or lengths is None:
            competing = competing or [_shortened(hypotheses, settings)]
            own = evidence_from_hypotheses(competing)
            competitions.append((rank_by_utility(competing, own), own))
        else:
            last = lengths[number] > settings.max_new_tokens
            if settings.prefix:
                last |= ~_begin_with(settings.prefix, evidence[number].texts)
            if last.all() and not competing:
                raise BadSettings(
                    f"no caption of at most {settings.max_new_tokens} tokens (max_new_tokens) meets the "
                    "constraints; allow more tokens, or leave a constraint out"
                )
            ranking = rank_by_utility(competing, evidence[number], last)
            if settings.prefix:
                ranking = ranking.without_last()
            competitions.append((ranking, evidence[number]))
    if settings.prefer:
        competitions = [(_preferring(ranking, own, settings), own) for ranking, own in competitions]
    if settings.rerank_weight:
        rankings = _rerank(context, settings, [ranking for ranking, _ in competitions])
        competitions = [(ranking, own) for ranking, (_, own) in zip(rankings, competitions, strict=True)]
    return [Competition(ranking, own) for ranking, own in competitions]


def _brought(
    context: DecodingContext, settings: BeamMagicSearch, prefix_tokens: int
) -> list[list[Hypothesis]]:
    """For each picture captions of the memory that preferred words bring.

    None of them is too long behind the prefix, and all begin with it.
    """
    if context.memory is None or not settings.prefer:
        return [[] for _ in range(len(context))]
    _, neighbours = context.nearest(settings.neighbours)
    brought = bring_captions(context.memory, settings.prefer, context.image_vectors, neighbours)
    texts = [hypothesis.text for row in brought for hypothesis in row]
    lengths = context.language_model.encode_packed(PackedTexts.of(texts))[1] - _START_AND_END
    are_short = lengths - prefix_tokens <= settings.max_new_tokens
    competes = iter(are_short & _begin_with(settings.prefix, texts))
    return [[one for one in row if next(competes)] for row in brought]


def _preferring(ranking: Ranking, evidence: EvidenceSet, settings: BeamMagicSearch) -> Ranking:
    words = PreferredWords.of(settings.prefer, evidence.document_frequencies)
    return ranking.preferring(words, settings.prefer_weight, settings.rerank_top)


def _rerank(
    context: DecodingContext, settings: BeamMagicSearch, rankings: Sequence[Ranking]
) -> list[Ranking]:
    """The first few of each picture in a new order, in which the picture counts too."""
    texts = [ranking.first(ranking.num_reranked or settings.rerank_top) for ranking in rankings]
    counts = [len(of_picture) for of_picture in texts]
    pairs = zip(context.scorer.encode_text_groups(texts), context.image_vectors, strict=True)
    cosines = torch.cat([of_picture @ image for of_picture, image in pairs]).double().cpu().numpy()
    return [
        ranking.reranked(of_picture, settings.rerank_weight)
        for ranking, of_picture in zip(rankings, np.split(cosines, np.cumsum(counts)[:-1]), strict=True)
    ]


def _distinct(written: Sequence[Hypothesis], constraints: Constraints) -> list[Hypothesis]:
    """Hypotheses as they must be, the first of those that read alike."""
    distinct: dict[str, Hypothesis] = {}
    for hypothesis in written:
        if constraints.hold(hypothesis.text):
            distinct.setdefault(hypothesis.text, hypothesis)
    return list(distinct.values())


def _begin_with(prefix: str, texts: Sequence[str]) -> BoolArray:
    """(M,) which texts begin with these words, the last of them whole; white space is all alike."""
    words = r"\s+".join(map(re.escape, prefix.split()))
    begin = re.compile(words + r"(?:(?<!\w)|(?!\w))")  # behind a letter of the prefix stands no other
    return np.array([begin.match(text) is not None for text in texts], dtype=bool)


def _shortened(written: Sequence[Hypothesis], settings: BeamMagicSearch) -> Hypothesis:
    """The best hypothesis cut to what the constraints allow: excluded words may end a caption, not a run."""
    best = written[0] if written else Hypothesis(settings.prefix)
    return replace(best, text=settings.constraints.shortened(best.text), finished=False)
