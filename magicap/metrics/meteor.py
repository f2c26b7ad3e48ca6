"""METEOR 1.5 (Denkowski and Lavie 2014), by the Java original: words match by form, stem, meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magicap.arrays import FloatArray
from magicap.errors import MetricUnavailable
from magicap.metrics.java import package_folder, run_java
from magicap.metrics.score import Score, Tokenizer, require_pairs, sign
from magicap.metrics.tokenizer import PTB

# The paper's parameters for English, ranking task: what coco-caption runs.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
_MATCHERS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_FIELDS = 23

_START_SECONDS, _IMAGE_SECONDS = 120.0, 0.2  # far more than it takes on a slow machine


def meteor(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: Tokenizer = PTB,
    seconds: float | None = None,
) -> dict[str, Score]:
    """METEOR, 0 to 1; the corpus score pools the statistics of images.

    The Java original aligns candidate and references in one run; its closing arithmetic is done here.

    Args:
        candidates: N captions.
        references: N lists of one or more captions.
        tokenizer: splits captions into words before METEOR aligns them; signatures name it.
        seconds: after which the Java process is taken to hang; None allows 2 minutes and 0.2 s an image.

    Raises:
        BadSettings: not one list of references a candidate, or no image.
        MetricUnavailable: no Java, or the process hung or failed.
        MissingPackage: pycocoevalcap is not installed.
    """
    require_pairs(candidates, references, "METEOR")
    folder = package_folder("pycocoevalcap") / "meteor"
    lines = (
        " ||| ".join(["SCORE", *(_line(text, tokenizer) for text in [*texts, candidate])])
        for candidate, texts in zip(candidates, references, strict=True)
    )
    arguments = ["-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    printed = run_java(
        "METEOR",
        arguments,
        folder=folder,
        stdin="".join(f"{line}\n" for line in lines),
        seconds=_START_SECONDS + _IMAGE_SECONDS * len(candidates) if seconds is None else seconds,
    )
    statistics = _read(printed, len(candidates))
    signature = sign("METEOR", candidates, references, java="meteor-1.5", tok=tokenizer.name)
    return {"METEOR": Score.pooled("METEOR", meteor_score(statistics), statistics, meteor_score, signature)}


def _line(text: str, tokenizer: Tokenizer) -> str:
    return " ".join(tokenizer(text)).replace("|||", "")  # which separates captions


def _read(printed: str, n: int) -> FloatArray:
    lines = printed.splitlines()
    try:
        statistics = np.array([[float(field) for field in line.split()] for line in lines])
    except ValueError:
        statistics = np.zeros(0)
    if statistics.shape != (n, _FIELDS):
        raise MetricUnavailable(
            f"METEOR: expected {n} lines of {_FIELDS} numbers from meteor-1.5.jar, found {len(lines)} lines, "
            f"the first {lines[0][:80]!r}"
            if lines
            else "METEOR: meteor-1.5.jar printed nothing"
        )
    if not (np.isfinite(statistics) & (statistics >= 0)).all():
        row = (~(np.isfinite(statistics) & (statistics >= 0)).all(axis=1)).argmax()
        raise MetricUnavailable(
            f"METEOR: expected finite numbers of at least 0 from meteor-1.5.jar, found {lines[row][:80]!r}"
        )
    # A candidate that matches wholly is one chunk, which the original does not penalise, alone or pooled.
    lengths, chunks, matched = statistics[:, :2], statistics[:, 20], statistics[:, 21:]
    statistics[(chunks == 1) & (matched == lengths).all(axis=1), 20] = 0
    return statistics


def meteor_score(statistics: FloatArray) -> FloatArray:
    """The paper's equations 1 to 5 on the original's statistics (..., 23), of an image or summed."""
    # Words and function words, candidate's and reference's.
    lengths = np.moveaxis(statistics[..., :4], -1, 0)
    matches = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 4)
    chunks, *matched = np.moveaxis(statistics[..., 20:23], -1, 0)
    precision, recall = (
        _ratio(
            (DELTA * matches[..., side] + (1 - DELTA) * matches[..., side + 2]) @ _MATCHERS,
            DELTA * (lengths[side] - lengths[side + 2]) + (1 - DELTA) * lengths[side + 2],
        )
        for side in (0, 1)
    )
    mean = _ratio(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    fragmentation = _ratio(chunks, (matched[0] + matched[1]) / 2)
    return np.asarray(mean * (1 - GAMMA * fragmentation**BETA))


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
