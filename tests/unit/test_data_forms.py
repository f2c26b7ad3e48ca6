"""Forms of data sets, one reader: the same rows from each."""

from __future__ import annotations

import csv
import json

import pytest
from captioned import COCO, CSV, KARPATHY_COCO, OURS, TOKENS, put, put_lines, put_split_files, sentence
from hypothesis import given
from hypothesis import strategies as st

from magicap.data import CaptionedImage, ImageFiles, read_captions, read_sentences
from magicap.errors import BadData


def test_karpathys_coco(tmp_path):
    for name, indent in (("dataset_coco.json", None), ("pretty.json", 1), ("other.txt", 2)):
        path = put(tmp_path / name, json.dumps(KARPATHY_COCO, indent=indent))
        first, *rest = read_captions(path)
        captions = ("Someone rides a moped.", "Ein Fußweg.")
        assert first == CaptionedImage("COCO_val2014_000000391895.jpg", "test", captions, id="391895")
        assert [(row.split, row.id) for row in rest] == [("train", "1"), ("train", "2"), ("val", "3")]
        assert read_sentences(path) == ["Picture 1.", "Picture 2."]
    assert [row.id for row in read_captions(path, "dev")] == ["3"]


def test_karpathys_pictures_are_found_in_cocos_folders(tmp_path):
    path = put(tmp_path / "dataset_coco.json", KARPATHY_COCO)
    images = KARPATHY_COCO["images"]
    for image in images:
        put(tmp_path / "images" / image["filepath"] / image["filename"], image["filename"])
    for folders in (["images"], ["images/train2014", "images/val2014"]):
        files = ImageFiles([tmp_path / folder for folder in folders])
        assert [files.read(row.image).decode() for row in read_captions(path)] == [
            image["filename"] for image in images
        ]
        assert all(f"{image['filepath']}/{image['filename']}" in files for image in images)


def test_karpathys_names_keep_their_folder_where_they_repeat(tmp_path):
    image = {"filename": "1.jpg", "split": "train", "sentences": [sentence("a", 0)]}
    images = [
        image | {"filepath": "a"},
        image | {"filepath": "b"},
        image | {"filename": "2.jpg", "filepath": "a"},
    ]
    path = put(tmp_path / "dataset.json", {"images": images, "dataset": "own"})
    assert [row.image for row in read_captions(path)] == ["a/1.jpg", "b/1.jpg", "2.jpg"]
    assert [row.id for row in read_captions(path)] == [None] * 3


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_val2014.json", "val"),
        ("captions_train2017.json", "train"),
        ("train2017.json", "train"),
        ("my_test.json", "test"),
        ("captions_trainval2014.json", ""),
        ("train_val.json", ""),
        ("latest.json", ""),
        ("annotations.json", ""),
    ],
)
def test_cocos_annotations_take_their_split_from_the_file_name(tmp_path, name, split):
    path = put(tmp_path / name, COCO)
    assert read_captions(path) == [
        CaptionedImage("COCO_val2014_000000391895.jpg", split, ("Someone rides a moped.",), id="391895"),
        CaptionedImage("COCO_val2014_000000522418.jpg", split, ("A cake is cut.", "A cake.\n"), id="522418"),
    ]
    if split:
        assert len(read_captions(path, [split])) == 2
    else:
        for ask in (read_captions, read_sentences):
            with pytest.raises(BadData, match=r"the split val, found one without splits; read it whole"):
                ask(path, ("dev", "val"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Flickr8k.token.txt", TOKENS),
        ("Flickr8k.token.txt", TOKENS.replace("\n", "\r\n")),
        ("captions.txt", CSV),
        ("captions.txt", "\ufeff" + CSV.replace("\n", "\r\n")),
    ],
)
def test_flickr8ks_own_files(tmp_path, name, text):
    path = put(tmp_path / name, text)
    with pytest.raises(BadData, match="without splits"):
        read_captions(path, "train")
    assert {row.split for row in read_captions(path)} == {""}
    put_split_files(tmp_path)
    put(tmp_path / "Flickr8k.lemma.token.txt", TOKENS)
    rows = read_captions(path)
    assert rows == read_captions(tmp_path)
    assert [row.split for row in rows] == ["train", "dev", "test", ""]
    assert rows[0].image == "1000268201_693b08cb0e.jpg"
    assert rows[0].captions[1] == "A girl at a hut ."
    assert rows[2].captions == ('A girl , full of "paint" .',)
    assert rows[3].image == "2258277193_586949ec62.jpg.1"
    assert read_captions(path, ("val",)) == read_captions(path, ("dev",)) == rows[1:2]
    assert len(read_sentences(path)) == 2


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1).filter(
    lambda text: text == text.strip()
)
SETS = st.lists(
    st.tuples(st.sampled_from(["train", "val", "test"]), st.lists(TEXT, min_size=1, max_size=3)),
    min_size=1,
    max_size=5,
)


@given(SETS)
def test_one_set_reads_alike_from_every_form(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("set")
    rows = [(f"{number:04}.jpg", split, captions) for number, (split, captions) in enumerate(pictures)]
    expected = [(name, split, tuple(captions)) for name, split, captions in rows]

    def read(path):
        found = [(row.image, row.split.replace("dev", "val"), row.captions) for row in read_captions(path)]
        for split in ("train", "val", "test"):
            chosen = [(row.image, row.captions) for row in read_captions(path, [split])]
            assert chosen == [(name, captions) for name, its, captions in found if its == split]
        return found

    ours = [{"image": n, "split": s, "captions": c, "id": int(n[:4])} for n, s, c in rows]
    assert read(put_lines(folder / "captions.jsonl", ours)) == expected
    karpathy = [
        {"filename": n, "split": s, "sentences": [sentence(t, 0) for t in c], "imgid": 0} for n, s, c in rows
    ]
    assert read(put(folder / "a.json", {"images": karpathy, "dataset": "flickr8k"})) == expected

    (folder / "flickr8k").mkdir()
    with open(folder / "flickr8k" / "captions.txt", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *((n, t) for n, _, c in rows for t in c)])
    tokens = "".join(f"{n}#{i}\t{t}\n" for n, _, c in rows for i, t in enumerate(c))
    put(folder / "flickr8k" / "Flickr8k.token.txt", tokens)
    for split in {split for _, split, _ in rows}:
        names = "".join(f"{n}\n" for n, s, _ in rows if s == split)
        put(folder / "flickr8k" / f"Flickr_8k.{split.replace('val', 'dev')}Images.txt", names)
    assert read(folder / "flickr8k" / "Flickr8k.token.txt") == expected
    assert read(folder / "flickr8k" / "captions.txt") == expected

    metadata = [{"file_name": f"{s}/{n}", "text": t} for n, s, c in rows for t in c]
    found = read(put_lines(folder / "metadata.jsonl", metadata))
    assert found == [(f"{split}/{name}", split, captions) for name, split, captions in expected]

    for split in {split for _, split, _ in rows}:
        mine = [(int(n[:4]), n, c) for n, s, c in rows if s == split]
        images = [{"id": number, "file_name": name} for number, name, _ in mine]
        annotations = [{"image_id": number, "caption": text} for number, _, c in mine for text in c]
        document = {"images": images, "annotations": annotations}
        path = put(folder / f"captions_{split}2014.json", document)
        assert read(path) == [row for row in expected if row[1] == split]
        assert [row.id for row in read_captions(path)] == [str(number) for number, _, _ in mine]


def test_a_split_the_set_does_not_have_is_empty(tmp_path):
    path = put_lines(tmp_path / "a.jsonl", [OURS])
    assert read_captions(path, "test") == []
    assert read_captions(path, "train") == read_captions(path, ("train", "dev")) == read_captions(path)


def test_line_signs_within_a_caption_do_not_end_it(tmp_path):
    path = put_lines(tmp_path / "a.jsonl", [OURS | {"captions": ["A\u2028dog.\x0c", "A\x85b"]}])
    assert read_captions(path)[0].captions == ("A\u2028dog.\x0c", "A\x85b")


def test_text_and_data_sets_are_not_confused(tmp_path):
    assert read_sentences(put(tmp_path / "a.txt", "[a dog]\r\n{a cat\n")) == ["[a dog].", "{a cat."]
    for name, content in (
        ("a.json", {"words": []}),
        ("a.csv", "name|comment\na.jpg|A dog.\n"),
        ("b.txt", {"a": 1}),
    ):
        with pytest.raises(BadData, match=r"expected captions.jsonl, Karpathy"):
            read_sentences(put(tmp_path / name, content))
    with pytest.raises(BadData, match="an empty file"):
        read_sentences(put(tmp_path / "empty.txt", " \n"))


TABLES = {
    "semicolons": 'image;caption\na.jpg;"A dog; brown"\na.jpg;Dogs\n',
    "an index and capitals": ",Image Name,Caption\n0,a.jpg,A dog; brown\n1,a.jpg,Dogs\n",
    "blank lines": "\n\nimage,caption\n\na.jpg,A dog; brown\n,\na.jpg,Dogs\n\n",
    "Flickr30k's bars": "image_name| comment_number| comment\na.jpg| 0| A dog; brown\na.jpg| 1| Dogs\n",
    "lists as JSON": 'filename,raw\na.jpg,"[""A dog; brown"", ""Dogs""]"\n',
    "columns with numbers": "image\tcaption 1\tcaption 2\na.jpg\tA dog; brown\tDogs\n",
    "carriage returns": "image,caption\ra.jpg,A dog; brown\ra.jpg,Dogs\r",
    "a number, and no name": "id,caption\na.jpg,A dog; brown\na.jpg,Dogs\n",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_of_every_kind(tmp_path, table, encoding):
    (tmp_path / "a.csv").write_bytes(TABLES[table].encode(encoding))
    rows = read_captions(tmp_path / "a.csv")
    assert [(row.image, row.captions) for row in rows] == [("a.jpg", ("A dog; brown", "Dogs"))]


def test_sentences_of_tables_without_pictures_are_read_whole(tmp_path):
    for name, content in (
        ("a.txt", "Text\nA dog, brown.\nA cat\n"),
        ("b.csv", 'caption\n"A dog, brown."\nA cat\n'),
        ("c.jsonl", '{"text": "A dog, brown."}\n{"text": "A cat"}\n'),
    ):
        assert read_sentences(put(tmp_path / name, content)) == ["A dog, brown.", "A cat."]
        with pytest.raises(BadData, match="expected the name of a picture, found none"):
            read_captions(tmp_path / name)


def test_text_files_beside_pictures(tmp_path):
    for name, text in (("train/a.jpg", ""), ("train/a.txt", "A dog\n\nDogs\n"), ("b.png", "")):
        put(tmp_path / name, text)
    put(tmp_path / "b.png.caption", "A cat")
    expected = [("b.png", "", ("A cat",)), ("train/a.jpg", "train", ("A dog", "Dogs"))]
    assert [(row.image, row.split, row.captions) for row in read_captions(tmp_path)] == expected
    put(tmp_path / "train/a.jpeg", "")
    with pytest.raises(BadData, match=r"a.txt: expected one picture named train/a, found train/a.jpeg and"):
        read_captions(tmp_path)
    put(tmp_path / "train/a.txt", "").rename(tmp_path / "notes.txt")
    with pytest.raises(BadData, match=r"notes.txt: expected one picture named notes, found none; move it"):
        read_captions(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a.jpg\nb.jpg\n", "line 1: expected a caption a line, found the name of a file, 'a.jpg'"),
        ("A dog\na.jpg,A dog\n", "line 2: expected a caption a line, found the name of a file, 'a.jpg'"),
        ("1\tA dog\n2\tA cat\n", "line 1: expected a caption a line, found columns"),
        (b"A dog\0runs\n", "line 1: expected UTF-8 text, found a NUL character"),
        ('["a.jpg"]', "expected captions.jsonl"),
        ('{"x": "a.jpg"}', "a.txt, x: expected a caption, found the name of a file, 'a.jpg'"),
        (
            "image,text,prompt\na,b,c\n",
            "the header: expected one field of captions, found 'text' and 'prompt'",
        ),
        (
            "image,caption,split\na.jpg,A,train\na.jpg,B,test\n",
            "line 3: expected one split of a.jpg, found 'test'",
        ),
        ("image,caption\na.jpg,\"['A', 'B']\"\n", "line 2: expected JSON"),
    ],
)
def test_what_is_no_sentence_is_refused(tmp_path, content, says):
    path = tmp_path / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadData, match=says):
        read_sentences(path, None)


def test_flickr8ks_validation_pictures_are_held_out_under_either_name(tmp_path):
    rows = [
        OURS | {"flickr8k_split": split, "image": f"{split}.jpg"} for split in ("train", "dev", "val", None)
    ]
    path = put_lines(tmp_path / "a.jsonl", rows)
    assert len(read_sentences(path)) == len(read_sentences(path, held_out=("val",))) == 2
    assert len(read_sentences(path, held_out=())) == 4


@pytest.mark.parametrize(("name", "dev"), [("flickr8k", 1000), ("ucm", 210), ("coco", 140)])
def test_the_real_sets_have_their_splits_under_either_name(data_dir, name, dev):
    rows = read_captions(data_dir / name, "dev")
    assert len(rows) == dev
    assert rows == read_captions(data_dir / name / "captions.jsonl", ("val",))
