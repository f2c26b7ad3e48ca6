"""Other scripts and languages: never a silent 0, nothing claimed that is not known, stops and quotes kept."""

from __future__ import annotations

import json
import logging

import pyarrow.parquet
import pytest
import tiny
import torch
from command import magicap

from magicap.adaptation.coverage import coverages, require_known
from magicap.data import normalise_caption
from magicap.errors import BadData
from magicap.metrics import evaluate
from magicap.metrics.characters import CHARACTERS
from magicap.metrics.tokenizer import PTB


@pytest.fixture
def scripts(cases):
    return cases / "scripts"


def evaluated(scripts, name, *words):
    return magicap("eval", f"{name}_pred.jsonl", "--references", f"{name}_refs.jsonl", *words, cwd=scripts)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("chinese", 0.3),
        ("japanese", 0.3),
        ("thai", 0.3),
        ("chinese_same", 0.99),
        ("english_and_chinese", 0.3),
    ],
)
def test_characters_are_words_where_there_are_no_spaces(scripts, name, least):
    ended = evaluated(scripts, name, "--metrics", "bleu,cider_d", "--json")
    bleu = json.loads(ended.out)["scores"]["BLEU-1"]
    assert (ended.code, len(ended.complaints)) == (0, 1), ended
    assert "each of its characters counts as a word" in ended.err
    assert bleu["signature"]["tok"] == CHARACTERS.name
    assert bleu["value"] > least


def test_korean_has_spaces_and_no_record_of_endings(scripts):
    ended = evaluated(scripts, "korean", "--metrics", "bleu,broken", "--json")
    bleu = json.loads(ended.out)["scores"]["BLEU-1"]
    assert (ended.code, ended.err) == (0, ""), ended
    assert (bleu["value"], bleu["signature"]["tok"]) == (pytest.approx(0.664073, abs=1e-6), PTB.name)
    ended = evaluated(scripts, "korean", "--metrics", "unfinished", "--json")
    assert (ended.code, json.loads(ended.out)["scores"]) == (2, {}), ended
    assert "'finished'" in json.loads(ended.out)["absent"]["unfinished"]


def test_the_tokenizer_can_be_named(scripts):
    ended = evaluated(scripts, "chinese", "--metrics", "bleu", "--json", "--tokenizer", "ptb")
    assert (ended.code, ended.err) == (0, ""), ended
    assert json.loads(ended.out)["scores"]["BLEU-1"]["signature"]["tok"] == PTB.name


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A dog's ball.", ["a", "dog", "'s", "ball"]),
        ("一只狗。", ["一", "只", "狗"]),
        ("a sign says 出口!", ["a", "sign", "says", "出", "口"]),
        ("หมาวิ่ง", ["ห", "ม", "า", "วิ่", "ง"]),  # marks stay with their letter
        ("개가 달린다", ["개가", "달린다"]),
    ],
)
def test_tokens_are_characters_in_scripts_without_spaces_alone(text, tokens):
    assert CHARACTERS(text) == tokens


def test_a_foreign_word_does_not_change_the_tokenizer_and_english_metrics_say_why_they_are_absent():
    said, references = ["a sign says exit"], [["a sign that says 出口"]]
    assert evaluate(said, references, metrics=["rouge_l"]).scores["ROUGE-L"].signature["tok"] == PTB.name
    assert "English" in evaluate(["狗狗"], [["狗"]], metrics=["broken"]).absent["broken"]


def test_stops_and_quotes_of_other_scripts_are_kept(scripts, preset, tmp_path):
    ended = magicap("index", scripts / "stops.txt", "--out", tmp_path / "index", "--preset", preset)
    assert (ended.code, ended.err) == (0, ""), ended
    texts = pyarrow.parquet.read_table(next(tmp_path.glob("index/*.parquet")))["text"].to_pylist()
    assert set(texts) == {
        "犬が走っている。",
        "她说“你好”.",
        "सिर्फ एक कुत्ता।",
        "“A dog” runs.",
        'A dog says "hello".',
    }


@pytest.fixture(scope="module")
def parts():
    from magicap import Captioner

    return Captioner.from_pretrained("embedded").parts


def test_a_language_that_the_models_do_not_know_is_refused_before_training(parts, scripts):
    from magicap.adaptation.adapt import adapt

    with pytest.raises(BadData, match="100% unknown to the tokenizer of the language model"):
        adapt(parts, (scripts / "chinese.txt").read_text(encoding="utf-8").splitlines())


ENGLISH = [
    "A dog runs over the beach.",
    "Two men climb a steep rock.",
    "Many planes are parked near a terminal.",
]
GERMAN = ["Ein Hund rennt über den Strand.", "Zwei Kinder spielen auf einer grünen Wiese mit dem Ball."]


@pytest.mark.parametrize(
    ("sentences", "warnings"), [(ENGLISH, 0), (GERMAN, 1), (ENGLISH * 6 + ["一只狗在海滩上奔跑."], 1)]
)
def test_a_language_that_is_known_in_part_gets_one_line(parts, caplog, sentences, warnings):
    with caplog.at_level(logging.WARNING):
        require_known(parts, sentences)
    assert len(caplog.records) == warnings


def test_unknown_words_count_as_unknown():
    small = tiny.captioner(0).parts
    known = [normalise_caption(text) for text in ["a dog runs", "a man dog"]]
    assert coverages(small, ["zzz qqq xxx"])[0].unknown == 1
    assert coverages(small, known)[0].unknown < 1
    assert torch.isfinite(torch.tensor([one.bytes_per_token for one in coverages(small, known)])).all()
