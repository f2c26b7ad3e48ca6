"""Files of the trade: read where they are clear, refused with the line where they are not, never guessed."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
import torch  # noqa: F401 - so that no fork imports it
from command import assert_refused, magicap

from magicap.evaluation.matching import match  # noqa: F401 - nor this
from magicap.metrics import evaluate  # noqa: F401

FIGURES = {"BLEU-1": 0.765928, "CIDEr-D": 2.826704}
"""Of ``pred.jsonl`` against ``refs.jsonl``: whatever the form, the captions are the same."""

REFERENCES = """
    refs.jsonl txt_beside refs.csv refs_file_name_text.csv refs_wide.csv refs_more_columns.csv refs.tsv
    refs_no_header.tsv metadata_csv metadata_caption_key refs_nosplit.jsonl refs_rows.jsonl
    refs_keys_file_name.jsonl refs_keys_image_path.jsonl refs_list.json karpathy_nosplit.json gts.json
    kaggle kaggle_bom kaggle_utf16 kaggle_space token token_cr
""".split()
PREDICTIONS = """
    pred_lines.txt pred.csv pred_ids.jsonl pred_kohya.json pred_windows.jsonl pred_keys.jsonl
    pred_bom_crlf.jsonl pred_clip_interrogator.csv pred_txt
""".split()
PAIRS = [
    *(("pred.jsonl", name) for name in REFERENCES),
    *((name, "refs.jsonl") for name in PREDICTIONS),
    ("res.json", "gts.json"),
    ("pred_ids.jsonl", "gts_dicts.json"),
    ("results.json", "captions_val.json"),
    ("results_padded.json", "captions_val.json"),
]


@pytest.fixture
def forms(cases):
    return cases / "forms"


def scores(ended) -> dict[str, float]:
    return {name: score["value"] for name, score in json.loads(ended.out)["scores"].items()}


@pytest.mark.parametrize(("predictions", "references"), PAIRS)
def test_every_form_gives_the_same_figures(forms, predictions, references):
    metrics = ["--metrics", "bleu,cider_d", "--json"]
    ended = magicap("eval", predictions, "--references", references, *metrics, cwd=forms)
    assert (ended.code, ended.err) == (0, ""), ended
    assert {name: scores(ended)[name] for name in FIGURES} == pytest.approx(FIGURES, abs=1e-6)


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ("pred.jsonl", "kaggle_latin1", ["kaggle_latin1/captions.txt, line 4", "UTF-8"]),
        ("pred.jsonl", "kaggle_unquoted", ["kaggle_unquoted/captions.txt, line 8", "4 fields"]),
        ("pred_ambiguous.jsonl", "refs_ambiguous.jsonl", ["beach (which can be beach.jpg or beach.png)"]),
        ("pred_missing.jsonl", "refs.jsonl", ["bridge.jpg"]),
        ("pred_twice.jsonl", "refs.jsonl", ["beach.jpg"]),
    ],
)
def test_what_is_unclear_is_refused(forms, predictions, references, said):
    assert_refused(magicap("eval", predictions, "--references", references, cwd=forms), *said)


def test_an_empty_caption_is_counted(forms):
    ended = magicap("eval", "pred_empty.jsonl", "--references", "refs.jsonl", "--metrics", "bleu", cwd=forms)
    assert (ended.code, ended.err) == (0, "magicap: 1 of 3 captions are empty\n"), ended


def test_cider_of_one_picture_is_absent_and_not_0(forms):
    words = ["--references", "refs_single.jsonl", "--metrics", "bleu,cider_d", "--json"]
    ended = magicap("eval", "pred_single.jsonl", *words, cwd=forms)
    assert (ended.code, list(json.loads(ended.out)["absent"])) == (2, ["CIDEr-D"]), ended


def test_windows_paths_name_their_splits(forms):
    words = ["--references", "metadata_windows", "--split", "test", "--metrics", "bleu", "--json"]
    ended = magicap("eval", "pred_windows_split.jsonl", *words, cwd=forms)
    assert (ended.code, ended.err) == (0, ""), ended
    assert scores(ended)["BLEU-1"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("kaggle_space/captions.txt", 6),
        ("pred_lines.txt", 3),
        ("token_cr/Flickr8k.token.txt", 6),
        ("refs.tsv", 6),
    ],
)
def test_file_names_and_headers_are_no_sentences(forms, tmp_path, preset, name, count):
    ended = magicap("index", forms / name, "--out", tmp_path / "index", "--preset", preset)
    assert (ended.code, ended.err) == (0, ""), ended
    sentences = pyarrow.parquet.read_table(next(tmp_path.glob("index/*.parquet")))["text"].to_pylist()
    assert len(sentences) == count
    assert not [text for text in sentences if "jpg" in text.lower() or text.lower().startswith("image")]


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["--from-file", "list.txt"], "/dev/null"),
        (["--from-file", "list0.txt", "-0"], "/dev/null"),
        (["-0", "--from-file", "-"], "list0.txt"),
        (["--from-file", "-"], "list.txt"),
    ],
)
def test_pictures_of_a_list_are_captioned_in_its_order(forms, preset, words, stdin):
    ended = magicap("caption", *words, "--preset", preset, cwd=forms, stdin=forms / stdin)
    assert (ended.code, ended.err) == (0, ""), ended
    names = [line.partition("\t")[0] for line in ended.out.splitlines()]
    assert names == ["pictures/beach.jpg", "pictures/market.jpg"]


def test_a_list_may_be_in_utf_16(forms, preset, tmp_path):
    (listed := tmp_path / "list.txt").write_text("pictures/beach.jpg\r\n", encoding="utf-16")
    ended = magicap("caption", "--from-file", listed, "--preset", preset, cwd=forms)
    assert (ended.code, ended.err) == (0, ""), ended
    assert ended.out.startswith("pictures/beach.jpg\t")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from-file", "none.txt"], ["none.txt", "No such file"]),
        (["--from-file", "list0.txt"], ["list0.txt", "--null"]),
        (["--from-file", "/dev/zero"], ["/dev/zero", "at most"]),
        (["pictures/beach.jpg", "--null"], ["--from-file"]),
        ([], ["expected pictures or folders"]),
        (["--from-file", "/dev/null"], ["no pictures found in those of /dev/null"]),
    ],
)
def test_a_list_that_is_none_is_refused(forms, words, said):
    assert_refused(magicap("caption", *words, cwd=forms), *said)
