"""Files of captions: every kind is read, and what does not fit together is refused with names."""

from __future__ import annotations

import json

import pytest

from magicap.data import CaptionedImage
from magicap.errors import BadData, BadSettings
from magicap.evaluation.matching import choose_references, match
from magicap.evaluation.predictions import read_predictions

ROWS = [
    CaptionedImage("COCO_val2014_000000000001.jpg", "test", ("a dog", "a brown dog"), id="1"),
    CaptionedImage("COCO_val2014_000000000002.jpg", "test", ("a cat",), id="2"),
    CaptionedImage("COCO_val2014_000000000003.jpg", "test", ("a car",), id="3"),
]
NAMES = [row.image for row in ROWS]
SAID = ["A dog.", "A cat.", "A car."]


def written(tmp_path, content, name="predictions.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


KINDS = {
    "ours": lines(
        {"image": f"some/where/{n}", "caption": c, "score": 0.5} for n, c in zip(NAMES, SAID, strict=True)
    ),
    "a list of ours": [{"image": n, "caption": c} for n, c in zip(NAMES, SAID, strict=True)],
    "coco results": [{"image_id": i + 1, "caption": c} for i, c in enumerate(SAID)],
    "by image": dict(zip(NAMES, SAID, strict=True)),
    "published": [
        {"split": "test", "image_name": row.image, "captions": list(row.captions), "prediction": c}
        for row, c in zip(ROWS, SAID, strict=True)
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_its_references(kind, tmp_path):
    scored = match(read_predictions(written(tmp_path, KINDS[kind])), ROWS[::-1])
    assert scored.images == NAMES[::-1]  # the references' order
    assert scored.candidates == SAID[::-1]
    assert scored.references[2] == ("a dog", "a brown dog")
    assert scored.about == {"split": "test"}


def test_published_lists_bring_their_references(tmp_path):
    predictions = read_predictions(written(tmp_path, KINDS["published"]))
    assert [row.captions for row in predictions.references] == [row.captions for row in ROWS]
    assert read_predictions(written(tmp_path, KINDS["coco results"])).references is None


def test_rows_name_the_model_that_made_them(tmp_path):
    rows = [{"image": n, "caption": c, "model": "abc"} for n, c in zip(NAMES, SAID, strict=True)]
    assert read_predictions(written(tmp_path, lines(rows))).model == "abc"
    rows[0]["model"] = "def"
    mixed = read_predictions(written(tmp_path, lines(rows))).model
    assert mixed.startswith("file-")
    assert mixed != read_predictions(written(tmp_path, KINDS["published"])).model


def many(count):
    return [CaptionedImage(f"{i}.jpg", "test", ("a dog",)) for i in range(count)]


def test_missing_images_are_listed_five_at_most(tmp_path):
    path = written(tmp_path, lines({"image": f"{i}.jpg", "caption": "a dog"} for i in range(3)))
    with pytest.raises(BadData, match=r"7 images have no caption: 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg, \.\.\."):
        match(read_predictions(path), many(10))
    scored = match(read_predictions(path), many(10), partial=True)
    assert scored.images == ["0.jpg", "1.jpg", "2.jpg"]
    assert scored.about["partial"] == "3 of 10 images"


def test_strangers_are_listed(tmp_path):
    path = written(tmp_path, lines({"image": f"{i}.jpg", "caption": "a dog"} for i in range(12)))
    with pytest.raises(BadData, match=r"2 captions are of images without references: 10.jpg, 11.jpg\."):
        match(read_predictions(path), many(10))
    assert (
        match(read_predictions(path), many(10), partial=True).about["partial"].endswith("2 captions left out")
    )
    with pytest.raises(BadData, match="12 captions are of images without"):  # nothing at all matches
        match(read_predictions(path), [CaptionedImage("x.jpg", "test", ("a",))], partial=True)


def test_duplicates_are_refused_even_under_two_names(tmp_path):
    rows = [{"image": "1.jpg", "caption": "a"}, {"image": "1.jpg", "caption": "b"}]
    with pytest.raises(BadData, match=r"1 images stand more than once: 1.jpg"):
        read_predictions(written(tmp_path, lines(rows)))
    rows[1]["image"] = "./1.jpg"
    with pytest.raises(BadData, match=r"mean the same image.*1.jpg"):
        match(read_predictions(written(tmp_path, lines(rows))), many(2), partial=True)


def test_names_that_several_folders_share_need_their_folder(tmp_path):
    rows = [CaptionedImage("a/1.jpg", "test", ("a dog",)), CaptionedImage("b/1.jpg", "test", ("a cat",))]
    path = written(
        tmp_path, lines([{"image": "b/1.jpg", "caption": "B"}, {"image": "a/1.jpg", "caption": "A"}])
    )
    assert match(read_predictions(path), rows).candidates == ["A", "B"]
    path = written(tmp_path, lines([{"image": "1.jpg", "caption": "?"}]))
    with pytest.raises(BadData, match=r"without references: 1\.jpg"):
        match(read_predictions(path), rows)


def test_another_folders_image_of_the_same_name_is_not_taken(tmp_path):
    rows = [CaptionedImage("test/1.jpg", "test", ("a dog",))]
    path = written(tmp_path, {"train/1.jpg": "a cat"})
    with pytest.raises(BadData, match=r"without references: train/1\.jpg"):
        match(read_predictions(path), rows)
    assert match(read_predictions(written(tmp_path, {"/set/test/1.jpg": "a dog"})), rows).candidates == [
        "a dog"
    ]


def test_ids_may_be_padded_with_zeros(tmp_path):
    path = written(tmp_path, [{"image_id": f"{i:012}", "caption": c} for i, c in enumerate(SAID, start=1)])
    assert match(read_predictions(path), ROWS).candidates == SAID


def test_images_without_references_are_named(tmp_path):
    path = written(tmp_path, [{"image_name": "a", "captions": [], "prediction": "x"}])
    predictions = read_predictions(path)
    with pytest.raises(BadData, match="1 images have no reference caption: a"):
        match(predictions, predictions.references)


def test_splits_are_chosen_alike_for_data_sets_and_own_references(tmp_path):
    rows = [{"image": f"{s}.jpg", "split": s, "captions": ["a dog"]} for s in ("train", "dev", "test")]
    path = written(tmp_path, lines(rows), "captions.jsonl")
    own = [CaptionedImage(row["image"], row["split"], ("a dog",)) for row in rows]
    for source, carried in ((path, None), (None, own)):
        assert [row.image for row in choose_references(source, "test", carried)] == ["test.jpg"]
        assert [row.image for row in choose_references(source, "val", carried)] == ["dev.jpg"]
        with pytest.raises(BadSettings, match="holds the splits dev, test, train: name one"):
            choose_references(source, None, carried)
        with pytest.raises(BadSettings, match="no split 'night'; it has dev, test, train"):
            choose_references(source, "night", carried)
    with pytest.raises(BadSettings, match="bring no references"):
        choose_references(None, "test", None)


def test_halves_of_characters_become_replacement_characters(tmp_path):
    path = written(tmp_path, '{"image": "0.jpg", "caption": "a \\ud800 dog", "model": "\\ud83d\\udc15"}')
    predictions = read_predictions(path)
    assert predictions.captions == {"0.jpg": "a \ufffd dog"}
    assert predictions.model == "🐕"


def test_error_rows_are_images_without_a_caption(tmp_path):
    rows = [
        {"image": "0.jpg", "caption": "a dog"},
        {"image": "1.jpg", "error": "damaged", "message": "1.jpg: cut off"},
    ]
    predictions = read_predictions(written(tmp_path, lines(rows)))
    with pytest.raises(
        BadData, match=r"1 images have no caption: 1.jpg; 1 rows are errors, most often: 1.jpg: cut off"
    ):
        match(predictions, many(2))
    assert match(predictions, many(2), partial=True).candidates == ["a dog"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "found an empty file"),
        ("[]", "found an empty list"),
        ("{not json", r"expected JSON, .* line 1 column 2"),
        ('{"image": "a", "caption": "b"}\n{"image": "c"}', r"line 2: expected the field 'caption'"),
        ('[{"image": "a", "caption": "b"}, 5]', r"row 2: expected a JSON object, found 5"),
        ('[{"image": "a", "caption": 5}]', r"'caption' to be a string or a list of strings, found 5"),
        ('[{"subject": "a", "words": "b"}]', r"the field 'caption' or 'captions', found 'subject', 'words'"),
        ('[{"text": "b"}]', r"row 1: expected the name of a picture, found none"),
        ('[{"image": "a", "text": "b", "prompt": "c"}]', r"one field of captions, found 'text' and 'prompt'"),
        ('[{"image": "a", "caption": ["b", "c"]}]', r"row 1: expected one caption of a, found 2"),
        ('[{"image_name": "a", "prediction": "b", "captions": "c"}]', "'captions' to be a list of strings"),
    ],
)
def test_what_is_no_prediction_file_is_refused_by_name(content, says, tmp_path):
    with pytest.raises(BadData, match=says):
        read_predictions(written(tmp_path, content))


def test_a_caption_may_hold_any_sign(tmp_path):
    said = 'tab\t, "quotes", \u2028, ünïcode 🐕'
    path = written(tmp_path, json.dumps({"image": "0.jpg", "caption": said}, ensure_ascii=False))
    assert match(read_predictions(path), many(1)).candidates == [said]
