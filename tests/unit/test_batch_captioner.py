"""BatchCaptioner in the batches of datasets, Ray Data and Spark: rows, types, errors, pickles, processes."""

from __future__ import annotations

import io
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import tiny
import torch
from datasets import Dataset, Features, Value
from datasets.fingerprint import Hasher
from PIL import Image

import magicap
from magicap import BadSettings, BatchCaptioner, Greedy, load_captioner

NAMES = ["caption", "confidence", "score", "error", "width", "height"]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    """Six encoded pictures, 40 pixels wide and 30 high."""
    return [png(pixels[:30]) for pixels in tiny.pictures(6)]


@pytest.fixture(scope="module")
def captions(preset: str, encoded: list[bytes]) -> list[str]:
    """What a captioner says of them."""
    texts = [caption.text for caption in load_captioner(preset).caption(encoded)]
    assert len(set(texts)) > 1
    return texts


@pytest.fixture
def dataset(encoded: list[bytes]) -> Dataset:
    """Five of them, a broken one and an empty row between them, with a column that stays."""
    cells = [{"bytes": data, "path": None} for data in encoded[:5]]
    cells[1:1] = [{"bytes": b"broken", "path": None}, None]
    columns = {"image": cells, "number": list(range(7))}
    return Dataset.from_dict(
        columns, features=Features({"image": datasets.Image(), "number": Value("int32")})
    )


def columns_of(result: Any) -> dict[str, list]:
    return {name: list(result[name]) for name in NAMES}


def same(first: dict[str, list], second: dict[str, list]) -> bool:
    """Whether they are equal, NaN and NaN included."""
    return repr(first) == repr(second)


def test_a_batch_of_lists(preset, encoded, captions):
    batch = {"image": encoded, "number": list(range(6))}
    result = BatchCaptioner(preset, batch_size=4)(batch)
    assert list(result) == ["image", "number", *NAMES]
    assert list(batch) == ["image", "number"]
    assert result["image"] is batch["image"]
    assert result["caption"] == captions
    assert (result["width"], result["height"]) == ([40] * 6, [30] * 6)
    assert result["error"] == [""] * 6
    scores = [round(caption.score, 4) for caption in load_captioner(preset).caption(encoded)]
    assert result["score"] == pytest.approx(scores, abs=1e-3)
    assert all(math.isnan(confidence) for confidence in result["confidence"])


def test_every_kind_of_cell(preset, encoded, captions, tmp_path):
    path = str(tmp_path / "a.png")
    Path(path).write_bytes(encoded[0])
    pixels = np.asarray(Image.open(path))
    cells = [
        encoded[0],
        bytearray(encoded[0]),
        path,
        Path(path),
        np.str_(path),
        {"bytes": encoded[0], "path": "elsewhere.png"},
        {"bytes": None, "path": path},
        {"path": path},
        Image.open(path),
        pixels,
    ]
    result = BatchCaptioner(preset)({"image": cells})
    assert result["error"] == [""] * len(cells)
    assert result["caption"] == captions[:1] * len(cells)


def test_rows_that_cannot_be_read(preset, encoded, captions):
    cells = [None, b"", encoded[0], b"broken", "missing.png", {"bytes": None, "path": None}, 7, math.nan]
    result = BatchCaptioner(preset)({"image": cells})
    codes = [error.partition(":")[0] for error in result["error"]]
    assert codes == ["missing", "empty", "", "text", "missing", "missing", "type", "missing"]
    assert result["caption"] == ["", "", captions[0], *[""] * 5]
    assert [math.isnan(score) for score in result["score"]] == [code != "" for code in codes]
    assert result["width"] == [0, 0, 40, 0, 0, 0, 0, 0]
    none = BatchCaptioner(preset)({"image": [None]})
    assert {name: type(values[0]) for name, values in columns_of(none).items()} == {
        name: type(values[2]) for name, values in columns_of(result).items()
    }


def test_arrays_give_arrays_of_types_that_never_change(preset, encoded, captions):
    captioner = BatchCaptioner(preset)
    objects = np.array(encoded, dtype=object)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in encoded])
    broken = np.array([None, b"broken"], dtype=object)
    empty = np.array([], dtype=object)
    for cells in (objects, pixels, broken, empty):
        cells.flags.writeable = False
        result = captioner({"image": cells, "number": np.arange(len(cells))})
        assert result["image"] is cells
        assert [len(result[name]) for name in NAMES] == [len(cells)] * 6
        assert [result[name].dtype.kind for name in NAMES] == list("UffUii")
        assert [result[name].dtype.itemsize for name in NAMES if name not in ("caption", "error")] == [8] * 4
        types = [str(pyarrow.array(result[name]).type) for name in NAMES]
        assert types == ["string", "double", "double", "string", "int64", "int64"]
        if len(cells) == 6:
            assert list(result["caption"]) == captions
    assert captioner({"image": [], "number": []}) == {
        "image": [],
        "number": [],
        **{name: [] for name in NAMES},
    }


def test_tables(preset, encoded, captions):
    captioner = BatchCaptioner(preset)
    for count in (6, 0):
        frame = pandas.DataFrame(
            {"image": encoded[:count], "number": range(count)}, index=range(9, 9 + count)
        )
        result = captioner(frame)
        assert list(result.columns) == ["image", "number", *NAMES]
        assert list(frame.columns) == ["image", "number"]
        assert list(result["caption"]) == captions[:count]
        assert [result[name].dtype.kind for name in NAMES if name not in ("caption", "error")] == list("ffii")
        table = pyarrow.table({"image": pyarrow.array(encoded[:count], pyarrow.binary())})
        arrow = captioner(table)
        assert arrow["caption"].to_pylist() == captions[:count]
        types = ["binary", "string", "double", "double", "string", "int64", "int64"]
        assert [str(kind) for kind in arrow.schema.types] == types
    # as Spark's mapInPandas calls it: with an iterator of frames
    frames = [pandas.DataFrame({"image": encoded[start : start + 2]}) for start in (0, 2)]
    assert list(pandas.concat(map(captioner, iter(frames)))["caption"]) == captions[:4]
    assert captioner(pandas.DataFrame({"image": [pandas.NA]}))["error"][0].startswith("missing: ")
    columns = captioner({"image": pyarrow.array(encoded), "number": pyarrow.array(range(6))})
    assert columns["caption"] == captions


def test_names_that_are_taken_or_missing(preset, encoded, captions):
    with pytest.raises(
        BadSettings, match=r"expected a column 'image' of pictures, found 'photo', 'caption'; name"
    ):
        BatchCaptioner(preset)({"photo": encoded, "caption": ["A."] * 6})
    with pytest.raises(BadSettings, match=r"no column 'caption'.*prefix='predicted_'"):
        BatchCaptioner(preset, column="photo")({"photo": encoded, "caption": ["A."] * 6})
    batch = {"photo": encoded, "caption": ["A."] * 6}
    result = BatchCaptioner(preset, column="photo", prefix="predicted_")(batch)
    assert list(result) == ["photo", "caption", *(f"predicted_{name}" for name in NAMES)]
    assert result["predicted_caption"] == captions
    for settings in ({"batch_size": 0}, {"dtype": "int4"}):
        with pytest.raises(BadSettings):
            BatchCaptioner(preset, **settings)


def test_settings_of_the_search(preset, encoded):
    greedy = Greedy(max_new_tokens=3)
    result = BatchCaptioner(preset, decoding=greedy, dtype="bfloat16", device="cpu")({"image": encoded})
    expected = load_captioner(preset, dtype="bfloat16").caption(encoded, greedy)
    assert result["caption"] == [caption.text for caption in expected]


def test_pickles_are_small_and_do_not_change_with_use(preset, encoded, captions, tmp_path, monkeypatch):
    captioner = BatchCaptioner(preset, decoding=Greedy())
    before, key = pickle.dumps(captioner), Hasher.hash(captioner)
    assert len(before) < 1000
    captioner({"image": encoded})
    assert pickle.dumps(captioner) == before
    assert Hasher.hash(captioner) == key == Hasher.hash(BatchCaptioner(preset, decoding=Greedy()))
    assert Hasher.hash(BatchCaptioner(preset, decoding=Greedy(max_new_tokens=3))) != key
    copy = pickle.loads(pickle.dumps(BatchCaptioner(preset)))
    assert copy({"image": encoded})["caption"] == captions
    monkeypatch.chdir(Path(preset).parent)
    relative = BatchCaptioner(Path(preset).name)
    monkeypatch.chdir(tmp_path)
    assert relative({"image": encoded})["caption"] == captions


def test_another_captioner_in_the_same_folder_is_another_key(preset, encoded, tmp_path):
    folder = tmp_path / "captioner"
    shutil.copytree(preset, folder)
    first = BatchCaptioner(folder)
    assert pickle.dumps(BatchCaptioner(folder)) == pickle.dumps(first)
    tiny.captioner(1, max_new_tokens=5).save_pretrained(folder)
    second = BatchCaptioner(folder)
    assert Hasher.hash(second) != Hasher.hash(first)
    expected = [caption.text for caption in load_captioner(folder).caption(encoded)]
    assert second({"image": encoded})["caption"] == expected


def test_map_of_datasets(preset, dataset, captions):
    captioner = BatchCaptioner(preset)
    result = dataset.map(captioner, batched=True, batch_size=3)
    assert result.features == captioner.features(dataset.features)
    assert list(result["number"]) == list(range(7))
    assert list(result["caption"]) == [captions[0], "", "", *captions[1:5]]
    errors = [error.partition(":")[0] for error in result["error"]]
    assert errors == ["", "text", "missing", "", "", "", ""]
    # the pictures are stored as they were, and were not decoded on the way
    stored = dataset.cast_column("image", datasets.Image(decode=False))["image"]
    assert list(result.cast_column("image", datasets.Image(decode=False))["image"]) == list(stored)


def test_map_in_other_formats_and_without_the_pictures(preset, dataset, captions):
    captioner, readable = BatchCaptioner(preset), dataset.select([0, 3, 4])
    expected = columns_of(readable.map(captioner, batched=True))
    readable = readable.cast_column("image", datasets.Image(decode=False))
    for form in ("numpy", "arrow"):
        result = readable.with_format(form).map(captioner, batched=True, batch_size=2).with_format(None)
        assert same(columns_of(result), expected), form
    frames = readable.with_format("pandas").map(captioner, batched=True, batch_size=2).with_format(None)
    assert list(frames["caption"]) == expected["caption"]  # what is NaN in a frame is null in Arrow
    without = dataset.map(
        captioner,
        batched=True,
        batch_size=2,
        remove_columns=["image"],
        features=captioner.features(dataset.remove_columns("image").features),
    )
    assert without.column_names == ["number", *NAMES]
    streamed = dataset.cast_column("image", datasets.Image(decode=False)).to_iterable_dataset()
    result = streamed.map(
        captioner, batched=True, batch_size=2, features=captioner.features(streamed.features)
    )
    rows = list(result)
    assert list(rows[0]) == ["image", "number", *NAMES]
    assert (
        [row["caption"] for row in rows] == list(without["caption"]) == [captions[0], "", "", *captions[1:5]]
    )


def test_first_batches_of_errors_alone(preset, encoded, tmp_path):
    cells = [{"bytes": b"broken", "path": None}] * 2 + [{"bytes": encoded[0], "path": None}] * 2
    dataset = Dataset.from_dict({"image": cells}).cast_column("image", datasets.Image())
    result = dataset.map(BatchCaptioner(preset), batched=True, batch_size=2, writer_batch_size=2)
    assert result.features["caption"] == Value("string")
    assert [caption != "" for caption in result["caption"]] == [False, False, True, True]


def test_a_saved_dataset_in_two_processes_is_as_in_one(preset, dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    loaded = datasets.load_from_disk(tmp_path / "saved")
    captioner = BatchCaptioner(preset)
    one = loaded.map(captioner, batched=True, batch_size=2)
    two = loaded.map(captioner, batched=True, batch_size=2, num_proc=2, with_rank=True)
    assert same(columns_of(two), columns_of(one))
    assert list(two["number"]) == list(range(7))
    assert two.features == one.features


def test_the_cache_of_datasets_knows_the_captioner(preset, dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    loaded = datasets.load_from_disk(tmp_path / "saved")
    first = loaded.map(BatchCaptioner(preset), batched=True)
    again = loaded.map(BatchCaptioner(preset), batched=True)
    assert again.cache_files == first.cache_files != []
    other = loaded.map(BatchCaptioner(preset, decoding=Greedy()), batched=True)
    assert other.cache_files != first.cache_files


def test_a_rank_takes_its_gpu(preset, encoded, monkeypatch):
    from magicap.runs import batch_captioner

    devices = []

    def load(preset: str, *, device: str | None, dtype: str) -> magicap.Captioner:
        devices.append(device)
        return tiny.captioner(0)

    monkeypatch.setattr(batch_captioner, "load_captioner", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in (None, 1, 2, 5):
        BatchCaptioner(preset)({"image": encoded[:1]}, rank)
    BatchCaptioner(preset, device="cpu")({"image": encoded[:1]}, 1)
    batch_captioner.captioner_of_process.cache_clear()
    assert devices == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cpu"]
