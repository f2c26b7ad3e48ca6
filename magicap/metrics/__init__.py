"""Measures of captions and of retrieval, as pure functions."""

from magicap.metrics.bleu import bleu
from magicap.metrics.cider import cider_d
from magicap.metrics.clipscore import ClipScore
from magicap.metrics.diversity import diversity, lengths
from magicap.metrics.fluency import broken, unfinished
from magicap.metrics.meteor import meteor
from magicap.metrics.retrieval import retrieval_recall
from magicap.metrics.rouge import rouge_l
from magicap.metrics.score import Metric, Score
from magicap.metrics.spice import spice
from magicap.metrics.suite import FIGURES, METRICS, Figure, Report, evaluate
from magicap.metrics.tokenizer import PTB, PTBTokenizer

__all__ = [
    "FIGURES",
    "METRICS",
    "PTB",
    "ClipScore",
    "Figure",
    "Metric",
    "PTBTokenizer",
    "Report",
    "Score",
    "bleu",
    "broken",
    "cider_d",
    "diversity",
    "evaluate",
    "lengths",
    "meteor",
    "retrieval_recall",
    "rouge_l",
    "spice",
    "unfinished",
]
