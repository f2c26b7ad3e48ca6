"""What cannot be read as a data set says so: file and line, what was expected, what was found, what to do."""

from __future__ import annotations

import re

import pytest
from captioned import COCO, CSV, OURS, TOKENS, put, put_lines, put_split_files

from magicap.data import CaptionedImage, read_captions
from magicap.errors import BadData

KARPATHY = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A."}]}
BAD = [
    ("a.jsonl", "", "an empty file"),
    ("a.jsonl", b"\n\n{\xff", "line 3: expected UTF-8 text, found the byte 0xff; save"),
    ("a.jsonl", "{\n", "line 1: expected JSON"),
    ("a.jsonl", [OURS, 5], r"row 2: expected a JSON object, found 5; write one with 'image'"),
    ("a.jsonl", OURS | {"image": 5.5}, "'image' to be a whole number or a name, found 5.5"),
    ("a.jsonl", OURS | {"image": ""}, "expected the name of a picture"),
    ("a.jsonl", OURS | {"id": True}, "'id' to be a whole number or a name, found True"),
    ("a.jsonl", OURS | {"captions": ["\ud800"]}, "half of one"),
    (
        "a.jsonl",
        {"image": "a", "split": "b", "positive": []},
        "'captions', found 'image', 'split', 'positive'",
    ),
    ("a.json", '{"a.jpg": ["A."], "b.jpg": ["B."], "a.jpg": ["C."]}', "'a.jpg' stands twice; remove one"),
    (
        "a.jsonl",
        '{"image": "a", "captions": ["A."]}\n{"image": "b", "caption": "B.", "caption": "C."}\n',
        "line 2: expected each name once in an object, found 'caption' stands twice",
    ),
    ("a.txt", "a dog\na cat\n", "expected captions.jsonl, Karpathy.* found 'a dog'; bring it"),
    ("a.json", {"photos": []}, "expected captions.jsonl, Karpathy"),
    ("a.json", [1], "expected captions.jsonl, Karpathy"),
    ("a.json", '{"images": [', r"expected JSON, .* line 1 column 13"),
    ("a.json", {"images": [], "dataset": "coco"}, "expected captioned pictures, found none"),
    ("a.json", {"images": {}}, "'images' to be a list"),
    (
        "a.json",
        {"images": [KARPATHY, KARPATHY]},
        r"images\[1\]: .* 'a.jpg', which stands twice \(first at .*\[0\]",
    ),
    ("a.json", {"images": [KARPATHY | {"sentences": [{}]}]}, r"images\[0\], sentences\[0\]: .* 'raw'"),
    ("a.json", {"images": [{"file_name": "a"}]}, r"the field 'filename', found 'file_name'"),
    ("a.json", COCO | {"images": COCO["images"] * 2}, r"images\[2\]: expected each id once, found 391895"),
    (
        "a.json",
        COCO | {"images": COCO["images"][:1]},
        r"annotations\[0\]: .* found 522418, which no image has",
    ),
    ("a.json", COCO | {"annotations": [{"image_id": 522418, "bbox": []}]}, "give COCO's captions_"),
    ("a.txt", TOKENS + "b.jpg\tA b.", "line 6: expected 'name.jpg#0'"),
    ("a.txt", TOKENS + TOKENS, r"line 6: .* 1000268201_693b08cb0e.jpg#0, which stands twice"),
    ("captions.txt", CSV + "a.jpg,A dog, a cat.\n", "line 7: .* found 3 fields; put"),
    ("captions.txt", CSV + 'a.jpg,"A dog\n', "line 7: expected 2 fields, as the header has"),
    ("captions.txt", "image,caption\n", "found none"),
    ("metadata.jsonl", {"file_name": "a.png", "tags": "A."}, "line 1: expected the field 'caption'"),
    ("metadata.jsonl", {"file_name": "a.png", "text": 5}, "'text' to be a string or a list of .*, found 5"),
    ("metadata.jsonl", {"file_name": "../a.png", "text": ""}, "inside the folder, found '../a.png'"),
    ("metadata.jsonl", {"file_name": "/a.png", "text": ""}, "inside the folder, found '/a.png'"),
    ("metadata.jsonl", {"file_name": "", "text": ""}, "inside the folder"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_bad_file_is_named_with_what_was_expected(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        put(tmp_path / name, content)
    with pytest.raises(BadData, match=f"^{re.escape(str(tmp_path / name))}.*{message}"):
        read_captions(tmp_path / name)


def test_ids_stand_once(tmp_path):
    path = put_lines(tmp_path / "a.jsonl", [OURS | {"id": 7}, OURS | {"image": "b.jpg", "id": "7"}])
    with pytest.raises(BadData, match=r"line 2: .* id '7', which stands twice"):
        read_captions(path)
    path = put_lines(tmp_path / "b.jsonl", [OURS | {"id": 7}, OURS | {"image": "b.jpg", "id": None}])
    assert [row.id for row in read_captions(path)] == ["7", None]


def test_split_files_that_contradict_are_refused(tmp_path):
    put(tmp_path / "Flickr8k.token.txt", TOKENS)
    put_split_files(tmp_path)
    put(tmp_path / "Flickr_8k.testImages.txt", "1001773457_577c3a7d70.jpg\n")
    with pytest.raises(BadData, match=r"testImages.txt, line 1: .* also at .*devImages.txt, line 1"):
        read_captions(tmp_path)
    put(tmp_path / "Flickr_8k.testImages.txt", "\nnone.jpg\n")
    with pytest.raises(
        BadData, match=r"testImages.txt, line 2: .* captions in Flickr8k.token.txt, found none.jpg"
    ):
        read_captions(tmp_path)


def test_a_folder_is_one_data_set(tmp_path):
    with pytest.raises(BadData, match="found a folder without any; give"):
        read_captions(tmp_path)
    put_lines(tmp_path / "captions.jsonl", [OURS])
    assert read_captions(tmp_path) == [CaptionedImage("a.jpg", "train", ("A.",))]
    put_lines(tmp_path / "metadata.jsonl", [{"file_name": "a.jpg", "text": "A."}])
    with pytest.raises(BadData, match=r"one data set, found captions.jsonl and metadata.jsonl; give"):
        read_captions(tmp_path)
    with pytest.raises(BadData, match="No such file"):
        read_captions(tmp_path / "none.jsonl")


def test_ids_that_tools_write_as_floats_are_whole_numbers(tmp_path):
    document = COCO | {
        "images": [image | {"id": float(image["id"])} for image in COCO["images"]],
        "annotations": [row | {"image_id": float(row["image_id"])} for row in COCO["annotations"]],
    }
    floats = read_captions(put(tmp_path / "floats" / "captions_val2014.json", document))
    assert floats == read_captions(put(tmp_path / "captions_val2014.json", COCO))
