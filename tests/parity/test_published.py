"""The published outputs of MAGIC and its baselines score to the published table, here and for ever."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from repository import ROOT

from magicap.evaluation.matching import match
from magicap.evaluation.predictions import read_predictions
from magicap.metrics import evaluate, meteor

# Scored once with the official coco-caption code, PTB tokenizer and METEOR 1.5 in Java; times 100.
METRICS = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D")
OFFICIAL = {
    "mscoco_magic_result": (4982, (56.82, 12.88, 17.36, 39.88, 49.29)),
    "mscoco_zerocap_result": (5000, (49.79, 6.98, 15.43, 31.80, 34.47)),
    "mscoco_mscoco_in_domain_clipretrieval": (4982, (39.49, 4.90, 11.41, 28.97, 13.62)),
    "flickr30k_magic_result": (1000, (44.50, 6.43, 13.08, 31.57, 20.37)),
}
ROWS = {
    "mscoco_magic_result": ("MAGIC", "coco"),
    "mscoco_zerocap_result": ("ZeroCap", "coco"),
    "mscoco_mscoco_in_domain_clipretrieval": ("CLIPRe as published", "coco"),
    "flickr30k_magic_result": ("MAGIC", "flickr30k"),
}


@pytest.fixture(scope="module")
def outputs(data_dir) -> Path:
    folder = data_dir.parent / "magic_results"
    if not folder.is_dir():
        pytest.skip("data: the published outputs are not beside MAGICAP_DATA")
    return folder


def pairs_of(outputs, name):
    predictions = read_predictions(outputs / f"{name}.json")
    return match(predictions, predictions.references)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_path_without_java_gives_the_official_figures(outputs, name):
    n, values = OFFICIAL[name]
    pairs = pairs_of(outputs, name)
    assert len(pairs.images) == n
    scores = evaluate(pairs.candidates, pairs.references, metrics=["bleu", "rouge_l", "cider_d"]).scores
    for metric, value in zip(METRICS, values, strict=True):
        if metric != "METEOR":
            assert 100 * scores[metric].value == pytest.approx(value, abs=0.05), metric


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.parametrize("names", [["flickr30k_magic_result"], list(OFFICIAL)])
def test_meteor_gives_the_official_figures(outputs, names):
    """Several files in one Java run; each file's score pools its own images' statistics."""
    pairs = [pairs_of(outputs, name) for name in names]
    candidates = [text for each in pairs for text in each.candidates]
    score = meteor(candidates, [texts for each in pairs for texts in each.references])["METEOR"]
    start = 0
    for each, (n, values) in zip(pairs, (OFFICIAL[name] for name in names), strict=True):
        value = score.aggregate(score.statistics[start : start + n].sum(axis=0))
        assert 100 * value == pytest.approx(values[METRICS.index("METEOR")], abs=0.05)
        start += len(each.images)


@pytest.fixture(scope="module")
def published():
    path = ROOT / "eval" / "published.py"
    spec = importlib.util.spec_from_file_location("published", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["published"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_published_rows_agree_with_what_the_outputs_score(published):
    """Papers round to one decimal."""
    for name, (system, dataset) in ROWS.items():
        row = next(row for row in published.PUBLISHED if (row.system, row.dataset) == (system, dataset))
        assert row.rescored
        figures = dict(zip(published.METRICS, row.figures, strict=True))
        for metric, value in zip(METRICS, OFFICIAL[name][1], strict=True):
            assert figures[metric] == pytest.approx(value, abs=0.06), (system, metric)
    assert sum(row.rescored for row in published.PUBLISHED) == len(ROWS)


def test_published_rows_are_whole(published):
    for row in published.PUBLISHED:
        assert len(row.figures) == len(published.METRICS), row
        assert all(value is None or 0 < value < 150 for value in row.figures), row


def test_published_tables_stand_beside_ours(published, tmp_path, capsys):
    ours = tmp_path / "figures.csv"
    ours.write_text("system,metric,value\nmine,CIDEr-D,0.5\nmine,BLEU-4,0.125\n")
    published.main(published.Config("flickr8k", str(ours)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["system", "BLEU-1", "BLEU-4"]
    assert any(line.startswith("hard attention") and "21.3" in line for line in lines)
    assert lines[-1].split()[:6] == ["mine", "-", "12.5", "-", "-", "50.0"]
    with pytest.raises(SystemExit, match="expected one of coco"):
        published.main(published.Config("imagenet"))
