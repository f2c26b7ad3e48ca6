"""Comparisons: intervals, significance, tables, baselines, and the fingerprint that signs them."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import tiny

from magicap.data import CaptionedImage
from magicap.decoding.retrieved import ConsensusCaption
from magicap.errors import BadData, BadSettings
from magicap.evaluation.baselines import baseline_decodings, best_constant_caption, training_captions
from magicap.evaluation.comparison import System, compare
from magicap.evaluation.tables import aligned, comparison_csv, comparison_notes, comparison_table, markdown
from magicap.metrics import ClipScore, Report, cider_d, evaluate
from magicap.metrics.clipscore import PREFIX
from magicap.retrieval.caption_memory import CaptionMemory

COLOURS, ANIMALS = "red brown grey white black spotted".split(), "dog cat cow hen fox".split()
TRUTH = [f"a {colour} {animal} runs on wet grass" for colour in COLOURS for animal in ANIMALS]
IMAGES = [f"{i}.jpg" for i in range(len(TRUTH))]
REFERENCES = [[text, text.replace("runs", "walks")] for text in TRUTH]


def comparison(systems, **settings):
    reports = [evaluate(s.captions, REFERENCES, metrics=["bleu", "cider_d", "diversity"]) for s in systems]
    return compare("title", IMAGES, REFERENCES, systems, reports, **{"against": systems[0].name, **settings})


def test_differences_beyond_chance_are_told_from_none():
    noise = np.random.default_rng(0)
    other = [" ".join(noise.permutation(text.split())) for text in TRUTH]
    found = comparison([System("good", TRUTH), System("same", TRUTH), System("bad", other)])
    same, bad = (found.estimates[name]["CIDEr-D"] for name in ("same", "bad"))
    assert same.difference == 0
    assert same.p_value == 1
    assert bad.difference < 0
    assert bad.p_value < 0.01
    assert bad.difference_low <= bad.difference <= bad.difference_high < 0
    assert found.estimates["good"]["BLEU-1"].score.signature["metric"] == "BLEU-1"
    itself = found.estimates["good"]["CIDEr-D"]
    assert itself.low - 1e-9 <= itself.score.value <= itself.high + 1e-9
    assert itself.difference is None
    assert found.estimates["bad"]["vocabulary"].low is None  # no function of sums over images


def test_intervals_repeat_with_the_seed_and_narrow_with_less_confidence():
    graded = System("graded", [" ".join(text.split()[: 2 + i // 6]) for i, text in enumerate(TRUTH)])
    first, again, other = (
        comparison([graded], seed=seed).estimates["graded"]["CIDEr-D"] for seed in (0, 0, 1)
    )
    assert (first.low, first.high) == (again.low, again.high) != (other.low, other.high)
    narrow = comparison([graded], confidence=0.5).estimates["graded"]["CIDEr-D"]
    assert first.low < narrow.low < first.score.value < narrow.high < first.high


def test_few_images_have_no_intervals_and_no_significance():
    images, references, said = IMAGES[:29], REFERENCES[:29], TRUTH[:29]
    systems = [System("good", said), System("bad", ["a man"] * 29)]
    reports = [evaluate(s.captions, references, metrics=["cider_d"]) for s in systems]
    found = compare("few", images, references, systems, reports, against="good")
    estimate = found.estimates["bad"]["CIDEr-D"]
    assert estimate.difference < 0
    assert (estimate.low, estimate.high, estimate.p_value) == (None, None, None)
    assert "too few for intervals" in comparison_notes(found)
    assert "▼" not in comparison_table(found)[1][1][1]


def test_a_metric_that_one_system_lacks_stays_with_the_others():
    systems = [System("with", TRUTH), System("without", TRUTH)]
    whole = evaluate(TRUTH, REFERENCES, metrics=["bleu", "cider_d"])
    part = Report({k: v for k, v in whole.scores.items() if k != "CIDEr-D"}, {"CIDEr-D": "it hung"})
    for against in ("with", "without"):
        found = compare("t", IMAGES, REFERENCES, systems, [whole, part], against=against, resamples=20)
        assert "CIDEr-D" in found.estimates["with"]
        assert found.absent == {"CIDEr-D of without": "it hung"}
        assert found.estimates["with"]["CIDEr-D"].difference is None
    found = compare("t", IMAGES, REFERENCES, systems, [part, part], against="with", resamples=20)
    assert found.absent == {"CIDEr-D": "it hung"}


def test_bleu_is_resampled_as_a_corpus_not_as_a_mean():
    half = System("half", [*TRUTH[:15], *["a man on a horse"] * 15])
    estimate = comparison([half]).estimates["half"]["BLEU-4"]
    assert estimate.score.value != pytest.approx(estimate.score.per_image.mean(), abs=0.01)
    assert estimate.low < estimate.score.value < estimate.high


@pytest.mark.parametrize(
    ("systems", "settings", "says"),
    [
        ([System("a", TRUTH), System("a", TRUTH)], {}, "names of their own"),
        ([System("a", TRUTH)], {"against": "b"}, "no system 'b' to compare against: expected one of a"),
        ([System("a", TRUTH)], {"confidence": 95}, "between 0 and 1"),
        ([System("a", TRUTH)], {"resamples": 0}, "at least 1, found 0"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(systems, settings, says):
    with pytest.raises(BadSettings, match=says):
        comparison(systems, **settings)


def test_tables_hold_figures_marks_and_reasons():
    found = comparison([System("good", TRUTH), System("low | bad", ["a man"] * len(TRUTH), baseline=True)])
    header, rows = comparison_table(found)
    assert header == ["system", "BLEU-1", "BLEU-4", "CIDEr-D", "distinct captions"]
    assert rows[1][0] == "low | bad (baseline)"
    assert rows[1][3].endswith("▼")
    assert "low \\| bad" in markdown(header, rows)
    lines = aligned(header, rows).splitlines()
    assert len({line.index(cell) for line, cell in zip(lines[1:], ("good", "low"), strict=True)}) == 1
    assert "n = 30" in comparison_notes(found)
    records = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert {record["system"] for record in records} == {"good", "low | bad"}
    cider = next(r for r in records if r["system"] == "low | bad" and r["metric"] == "CIDEr-D")
    assert float(cider["difference"]) < 0 < float(cider["p_value"]) < 0.05
    assert "tok:ptb" in cider["signature"]


def test_the_best_constant_caption_is_the_most_typical_of_the_training_text():
    rows = [CaptionedImage(str(i), "train", tuple(texts)) for i, texts in enumerate(REFERENCES)]
    odd = CaptionedImage("x", "train", ("Somebody plays chess",))
    best = best_constant_caption([*rows, odd])
    every = {text.capitalize() + "." for texts in REFERENCES for text in texts}
    assert best in every
    references = [row.captions for row in [*rows, odd]]
    scores = {text: cider_d([text] * len(references), references)["CIDEr-D"].value for text in every}
    assert scores[best] == pytest.approx(max(scores.values()))
    with pytest.raises(BadData, match="found none"):
        best_constant_caption([])


def test_baselines_never_read_the_captions_they_are_compared_on(tmp_path):
    rows = [
        {"image": "a", "split": "train", "captions": ["one"]},
        {"image": "b", "split": "train", "captions": ["two"], "flickr8k_split": "test"},
        {"image": "c", "split": "train", "captions": ["three"], "flickr8k_split": "train"},
        {"image": "d", "split": "test", "captions": ["four"]},
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.image for row in training_captions(path, ["a"])] == ["c"]
    with pytest.raises(BadData, match="no train split beside"):
        training_captions(path, ["a", "c"])


def test_consensus_is_the_neighbour_most_like_the_others():
    captioner = tiny.captioner(0)
    texts = [
        "A dog runs on the grass.",
        "A dog runs on green grass.",
        "A dog runs in the grass.",
        "Two boats.",
    ]
    memory = CaptionMemory.from_texts(captioner.scorer, texts)
    said = captioner.caption(tiny.pictures(2), ConsensusCaption(memory, count=4))
    pairwise = np.array(
        [[cider_d([a, "x"], [[b], ["y"]])["CIDEr-D"].value if i != j else 0.0 for j, b in enumerate(texts)]
         for i, a in enumerate(texts)]
    )  # fmt: skip
    assert pairwise.sum(axis=1)[3] == 0
    assert all(str(caption) in texts[:3] for caption in said)
    assert said[0] == said[1]  # all four take part for either picture
    alone = captioner.caption(tiny.pictures(2), ConsensusCaption(memory, count=1))
    assert [a.score for a in alone] == pytest.approx(
        memory.nearest(captioner.scorer.encode_images(tiny.pictures(2)))[0][:, 0].tolist(), abs=1e-5
    )
    with pytest.raises(BadSettings, match="count must be a whole number of at least 1, found 0"):
        ConsensusCaption(memory, 0)


def test_baselines_use_the_captioners_own_models_and_settings():
    captioner = tiny.captioner(0, top_k=5, alpha=0.3, max_new_tokens=6)
    rows = [CaptionedImage(str(i), "train", tuple(texts)) for i, texts in enumerate(REFERENCES)]
    baselines = baseline_decodings(captioner, rows)
    assert list(baselines) == ["contrastive search", "nearest caption", "consensus of 30 nearest"]
    contrastive = baselines["contrastive search"]
    assert (contrastive.top_k, contrastive.alpha, contrastive.max_new_tokens) == (5, 0.3, 6)
    assert len(baselines["nearest caption"].memory) == 60
    assert "60 captions" in str(baselines["nearest caption"])


def test_clip_score_is_the_papers():
    scorer = tiny.scorer()
    images = scorer.encode_images(tiny.pictures(2))
    said, references = ["a dog", "a red cat"], [["a dog", "the dog"], ["a cow"]]
    scores = ClipScore(scorer, images)(said, references)
    texts = scorer.encode_texts([PREFIX + text for text in said])
    for i in range(2):
        seen = 2.5 * max(float(images[i] @ texts[i]), 0)
        assert scores["CLIPScore"].per_image[i] == pytest.approx(seen, abs=1e-6)
        alike = max(
            max(float(texts[i] @ v) for v in scorer.encode_texts([PREFIX + t for t in references[i]])), 0
        )
        both = 2 * seen * alike / (seen + alike) if seen + alike else 0
        assert scores["RefCLIPScore"].per_image[i] == pytest.approx(both, abs=1e-6)
    assert f"scorer:{scorer.fingerprint}" in scores["CLIPScore"].signature_text
    assert "RefCLIPScore" not in ClipScore(scorer, images)(said, [[], []])
    with pytest.raises(BadSettings, match="expected captions of 2 images, found 1"):
        ClipScore(scorer, images)(said[:1], references[:1])


def test_fingerprints_tell_weights_apart():
    first, again, other = tiny.captioner(0), tiny.captioner(0), tiny.captioner(1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(first.fingerprint) == 12
    assert first.scorer.fingerprint != first.fingerprint
