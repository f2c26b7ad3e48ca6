"""From what a search gives to captions: their texts, and their cosines to the pictures."""

from __future__ import annotations

from collections.abc import Sequence

from magicap.decoding.confidence import features_of
from magicap.decoding.context import DecodingContext
from magicap.decoding.minimum_bayes_risk import Competition, Ranking
from magicap.results import Caption, Hypothesis, Step, StepBatches


def captions_from_steps(context: DecodingContext, batches: StepBatches) -> list[Caption]:
    """B captions from the steps of a search that writes token by token."""
    steps: list[list[Step]] = [[] for _ in range(len(context))]
    for batch in batches:
        for number, step in batch:
            steps[number].append(step)
    texts = [row[-1].text.strip() for row in steps]
    return [
        Caption(text, score=cosine, steps=tuple(row))
        for text, cosine, row in zip(texts, _cosines(context, texts), steps, strict=True)
    ]


def captions_from_hypotheses(
    context: DecodingContext,
    rows: Sequence[Sequence[Hypothesis]],
    kept: int,
    confidences: Sequence[float] | None = None,
) -> list[Caption]:
    """B captions from the hypotheses of a search that compares whole captions, the best first.

    Args:
        kept: how many hypotheses stay with the caption.
        confidences: B probabilities that the captions are right; None: they are not known.
    """
    texts = [hypotheses[0].text.strip() for hypotheses in rows]
    known = [None] * len(texts) if confidences is None else confidences
    cosines = [_encoded_cosine(hypotheses) for hypotheses in rows]
    if any(cosine is None for cosine in cosines):
        cosines = [*_cosines(context, texts)]
    return [
        Caption(text, score=cosine, hypotheses=tuple(hypotheses[:kept]), confidence=confidence)
        for text, cosine, hypotheses, confidence in zip(texts, cosines, rows, known, strict=True)
        if cosine is not None
    ]


def _encoded_cosine(hypotheses: Sequence[Hypothesis]) -> float | None:
    """Of picture and chosen caption, where the search has encoded its text; else None."""
    return hypotheses[0].cosine if isinstance(hypotheses, Ranking) and hypotheses.encoded else None


def captions_from_competitions(
    context: DecodingContext, competitions: Sequence[Competition], kept: int
) -> list[Caption]:
    """As :func:`captions_from_hypotheses`, with their confidence where the context has a model of it."""
    rows = [competition.hypotheses for competition in competitions]
    if context.confidence is None:
        return captions_from_hypotheses(context, rows, kept)
    confidences = [context.confidence.probability(features_of(one)) for one in competitions]
    return captions_from_hypotheses(context, rows, kept, confidences)


def _cosines(context: DecodingContext, texts: Sequence[str]) -> list[float]:
    vectors = context.scorer.encode_texts(texts)
    cosines: list[float] = (context.image_vectors * vectors).sum(dim=1).tolist()
    return cosines
