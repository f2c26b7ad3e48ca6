"""Caption data: reading, leaving out what must not be read, and one way of writing a caption."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magicap.data import normalise_caption, read_captions, read_sentences
from magicap.metrics.retrieval import retrieval_recall


@pytest.mark.parametrize(
    ("written", "tidy"),
    [
        ("a dog runs .", "A dog runs."),
        ("A dog runs", "A dog runs."),
        ('  "Two  men , one boat ; a lake . " ', "Two men, one boat; a lake."),
        ("THE DOG RUNS FAST.", "The dog runs fast."),
        ("A TV", "A TV."),
        ("What is that ?", "What is that?"),
        ("a man's dog ..", "A man's dog."),
        (" . ", ""),
        ("", ""),
        ("3 dogs", "3 dogs."),
        ('a."."', "A."),
        ('the sign says "stop." .', 'The sign says "stop."'),
        ('a "stop" sign', 'A "stop" sign.'),
        ("“A dog” runs", "“A dog” runs."),
        ('"a dog" and "a cat"', '"A dog" and "a cat".'),
        ("“a dog runs", "A dog runs."),
        ("«un chien» court", "«Un chien» court."),
        ("'a dog's ball'", "A dog's ball."),
        ("犬が走っている。", "犬が走っている。"),
        ("她说“你好”", "她说“你好”."),
        ("सिर्फ एक कुत्ता।", "सिर्फ एक कुत्ता।"),
        ("「犬」", "「犬」."),
    ],
)
def test_a_caption_is_written_one_way(written, tidy):
    assert normalise_caption(written) == tidy


@given(st.text() | st.text(alphabet="aB3 .,!?\"'”"))
def test_writing_it_again_changes_nothing(text):
    tidy = normalise_caption(text)
    assert normalise_caption(tidy) == tidy
    assert tidy == "" or tidy.rstrip("\"'”’ ")[-1] in ".!?" or not tidy[-1].isalnum()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_a_model_is_evaluated_on_is_left_out(tmp_path):
    rows = [
        {"image": "a", "split": "train", "captions": ["one ."], "flickr8k_split": None},
        {"image": "b", "split": "train", "captions": ["two ."], "flickr8k_split": "test"},
        {"image": "c", "split": "train", "captions": ["three ."], "flickr8k_split": "dev"},
        {"image": "d", "split": "train", "captions": ["four ."], "flickr8k_split": "train"},
        {"image": "e", "split": "test", "captions": ["five ."]},
    ]
    assert read_sentences(write(tmp_path / "a.jsonl", rows)) == ["One.", "Four."]
    (tmp_path / "a.txt").write_text("a dog\n\n . \nA cat .\n")
    assert read_sentences(tmp_path / "a.txt") == ["A dog.", "A cat."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2"),
        ("[1]", "line 2"),
        ('{"image": "b", "split": "train"}', "'captions'"),
        ('{"image": "b", "split": "train", "captions": 1}', "list of strings"),
        ('{"image": "a", "split": "train", "captions": []}', "stands twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"image": "a", "split": "train", "captions": []}\n' + line)
    with pytest.raises(ValueError, match=message):
        read_captions(path)


def test_recall_counts_a_picture_as_found_by_any_of_its_texts():
    owner = torch.tensor([0, 0, 1, 1])
    similarity = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.8, 0.3, 0.7, 0.6]])
    figures = retrieval_recall(similarity, owner, ranks=(1, 2))
    assert figures == {
        "image_to_text_r1": 50.0,
        "image_to_text_r2": 100.0,
        "text_to_image_r1": 75.0,
        "text_to_image_r2": 100.0,
        "image_to_text_median_rank": 1.5,
        "text_to_image_median_rank": 1.0,
    }
    with pytest.raises(ValueError, match="at least one text"):
        retrieval_recall(similarity, torch.tensor([0, 0, 0, 0]))


@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_a_model_that_scores_everything_alike_finds_nothing(score):
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    figures = retrieval_recall(torch.full((3, 6), score), owner, ranks=(1, 2, 3, 4, 5))
    assert [figures[f"text_to_image_r{k}"] for k in (1, 2, 3)] == [0.0, 0.0, 100.0]
    assert [figures[f"image_to_text_r{k}"] for k in (1, 4, 5)] == [0.0, 0.0, 100.0]


def test_the_real_flickr30k_text_leaves_flickr8ks_dev_and_test_out(data_dir):
    sentences = read_sentences(data_dir / "text" / "flickr30k.jsonl")
    assert len(sentences) == pytest.approx(136_310, abs=100)
