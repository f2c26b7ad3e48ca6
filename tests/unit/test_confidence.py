"""How sure a caption is: features and figures against slow references, where it is known and where not."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tiny
from confidence_reference import reference_area, reference_error, reference_features
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from repository import recipe

from magicap import (
    BadData,
    BadModel,
    BadSettings,
    BeamMagicSearch,
    Caption,
    Captioner,
    CaptionMemory,
    Hypothesis,
    MagicSearch,
    NearestCaption,
)
from magicap.captioners.presets import DEFAULT
from magicap.cli import main
from magicap.decoding.confidence import FEATURES, ConfidenceModel, Term, features_of
from magicap.decoding.minimum_bayes_risk import Competition, EvidenceSet
from magicap.evaluation.reliability import (
    BINS,
    Rated,
    area_under_curve,
    calibration_error,
    kept_ratio,
    kept_threshold,
    reliability_bins,
    reliability_diagram,
)
from magicap.metrics.cider import DocumentFrequencies

TEXTS = ["A dog runs.", "Two children play on a beach.", "A man climbs a rock.", "A dog runs on a beach."]
PICTURES = tiny.pictures(3)
SEARCH = BeamMagicSearch(top_k=6, beam_size=2, neighbours=4, max_new_tokens=6, rerank_weight=1.0)

numbers = st.floats(-1e3, 1e3)
maybe = st.none() | st.floats(-1, 1)


def model_of(captioner, **changes):
    """A model that was fitted for a captioner, but with invented weights."""
    terms = {name: Term(0.1, 2.0, weight) for name, weight in zip(FEATURES, (3, -2, 1, 5, -4), strict=True)}
    model = ConfidenceModel(terms, 0.2, captioner.fingerprint, captioner.decoding, 7)
    return replace(model, **changes)


@cache
def parts(seed):
    made = tiny.captioner(seed)
    return made.language_model, made.scorer, SEARCH, CaptionMemory.from_texts(made.scorer, TEXTS)


def remembering(seed=0):
    """A captioner with a memory, and without a confidence."""
    return Captioner(*parts(seed))


@pytest.fixture
def captioner():
    made = remembering()
    made.confidence = model_of(made)
    return made


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a captioner with a confidence."""
    made = remembering()
    made.confidence = model_of(made)
    made.save_pretrained(folder := tmp_path_factory.mktemp("sure"))
    return folder


@pytest.fixture
def album(tmp_path):
    (tmp_path / "album").mkdir()
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / "album" / f"{number}.png")
    return tmp_path / "album"


# ---- features and probability


@given(
    st.lists(st.tuples(st.floats(0, 10), maybe, maybe), min_size=1, max_size=30),
    st.lists(st.floats(-1, 1), max_size=20),
)
def test_features_equal_the_slow_reference(rows, cosines):
    hypotheses = [
        Hypothesis("a", expected_utility=utility, cosine=cosine, log_probability=log_probability)
        for utility, cosine, log_probability in rows
    ]
    evidence = EvidenceSet([], np.zeros(0), DocumentFrequencies.of_texts([]), np.array(cosines))
    features = features_of(Competition(hypotheses, evidence))
    assert list(features) == list(FEATURES)
    assert features == pytest.approx(reference_features(hypotheses, cosines), abs=1e-9)


@given(st.lists(st.tuples(numbers, numbers, st.floats(1e-3, 1e3), numbers), min_size=5, max_size=5), numbers)
def test_the_probability_is_the_logistic_function_of_the_weighed_features(rows, bias):
    terms = {
        name: Term(mean, std, weight) for name, (_, mean, std, weight) in zip(FEATURES, rows, strict=True)
    }
    features = {name: value for name, (value, *_) in zip(FEATURES, rows, strict=True)}
    model = ConfidenceModel(terms, bias, "", SEARCH)
    odds = bias + sum(weight * (value - mean) / std for value, mean, std, weight in rows)
    probability = model.probability(features)
    assert 0 <= probability <= 1
    if abs(odds) < 500:
        assert probability == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-6)
    assert ConfidenceModel.from_json(model.to_json()) == model


def test_a_feature_that_is_missing_is_named(captioner):
    with pytest.raises(BadSettings, match="evidence_cosine is missing"):
        captioner.confidence.probability(dict.fromkeys(list(FEATURES)[:-1], 0.0))


# ---- where it is known


def test_captions_of_the_decoding_it_was_fitted_for_have_it(captioner):
    captions = captioner.caption(PICTURES)
    assert all(0 < caption.confidence < 1 for caption in captions)
    assert len({caption.confidence for caption in captions}) == len(captions)
    assert captioner.caption(PICTURES[1]).confidence == pytest.approx(captions[1].confidence, abs=1e-6)
    explained = captioner.explain(PICTURES[1]).caption
    assert explained.confidence == pytest.approx(captions[1].confidence, abs=1e-6)
    again = pickle.loads(pickle.dumps(captions[0]))
    assert (again, again.confidence) == (captions[0], captions[0].confidence)


def test_it_changes_no_caption(captioner):
    without = remembering().caption(PICTURES)
    assert without == captioner.caption(PICTURES)
    assert [caption.confidence for caption in without] == [None] * 3
    assert Caption("plain").confidence is None


@pytest.mark.parametrize("changes", [{"max_new_tokens": 4}, {"num_hypotheses": 1}])
def test_how_long_captions_are_and_how_many_are_kept_is_free(captioner, changes):
    assert captioner.caption(PICTURES[0], replace(SEARCH, **changes)).confidence is not None


@pytest.mark.parametrize(
    "decoding",
    [
        replace(SEARCH, temperature=1.0),
        replace(SEARCH, exclude=("dog",)),
        replace(SEARCH, rerank_weight=0.0),
        MagicSearch(top_k=4, max_new_tokens=4),
        NearestCaption(parts(0)[-1]),
    ],
)
def test_another_decoding_has_none(captioner, decoding):
    assert not captioner.knows_confidence(decoding)
    assert captioner.caption(PICTURES[0], decoding).confidence is None


def test_another_memory_or_other_models_have_none(captioner):
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, [*TEXTS, "A cat."])
    assert captioner.caption(PICTURES[0]).confidence is None
    captioner.memory = None
    assert captioner.caption(PICTURES[0]).confidence is None
    other = remembering(1)
    other.confidence = model_of(captioner)
    assert other.caption(PICTURES[0]).confidence is None


def test_adapting_does_not_inherit_it(captioner):
    from magicap.adaptation.adapt import AdaptationSettings

    texts = [f"A {a} runs over {b}." for a in ("dog", "man", "child") for b in "abcdefghi"]
    adapted = captioner.adapt(texts, settings=AdaptationSettings(epochs=1, max_steps=1, samples=0))
    assert adapted.confidence is None
    assert adapted.caption(PICTURES[0]).confidence is None


# ---- on disk


def test_it_is_a_part_of_the_folder(captioner, saved, tmp_path):
    parts = json.loads((saved / "magicap.json").read_text())["parts"]
    assert parts["confidence"] == {"path": "confidence.json", "fingerprint": captioner.confidence.fingerprint}
    again = Captioner.from_pretrained(saved)
    assert again.confidence == captioner.confidence
    again.save_pretrained(tmp_path / "copy")
    assert Captioner.from_pretrained(tmp_path / "copy").confidence == captioner.confidence
    again.confidence = None
    again.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "confidence.json").exists()
    assert Captioner.from_pretrained(tmp_path / "copy").confidence is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a JSON object, found list"),
        ({"format": 2}, "expected format 1, found 2; update magicap"),
        ({"bias": None}, "an entry 'bias'"),
        ({"bias": "high"}, "expected bias to be a finite number, found 'high'"),
        ({"decoding": {"kind": "greedy"}}, "settings of beam magic search"),
        ({"decoding": {"kind": "beam-magic", "top_k": 0}}, "top_k"),
        ({"terms": {}}, "expected 'terms'"),
        ({"terms": {"luck": {"mean": 0, "std": 1, "weight": 1}}}, "found 'luck'"),
        ({"terms": {"beam_gap": {"mean": 0, "std": 0, "weight": 1}}}, "expected std of beam_gap above 0"),
        ({"terms": {"beam_gap": {"mean": 0, "std": 1}}}, "expected mean, std, weight of beam_gap"),
    ],
)
def test_a_damaged_file_says_what_is_wrong_with_it(captioner, tmp_path, text, message):
    file = tmp_path / "confidence.json"
    if isinstance(text, dict):
        values = {**json.loads(captioner.confidence.to_json()), **text}
        text = json.dumps({name: value for name, value in values.items() if value is not None})
    file.write_text(text)
    with pytest.raises(BadModel, match=rf"confidence\.json is not a model of confidence: .*{message}"):
        ConfidenceModel.read(file)


def test_the_shipped_one_is_sure_of_some_and_not_of_others():
    captioner = Captioner.from_pretrained(DEFAULT)
    assert captioner.knows_confidence()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    caption, of_noise = captioner.caption(["docs/sample.jpg", noise])
    assert 0 < of_noise.confidence < 0.5
    assert of_noise.confidence < caption.confidence < 1


# ---- figures

rated_rows = st.lists(
    st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.9]) | st.floats(0, 1), st.floats(0, 10)), min_size=1
)


@given(rated_rows)
def test_figures_equal_the_slow_reference(rows):
    confidence, cider = (np.array(column) for column in zip(*rows, strict=True))
    rated = Rated(confidence, cider)
    right = [value > 0.5 for value in cider]
    assert area_under_curve(rated) == pytest.approx(reference_area(confidence, right), nan_ok=True)
    assert calibration_error(rated) == pytest.approx(reference_error(confidence, right, BINS), abs=1e-9)
    assert sum(one.count for one in reliability_bins(rated)) == len(rows)
    kept = sorted(range(len(rows)), key=lambda row: -confidence[row])[: math.ceil(0.6 * len(rows))]
    assert kept_threshold(rated) == confidence[kept[-1]]
    if cider.mean():
        assert kept_ratio(rated) == pytest.approx(cider[kept].mean() / cider.mean())


def test_the_diagram_has_a_point_a_group():
    rng = np.random.default_rng(0)
    rated = Rated(rng.random(200), rng.random(200))
    (axes,) = reliability_diagram(rated).axes
    assert [len(line.get_xdata()) for line in axes.lines] == [2, BINS]
    with pytest.raises(BadSettings, match="expected a CIDEr-D for each confidence"):
        Rated(rng.random(3), rng.random(2))


# ---- the command


def run(capsys, *arguments):
    code = main(["caption", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_rows_have_the_confidence(saved, album, capsys):
    _, lines, _ = run(capsys, album, "--preset", saved, "--json")
    confidences = [json.loads(line)["confidence"] for line in lines]
    assert len(set(confidences)) == 3
    middle = sorted(confidences)[1]
    code, lines, err = run(capsys, album, "--preset", saved, "--json", "--min-confidence", middle + 1e-4)
    rows = [json.loads(line) for line in lines]
    assert [row.get("unsure", False) for row in rows] == [value <= middle for value in confidences]
    assert all(row["caption"] for row in rows)
    assert (code, err) == (0, [])


def test_unsure_captions_are_left_out_or_marked(saved, album, capsys):
    _, plain, _ = run(capsys, album, "--preset", saved)
    code, lines, err = run(capsys, album, "--preset", saved, "--min-confidence", "1")
    assert (code, lines, err) == (0, [], ["magicap: 3 captions are left out, below --min-confidence"])
    assert run(capsys, album, "--preset", saved, "--min-confidence", "0") == (0, plain, [])
    marked = [f"{line} (unsure)" for line in plain]
    assert run(capsys, album, "--preset", saved, "--min-confidence", "1", "--mark-unsure") == (0, marked, [])
    _, lines, _ = run(capsys, album, "--preset", saved, "--mark-unsure")
    below = [caption.confidence < 0.5 for caption in Captioner.from_pretrained(saved).caption(PICTURES)]
    assert [line.endswith(" (unsure)") for line in lines] == below


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--min-confidence", "1.5"], "--min-confidence must be between 0 and 1"),
        (["--mark-unsure", "--exclude", "dog"], "does not know how sure it is"),
        (["--min-confidence", "0.5", "--decoding", "greedy"], "does not know how sure it is"),
    ],
)
def test_what_cannot_be_asked_is_one_line(saved, album, capsys, arguments, word):
    code, lines, err = run(capsys, album, "--preset", saved, *arguments)
    assert (code, lines, len(err)) == (2, [], 1)
    assert word in err[0]


def test_a_captioner_without_it_says_so(preset, supervised, album, capsys):
    for folder in (preset, supervised):
        code, _, err = run(capsys, album, "--preset", folder, "--min-confidence", "0.5")
        assert (code, len(err)) == (2, 1)
        assert "recipes/calibrate_confidence.py" in err[0]


# ---- the recipe and the script


@pytest.fixture
def captioned(album):
    """Two data sets of the same pictures: the references of two are what the captioner says of them."""
    said = [caption.text for caption in remembering().caption(PICTURES)]
    sets = []
    for name in ("one", "two"):
        texts = enumerate([*said[:2], "x y"])
        rows = [{"image": f"{number}.png", "split": "dev", "captions": [text]} for number, text in texts]
        file = album.parent / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        sets.append(str(file))
    return sets


def test_the_recipe_fits_it_to_pictures_with_captions(captioned, album, tmp_path, capsys):
    calibrate = recipe("calibrate_confidence")
    base = tmp_path / "base"
    remembering().save_pretrained(base)
    config = calibrate.Config(
        captions=captioned,
        images=[str(album)],
        base=str(base),
        out=str(tmp_path / "out"),
        dtype="float32",
        folds=2,
        weights="sets",
        cpu=True,
    )
    calibrate.main(config)
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| all", *(f"| {path}" for path in captioned)]
    made = Captioner.from_pretrained(tmp_path / "out")
    assert made.confidence.pictures == 6
    assert made.caption(PICTURES[0]).confidence is not None
    with pytest.raises(BadData, match="expected at least 5 right captions"):
        calibrate.main(replace(config, folds=5))
    with pytest.raises(BadSettings, match="--dtype float16 rounds the weights"):
        calibrate.main(replace(config, dtype="float16"))


def test_the_recipe_refuses_what_has_no_confidence(preset, captioned, album, tmp_path):
    calibrate = recipe("calibrate_confidence")
    config = calibrate.Config(captions=captioned, images=[str(album)], base=preset, out=str(tmp_path / "out"))
    with pytest.raises(BadSettings, match=r"a memory that decodes by beam magic search, found .*MagicSearch"):
        calibrate.main(config)
