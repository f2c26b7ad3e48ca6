"""Runs: a row of each picture, in every format, whatever ends the run on the way."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tarfile
from contextlib import suppress

import bulk
import pytest
import tiny
from PIL import Image

from magicap import BeamMagicSearch, CaptionMemory
from magicap.errors import BadSettings, OutputFailed
from magicap.results import Caption, Hypothesis
from magicap.runs.run import TooManyErrors
from magicap.runs.settings import RunSettings
from magicap.runs.state import RunIsWhole, open_state
from magicap.runs.tags import tags_of

FOLDERS = {"jsonl": "part-00000.jsonl", "csv": "part-00000.csv", "parquet": "part-00000.parquet"}


@pytest.fixture(scope="module")
def captioner():
    return tiny.captioner(0, max_new_tokens=5)


@pytest.fixture
def pictures(tmp_path):
    return bulk.pictures_in(tmp_path / "pictures", 23)


def rows_of(path):
    """The rows of a file of any of the table formats, as JSON lines have them."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        numbers = {"confidence": float, "score": float, "width": int, "height": int}
        return [
            {
                name: (numbers[name](text) if text else None) if name in numbers else text
                for name, text in row.items()
            }
            for row in rows
        ]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_row_of_each_picture_in_the_order_of_the_sources(captioner, pictures, tmp_path, suffix):
    counts = bulk.run(captioner, pictures, out=tmp_path / f"out{suffix}")
    assert (counts.rows, counts.errors) == (23, 3)
    rows = rows_of(tmp_path / f"out{suffix}")
    names = [os.path.relpath(row["id"], pictures) for row in rows]
    assert names[:4] == [f"more/picture {number}.png" for number in (2, 5, 8, 11)]
    assert names[-3:] == [f"picture {number}.png" for number in (19, 21, 22)]
    assert len(set(names)) == 23
    expected = captioner.caption([row["id"] for row in rows])
    for row, caption in zip(rows, expected, strict=True):
        assert row["caption"] == caption
        assert row["error"].partition(":")[0] == (caption.error.code if caption.error else "")
        assert (row["width"], row["height"]) == ((0, 0) if caption.error else (40, 40))
        assert list(row) == ["id", "caption", "confidence", "score", "error", "width", "height"]
    assert json.loads((tmp_path / f"out{suffix}.run" / "_SUCCESS").read_text()) == {
        "rows": 23,
        "errors": 3,
        "skipped": 0,
        "captions": 20,
    }


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_files_holds_the_rows_of_one_file(captioner, pictures, tmp_path, kind):
    bulk.run(captioner, pictures, out=tmp_path / f"one.{kind}")
    bulk.run(captioner, pictures, out=tmp_path / "many", format=kind, rows_per_file=8)
    files = sorted((tmp_path / "many").glob("part-*"))
    assert [len(rows_of(file)) for file in files] == [8, 8, 7]
    assert [row for file in files for row in rows_of(file)] == rows_of(tmp_path / f"one.{kind}")
    assert json.loads((tmp_path / "many" / "_SUCCESS").read_text())["rows"] == 23


def test_text_files_beside_their_pictures(captioner, pictures, tmp_path):
    counts = bulk.run(captioner, pictures, format="txt", prefix="a photo: ")
    texts = {path.with_suffix(".png"): path.read_text() for path in pictures.rglob("*.txt")}
    assert len(texts) == counts.rows - counts.errors == 20
    for path, text in texts.items():
        assert text == f"a photo: {captioner.caption(path)}\n"
    rows = rows_of(pictures / ".magicap-run" / "rows-00000.jsonl")
    assert (len(rows), sum(bool(row["error"]) for row in rows)) == (23, 3)


@pytest.mark.parametrize("on_existing", ["skip", "overwrite", "append", "prepend", "fail"])
def test_a_text_file_that_is_there(captioner, pictures, on_existing):
    (pictures / "picture 0.txt").write_text("mine\n")
    words = captioner.caption(pictures / "picture 0.png")
    if on_existing == "fail":
        with pytest.raises(BadSettings, match=r"picture 0\.txt is there already; give --on-existing"):
            bulk.run(captioner, pictures, format="txt", on_existing=on_existing)
        return
    counts = bulk.run(captioner, pictures, format="txt", on_existing=on_existing)
    assert counts.skipped == (on_existing == "skip")
    expected = {
        "skip": "mine\n",
        "overwrite": f"{words}\n",
        "append": f"mine, {words}\n",
        "prepend": f"{words}, mine\n",
    }
    assert (pictures / "picture 0.txt").read_text() == expected[on_existing]


def test_two_pictures_of_one_text_file(captioner, pictures):
    Image.open(pictures / "picture 0.png").save(pictures / "picture 0.jpg")
    counts = bulk.run(captioner, pictures, format="txt")
    assert (counts.rows, counts.errors) == (24, 4)
    errors = [row["error"] for row in rows_of(pictures / ".magicap-run" / "rows-00000.jsonl")]
    assert any("picture 0.jpg has picture 0.txt too; rename one" in error for error in errors)


def test_an_imagefolder_is_read_back_by_datasets(captioner, pictures, tmp_path):
    datasets = pytest.importorskip("datasets")
    bulk.run(captioner, pictures, out=tmp_path / "copies", format="imagefolder", rows_per_file=9)
    cache = str(tmp_path / "cache")
    copies = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "copies"), split="train", cache_dir=cache
    )
    assert len(copies) == 20
    for row in copies:
        assert row["text"] == captioner.caption(row["image"].convert("RGB"))
        assert row["image"].size == (row["width"], row["height"])
    errors = [line for path in (tmp_path / "copies").rglob("_errors.jsonl") for line in rows_of(path)]
    assert len(errors) == 3
    bulk.run(captioner, pictures, format="imagefolder")
    there = datasets.load_dataset("imagefolder", data_dir=str(pictures), split="train", cache_dir=cache)
    assert sorted(text for text in there["text"] if text) == sorted(copies["text"])


def test_webdataset_shards(captioner, pictures, tmp_path):
    bulk.run(captioner, pictures, out=tmp_path / "tars", format="webdataset", rows_per_file=20)
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        names = tar.getnames()
        assert names[:3] == ["00000000.png", "00000000.txt", "00000000.json"]
        row = json.load(tar.extractfile("00000000.json"))
        assert tar.extractfile("00000000.txt").read().decode() == row["caption"]
        with open(row["id"], "rb") as file:
            assert tar.extractfile("00000000.png").read() == file.read()
    with tarfile.open(tmp_path / "tars" / "00001.tar") as tar:
        rows = [name for name in tar.getnames() if name.endswith(".json")]
    assert rows == [f"{number:08d}.json" for number in (20, 21, 22)]
    # what was written is a source in its turn
    counts = bulk.run(captioner, tmp_path / "tars" / "*.tar", out=tmp_path / "again.jsonl")
    assert (counts.rows, counts.errors) == (20, 0)


def test_several_captions_and_tags(pictures, tmp_path):
    captioner = tiny.captioner(0, max_new_tokens=5)
    texts = ["A dog runs.", "A dog sits on grass.", "Two children play on a beach."]
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, texts)
    captioner.decoding = BeamMagicSearch(neighbours=3, max_new_tokens=5)
    bulk.run(captioner, pictures, out=tmp_path / "o.jsonl", n=3, tags=True, suffix="!")
    rows = [row for row in rows_of(tmp_path / "o.jsonl") if not row["error"]]
    assert all(len(row["captions"]) == 3 == len(set(row["captions"])) for row in rows)
    assert all(row["captions"][0] == row["caption"] and row["caption"].endswith("!") for row in rows)
    assert all(row["tags"] == list(dict.fromkeys(row["tags"])) for row in rows)
    bulk.run(captioner, pictures, out=tmp_path / "o.csv", n=3, tags=True, suffix="!")
    with open(tmp_path / "o.csv", newline="") as file:
        assert [row["caption_3"] for row in csv.DictReader(file) if row["caption"]] == [
            row["captions"][2] for row in rows
        ]


def test_tags_are_the_content_words_that_hypotheses_agree_on():
    texts = [
        "A dog runs on grass.",
        "A brown dog on the grass",
        "Dogs play.",
        "The dog is well-fed.",
        "A cat.",
    ]
    caption = Caption(texts[0], hypotheses=tuple(map(Hypothesis, texts)))
    assert tags_of(caption) == ("dog", "grass")
    assert tags_of(Caption("A dog on a surf-board.")) == ("dog", "surf-board")


def test_shards_and_limit_part_the_pictures(captioner, pictures, tmp_path):
    for shard in range(3):
        bulk.run(captioner, pictures, out=tmp_path / "o.jsonl", shard=(shard, 3), limit=20)
    parts = [rows_of(tmp_path / f"o-{shard:05d}-of-00003.jsonl") for shard in range(3)]
    assert list(map(len, parts)) == [7, 7, 6]
    bulk.run(captioner, pictures, out=tmp_path / "o.jsonl", limit=20)
    whole = rows_of(tmp_path / "o.jsonl")
    assert [row["id"] for row in whole] == [parts[number % 3][number // 3]["id"] for number in range(20)]


# ---- what ends a run, and what goes on ----


@pytest.mark.parametrize(
    "settings",
    [
        {"out": "o.jsonl"},
        {"out": "o.parquet"},
        {"out": "o", "format": "csv", "rows_per_file": 8},
        {"out": "o", "format": "imagefolder", "rows_per_file": 8},
        {"out": "o", "format": "webdataset", "rows_per_file": 8},
        {"format": "txt", "on_existing": "append", "rows_per_file": 8},
        {"format": "imagefolder"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 10])
def test_killed_at_any_step_the_same_bytes(captioner, tmp_path, settings, stride, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = bulk.pictures_in(tmp_path / "original", 14)
    (original / "picture 0.txt").write_text("mine")

    def fresh():
        for name in ("work", "o", "o.run", "o.jsonl.run", "o.parquet.run"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        for name in ("o.jsonl", "o.parquet"):
            (tmp_path / name).unlink(missing_ok=True)
        shutil.copytree(original, tmp_path / "work")
        return lambda: bulk.run(captioner, "work", **settings)

    fresh()()
    expected = {
        name: data for name, data in bulk.written(tmp_path).items() if not name.startswith("original")
    }
    for step in range(len(settings) % stride, 1000, stride):
        work = fresh()
        if not bulk.killed_at(step, work):
            break
        with suppress(RunIsWhole):  # killed once all was done
            work()
        left = {
            name: data for name, data in bulk.written(tmp_path).items() if not name.startswith("original")
        }
        assert left == expected, step
    assert step > 10


def test_a_run_of_other_settings_sources_or_models_is_refused(captioner, pictures, tmp_path):
    out = tmp_path / "o.jsonl"
    assert bulk.killed_at(6, lambda: bulk.run(captioner, pictures, out=out))
    with pytest.raises(BadSettings, match=r"other settings \(prefix: '', now 'x'\)"):
        bulk.run(captioner, pictures, out=out, prefix="x")
    with pytest.raises(BadSettings, match="captioner_model"):
        bulk.run(tiny.captioner(1, max_new_tokens=5), pictures, out=out)
    changed = pictures / "more" / "picture 2.png"
    Image.new("RGB", (9, 9)).save(changed)
    with pytest.raises(BadSettings, match="sources as they were when the run began"):
        bulk.run(captioner, pictures, out=out)
    counts = bulk.run(captioner, pictures, out=out, prefix="x", on_existing="overwrite")
    assert counts.rows == 23
    assert all(row["caption"].startswith("x") for row in rows_of(out) if row["caption"])


@pytest.mark.slow
@pytest.mark.parametrize("change", ["gone", "new", "changed"])
def test_sources_that_change_behind_a_whole_file_are_refused(captioner, pictures, tmp_path, change):
    settings = {"out": tmp_path / "o", "format": "jsonl", "rows_per_file": 4}
    steps = (step for step in range(100) if len(_parts_when_killed(captioner, pictures, settings, step)) == 2)
    assert next(steps, None) is not None
    if change == "gone":
        (pictures / "more" / "picture 2.png").unlink()
    elif change == "new":
        shutil.copy(pictures / "picture 0.png", pictures / "more" / "picture 3.png")
    else:
        Image.new("RGB", (9, 9)).save(pictures / "more" / "picture 2.png")
    with pytest.raises(
        BadSettings, match=r"other pictures, or changed ones, than those of part-00000\.jsonl"
    ):
        bulk.run(captioner, pictures, **settings)


def _parts_when_killed(captioner, pictures, settings, step):
    shutil.rmtree(settings["out"], ignore_errors=True)
    bulk.killed_at(step, lambda: bulk.run(captioner, pictures, **settings))
    return sorted(settings["out"].glob("part-*"))


def test_output_that_is_there(captioner, pictures, tmp_path):
    out = tmp_path / "o.jsonl"
    out.write_text("mine\n")
    with pytest.raises(BadSettings, match="is there already"):
        bulk.run(captioner, pictures, out=out)
    assert bulk.run(captioner, pictures, out=out, on_existing="skip") is None
    assert out.read_text() == "mine\n"
    bulk.run(captioner, pictures, out=out, on_existing="overwrite")
    assert len(rows_of(out)) == 23
    with pytest.raises(BadSettings, match="is there, and whole"):
        bulk.run(captioner, pictures, out=out)
    assert bulk.run(captioner, pictures, out=out, on_existing="skip") is None
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    with pytest.raises(BadSettings, match="expected an empty folder"):
        bulk.run(captioner, pictures, out=tmp_path / "full", format="csv", on_existing="overwrite")
    assert not (tmp_path / "full" / "_run").exists()


def test_too_many_errors_stop_a_run_that_goes_on(captioner, pictures, tmp_path):
    out = tmp_path / "o.jsonl"
    with pytest.raises(TooManyErrors, match="at most 1 pictures to fail, found 2"):
        bulk.run(captioner, pictures, out=out, max_errors=1)
    assert not out.exists()
    assert bulk.run(captioner, pictures, out=out).errors == 3


def test_a_full_disk_stops_a_run_that_goes_on(captioner, pictures, tmp_path):
    out = tmp_path / "o.jsonl"
    bulk.run(captioner, pictures, out=tmp_path / "expected.jsonl")

    def work():
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        with pytest.raises(OutputFailed, match="cannot be written: File too large; make room"):
            bulk.run(captioner, pictures, out=out)

    assert not bulk.killed_at(10**6, work)
    bulk.run(captioner, pictures, out=out)
    assert out.read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_one_process_writes_an_output(captioner, pictures, tmp_path):
    out = tmp_path / "o.jsonl"
    with open_state(RunSettings((str(pictures),), str(out))):

        def work():
            with pytest.raises(BadSettings, match="another run writes"):
                bulk.run(captioner, pictures, out=out)

        assert not bulk.killed_at(10**6, work)
