"""Broken numbers: never a confident answer from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny  # noqa: F401 - so that forks have the libraries
from cases.make import rewrite
from command import assert_refused, magicap

REFUSED = {
    "memory_nan": ("memory", "NaN"),
    "memory_zero": ("memory", "vectors of length one"),
    "memory_other_scorer": ("memory", "damaged"),
    "memory_swapped": ("memory", "reordered"),
    "memory_one_short": ("memory", "one vector a caption"),
    "memory_counts_zero": ("memory", "counts of n-grams"),
    "memory_lost": ("memory", "not there"),
    "prompt_lost": ("soft_prompt", "not there"),
    "scorer_nan": ("scorer", "NaN"),
    "language_model_nan": ("language model", "NaN"),
    "prompt_nan": ("soft prompt", "NaN"),
}
"""Captioners with one broken part, and what is said of them."""

INDEX = {
    "nan": (lambda vectors: vectors * np.nan, "length one"),
    "zero": (lambda vectors: vectors * 0, "length one"),
    "swapped": (lambda vectors: vectors[::-1], "changed"),
}
"""Changes of an index's vectors, and what is said of them."""

SCORE = ("--references", "forms/refs.jsonl", "--json", "--metrics")


@pytest.mark.parametrize("name", REFUSED)
def test_a_captioner_with_a_broken_part_is_refused_when_it_is_loaded(name, cases, made_cases):
    folder = made_cases("numbers") / name
    ended = magicap("caption", cases / "pictures/plain.jpg", "--preset", folder, "--json")
    assert_refused(ended, name, *REFUSED[name])


def test_no_index_is_made_by_a_broken_scorer(cases, made_cases, tmp_path):
    folder = made_cases("numbers") / "scorer_nan"
    ended = magicap("index", cases / "pictures/plain.jpg", "--preset", folder, "--out", tmp_path / "new")
    assert_refused(ended, "scorer_nan", "NaN")
    assert not (tmp_path / "new").exists()


def test_a_plain_picture_is_captioned(cases):
    ended = magicap("caption", "pictures/plain.jpg", cwd=cases)
    assert (ended.code, ended.err) == (0, ""), ended
    assert ended.out.strip().endswith(".")


@pytest.fixture(scope="module")
def index(preset, tmp_path_factory) -> Path:
    """An index of two sentences."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "a.txt").write_text("A dog runs.\nA cat sleeps.\n")
    ended = magicap("index", folder / "a.txt", "--preset", preset)
    assert ended.code == 0, ended
    return folder / "a.txt.magicap-index"


@pytest.mark.parametrize("name", INDEX)
def test_an_index_whose_vectors_were_changed_is_refused(name, index, tmp_path, preset):
    change, said = INDEX[name]
    copy = Path(shutil.copytree(index, tmp_path / f"{name}.magicap-index"))
    header = json.loads((copy / "index.json").read_text())
    rewrite(copy / header["vectors"], lambda tensors: tensors.update(vectors=change(tensors["vectors"])))
    assert_refused(magicap("search", "a dog runs", "--index", copy, "--preset", preset), f"{name}.", said)


def test_an_index_by_another_scorer_is_refused_and_one_without_a_digest_is_read(index, tmp_path, preset):
    header = json.loads((index / "index.json").read_text())
    other = Path(shutil.copytree(index, tmp_path / "other.magicap-index"))
    (other / "index.json").write_text(json.dumps({**header, "scorer": "0123456789ab"}))
    search = ["search", "a dog runs", "--preset", preset, "--index"]
    assert_refused(magicap(*search, other), "0123456789ab")
    del header["digest"]
    (other / "index.json").write_text(json.dumps(header))
    ended = magicap(*search, other)
    assert (ended.code, ended.err) == (0, ""), ended


@pytest.mark.parametrize("name", ["nan", "negative", "comma"])
def test_java_that_prints_no_usable_numbers_leaves_the_metric_absent(name, cases, made_cases, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", str(made_cases("numbers") / f"java_{name}"), prepend=":")
    ended = magicap("eval", "forms/pred.jsonl", *SCORE, "meteor", cwd=cases)
    report = json.loads(ended.out)
    assert (ended.code, report["scores"], list(report["absent"])) == (2, {}, ["METEOR"]), ended
    assert "found" in report["absent"]["METEOR"]


def test_scores_in_rows_are_not_read(cases):
    plain, broken = (
        json.loads(magicap("eval", file, *SCORE, "bleu", cwd=cases).out)["scores"]["BLEU-4"]["value"]
        for file in ("forms/pred.jsonl", "numbers/scores_nan.jsonl")
    )
    assert plain == broken


def test_captions_that_the_scorer_does_not_read_to_their_end_are_counted(cases):
    clipscore = [*SCORE, "clipscore", "--images", "forms/pictures"]
    ended = magicap("eval", "numbers/long.jsonl", *clipscore, cwd=cases)
    assert (ended.code, ended.err) == (0, ""), ended
    scores = json.loads(ended.out)["scores"]
    assert "3 of 3 captions are longer" in scores["CLIPScore"]["caveats"][0]
    ended = magicap("eval", "forms/pred.jsonl", *clipscore, cwd=cases)
    assert "caveats" not in ended.out


@pytest.mark.parametrize("decoding", ["beam-magic", "greedy"])
def test_a_scorer_that_rates_captions_that_it_steered_is_named_at_the_figure(decoding, cases, tmp_path):
    arguments = ["--max-new-tokens", "8", "--decoding", decoding]
    made = magicap("caption", "forms/pictures", "--json", *arguments, stdout=tmp_path / "rows", cwd=cases)
    assert made.code == 0, made
    clipscore = [tmp_path / "rows", *SCORE, "clipscore", "--images", "forms/pictures"]
    scores = json.loads(magicap("eval", *clipscore, cwd=cases).out)["scores"]
    steered = decoding == "beam-magic"
    assert [("caveats" in score) for score in scores.values()] == [steered, steered]
    clipscore.remove("--json")
    table = magicap("eval", *clipscore, cwd=cases).out
    assert ("* CLIPScore: rated by the scorer that steered" in table) == steered
