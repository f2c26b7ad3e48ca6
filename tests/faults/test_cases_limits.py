"""Limits on everything that is read: refused early, in a moment, with little memory."""

from __future__ import annotations

import os
import shutil

import pytest
from cases.make import GB, damage_index
from command import assert_refused, magicap

EVAL = ("eval", "forms/pred.jsonl", "--references", "forms/refs.jsonl")
CAPTION = ("caption", "pictures/plain.jpg", "--preset")


@pytest.mark.parametrize("words", [
    ("eval", "OUT/fifo.jsonl", "--references", "forms/refs.jsonl"),
    ("eval", "forms/pred.jsonl", "--references", "/dev/zero"),
    ("eval", "forms/pred.jsonl", "--references", "OUT/fifo.jsonl"),
    ("caption", "OUT/fifo.jpg"),
    ("index", "OUT/fifo.jsonl"),
    (*CAPTION, "OUT/settings_fifo"),
    (*EVAL, "--images", "OUT/fifo.jsonl", "--metrics", "clipscore"),
])  # fmt: skip
def test_pipes_and_devices_are_refused_at_once(cases, made_cases, words):
    ended = _magicap(cases, made_cases("limits"), *words)
    assert_refused(ended, "pipe, socket or device")


@pytest.mark.parametrize(("words", "said"), [
    ((*CAPTION, "OUT/settings_deep"), ["settings_deep/magicap.json", "recursion"]),
    (("eval", "limits/deep_list.json", "--references", "forms/refs.jsonl"), ["deep_list.json", "recursion"]),
    (("eval", "limits/deep_value.jsonl", "--references", "forms/refs.jsonl"), ["deep_value.jsonl, line 1"]),
    (("eval", "limits/long_number.jsonl", "--references", "forms/refs.jsonl"), ["long_number.jsonl, line 1"]),
    ((*CAPTION, "OUT/gz_bomb"), ["gz_bomb/memory", "bytes that unpack to more than"]),
    ((*EVAL, "--images", "OUT/cut.tar", "--metrics", "clipscore"), ["cut.tar", "unexpected end of data"]),
    ((*EVAL, "--images", "OUT/hole.tar", "--metrics", "clipscore"), ["hole.tar", "bridge.jpg", "6442450944"]),
    ((*EVAL, "--images", "OUT/large", "--metrics", "clipscore"), ["bridge.jpg", "6442450944 bytes"]),
    (("caption", "OUT/large/bridge.jpg"), ["bridge.jpg", "at most 134217728 bytes"]),
    (("eval", "OUT/hole.jsonl", "--references", "forms/refs.jsonl"), ["hole.jsonl", "6442450944 bytes"]),
    (("caption", "OUT/chunks.png"), ["chunks.png", "100000 chunks"]),
    (("caption", "OUT/comments.pgm"), ["comments.pgm", "33554432 bytes as text"]),
])  # fmt: skip
def test_what_is_too_large_or_too_deep_is_refused(cases, made_cases, words, said):
    assert_refused(_magicap(cases, made_cases("limits"), *words), *said)


def test_an_ordinary_tar_is_read(cases, made_cases):
    ended = _magicap(
        cases, made_cases("limits"), *EVAL, "--images", "OUT/ok.tar", "--metrics", "clipscore", "--json"
    )
    assert (ended.code, ended.err) == (0, ""), ended
    assert '"CLIPScore"' in ended.out


@pytest.fixture(scope="module")
def indexes(cases, tmp_path_factory):
    """A folder with damaged copies of an index."""
    folder = tmp_path_factory.mktemp("indexes")
    shutil.copy(cases / "limits/a.txt", folder)
    assert magicap("index", folder / "a.txt").code == 0
    whole = folder / "a.txt.magicap-index"
    damage_index(whole)
    for pattern in ("vectors-*", "items-*"):
        file = next(shutil.copytree(whole, folder / f"{pattern[:5]}.magicap-index").glob(pattern))
        os.truncate(file, 6 * GB)
    return folder


@pytest.mark.parametrize(("name", "said"), [
    ("rows", ["10000000 rows, where index.json counts 2"]),
    ("padded", ["index.json", "of which at most 1048576"]),
    ("vecto", ["6442450944 bytes for 2 vectors"]),
    ("items", ["items-"]),
])  # fmt: skip
def test_an_index_is_as_large_as_its_header_says(indexes, name, said):
    ended = magicap("search", "a dog", "--index", indexes / f"{name}.magicap-index")
    assert_refused(ended, f"{name}.magicap-index", *said)


@pytest.mark.parametrize(("option", "most"), [("beam-size", 500), ("num-finished", 1000)])
def test_what_a_search_keeps_is_bounded(cases, option, most):
    ended = magicap("caption", "pictures/plain.jpg", f"--{option}", "10000000", cwd=cases)
    assert_refused(ended, f"at most {most}, found 10000000")


@pytest.mark.slow
def test_the_largest_beam_of_all_still_fits(cases):
    words = ("--beam-size", "500", "--num-finished", "1000", "--neighbours", "2000")
    ended = magicap("caption", "pictures/plain.jpg", *words, cwd=cases)
    assert (ended.code, ended.err) == (0, ""), ended


def _magicap(cases, out, *words):
    return magicap(*(word.replace("OUT", str(out), 1) for word in words), cwd=cases)
