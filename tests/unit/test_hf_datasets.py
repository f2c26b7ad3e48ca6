"""Datasets of the library datasets, of every kind of column, wherever pictures and texts are taken."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny
from captioned import put, put_lines
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, Value
from PIL import Image as Pillow

import magicap
from magicap import BadData, BadSettings, MissingPackage, RetrievalIndex
from magicap.cli import main
from magicap.data import read_captions, read_sentences
from magicap.data.hf_datasets import (
    encoded_image,
    encoded_images,
    image_column,
    is_dataset,
    is_saved_dataset,
    open_dataset,
    texts_of,
    with_encoded_images,
)

STRUCT = {"bytes": Value("binary"), "path": Value("string")}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    """Five encoded pictures."""
    return [png(pixels) for pixels in tiny.pictures(5)]


@pytest.fixture
def files(tmp_path: Path, encoded: list[bytes]) -> list[str]:
    """The same in files."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, data in enumerate(encoded):
        (folder / f"{number}.png").write_bytes(data)
    return [str(folder / f"{number}.png") for number in range(len(encoded))]


def of_bytes(encoded: list[bytes], **columns: list) -> Dataset:
    cells = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(encoded)]
    return Dataset.from_dict({"image": cells, **columns}).cast_column("image", Image())


@pytest.fixture(scope="module")
def captioner() -> magicap.Captioner:
    return tiny.captioner(0, max_new_tokens=5)


def test_what_a_dataset_is(encoded):
    dataset = of_bytes(encoded)
    for value in (dataset, dataset.to_iterable_dataset(), DatasetDict({"test": dataset})):
        assert is_dataset(value)
    for value in ([], {}, "a.jpg", None, np.zeros(3), {"test": dataset}):
        assert not is_dataset(value)


def test_knowing_one_imports_nothing():
    code = (
        "import sys; from magicap.data.hf_datasets import is_dataset; "
        "sys.exit(is_dataset([]) or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_of_every_kind_of_column(encoded, files):
    of_image, paths = of_bytes(encoded), {"image": files}
    assert list(encoded_images(of_image)) == encoded
    for feature in (Value("binary"), Value("large_binary")):
        dataset = Dataset.from_dict({"image": encoded}, features=Features({"image": feature}))
        assert list(encoded_images(dataset)) == encoded
    for dataset in (Dataset.from_dict(paths), Dataset.from_dict(paths).cast_column("image", Image())):
        assert list(encoded_images(dataset)) == files
    cells = [{"bytes": data, "path": None} for data in encoded[:2]] + [{"bytes": None, "path": files[2]}]
    structs = Dataset.from_dict({"image": cells}, features=Features({"image": STRUCT}))
    assert list(encoded_images(structs)) == [*encoded[:2], files[2]]


@pytest.mark.parametrize("form", ["numpy", "torch", "pandas", "arrow", "transformed", "streamed"])
def test_the_format_of_a_dataset_changes_nothing(encoded, form):
    dataset = of_bytes(encoded, text=["A."] * 5)
    if form == "transformed":
        dataset = dataset.with_transform(lambda batch: {"image": [0] * len(batch["image"])})
    elif form == "streamed":
        dataset = dataset.to_iterable_dataset()
    else:
        dataset = dataset.with_format(form)
    assert list(encoded_images(dataset)) == encoded
    assert list(texts_of(dataset)) == ["A."] * 5


def test_one_row_by_its_number(encoded, files):
    dataset = with_encoded_images(of_bytes(encoded, text=["A."] * 5))
    assert dataset.column_names == ["image"]
    assert [encoded_image(dataset, row) for row in (3, 0)] == [encoded[3], encoded[0]]


def test_rows_without_a_picture_and_broken_ones_are_passed_on(encoded):
    cells = [{"bytes": encoded[0], "path": None}, None, {"bytes": b"broken", "path": None}]
    dataset = Dataset.from_dict({"image": cells}, features=Features({"image": Image()}))
    assert list(encoded_images(dataset)) == [encoded[0], None, b"broken"]
    assert list(encoded_images(dataset.to_iterable_dataset())) == [encoded[0], None, b"broken"]


def test_a_generator_without_features(encoded):
    dataset = IterableDataset.from_generator(lambda: iter([{"image": encoded[0], "text": "A."}]))
    assert list(encoded_images(dataset)) == encoded[:1]
    assert list(texts_of(dataset)) == ["A."]


def test_pictures_in_an_archive_that_is_streamed(tmp_path, files, encoded):
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for file in files:
            archive.write(file, Path(file).name)
    dataset = datasets.load_dataset(
        "imagefolder",
        data_files=str(tmp_path / "album.zip"),
        streaming=True,
        cache_dir=str(tmp_path / "cache"),
    )
    assert sorted(encoded_images(dataset)) == sorted(encoded)


def test_an_address_elsewhere_is_not_fetched(captioner):
    rows = [{"image": "https://example.org/a.png"}, {"image": "zip://a.png::https://example.org/a.zip"}]
    dataset = IterableDataset.from_generator(lambda: iter(rows))
    assert list(encoded_images(dataset)) == [row["image"] for row in rows]
    assert [caption.error.code for caption in captioner.caption(dataset)] == ["url", "url"]


def test_the_column_of_pictures(encoded):
    dataset = of_bytes(encoded, text=["A."] * 5)
    assert image_column(dataset) == image_column(dataset.cast_column("image", STRUCT)) == "image"
    assert image_column(dataset.rename_column("image", "photo")) == "photo"
    two = dataset.add_column("other", [None] * 5).cast_column("other", Image())
    assert image_column(two) == "image"
    with pytest.raises(BadData, match=r"one column of pictures, found the columns 'photo', 'text', 'other'"):
        image_column(two.rename_column("image", "photo"))
    with pytest.raises(BadData, match=r"column 'photo', found the columns 'image', 'text'"):
        image_column(dataset, "photo")
    with pytest.raises(BadData, match=r"one split, found 'train', 'test'"):
        image_column(DatasetDict({"train": dataset, "test": dataset}))


def test_captions_and_sentences():
    def texts(column: str | None = None, **columns: list) -> list[str]:
        return list(texts_of(Dataset.from_dict(columns), column))

    assert texts(caption=["A.", None, "B."]) == ["A.", "B."]
    assert texts(sentences=[["A.", "B."], [], ["C."]]) == ["A.", "B.", "C."]
    assert texts(captions=[[{"raw": "A.", "id": 1}], [{"raw": "B.", "id": 2}]]) == ["A.", "B."]
    assert texts(caption_0=["A.", "C."], caption_1=["B.", "D."]) == ["A.", "B.", "C.", "D."]
    assert texts("title", title=["A."], text=["B."]) == ["A."]
    with pytest.raises(BadData, match="'text' and 'prompt'; name the one that counts 'caption'"):
        texts(text=["A."], prompt=["B."])
    with pytest.raises(BadData, match="a column of captions, found the columns 'title'"):
        texts(title=["A."])
    with pytest.raises(BadData, match="row 1 of the dataset: expected 'text' to be a string"):
        list(texts_of(IterableDataset.from_generator(lambda: iter([{"text": "A."}, {"text": 1}]))))


def test_captions_of_a_dataset_are_those_of_a_list(captioner, encoded, preset):
    dataset = of_bytes(encoded, caption=["A."] * 5)
    expected = captioner.caption(encoded)
    assert captioner.caption(dataset, batch_size=2) == expected
    assert captioner.caption(DatasetDict({"test": dataset})) == expected
    stream = captioner.caption(dataset.to_iterable_dataset())
    assert isinstance(stream, Iterator)
    assert list(stream) == expected
    assert magicap.caption(dataset, preset) == expected
    assert list(magicap.caption(dataset.to_iterable_dataset(), preset)) == expected


def test_captions_of_rows_that_cannot_be_read(captioner, encoded):
    cells = [{"bytes": encoded[0], "path": None}, None, {"bytes": b"broken", "path": None}]
    dataset = Dataset.from_dict({"image": cells}, features=Features({"image": Image()}))
    first, *others = captioner.caption(dataset)
    assert first == captioner.caption(encoded[0])
    assert [(caption, caption.error is None) for caption in others] == [("", False)] * 2
    with pytest.raises(BadData, match="one column of pictures"):
        captioner.caption(Dataset.from_dict({"text": ["A."]}).to_iterable_dataset())


def test_an_index_of_a_dataset(captioner, encoded, files):
    texts = Dataset.from_dict({"text": tiny.SENTENCES})
    index = RetrievalIndex(captioner.scorer)
    assert index.update_texts(texts).added == len(tiny.SENTENCES)
    assert [item.text for item in index.items] == tiny.SENTENCES
    index = RetrievalIndex(captioner.scorer)
    assert index.update_images(Dataset.from_dict({"image": files}).cast_column("image", Image())).added == 5
    assert [item.path for item in index.items] == files
    with pytest.raises(
        BadSettings, match="row 0 of the dataset: expected a picture in a local file, found its"
    ):
        index.update_images(of_bytes(encoded))
    assert len(index) == 5


def test_a_domain_of_a_dataset(captioner):
    from magicap.adaptation.adapt import AdaptationSettings

    things = "dog man child bike wall".split()
    texts = [f"A {colour} {thing} runs." for colour in "red small wet big".split() for thing in things]
    texts += [f"Two {thing}s play on a beach." for thing in things]
    settings = AdaptationSettings(epochs=1, max_steps=1, samples=0)
    adaptation = captioner.adapt(Dataset.from_dict({"caption": texts}), settings=settings).adaptation
    expected = captioner.adapt(texts, settings=settings).adaptation
    assert (adaptation.learned, adaptation.held_out) == (expected.learned, expected.held_out) == (24, 1)
    assert adaptation.before == expected.before


def test_opening_a_saved_dataset(tmp_path, encoded):
    dataset = of_bytes(encoded)
    dataset.save_to_disk(tmp_path / "one")
    DatasetDict({"train": dataset, "validation": dataset}).save_to_disk(tmp_path / "two")
    assert is_saved_dataset(tmp_path / "one")
    assert is_saved_dataset(str(tmp_path / "two"))
    assert not is_saved_dataset(tmp_path)
    assert list(encoded_images(open_dataset(tmp_path / "one"))) == encoded
    assert list(encoded_images(open_dataset(str(tmp_path / "two"), "dev"))) == encoded
    with pytest.raises(BadData, match="one split, found 'train', 'validation'; name one"):
        open_dataset(tmp_path / "two")
    with pytest.raises(BadData, match="the split 'test', found 'train', 'validation'"):
        open_dataset(tmp_path / "two", "test")
    with pytest.raises(BadData, match="the split 'test', found none that is named"):
        open_dataset(tmp_path / "one", "test")
    put(tmp_path / "one" / "state.json", "{")
    with pytest.raises(
        BadData, match=r"one: expected a dataset as save_to_disk writes it, found .*; save it again"
    ):
        open_dataset(tmp_path / "one")


def test_opening_by_name_streams(tmp_path, files, monkeypatch):
    put_lines(
        tmp_path / "files/metadata.jsonl", [{"file_name": f"{n}.png", "text": f"{n}."} for n in range(5)]
    )
    dataset = open_dataset(tmp_path / "files")
    assert isinstance(dataset, IterableDataset)
    assert list(encoded_images(dataset)) == files
    assert list(texts_of(dataset)) == [f"{n}." for n in range(5)]
    with pytest.raises(
        BadData, match=r"nobody/nothing: expected a folder .* or the hub in reach, found"
    ) as raised:
        open_dataset("nobody/nothing")
    assert isinstance(raised.value.__cause__, ConnectionError)
    with pytest.raises(BadData, match="expected a saved dataset or one of the hub, found"):
        open_dataset(put(tmp_path / "empty/notes.md", "Nothing.").parent)


def test_without_the_library_the_error_names_the_extra(tmp_path, encoded, monkeypatch):
    of_bytes(encoded, caption=["A."] * 5).save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for read in (open_dataset, read_captions):
        with pytest.raises(MissingPackage, match=r"pip install 'magicap\[bulk\]'"):
            read(tmp_path / "saved")


def test_a_saved_dataset_holds_references(tmp_path, encoded):
    captions = [[f"A {n}.", f"The {n}."] for n in range(5)]
    dataset = of_bytes(encoded, captions=captions, cocoid=[10, 11, 12, 13, 14])
    DatasetDict({"train": dataset.select([0, 1]), "test": dataset.select([2])}).save_to_disk(tmp_path / "set")
    rows = read_captions(tmp_path / "set")
    assert [(row.image, row.split, row.captions, row.id) for row in rows] == [
        ("0.png", "train", ("A 0.", "The 0."), "10"),
        ("1.png", "train", ("A 1.", "The 1."), "11"),
        ("2.png", "test", ("A 2.", "The 2."), "12"),
    ]
    assert read_captions(tmp_path / "set", "test") == rows[2:]
    assert read_sentences(tmp_path / "set") == ["A 0.", "The 0.", "A 1.", "The 1."]


def test_what_pictures_of_a_saved_dataset_are_called(tmp_path, encoded):
    def names(**columns: list) -> list[tuple[str, str | None]]:
        Dataset.from_dict({"caption": ["A.", "B."], **columns}).save_to_disk(tmp_path / "set")
        return [(row.image, row.id) for row in read_captions(tmp_path / "set")]

    pictures = [{"bytes": data, "path": None} for data in encoded[:2]]
    assert names(image=pictures) == [("set#0", "set#0"), ("set#1", "set#1")]
    assert names(image=encoded[:2], filename=["a.jpg", "b.jpg"]) == [("a.jpg", "set#0"), ("b.jpg", "set#1")]
    assert names(image=pictures, image_id=[7, 8]) == [("7", "7"), ("8", "8")]
    assert names(image=["x/a.jpg", "x/b.jpg"]) == [("x/a.jpg", "set#0"), ("x/b.jpg", "set#1")]


def test_eval_takes_saved_datasets(tmp_path, encoded, capsys):
    texts = [f"a {thing} runs" for thing in "dog man child bike sea".split()]
    dataset = of_bytes(encoded, caption_0=texts, caption_1=["a dog runs"] * 5)
    references = tmp_path / "references"
    dataset.select_columns(["caption_0", "caption_1"]).add_column("image", encoded).save_to_disk(references)
    lines = [{"image": f"references#{n}", "caption": text} for n, text in enumerate(texts)]
    predictions = put_lines(tmp_path / "captions.jsonl", lines)
    columns = {"caption": texts, "confidence": [float("nan")] * 5, "error": [""] * 5}
    of_bytes(encoded, **columns).save_to_disk(tmp_path / "captioned")
    dataset.save_to_disk(tmp_path / "named")
    for captions, folder in ((predictions, references), (tmp_path / "captioned", tmp_path / "named")):
        assert main(["eval", str(captions), "--references", str(folder), "--metrics", "rouge_l"]) == 0
        assert " 100.0" in capsys.readouterr().out
