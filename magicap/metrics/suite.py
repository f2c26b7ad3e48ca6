"""All metrics of a set of captions at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from magicap.errors import BadSettings, MetricUnavailable
from magicap.metrics.bleu import bleu
from magicap.metrics.cider import cider_d
from magicap.metrics.diversity import diversity, lengths
from magicap.metrics.fluency import broken, unfinished
from magicap.metrics.meteor import meteor
from magicap.metrics.rouge import rouge_l
from magicap.metrics.score import Metric, Score, Tokenizer, check_pairs
from magicap.metrics.spice import spice
from magicap.metrics.tokenizer import PTB


@dataclass(frozen=True)
class Entry:
    """A metric of the table."""

    compute: Callable[..., dict[str, Score]]
    title: str
    """What tables and reasons call it."""

    tokenized: bool = True
    """Whether it takes a tokenizer."""


METRICS = {
    "bleu": Entry(bleu, "BLEU"),
    "meteor": Entry(meteor, "METEOR"),
    "rouge_l": Entry(rouge_l, "ROUGE-L"),
    "cider_d": Entry(cider_d, "CIDEr-D"),
    "spice": Entry(spice, "SPICE", tokenized=False),
    "diversity": Entry(diversity, "diversity"),
    "lengths": Entry(lengths, "words"),
    "unfinished": Entry(unfinished, "unfinished", tokenized=False),
    "broken": Entry(broken, "broken"),
}
"""Metrics by the names that commands take, in the order of tables."""


@dataclass(frozen=True)
class Report:
    """The figures of one set of captions."""

    scores: dict[str, Score]
    """By the name papers print; in the order of :data:`METRICS`."""

    absent: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be computed, by the name papers print, with the reason. They are never 0."""


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
    check_pairs(candidates, references, "evaluate")
    remembered = _Remembered(tokenizer)
    scores: dict[str, Score] = {}
    absent: dict[str, str] = {}
    entries = _chosen(metrics) + [Entry(metric, title, False) for title, metric in (more or {}).items()]
    for entry in entries:
        settings = {"tokenizer": remembered} if entry.tokenized else {}
        try:
            found = entry.compute(candidates, references, **settings)
        except MetricUnavailable as error:
            absent[entry.title] = str(error)
        else:
            scores |= {key: score.signed(**(about or {})) for key, score in found.items()}
    return Report(scores, absent)


def _chosen(names: Iterable[str] | None) -> list[Entry]:
    if names is None:
        return list(METRICS.values())
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in METRICS]:
        raise BadSettings(f"no metric {unknown[0]!r}: expected some of {', '.join(METRICS)}")
    return [entry for name, entry in METRICS.items() if name in wanted]


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
