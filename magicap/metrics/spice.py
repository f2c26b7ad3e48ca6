"""SPICE (Anderson et al. 2016): objects, attributes and relations in common, by the Java original."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from magicap.arrays import FloatArray
from magicap.errors import MetricUnavailable
from magicap.metrics.java import package_folder, run_java
from magicap.metrics.score import Score, require_pairs, sign

PARSER_FILES = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
"""What must lie in the ``spice/lib`` of pycocoevalcap."""

_START_SECONDS, _IMAGE_SECONDS = 600.0, 2.0


def spice(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, seconds: float | None = None
) -> dict[str, Score]:
    """SPICE, 0 to 1; the corpus score is the mean of images. It reads captions untokenised.

    Beside pycocoevalcap it needs the parser of CoreNLP 3.6.0 (two files, 400 MB) in its ``spice/lib``; making
    a ``pycocoevalcap.spice.spice.Spice()`` fetches them where there is a network. Nothing is downloaded here.

    Args:
        candidates: N captions.
        references: N lists of one or more captions.
        seconds: after which the Java process is taken to hang; None allows 10 minutes and 2 s an image.

    Raises:
        BadSettings: not one list of references a candidate, or no image.
        MetricUnavailable: no Java or no parser, or the process hung or failed.
        MissingPackage: pycocoevalcap is not installed.
    """
    require_pairs(candidates, references, "SPICE")
    folder = package_folder("pycocoevalcap") / "spice"
    missing = [name for name in PARSER_FILES if not (folder / "lib" / name).is_file()]
    if missing:
        raise MetricUnavailable(
            f"SPICE needs {' and '.join(missing)} in pycocoevalcap/spice/lib; where there is a network, "
            "python -c 'from pycocoevalcap.spice.spice import Spice; Spice()' fetches them"
        )
    rows = [
        {"image_id": i, "test": candidate, "refs": list(texts)}
        for i, (candidate, texts) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch, "in.json"), Path(scratch, "out.json")
        question.write_text(json.dumps(rows, allow_nan=False), encoding="utf-8")
        arguments = ["-Xmx8G", "-jar", "spice-1.0.jar", str(question), "-cache", scratch, "-out", str(answer)]
        run_java(
            "SPICE",
            [*arguments, "-subset", "-silent"],
            folder=folder,
            seconds=_START_SECONDS + _IMAGE_SECONDS * len(rows) if seconds is None else seconds,
        )
        per_image = read_scores(answer, len(rows))
    return {"SPICE": Score.mean("SPICE", per_image, sign("SPICE", candidates, references, java="spice-1.0"))}


def read_scores(path: Path, n: int) -> FloatArray:
    """The F-scores (n,) in the file that spice-1.0.jar wrote for images numbered from 0.

    Raises:
        MetricUnavailable: it cannot be read, leaves out an image, or holds a number outside 0 to 1.
    """
    try:
        answers: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        per_image = {int(answer["image_id"]): float(answer["scores"]["All"]["f"]) for answer in answers}
        scores = np.array([per_image[number] for number in range(n) if number in per_image])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricUnavailable(f"SPICE: spice-1.0.jar wrote no readable answer: {error!r}") from error
    if missing := n - len(scores):
        raise MetricUnavailable(f"SPICE: spice-1.0.jar left out {missing} of {n} images")
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
        raise MetricUnavailable(
            f"SPICE: expected scores of 0 to 1 from spice-1.0.jar, found {scores.min()} to {scores.max()}"
        )
    return scores
