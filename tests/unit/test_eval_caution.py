"""Two scripts of eval/: cautious captions, and what captioned pictures are worth."""

from __future__ import annotations

import numpy as np
import pytest
from repository import script

from magicap.decoding.minimum_bayes_risk import Competition, EvidenceSet
from magicap.errors import BadData, BadSettings
from magicap.metrics.cider import DocumentFrequencies
from magicap.results import Hypothesis

EVIDENCE = {"A dog runs.": 0.5, "A dog sleeps.": 0.3, "A poodle runs.": 0.2}
CSV = """system,metric,value,low,high
1000,CIDEr-D,0.8,0.7,0.9
0,CIDEr-D,0.6,0.5,0.8
magic,CIDEr-D,0.4,0.3,0.5
0,BLEU-4,0.2,0.1,0.3
"""


def competition(*texts: str) -> Competition:
    frequencies = DocumentFrequencies.of_texts(list(EVIDENCE))
    evidence = EvidenceSet(list(EVIDENCE), np.array(list(EVIDENCE.values())), frequencies)
    return Competition([Hypothesis(text) for text in texts], evidence)


@pytest.mark.parametrize(
    ("least", "text"),
    [
        (0.0, "A zebra runs."),  # the first
        (0.1, "A poodle runs."),
        (0.25, "A dog sleeps."),
        (0.7, "A dog runs."),
        (0.9, "A dog runs."),  # none has as much: the one with the most
    ],
)
def test_a_cautious_caption_is_the_first_whose_words_are_all_supported(least, text):
    caution = script("cautious_captions")
    one = competition("A zebra runs.", "A poodle runs.", "A dog sleeps.", "A dog runs.")
    assert caution.word_support(one.evidence)["dog"] == pytest.approx(0.8)
    assert caution.cautious(one, least) == text


def test_systems_that_are_named_by_numbers_are_drawn_with_their_intervals(tmp_path):
    worth = script("captioned_pictures")
    (file := tmp_path / "figures.csv").write_text(CSV)
    points = worth.read_points(file, "CIDEr-D")
    assert points == [worth.Point(0, 60, 50, 80), worth.Point(1000, 80, 70, 90)]
    worth.main(worth.Config([f"COCO val={file}"], str(tmp_path / "worth.svg")))
    assert "COCO val" in (tmp_path / "worth.svg").read_text()


def test_files_that_cannot_be_drawn_are_named(tmp_path):
    worth = script("captioned_pictures")
    (file := tmp_path / "figures.csv").write_text(CSV)
    with pytest.raises(BadData, match=r"figures\.csv: expected systems named by numbers, with METEOR"):
        worth.main(worth.Config([f"COCO={file}"], str(tmp_path / "a.svg"), metric="METEOR"))
    with pytest.raises(BadData, match=r"none\.csv"):
        worth.main(worth.Config([f"COCO={tmp_path}/none.csv"], str(tmp_path / "a.svg")))
    with pytest.raises(BadSettings, match="NAME=FILE"):
        worth.main(worth.Config([str(file)], str(tmp_path / "a.svg")))
