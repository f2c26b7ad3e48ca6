"""What runs caption, and how it is read: sources of every form, reader processes, retries."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import bulk
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from magicap.errors import BadData, BadImage, BadSettings
from magicap.images.transform import ImageTransform, prepare
from magicap.runs import reader, readers
from magicap.runs.journal import Journal
from magicap.runs.records import Record, SourceUnavailable, retrying
from magicap.runs.sources import Listing

SMALL = ImageTransform((8, 8), "squash")


@pytest.fixture
def pictures(tmp_path):
    return bulk.pictures_in(tmp_path / "pictures", 9)


def ids(*sources, **options):
    return [record.id for record in Listing(tuple(map(str, sources)), **options)]


def packed(pictures, path, mode="w"):
    with tarfile.open(path, mode) as tar:
        tar.add(pictures, "set")
    return path


def test_folders_files_and_globs(pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    listed = ids("pictures")
    assert listed == [
        *(f"pictures/more/picture {number}.png" for number in (2, 5, 8)),
        *(f"pictures/picture {number}.png" for number in (0, 1, 3, 4, 6, 7)),
    ]
    assert ids(*reversed(listed)) == listed[::-1]
    assert ids("pictures/picture [0-3].png") == listed[3:6]
    assert ids("pictures/**/*.png") == listed
    assert ids("missing.png", "pictures/more") == ["missing.png", *listed[:3]]
    with pytest.raises(BadSettings, match=r"pictures/\*\.gif: expected files of such names, found none"):
        ids("pictures/*.gif")


@pytest.mark.parametrize(
    "sources",
    [
        ("a.png", "./a.png"),
        ("pictures", "pictures/"),
        ("pictures", "pictures/more"),
        ("pictures/picture 0.png", "pictures"),
    ],
)
def test_a_picture_that_would_come_twice_is_refused(pictures, sources, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    with pytest.raises(BadSettings, match="expected each"):
        ids(*sources)


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz")])
def test_tar_files(pictures, tmp_path, suffix, mode):
    path = packed(pictures, tmp_path / f"set{suffix}", mode)
    records = list(Listing((str(path),)))
    assert sorted(record.id for record in records) == sorted(
        f"{path}/set/{file.relative_to(pictures)}" for file in pictures.rglob("*.png")
    )
    for record in records:
        assert record.load() == (pictures / Path(record.name).relative_to("set")).read_bytes()


def test_a_tar_file_that_cannot_be_read_is_one_error(pictures, tmp_path):
    path = tmp_path / "broken.tar"
    path.write_bytes(b"none")
    (record,) = Listing((str(path),))
    with pytest.raises(BadImage, match="expected a tar file") as caught:
        record.load()
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_parquet_tables(pictures, tmp_path, kind):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = sorted(pictures.rglob("*.png"))
    cells = {
        "bytes": [*(file.read_bytes() for file in files), None],
        "struct": [*({"bytes": file.read_bytes(), "path": file.name} for file in files), None],
        "path": [*(str(file.relative_to(tmp_path)) for file in files), ""],
    }[kind]
    path = tmp_path / "t.parquet"
    parquet.write_table(arrow.table({"number": range(10), "photo": cells}), path, row_group_size=4)
    records = list(Listing((str(path),), column="photo"))
    assert [record.id for record in records] == [f"{path}#{row}" for row in range(10)]
    for record, file in zip(records[:9], files, strict=True):
        loaded = record.load()
        assert loaded == (str(file) if kind == "path" else file.read_bytes())
    with pytest.raises(BadImage, match="expected a picture's bytes or path, found none"):
        records[9].load()
    with pytest.raises(BadSettings, match=r"expected a column 'img', found number, photo"):
        next(iter(Listing((str(path),), column="img")))
    if kind != "path":
        assert ids(path) == [record.id for record in records]


def test_a_saved_data_set_and_an_index(pictures, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(pictures.glob("picture [0-2].png"))]
    table = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    loaded = [prepare(record.load(), SMALL) for record in Listing((str(tmp_path / "saved"),))]
    assert all(np.array_equal(a.pixels, prepare(b, SMALL).pixels) for a, b in zip(loaded, files, strict=True))

    from magicap.retrieval.index import RetrievalIndex

    index = RetrievalIndex(tiny.scorer())
    index.update_images(files)
    index.save(tmp_path / "index")
    assert ids(tmp_path / "index") == files


@pytest.mark.slow
def test_the_names_of_a_hundred_thousand_files_take_little_memory(tmp_path):
    for number in range(100_000):
        (tmp_path / f"{number:06d}.jpg").touch()
    tracemalloc.start()
    listed = iter(Listing((str(tmp_path),)))
    assert next(listed).id.endswith("/000000.jpg")
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    assert sum(1 for _ in listed) == 99_999
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


# ---- readers ----


@pytest.fixture
def odd_readers(monkeypatch):
    monkeypatch.setattr(reader, "MODULE", "odd_reader")


def test_processes_read_what_this_one_reads(pictures):
    records = [record for record in Listing((str(pictures),)) if os.path.getsize(record.id) > 50]
    with readers.ReaderPool(2) as pool:
        read = [future.result() for future in [pool.submit(record, SMALL) for record in records]]
        error = pool.submit(Record.of_file(str(pictures / "none.png")), SMALL).exception()
    for record, picture in zip(records, read, strict=True):
        assert np.array_equal(picture.pixels, prepare(record.id, SMALL).pixels)
        assert (picture.width, picture.height) == (40, 40)
    assert isinstance(error, BadImage)
    assert error.code == "missing"


@pytest.mark.slow
def test_a_picture_that_crashes_or_hangs_its_reader_costs_a_row(tmp_path, odd_readers):
    names = ["a.png", "crash.png", "b.png", "hang.png", "once.png", "c.png"]
    for name in names:
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    with readers.ReaderPool(1, timeout=1.5) as pool:
        futures = [pool.submit(Record.of_file(str(tmp_path / name)), SMALL) for name in names]
        errors = [future.exception(timeout=60) for future in futures]
    codes = [error and error.code for error in errors]
    assert codes == [None, readers.CRASHED, None, readers.TIMEOUT, None, None]
    assert str(tmp_path / "crash.png") in str(errors[1])


def test_no_reader_process_is_an_error_of_the_run(monkeypatch, pictures):
    monkeypatch.setattr(reader, "MODULE", "no_such_module")
    with (
        readers.ReaderPool(1) as pool,
        pytest.raises(reader.ReaderFailed, match="expected a reader process"),
    ):
        pool.submit(Record.of_file(str(pictures / "picture 0.png")), SMALL).result()


# ---- retries ----


def test_what_a_network_fails_is_tried_again():
    waits, attempts = [], iter([OSError(errno.ESTALE, "stale"), ConnectionResetError("reset"), None])

    def work():
        if error := next(attempts):
            raise BadData("unreadable") from error
        return "read"

    assert retrying(work, "x", sleep=waits.append) == "read"
    assert waits == [0.5, 2.0]
    with pytest.raises(SourceUnavailable, match=r"x: expected to read it, found .*timed out"):
        retrying(lambda: (_ for _ in ()).throw(TimeoutError("timed out")), "x", sleep=waits.append)
    with pytest.raises(FileNotFoundError):  # which is a picture's own
        retrying(lambda: os.stat("no such file"), "x", sleep=waits.append)


def test_a_source_that_is_gone_for_the_moment_stops_a_run_and_is_no_row(pictures, tmp_path, monkeypatch):
    captioner = tiny.captioner(0, max_new_tokens=5)
    path = packed(pictures, tmp_path / "set.tar")
    monkeypatch.setattr("magicap.runs.records.WAITS", (0.0,))
    monkeypatch.setattr(retrying, "__kwdefaults__", {"waits": (0.0,), "sleep": lambda _: None})
    read, calls = os.pread, iter(range(100))

    def stale(*arguments):
        if next(calls) >= 5:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(*arguments)

    monkeypatch.setattr(os, "pread", stale)
    with pytest.raises(SourceUnavailable, match="Stale file handle; run the same command again"):
        bulk.run(captioner, path, out=tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()
    monkeypatch.setattr(os, "pread", read)
    counts = bulk.run(captioner, path, out=tmp_path / "o.jsonl")
    assert (counts.rows, counts.errors) == (9, 1)


@given(
    batches=st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=3), min_size=1, max_size=4),
    cut=st.integers(0, 10**4),
)
def test_a_journal_keeps_the_batches_that_were_written_whole(batches, cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "j"
    journal, ends = Journal(path), [0]
    for batch in batches:
        journal.append([{"text": text} for text in batch])
        ends.append(path.stat().st_size)
    size = cut % (ends[-1] + 1)
    os.truncate(path, size)
    kept = [[item["text"] for item in batch] for batch in journal.recover()]
    assert kept == batches[: sum(end <= size for end in ends[1:])]
    journal.append([{"text": "new"}])
    assert len(list(journal.recover())) == len(kept) + 1
    shutil.rmtree(path.parent)
