"""Kinds of files that hold more than they seem to: bombs, holes, pipes in folders, lies about sizes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from magicap import reading
from magicap.captioners.load import load_captioner
from magicap.data import ImageFiles, read_captions, read_sentences
from magicap.data.checks import LONGEST_CAPTION, lines_of
from magicap.data.tars import LONGEST_HEADER
from magicap.decoding.settings import BeamMagicSearch
from magicap.errors import BadData, BadIndex, BadModel, BadSettings, MagicapError
from magicap.evaluation.predictions import read_predictions
from magicap.images.reader import ImageLimits
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.index import RetrievalIndex
from magicap.retrieval.memory_files import CAPTIONS_FILE, NGRAMS_FILE, VECTORS_FILE
from magicap.supervised.settings import BeamSearch, Sampling

GB = 1 << 30
PIPE = "pipe, socket or device"


# --- plain files --------------------------------------------------------------------------------------------


def test_only_plain_files_of_the_right_size_are_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert reading.read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, of which at most 4"):
        reading.read_bytes(path, 4)
    os.truncate(path, 6 * GB)
    with pytest.raises(OSError, match="6442450944 bytes"):
        reading.read_bytes(path, 5)
    with pytest.raises(IsADirectoryError):
        reading.read_bytes(tmp_path, 5)
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(reading.SpecialFile, match=PIPE):
            reading.read_bytes(special, 5)


def test_files_of_the_system_that_say_they_are_empty_are_read():
    assert b"VmPeak" in reading.read_bytes("/proc/self/status", 1 << 20)


# --- captioners and memories --------------------------------------------------------------------------------


def test_no_part_of_a_captioner_may_be_a_pipe(preset, tmp_path):
    whole = Path(preset)
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.suffix != ".md"]
    assert len(names) > 5
    for name in names:
        folder = Path(shutil.copytree(whole, tmp_path / str(name).replace("/", "_")))
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(MagicapError, match=PIPE):
            load_captioner(folder)


def test_texts_of_a_model_have_a_largest_size(preset, tmp_path):
    for name in ("magicap.json", "language_model/config.json", "scorer/open_clip_config.json"):
        folder = Path(shutil.copytree(preset, tmp_path / name.replace("/", "_")))
        os.truncate(folder / name, 6 * GB)
        with pytest.raises(BadModel, match="6442450944 bytes"):
            load_captioner(folder)


def test_a_scorer_whose_pictures_cannot_be_prepared_is_refused_at_load(preset, tmp_path):
    folder = Path(shutil.copytree(preset, tmp_path / "captioner"))
    file = folder / "scorer/open_clip_config.json"
    config = json.loads(file.read_text())
    config["preprocess_cfg"]["mean"] = ["no", "number", "here"]
    file.write_text(json.dumps(config))
    with pytest.raises(BadModel, match="scorer"):
        load_captioner(folder)


@pytest.fixture
def memory(tmp_path):
    """The folder of a memory of two captions."""
    vectors = torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    CaptionMemory(["A dog runs.", "A cat sleeps."], vectors).save_pretrained(tmp_path / "memory")
    return tmp_path / "memory"


@pytest.mark.parametrize("name", [CAPTIONS_FILE, NGRAMS_FILE, VECTORS_FILE])
def test_no_file_of_a_memory_may_be_a_pipe(memory, name):
    (memory / name).unlink()
    os.mkfifo(memory / name)
    with pytest.raises(BadModel, match=PIPE):
        CaptionMemory.from_pretrained(memory)


@pytest.mark.parametrize(
    "unpacked",
    [
        b'["a", "b"' + b" " * (1 << 26) + b"]",
        b'["' + b"a" * (1 << 26) + b'"]',
        b"[" + b"[]," * (1 << 24) + b"[]]",
        b"[" * (1 << 20),
    ],
)
def test_captions_that_unpack_to_more_than_their_vectors_allow_are_refused(memory, unpacked):
    (memory / CAPTIONS_FILE).write_bytes(gzip.compress(unpacked, 1))
    with pytest.raises(BadModel, match=r"unpack to more than 1048576|recursion"):
        CaptionMemory.from_pretrained(memory)


def test_bytes_behind_packed_captions_are_refused(memory):
    with (memory / CAPTIONS_FILE).open("ab") as file:
        file.write(gzip.compress(b" " * 1000))
    with pytest.raises(BadModel, match="cut short, or with others behind"):
        CaptionMemory.from_pretrained(memory)


def test_a_memory_that_could_not_be_read_is_not_written(tmp_path):
    long = CaptionMemory(["a" * (2 << 20)], torch.ones(1, 1))
    with pytest.raises(BadSettings, match="at most 500 bytes on average"):
        long.save_pretrained(tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


# --- texts --------------------------------------------------------------------------------------------------


def test_countless_values_are_counted_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_VALUES", 1000)
    path = tmp_path / "a.json"
    for text in ("[" + "[]," * 1000 + "[]]", '{"image": "a", "caption": ""}\n' * 1000):
        path.write_text(text)
        for read in (read_predictions, read_captions):
            with pytest.raises(BadData, match=r"a.json: expected at most .* values, found more"):
                read(path)


def test_lines_are_counted_without_the_blank_ones(monkeypatch):
    text = "\n \n a\n\n  b \nc"
    assert list(lines_of(Path("x"), text)) == [("x, line 3", " a"), ("x, line 5", "  b "), ("x, line 6", "c")]
    assert list(lines_of(Path("x"), " \n\n")) == []
    monkeypatch.setattr("magicap.data.checks.MOST_LINES", 2)
    with pytest.raises(BadData, match="x: expected at most 2 lines"):
        list(lines_of(Path("x"), text))


def test_a_caption_has_a_greatest_length(tmp_path):
    long = "a" * (LONGEST_CAPTION + 1)
    rows = {
        read_predictions: {"image": "a", "caption": long},
        read_captions: {"image": "a", "split": "test", "captions": [long]},
    }
    for read, row in rows.items():
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(
            BadData, match="line 1: expected a caption of at most 10000 characters, found 10001"
        ):
            read(tmp_path / "a.jsonl")
    (tmp_path / "a.txt").write_text(f"A dog.\n{long}\n")
    with pytest.raises(BadData, match="line 2: expected a caption of at most 10000 characters"):
        read_sentences(tmp_path / "a.txt")


# --- tar files ----------------------------------------------------------------------------------------------


def header(name, stored, kind=tarfile.REGTYPE, **pax):
    """Of a member of so many stored bytes, with these fields of pax."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = stored, kind, pax
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def old_sparse(name, size):
    """The header of a file with one stored byte and a hole, as GNU tar wrote it."""
    block = bytearray(header(name, 1, tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"00000000000\0" + b"00000000001\0"
    block[483:495] = b"\x80" + size.to_bytes(11)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = {"GNU.sparse.map": "0,1", "GNU.sparse.name": "a.jpg"}
MAP_IN_CONTENT = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}


@pytest.mark.parametrize("first", [b"", header("z.jpg", 0)])
@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_names_of_gigabytes_are_refused(tmp_path, first, kind):
    path = tmp_path / "a.tar"
    path.write_bytes(first + header("x", 3 * GB, kind))
    os.truncate(path, 4 * GB)
    with pytest.raises(BadData, match=f"a.tar: .* more than {LONGEST_HEADER} bytes of headers"):
        ImageFiles(path)


def test_a_map_of_holes_in_a_members_content_has_a_largest_size(tmp_path):
    sparse = header("a.jpg", 2 << 20, **MAP_IN_CONTENT, **{"GNU.sparse.realsize": "1"})
    (tmp_path / "a.tar").write_bytes(sparse + b"1000000000\n" + b"0\n" * (1 << 20) + bytes(2048))
    with pytest.raises(BadData, match="bytes of headers"):
        ImageFiles(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "member",
    [
        header("a.jpg", 6 * GB),
        header("a.jpg", 0, size=str(6 * GB)),
        old_sparse("a.jpg", 6 * GB),
        header("a.jpg", 1, **SPARSE, **{"GNU.sparse.realsize": str(6 * GB), "GNU.sparse.size": str(6 * GB)}),
    ],
)
def test_the_size_of_a_member_is_looked_at_before_it_is_read(tmp_path, member):
    path = tmp_path / "a.tar"
    path.write_bytes(header("b.jpg", 1) + b"b" + bytes(511) + member)
    os.truncate(path, 7 * GB)
    with ImageFiles(path) as pictures:
        assert pictures.read("b.jpg") == b"b"
        with pytest.raises(BadData, match=f"at most {ImageLimits.bytes} bytes, found 'a.jpg' of 6442450944"):
            pictures.read("a.jpg")


def test_a_packed_tar_is_not_unpacked_to_get_past_a_hole(tmp_path):
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header("a.bin", 6 * GB) + bytes(1 << 20))
    with pytest.raises(BadData, match=r"unpacks to at most 100 times its size, found 6442451456 bytes"):
        ImageFiles(tmp_path / "a.tar.gz")


# --- an index -----------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path):
    """The folder of an index of two sentences, and the scorer that made it."""
    scorer = tiny.scorer()
    made = RetrievalIndex(scorer)
    made.update_texts(["a dog runs", "a cat sleeps"])
    made.save(tmp_path / "a.magicap-index")
    return tmp_path / "a.magicap-index", scorer


def items(**columns):
    columns = {
        "path": pa.nulls(2, pa.string()),
        "path_bytes": pa.nulls(2, pa.binary()),
        "size": np.zeros(2, np.int64),
        "mtime_ns": np.zeros(2, np.int64),
        "text": pa.array(["a dog runs", "a cat sleeps"]),
        **columns,
    }
    return pa.table(columns)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (items().slice(0, 1), "1 rows, where index.json counts 2"),
        (items(text=pa.array(["a" * (1 << 24), "b"])), "bytes in 2 rows"),
        (items(text=pa.array([["a"], ["b"]])), "a damaged one"),
        (items(**{f"column{n}": pa.array([0, 0]) for n in range(1000)}), "columns other than"),
        (items(size=pa.array(["1", "2"])), "columns other than"),
    ],
)
def test_items_are_compared_with_the_header_before_they_are_read(index, table, said):
    folder, scorer = index
    pq.write_table(table, next(folder.glob("items-*")), compression="zstd")
    with pytest.raises(BadIndex, match=said):
        RetrievalIndex.load(folder, scorer)


def test_a_text_that_many_rows_share_counts_in_each(tmp_path):
    scorer = tiny.scorer()
    made = RetrievalIndex(scorer)
    made.update_texts([f"a dog {number}" for number in range(300)])
    made.save(tmp_path / "index")
    shared = pa.array(["a" * (1 << 17)] * 300)
    none = {"path": pa.nulls(300, pa.string()), "path_bytes": pa.nulls(300, pa.binary())}
    zeros = {name: np.zeros(300, np.int64) for name in ("size", "mtime_ns")}
    pq.write_table(pa.table({**none, **zeros, "text": shared}), next((tmp_path / "index").glob("items-*")))
    with pytest.raises(BadIndex, match="39321600 bytes in 300 rows"):
        RetrievalIndex.load(tmp_path / "index", scorer)


@pytest.mark.parametrize("pattern", ["items-*", "vectors-*", "index.json"])
def test_no_file_of_an_index_may_be_a_pipe(index, pattern):
    folder, scorer = index
    file = next(folder.glob(pattern))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BadIndex, match=PIPE):
        RetrievalIndex.load(folder, scorer)


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda n: BeamMagicSearch(beam_size=n), 500),
        (lambda n: BeamMagicSearch(num_finished=n), 1000),
        (lambda n: BeamMagicSearch(neighbours=n), 2000),
        (lambda n: BeamMagicSearch(include=tuple(f"w{i}" for i in range(n))), 100),
        (lambda n: BeamMagicSearch(prefer=tuple(f"w{i}" for i in range(n))), 100),
        (lambda n: BeamMagicSearch(exclude=tuple(f"w{i}" for i in range(n))), 10_000),
        (lambda n: BeamSearch(beam_size=n), 500),
        (lambda n: Sampling(captions=n), 20_000),
        (lambda n: Sampling(max_new_tokens=n), 1000),
    ],
)
def test_settings_have_a_largest_value_which_the_error_names(make, most):
    make(most)
    with pytest.raises(BadSettings, match=rf"at most {most}( words)?, found {most + 1}"):
        make(most + 1)
    with pytest.raises(BadSettings, match=f"at most {most}"):
        make(2_000_000)
