"""All metrics of a set of captions at once, and what each of their figures means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from magicap.errors import BadSettings, MetricUnavailable, MissingPackage
from magicap.metrics.bleu import bleu
from magicap.metrics.characters import CHARACTERS, tokenizer_of
from magicap.metrics.cider import cider_d
from magicap.metrics.diversity import diversity, lengths
from magicap.metrics.fluency import broken, unfinished
from magicap.metrics.meteor import meteor
from magicap.metrics.rouge import rouge_l
from magicap.metrics.score import Metric, Score, Tokenizer, require_pairs
from magicap.metrics.spice import spice


@dataclass(frozen=True)
class Figure:
    """One number that a metric gives: which way is better, its range, and where it is shown."""

    name: str
    """As papers print it: ``BLEU-4``."""

    higher_is_better: bool = True
    """Whether more of it is better; of other figures reports say "higher", not "better"."""

    low: float = 0.0
    """The smallest value, on the metric's own scale."""

    high: float = 1.0
    """The largest value; infinite where there is none."""

    column: bool = False
    """Whether tables have a column for it; CSV and report have all figures."""

    plotted: bool = False
    """Whether reports draw bars of it."""


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("BLEU-1", column=True),
        Figure("BLEU-2"),
        Figure("BLEU-3"),
        Figure("BLEU-4", column=True, plotted=True),
        Figure("METEOR", column=True, plotted=True),
        Figure("ROUGE-L", column=True, plotted=True),
        Figure("CIDEr-D", high=10.0, column=True, plotted=True),
        Figure("SPICE", column=True, plotted=True),
        Figure("CLIPScore", high=2.5, column=True, plotted=True),
        Figure("RefCLIPScore", high=10 / 7, column=True, plotted=True),
        Figure("distinct captions", high=inf, column=True),
        Figure("distinct-1"),
        Figure("distinct-2"),
        Figure("vocabulary", high=inf),
        Figure("most frequent caption", higher_is_better=False),
        Figure("words", higher_is_better=False, high=inf, column=True),
        Figure("unfinished", higher_is_better=False, column=True),
        Figure("broken", higher_is_better=False, column=True),
    )
}
"""Figures by the name papers print, in the order of tables."""


def figure_of(name: str) -> Figure:
    """What is known of a figure; of one that no metric here gives, that more is better."""
    return FIGURES.get(name, Figure(name, low=-inf, high=inf))


@dataclass(frozen=True)
class Entry:
    """A metric of :data:`METRICS`."""

    compute: Callable[..., dict[str, Score]]
    title: str
    """What tables and reasons call it."""

    tokenized: bool = True
    """Whether it takes a tokenizer."""

    recorded: bool = False
    """Whether it takes which captions are finished."""

    english: bool = False
    """Whether it knows English words alone."""


METRICS = {
    "bleu": Entry(bleu, "BLEU"),
    "meteor": Entry(meteor, "METEOR"),
    "rouge_l": Entry(rouge_l, "ROUGE-L"),
    "cider_d": Entry(cider_d, "CIDEr-D"),
    "spice": Entry(spice, "SPICE", tokenized=False, english=True),
    "diversity": Entry(diversity, "diversity"),
    "lengths": Entry(lengths, "words"),
    "unfinished": Entry(unfinished, "unfinished", tokenized=False, recorded=True),
    "broken": Entry(broken, "broken", english=True),
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
    extra_metrics: Mapping[str, Metric] | None = None,
    tokenizer: Tokenizer | None = None,
    finished: Sequence[bool] | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Score captions by every metric that works on this machine.

    Args:
        candidates: N captions.
        references: N lists of one or more captions.
        metrics: names of :data:`METRICS`; None takes all.
        extra_metrics: further metrics by name, e.g. a :class:`~magicap.metrics.clipscore.ClipScore`.
        tokenizer: of the metrics that compare words; None: the one of
            :func:`~magicap.metrics.characters.tokenizer_of`. Signatures name it.
        finished: N times, whether the search for a caption came to an end, where that is known.
        about: entries of every signature beside how it was measured, e.g. split and model.

    Raises:
        BadSettings: not one list of references a candidate, no image, or an unknown metric.
    """
    require_pairs(candidates, references, "evaluate")
    cached = _CachedTokenizer(tokenizer or tokenizer_of(references))
    scores: dict[str, Score] = {}
    absent: dict[str, str] = {}
    entries = _chosen(metrics) + [
        Entry(metric, title, False) for title, metric in (extra_metrics or {}).items()
    ]
    for entry in entries:
        try:
            measured = _measured(entry, candidates, references, cached, finished)
        except (MetricUnavailable, MissingPackage) as error:
            absent[entry.title] = str(error)
        else:
            scores |= {key: score.signed(**(about or {})) for key, score in measured.items()}
    return Report(scores, absent)


def _measured(
    entry: Entry,
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    finished: Sequence[bool] | None,
) -> dict[str, Score]:
    if entry.english and tokenizer.name == CHARACTERS.name:
        raise MetricUnavailable(
            f"{entry.title} knows English words, and here each character counts as a word"
        )
    settings: dict[str, Any] = {"tokenizer": tokenizer} if entry.tokenized else {}
    if entry.recorded:
        settings["finished"] = finished
    return entry.compute(candidates, references, **settings)


def _chosen(names: Iterable[str] | None) -> list[Entry]:
    if names is None:
        return list(METRICS.values())
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in METRICS]:
        raise BadSettings(f"no metric {unknown[0]!r}: expected some of {', '.join(METRICS)}")
    return [entry for name, entry in METRICS.items() if name in wanted]


class _CachedTokenizer:
    """A tokenizer that does not tokenize a caption twice."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = tokenizer.name
        self._tokenizer = tokenizer
        self._tokens: dict[str, list[str]] = {}

    def __call__(self, text: str) -> list[str]:
        if text not in self._tokens:
            self._tokens[text] = self._tokenizer(text)
        return self._tokens[text]
