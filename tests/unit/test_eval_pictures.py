"""Two small scripts of eval/: persons that captions invent, and captions of stock photographs."""

from __future__ import annotations

import json

import pytest
import tiny
from PIL import Image
from repository import script

from magicap.errors import BadSettings


def test_invented_words_are_counted_where_no_reference_names_them(tmp_path, capsys):
    rows = [
        ("1.jpg", ["A grey zebra.", "Two zebras stand."], "A man, riding a pair of gray zebras."),
        ("2.jpg", ["A pizza."], "A pizza on a red plate."),
        ("3.jpg", ["A kitchen.", "A woman cooks."], "A kitchen with a stove."),
        ("4.jpg", ["Children play."], "Three kids play football."),
    ]
    file = tmp_path / "captions.json"
    predictions = [
        {"image_name": name, "captions": references, "prediction": text} for name, references, text in rows
    ]
    file.write_text(json.dumps(predictions))
    persons = script("invented_words")
    persons.main(persons.Config(captions=[f"ours={file}"]))
    assert "| ours | 2 | 50.0 % | 2 | 50.0 % | 2 | 50.0 % | 2 | 50.0 % |" in capsys.readouterr().out
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"image": "1.jpg", "caption": "A zebra."}))
    with pytest.raises(BadSettings, match="--references"):
        persons.main(persons.Config(captions=[f"bare={bare}"]))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A man.", True),
        ("Snowmen melt.", False),
        ("WOMEN talk", True),
        ("A mannequin, a manhole", False),
        ("A couple of zebras", False),
    ],
)
def test_a_person_is_a_word_of_its_own(text, named):
    assert script("invented_words").names_person(text) is named


def test_captions_find_their_pictures_by_another_scorer(tmp_path, capsys):
    rows = [(f"{number}.png", f"A picture of number {number}.") for number in range(4)]
    for number, (name, _) in enumerate(rows):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / name)
    references = tmp_path / "captions.jsonl"
    lines = [json.dumps({"image": name, "split": "test", "captions": [text]}) for name, text in rows]
    references.write_text("\n".join(lines))
    files = {"own": [text for _, text in rows], "same": ["A picture."] * len(rows)}
    for name, texts in files.items():
        lines = [
            json.dumps({"image": image, "caption": text})
            for (image, _), text in zip(rows, texts, strict=True)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    tiny.captioner().scorer.save_pretrained(tmp_path / "scorer")
    judge = script("self_retrieval")
    judge.main(
        judge.Config(
            captions=[f"{name}={tmp_path / name}.jsonl" for name in files],
            scorer=str(tmp_path / "scorer"),
            references=str(references),
            images=[str(tmp_path)],
        )
    )
    own, same = capsys.readouterr().out.splitlines()[2:]
    assert own.startswith("| own | 4 | 4 | ")
    assert own.endswith(" | 100.0 | 100.0 |")  # each is among the first five of four
    assert same == "| same | 4 | 1 | 25.0 | 100.0 | 100.0 |"  # one picture is found by the caption of all


def test_stock_photographs_are_captioned_side_by_side(tmp_path, capsys, monkeypatch):
    stock = script("stock_photographs")
    monkeypatch.setattr(
        stock, "PHOTOGRAPHS", {"matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"], "no_such": ["a"]}
    )
    tiny.captioner().save_pretrained(tmp_path)
    stock.main(stock.Config(presets=[str(tmp_path), str(tmp_path)]))
    out, err = capsys.readouterr()
    assert out.startswith("| photograph |")
    assert "| grace_hopper | " in out
    assert "no_such: 0 of 1" in err
