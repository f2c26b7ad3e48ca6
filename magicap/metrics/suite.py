"""All metrics of a set of captions at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from magicap.errors import BadSettings, MetricUnavailable
from magicap.metrics.bleu import bleu
from magicap.metrics.cider import cider_d
from magicap.metrics.diversity import diversity, lengths, unfinished
from magicap.metrics.meteor import meteor
from magicap.metrics.rouge import rouge_l
from magicap.metrics.score import Metric, Score, Tokenizer
from magicap.metrics.spice import spice
from magicap.metrics.tokenizer import PTB

METRICS: dict[str, Any] = {
    "bleu": bleu,
    "meteor": meteor,
    "rouge_l": rouge_l,
    "cider_d": cider_d,
    "spice": spice,
    "diversity": diversity,
    "lengths": lengths,
    "unfinished": unfinished,
}
"""Metrics by the names that commands take, in the order of tables."""

_TOKENIZED = {"bleu", "meteor", "rouge_l", "cider_d", "diversity", "lengths"}


@dataclass(frozen=True)
class Report:
    """The figures of one set of captions."""

    scores: dict[str, Score]
    """By the name papers print; in the order of :data:`METRICS`."""

    absent: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be computed, with the reason. They are never 0."""


def evaluate(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Iterable[str] | None = None,
    more: Mapping[str, Metric] | None = None,
    tokenizer: Tokenizer = PTB,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Score captions by every metric that works on this machine.

    Args:
        candidates: N captions.
        references: N lists of one or more captions.
        metrics: names of :data:`METRICS`; None takes all.
        more: further metrics by name, e.g. a :class:`~magicap.metrics.clipscore.ClipScore`.
        tokenizer: of the metrics that compare words.
        about: what every signature shall say beside how it was measured, e.g. split and model.

    Raises:
        BadSettings: not one list of references a candidate, no image, or a metric nobody knows.
    """
    wanted = list(METRICS if metrics is None else dict.fromkeys(metrics))
    if unknown := [name for name in wanted if name not in METRICS]:
        raise BadSettings(f"no metric {unknown[0]!r}: expected {', '.join(METRICS)}")
    remembered = _Remembered(tokenizer)
    chosen: dict[str, Metric] = {
        name: partial(METRICS[name], tokenizer=remembered) if name in _TOKENIZED else METRICS[name]
        for name in METRICS
        if name in wanted
    }
    scores: dict[str, Score] = {}
    absent: dict[str, str] = {}
    for name, metric in {**chosen, **(more or {})}.items():
        try:
            found = metric(candidates, references)
        except MetricUnavailable as error:
            absent[name] = str(error)
        else:
            scores |= {key: score.signed(**(about or {})) for key, score in found.items()}
    return Report(scores, absent)


class _Remembered:
    """A tokenizer that does not tokenize a caption twice."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = tokenizer.name
        self._tokenizer = tokenizer
        self._known: dict[str, list[str]] = {}

    def __call__(self, text: str) -> list[str]:
        if text not in self._known:
            self._known[text] = self._tokenizer(text)
        return self._known[text]
