"""From what a search gives to captions: their texts, and their cosines to the pictures."""

from __future__ import annotations

from collections.abc import Sequence

from magicap.decoding.context import DecodingContext
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
    context: DecodingContext, rows: Sequence[Sequence[Hypothesis]], kept: int
) -> list[Caption]:
    """B captions from the hypotheses of a search that compares whole captions, the best first.

    Args:
        kept: how many hypotheses stay with the caption.
    """
    texts = [hypotheses[0].text.strip() for hypotheses in rows]
    return [
        Caption(text, score=cosine, hypotheses=tuple(hypotheses[:kept]))
        for text, cosine, hypotheses in zip(texts, _cosines(context, texts), rows, strict=True)
    ]


def _cosines(context: DecodingContext, texts: Sequence[str]) -> list[float]:
    vectors = context.scorer.encode_texts(texts)
    cosines: list[float] = (context.image_vectors * vectors).sum(dim=1).tolist()
    return cosines
