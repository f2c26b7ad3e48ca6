"""Runs where something is amiss: nothing that people wrote is lost, and whoever waits is told."""

from __future__ import annotations

import errno
import json
import os
import tarfile

import bulk
import pytest
import tiny
from PIL import Image

from magicap.errors import BadImage, BadSettings
from magicap.images.transform import ImageTransform
from magicap.runs import readers
from magicap.runs.reader import ReaderProcess
from magicap.runs.records import Record, SourceUnavailable
from magicap.runs.run import TooManyErrors
from magicap.runs.sources import Listing

SMALL = ImageTransform((8, 8), "squash")


@pytest.fixture(scope="module")
def captioner():
    return tiny.captioner(0, max_new_tokens=5)


@pytest.fixture
def pictures(tmp_path):
    return bulk.pictures_in(tmp_path / "pictures", 9)


def texts_of(folder):
    return {path.name: path.read_text() for path in folder.rglob("*.txt")}


@pytest.mark.parametrize("then", ["overwrite", "append"])
def test_texts_that_were_kept_are_not_emptied_by_another_option(captioner, pictures, then):
    for path in pictures.rglob("*.png"):
        path.with_suffix(".txt").write_text("mine")
    (pictures / "picture 4.txt").unlink()
    (pictures / "picture 4.png").write_bytes(b"")
    with pytest.raises(TooManyErrors):
        bulk.run(captioner, pictures, format="txt", on_existing="skip", max_errors=0)
    if then == "append":
        with pytest.raises(BadSettings, match=r"on_existing: 'skip', now 'append'"):
            bulk.run(captioner, pictures, format="txt", on_existing=then)
        assert set(texts_of(pictures).values()) == {"mine"}
        return
    bulk.run(captioner, pictures, format="txt", on_existing=then)
    texts = texts_of(pictures)
    assert texts["picture 3.txt"] == "mine"  # of a broken picture
    assert texts["picture 1.txt"] == f"{captioner.caption(pictures / 'picture 1.png')}\n"


@pytest.mark.parametrize("rows_per_file", [1, 4, 100])
def test_two_pictures_of_one_text_file_wherever_files_end(captioner, pictures, rows_per_file):
    Image.open(pictures / "picture 0.png").save(pictures / "picture 0.jpg")
    counts = bulk.run(captioner, pictures, format="txt", rows_per_file=rows_per_file, on_existing="append")
    assert (counts.rows, counts.errors) == (10, 2)
    assert ", " not in texts_of(pictures)["picture 0.txt"]


def test_an_output_goes_only_once_the_new_run_can_begin(captioner, pictures, tmp_path):
    bulk.run(captioner, pictures, out=tmp_path / "o", format="csv")
    before = bulk.written(tmp_path / "o")
    with pytest.raises(BadSettings, match="--n needs a decoding"):
        bulk.run(captioner, pictures, out=tmp_path / "o", format="csv", on_existing="overwrite", n=2)
    assert bulk.written(tmp_path / "o") == before
    os.unlink(tmp_path / "o" / "part-00000.csv")
    assert bulk.run(captioner, pictures, out=tmp_path / "o", format="csv", on_existing="skip").rows == 9


def test_outputs_that_would_be_read_are_refused(captioner, pictures):
    with pytest.raises(BadSettings, match="lies in"):
        bulk.run(captioner, pictures, out=pictures / "copies", format="imagefolder")
    (pictures / "_errors.jsonl").write_text("mine")
    with pytest.raises(BadSettings, match=r"_errors\.jsonl is there already"):
        bulk.run(captioner, pictures, format="imagefolder")


def test_more_shards_than_pictures(captioner, pictures, tmp_path):
    counts = bulk.run(captioner, pictures, out=tmp_path / "o.jsonl", shard=(9, 10))
    assert counts.rows == 0
    assert (tmp_path / "o-00009-of-00010.jsonl").read_bytes() == b""


@pytest.mark.parametrize("damage", ["manifest.json", "journal-00000.jsonl", "shards/00000.json"])
def test_a_damaged_state_is_named(captioner, pictures, tmp_path, damage):
    settings = {"out": tmp_path / "o", "format": "jsonl", "rows_per_file": 4}
    for step in range(100):  # until the second file is begun
        bulk.killed_at(step, lambda: bulk.run(captioner, pictures, **settings))
        if (tmp_path / "o" / "_run" / "shards" / "00000.json").exists():
            break
    path = tmp_path / "o" / "_run" / damage
    if damage.startswith("journal"):
        path = path.with_name("journal-00001.jsonl")
    path.write_text('{"half":\n')
    with pytest.raises(BadSettings, match="expected a run's state, found it damaged"):
        bulk.run(captioner, pictures, **settings)


def test_globs_that_overlap_and_folders_that_hold_other_files(pictures):
    with pytest.raises(BadSettings, match="expected each source once"):
        Listing((f"{pictures}/picture 1*.png", f"{pictures}/picture*.png"))
    (pictures / "notes.txt").write_text("none")
    names = [os.path.basename(record.id) for record in Listing((f"{pictures}/*.*",))]
    assert "notes.txt" not in names
    assert "picture 0.png" in names
    (record,) = Listing((f"{pictures}/none[1].png",))
    assert record.id.endswith("none[1].png")


def test_tar_members_that_cannot_be_read_cost_a_row(captioner, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("magicap.data.tars.ImageLimits.bytes", 1000)
    Image.effect_noise((40, 40), 90).save(pictures / "large.png")
    os.link(pictures / "picture 0.png", pictures / "same.png")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(pictures, "set")
    counts = bulk.run(captioner, tmp_path / "set.tar", out=tmp_path / "o.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert counts.rows == len(rows) == 11
    errors = {os.path.basename(row["id"]): row["error"] for row in rows if row["error"]}
    assert errors["large.png"].startswith("unreadable: ")
    assert not {"picture 0.png", "same.png"} & set(errors)


# ---- readers ----


def test_what_a_thread_cannot_read_is_raised_where_it_is_waited_for(pictures, monkeypatch):
    def fail(*_):
        raise MemoryError("none left")

    monkeypatch.setattr("magicap.runs.reader.answer", fail)
    with readers.ReaderPool(0) as pool:
        futures = [pool.submit(Record.of_file(str(pictures / "picture 0.png")), SMALL) for _ in range(3)]
        assert all(isinstance(future.exception(timeout=10), MemoryError) for future in futures)


def test_a_network_that_fails_a_reader_process_is_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr("magicap.runs.reader.MODULE", "odd_reader")
    monkeypatch.setattr(readers, "WAITS", (0.0, 0.0))
    path = tmp_path / "stale.png"
    path.touch()
    with readers.ReaderPool(1) as pool:
        error = pool.submit(Record.of_file(str(path)), SMALL).exception(timeout=60)
    assert isinstance(error, SourceUnavailable)
    assert os.strerror(errno.ESTALE) in str(error)


@pytest.mark.slow
def test_a_full_pipe_behind_a_picture_that_hangs_holds_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("magicap.runs.reader.MODULE", "odd_reader")
    Image.new("RGB", (9, 9)).save(tmp_path / "hang.png")
    large = Record("large", lambda: b"none" * (1 << 20))
    with readers.ReaderPool(1, timeout=1.5) as pool:
        hanging = Record.of_file(str(tmp_path / "hang.png"))
        errors = [pool.submit(record, SMALL).exception(timeout=60) for record in (hanging, large, large)]
    assert [isinstance(error, BadImage) and error.code for error in errors] == [
        readers.TIMEOUT,
        "text",
        "text",
    ]


def test_nothing_is_imported_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    process = ReaderProcess(60.0)
    process.start()
    process.end()
    process.clear()
