"""Captions and files are what they were: held against ``tests/golden``, which ``make golden`` writes.

In ``flickr8k.json`` is what the captioners that ship say of photographs, by every decoding. Of 40 captions,
or 16, one may differ: another processor, or another number of threads, adds floats up in another order, which
can decide between two words that are equally good. In ``format1`` are files as the package wrote them when
its format was 1.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from golden.decodings import (
    ALBUM,
    EXPECTED,
    FLICKR8K,
    FORMAT1,
    MTIME_NS,
    AnyCaptioner,
    decoding_of,
    shipped_captioners,
)

from magicap import RetrievalIndex, load_captioner
from magicap.cli import main
from magicap.data import ImageFiles
from magicap.evaluation.systems import caption_images

SHIPPED: dict[str, Any] = json.loads(FLICKR8K.read_text(encoding="utf-8"))
TINY: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
PATHS = [str(path) for path in sorted(ALBUM.glob("*.png"))]
COMPARED = 40  # photographs of those that are kept: all take a minute
WRITTEN = 1e-3  # cosines and log-probabilities are kept with four digits, and processors differ in the fifth


def systems(golden: dict[str, Any]) -> pytest.MarkDecorator:
    """One test for every captioner with a decoding."""
    return pytest.mark.parametrize("system", golden["systems"].values(), ids=list(golden["systems"]))


# ---- captioners that ship, on photographs ----


@pytest.fixture(scope="module")
def shipped() -> dict[str, AnyCaptioner]:
    return shipped_captioners()


@pytest.fixture(scope="module")
def photographs(data_dir: Path) -> list[bytes]:
    with ImageFiles(data_dir / "flickr8k" / "images-dev.tar") as tar:
        return [tar.read(name) for name in SHIPPED["pictures"]]


@pytest.mark.parametrize("name", SHIPPED["fingerprints"])
def test_the_captions_are_of_the_weights_that_ship(shipped, name):
    assert shipped[name].fingerprint == SHIPPED["fingerprints"][name], (
        f"tests/golden/flickr8k.json is of another {name} captioner than the one that ships: weights and "
        "captions are committed together. After a change of weights run make golden ARGS='--only flickr8k'"
    )


@systems(SHIPPED)
def test_photographs_get_the_captions_they_got(shipped, photographs, system):
    captioner, expected = shipped[system["captioner"]], system["captions"][:COMPARED]
    decoding = decoding_of(system["decoding"], captioner)
    captions = captioner.caption(photographs[: len(expected)], decoding, seed=system["seed"])
    others = [
        f"{name}: {caption.text!r}, expected {known!r}"
        for name, caption, known in zip(SHIPPED["pictures"], captions, expected, strict=False)
        if caption.text != known
    ]
    assert len(others) <= 1, "\n".join(others)


@pytest.mark.parametrize(
    ("name", "own"), [("embedded", "own"), ("unpaired", "unpaired"), ("cnn-lstm", "supervised")]
)
def test_captioners_that_ship_decode_as_they_did(shipped, name, own):
    assert shipped[name].decoding == decoding_of(SHIPPED["systems"][own]["decoding"], shipped[name])


# ---- files of format 1 ----


@cache
def saved(name: str) -> AnyCaptioner:
    """The captioner in a folder of format 1."""
    return load_captioner(FORMAT1 / name, device="cpu")


def assert_as_expected(captions: list[Any], expected: list[dict[str, Any]]) -> None:
    assert [caption.text for caption in captions] == [row["caption"] for row in expected]
    assert [caption.score for caption in captions] == pytest.approx(
        [row["score"] for row in expected], abs=WRITTEN
    )
    assert [caption.finished for caption in captions] == [row["finished"] for row in expected]


@systems(TINY)
def test_a_captioner_of_format_1_captions_as_it_did(system):
    captioner = saved(system["captioner"])
    decoding = decoding_of(system["decoding"], captioner)
    assert_as_expected(captioner.caption(PATHS, decoding, seed=system["seed"]), system["captions"])


@pytest.mark.parametrize(("name", "own"), [("zero-shot", "own"), ("supervised", "supervised")])
def test_a_captioner_of_format_1_is_read_with_its_decoding_and_written_anew(name, own, tmp_path):
    captioner, system = saved(name), TINY["systems"][own]
    assert captioner.fingerprint == TINY["fingerprints"][name]
    assert captioner.decoding == decoding_of(system["decoding"], captioner)
    assert_as_expected(captioner.caption(PATHS), system["captions"])
    captioner.save_pretrained(tmp_path)
    again = load_captioner(tmp_path, device="cpu")
    assert again.decoding == captioner.decoding
    assert again.fingerprint == captioner.fingerprint
    assert_as_expected(again.caption(PATHS), system["captions"])


@pytest.mark.parametrize(("name", "own"), [("zero-shot", "own"), ("supervised", "supervised")])
def test_the_command_captions_with_a_folder_of_format_1(name, own, capsys):
    captions = TINY["systems"][own]["captions"]
    code = (
        0 if all(expected["caption"] for expected in captions) else 2
    )  # a caption without words is a failure
    assert main(["caption", "--device", "cpu", "--json", "--preset", str(FORMAT1 / name), *PATHS]) == code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, path, expected in zip(rows, PATHS, captions, strict=True):
        assert row["image"] == path
        assert row["model"] == TINY["fingerprints"][name]
        assert (row["caption"], row["finished"]) == (expected["caption"], expected["finished"])
        assert row["score"] == pytest.approx(expected["score"], abs=WRITTEN)


@pytest.mark.parametrize("search", TINY["searches"], ids=lambda search: search["query"])
def test_an_index_gives_what_it_gave(search):
    scorer = saved("zero-shot").scorer
    index = RetrievalIndex.load(FORMAT1 / search["index"], scorer)
    if index.kind == "image":
        (matches,) = index.search_texts([search["query"]], len(search["matches"]))
    else:
        (matches,) = index.search_images([FORMAT1 / search["query"]], len(search["matches"]))
    for match, (item, cosine, position) in zip(matches, search["matches"], strict=True):
        assert match.position == position
        assert (match.item.text or os.path.basename(match.item.path)) == item
        assert match.cosine == pytest.approx(cosine, abs=WRITTEN)


@pytest.mark.parametrize("search", TINY["searches"], ids=lambda search: search["query"])
def test_the_command_searches_an_index_of_before(search, capsys):
    of_pictures = search["index"] == ALBUM.name
    query = search["query"] if of_pictures else str(FORMAT1 / search["query"])
    where = ["--index", str(FORMAT1 / search["index"]), "--preset", str(FORMAT1 / "zero-shot")]
    assert (
        main(["search", query, *where, "--device", "cpu", "--json", "--top", str(len(search["matches"]))])
        == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    items = [os.path.basename(row["image"]) if of_pictures else row["text"] for row in rows]
    assert items == [item for item, *_ in search["matches"]]


def test_an_index_of_before_is_brought_up_to_date_without_encoding_again(tmp_path):
    album = tmp_path / ALBUM.name
    shutil.copytree(ALBUM, album)
    pictures = sorted(album.glob("*.png"))
    for path in pictures:
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
    index = RetrievalIndex.load(album, saved("zero-shot").scorer)
    changes = index.update_images(pictures)
    assert (changes.added, changes.kept, changes.dropped) == (0, len(pictures), 0)


class CountedPictures(ImageFiles):
    """Pictures by name, with a list of those that were read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.opened: list[str] = []

    def read(self, name: str) -> bytes:
        self.opened.append(name)
        return super().read(name)


@pytest.mark.parametrize("lines", [len(PATHS), 3])
@pytest.mark.parametrize("name", TINY["kept"])
def test_captions_kept_before_are_taken_and_only_the_others_made(name, lines, tmp_path):
    """Whatever a file of kept captions is called now: one of before must be found, and read."""
    (before,) = (FORMAT1 / "kept").glob(f"{name}-*.jsonl")
    whole = before.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / before.name).write_text("".join(whole[:lines]), encoding="utf-8")
    system = TINY["systems"][name]
    captioner = saved(system["captioner"])
    names = [os.path.basename(path) for path in PATHS]
    pictures = CountedPictures(ALBUM)
    decoding = decoding_of(system["decoding"], captioner)
    made = caption_images(name, captioner, decoding, names, pictures, seed=system["seed"], keep=tmp_path)
    assert pictures.opened == names[lines:]
    assert made.captions == [row["caption"] for row in system["captions"]]
