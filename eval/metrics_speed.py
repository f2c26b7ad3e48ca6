"""Time of our metrics beside coco-caption's own code, in turn, in one run.

python eval/metrics_speed.py --predictions mscoco_magic_result.json
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer as JavaTokenizer
from transformers import HfArgumentParser

from magicap.evaluation.matching import Scored, match
from magicap.evaluation.predictions import read_predictions
from magicap.metrics import PTB, evaluate, meteor


@dataclass(frozen=True)
class Config:
    predictions: str = field(metadata={"help": "a published list that brings its references"})
    runs: int = field(default=5, metadata={"help": "of each, in turn"})


def main(config: Config) -> None:
    predictions = read_predictions(config.predictions)
    scored = match(predictions, predictions.references or [])
    jobs: dict[str, Callable[[], object]] = {"ours: tokens, BLEU, ROUGE-L, CIDEr-D": lambda: ours(scored)}
    if shutil.which("java"):
        jobs["pycocoevalcap: the same, tokens by Java"] = lambda: theirs(scored)
        jobs["ours: METEOR, one Java run"] = lambda: meteor(scored.candidates, scored.references)
        jobs["pycocoevalcap: METEOR of the same tokens"] = lambda: their_meteor(scored)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(config.runs):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
    print(f"{len(scored.images)} images, {config.runs} runs of each in turn")
    for name, seconds in times.items():
        span = f"{min(seconds):.2f} to {max(seconds):.2f}, the first {seconds[0]:.2f}"
        print(f"{name}: median {statistics.median(seconds):.2f} s ({span})")


def ours(scored: Scored) -> None:
    evaluate(scored.candidates, scored.references, metrics=["bleu", "rouge_l", "cider_d"])


def theirs(scored: Scored) -> None:
    with redirect_stdout(StringIO()):
        tokenizer = JavaTokenizer()
        candidate_tokens = tokenizer.tokenize(
            {i: [{"caption": text}] for i, text in enumerate(scored.candidates)}
        )
        reference_tokens = tokenizer.tokenize(
            {i: [{"caption": text} for text in texts] for i, texts in enumerate(scored.references)}
        )
        for metric in (Bleu(4), Rouge(), Cider()):
            metric.compute_score(reference_tokens, candidate_tokens)


def their_meteor(scored: Scored) -> None:
    candidates = {i: [" ".join(PTB(text))] for i, text in enumerate(scored.candidates)}
    references = {i: [" ".join(PTB(text)) for text in texts] for i, texts in enumerate(scored.references)}
    Meteor().compute_score(references, candidates)


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
