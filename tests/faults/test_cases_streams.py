"""Streams and names: whole lines, nothing that a terminal obeys, and one line where there is no going on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys

import pandas
import pyarrow.json
import pytest
from command import assert_refused, control_characters, magicap

from magicap.data import ImageFiles
from magicap.data.rows import CaptionedImage
from magicap.evaluation.matching import match
from magicap.evaluation.predictions import read_predictions
from magicap.files import only_writer

PICTURES = ("pictures/plain.jpg", "pictures/plain.png")


@pytest.fixture(scope="module")
def streams(made_cases):
    return made_cases("streams")


def assert_readable(text):
    """That a text is lines, and no line holds what a terminal obeys."""
    lines = text.removesuffix("\n").split("\n")
    found = set().union(*(control_characters(line.replace("\t", "", 1)) for line in lines))
    assert not found, (found, text)
    text.encode()  # lone surrogates, as of bytes that are no text, would be refused
    return lines


def rows_of(text):
    """JSON lines, the last of them whole."""
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# ---- names ----


def test_a_name_of_any_bytes_is_one_line(streams, preset):
    ended = magicap("caption", streams / "odd", "--preset", preset)
    assert (ended.code, ended.err) == (0, "")
    lines = assert_readable(ended.out)
    assert len(lines) == 14
    assert all(line.count("\t") == 1 for line in lines)
    for name in (r"new\nline.jpg", r"esc\x1b[31mred", r"ls\u2028sep", r"rlo\u202egpj", r"bad\xff\xe9.jpg"):
        assert name in ended.out


def test_any_reader_takes_rows_of_names_that_are_no_text(streams, preset, tmp_path):
    path = tmp_path / "rows.jsonl"
    ended = magicap("caption", streams / "odd", "--preset", preset, "--json", stdout=path)
    assert (ended.code, ended.err) == (0, "")
    names = {row["image"] for row in rows_of(path.read_text())}
    assert len(names) == 14
    assert set(pandas.read_json(path, lines=True).image) == names
    assert set(pyarrow.json.read_json(path)["image"].to_pylist()) == names
    if shutil.which("jq"):
        done = subprocess.run(["jq", "-r", "-j", r'.image + "\u0000"', path], capture_output=True, check=True)
        assert set(done.stdout.decode().split("\0")[:-1]) == names


def test_captions_find_their_pictures_again(streams, preset, tmp_path):
    path = tmp_path / "rows.jsonl"
    magicap("caption", streams / "odd", "--preset", preset, "--json", stdout=path)
    predictions = read_predictions(path)
    with ImageFiles(streams / "odd") as pictures:
        references = [CaptionedImage(name, "", ("a red ball",)) for name in pictures]
        assert sorted(match(predictions, references).images) == sorted(pictures)
        assert pictures.read(r"bad\xff\xe9.jpg") == pictures.read("bad\udcff\udce9.jpg")
    rows = [
        row | {"image": os.fsdecode(b"odd/bad" + byte + b"\xe9.jpg")}
        for row, byte in zip(rows_of(path.read_text())[:2], (b"\xff", b"\xfe"), strict=True)
    ]  # as earlier releases wrote them
    path.write_text("\n".join(map(json.dumps, rows)))
    assert list(read_predictions(path).captions) == [r"odd/bad\xff\xe9.jpg", r"odd/bad\xfe\xe9.jpg"]


def test_complaints_of_such_names_are_a_line_each(streams, preset):
    ended = magicap("caption", streams / "odd_broken", "--preset", preset)
    assert (ended.code, ended.out) == (2, "")
    assert len(assert_readable(ended.err)) == 14


def test_a_table_of_such_names_is_a_line_each(streams, preset, tmp_path):
    folder = shutil.copytree(streams / "odd", tmp_path / "odd")
    ended = magicap("index", folder, "--preset", preset)
    assert (ended.code, ended.err) == (0, "")
    for form in ((), ("--json",)):
        ended = magicap("search", "a red ball", "--index", folder, "--top", "20", *form)
        assert (ended.code, ended.err) == (0, "")
        assert len(assert_readable(ended.out)) == 14 + (not form)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["pred_colour.jsonl"], 2),
        (["pred_model_colour.jsonl", "--split", "x"], 2),
        (["pred_model_colour.jsonl", "--metrics", "bleu"], 0),
        (["pred_model_colour.jsonl", "--metrics", "bleu", "--json"], 0),
        (["pred_model_colour.jsonl", "--metrics", "b\x1b[31m\n"], 2),
        (["no\x1b[2J\n.jsonl"], 2),
    ],
)
def test_figures_and_complaints_obey_no_text_of_a_file(cases, words, code):
    ended = magicap("eval", *words, "--references", "refs_colour.jsonl", cwd=cases / "streams")
    assert ended.code == code, ended
    assert_readable(ended.out)
    assert_readable(ended.err)
    assert sum(line.startswith("magicap: ") for line in ended.complaints) == (code == 2)


def test_sentences_are_shown_on_one_line(cases, preset, tmp_path):
    words = ["index", cases / "streams/sentences_colour.txt", "--preset", preset, "--out", tmp_path / "new"]
    assert magicap(*words).code == 0
    ended = magicap("search", "a dog", "--index", tmp_path / "new")
    assert (ended.code, ended.err) == (0, "")
    assert len(assert_readable(ended.out)) == 3


# ---- streams that cannot be written ----


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_full_disk_is_one_line(cases, preset, form):
    ended = magicap("caption", *PICTURES, *form, "--preset", preset, cwd=cases, stdout="/dev/full")
    assert_refused(ended, "stdout cannot be written: No space left on device")


COMMANDS = [
    ["caption", "pictures/plain.jpg"],
    ["eval", "forms/pred.jsonl", "--references", "forms/refs.jsonl", "--metrics", "bleu"],
    ["eval", "forms/pred.jsonl", "--references", "forms/refs.jsonl", "--metrics", "bleu", "--json"],
    ["--version"],
    ["caption", "--help"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("how", [{"closed": [1]}, {"stdout": "/dev/full"}], ids=["closed", "full"])
def test_no_command_loses_its_output_in_silence(cases, words, how):
    assert_refused(magicap(*words, cwd=cases, **how), "stdout cannot be written")


def test_an_index_that_cannot_be_named_is_one_line(cases, preset, tmp_path):
    words = ["index", PICTURES[0], "--preset", preset, "--out", tmp_path / "new"]
    assert_refused(magicap(*words, cwd=cases, stdout="/dev/full"), "stdout cannot be written")
    words = ["search", "a dog", "--index", tmp_path / "new"]
    assert_refused(magicap(*words, cwd=cases, stdout="/dev/full"), "stdout cannot be written")


@pytest.mark.parametrize("how", [{"closed": [2]}, {"stderr": "/dev/full"}], ids=["closed", "full"])
def test_without_stderr_the_exit_code_says_it(cases, preset, how):
    words = ["caption", "pictures/empty.jpg", "pictures/plain.jpg", "--preset", preset]
    ended = magicap(*words, cwd=cases, **how)
    assert ended.code == 2
    assert len(ended.out.splitlines()) == 1


@pytest.mark.parametrize("before", ["", "kept\n"])
def test_a_row_is_written_whole_or_not_at_all(cases, preset, tmp_path, before):
    path = tmp_path / "rows.jsonl"
    path.write_text(before)
    words = ["caption", *PICTURES * 4, "--json", "--preset", preset]
    ended = magicap(*words, cwd=cases, stdout=path, append=bool(before), file_size=1024)
    assert_refused(ended, "stdout cannot be written: File too large")
    text = path.read_text()
    assert text.startswith(before)
    assert 1 <= len(rows_of(text.removeprefix(before))) < 8


def test_a_file_that_does_not_fit_is_not_there(cases, preset, tmp_path):
    magicap("index", *PICTURES, "--preset", preset, "--out", tmp_path / "new", cwd=cases)
    words = ["search", "a dog", "--index", tmp_path / "new", "--html", tmp_path / "page.html"]
    ended = magicap(*words, cwd=cases, file_size=1000, stdout="/dev/null")
    assert_refused(ended, "page.html cannot be written: File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    words = [*COMMANDS[1], "--per-image", "/dev/full"]
    assert_refused(magicap(*words, cwd=cases), "/dev/full cannot be written: No space left on device")


NOISE = """
import logging, sys, warnings
import magicap.metrics
from magicap.cli import main
evaluate = magicap.metrics.evaluate
def noisy(*arguments, **options):
    warnings.warn("overflow", RuntimeWarning)
    logging.getLogger("open_clip").warning("no weights")
    logging.getLogger("magicap.models").warning("a tower\\x1b[2J differs")
    return evaluate(*arguments, **options)
magicap.metrics.evaluate = noisy
sys.exit(main(sys.argv[1:]))
"""


def test_libraries_say_nothing_and_we_say_a_line(cases):
    command = [sys.executable, "-c", NOISE, *COMMANDS[1]]
    done = subprocess.run(command, cwd=cases, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "magicap: a tower\\x1b[2J differs\n")


# ---- signals ----


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_whole_rows(streams, preset, tmp_path, number, code):
    path = tmp_path / "rows.jsonl"
    words = ["caption", streams / "many", "--json", "--preset", preset, "--batch-size", "4"]
    ended = magicap(*words, stdout=path, signals=[number], once="0004.jpg")
    assert (ended.code, ended.err) == (128 + number, "magicap: interrupted\n")
    assert 4 <= len(rows_of(path.read_text())) < 900


@pytest.mark.parametrize("signals", [[signal.SIGINT] * 2, [signal.SIGTERM, signal.SIGINT, signal.SIGINT]])
def test_a_second_signal_ends_at_once(streams, preset, signals):
    words = ["caption", streams / "many", "--json", "--preset", preset]
    ended = magicap(*words, signals=signals, once="0001.jpg")
    assert ended.code in {128 + number for number in signals}
    assert ended.err == "magicap: interrupted\n"
    rows_of(ended.out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_index_is_gone_on_with(streams, preset, tmp_path, number):
    words = ["index", streams / "many", "--preset", preset, "--out", tmp_path / "new"]
    ended = magicap(*words, signals=[number], once="0064.jpg")
    assert ended.code == 128 + number, ended
    assert ended.complaints[-1] == "magicap: interrupted"
    index = json.loads((tmp_path / "new/index.json").read_text())
    assert 32 <= index["count"] < 890
    ended = magicap(*words)
    assert (ended.code, len(ended.complaints)) == (2, 2)  # the two empty pictures
    assert f": 898 pictures ({898 - index['count']} new, {index['count']} unchanged, 0 dropped)" in ended.out
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [
        ".json",
        ".parquet",
        ".safetensors",
    ]


def test_an_index_is_saved_on_the_way(streams, preset, tmp_path):
    words = ["index", streams / "many", "--preset", preset, "--out", tmp_path / "new"]
    often = {"magicap.retrieval.index.CHECKPOINT_SECONDS": 0.0}
    ended = magicap(*words, signals=[signal.SIGKILL], once="0064.jpg", patches=often)
    assert ended.code == -signal.SIGKILL
    assert json.loads((tmp_path / "new/index.json").read_text())["count"] >= 32
    assert (
        magicap("search", "a ball", "--index", tmp_path / "new").code == 0
    )  # a killed run's lock is no lock


# ---- two runs on one output ----


@pytest.mark.parametrize("option", ["--out", "--html", "--per-image"])
def test_a_second_run_on_one_output_is_refused(cases, preset, tmp_path, option):
    output = tmp_path / "it"
    words = {
        "--out": ["index", PICTURES[0], "--preset", preset],
        "--html": ["search", "a dog", "--index", tmp_path / "index"],
        "--per-image": COMMANDS[1],
    }[option]
    magicap("index", PICTURES[0], "--preset", preset, "--out", tmp_path / "index", cwd=cases)
    if option == "--out":
        output.mkdir()
    with only_writer(output):
        ended = magicap(*words, option, output, cwd=cases)
        assert_refused(ended, f"another run writes {output}")
    assert magicap(*words, option, output, cwd=cases).code == 0
    assert not list(tmp_path.rglob("*.lock"))


def test_rows_of_two_runs_are_not_mixed(cases, preset, tmp_path):
    path = tmp_path / "rows.jsonl"
    words = ["caption", PICTURES[0], "--json", "--preset", preset]
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused(magicap(*words, cwd=cases, stdout=path), "another run writes the file that stdout is")
        assert magicap(*words, cwd=cases, stdout=path, append=True).code == 0
    assert len(rows_of(path.read_text())) == 1


# ---- pages that are passed on ----


def test_a_page_shows_no_picture_that_was_not_indexed(cases, preset, tmp_path):
    """An index of somebody else may name any file, but cannot know its size and age."""
    for folder in ("album", "private"):
        (tmp_path / folder).mkdir()
        shutil.copy(cases / PICTURES[0], tmp_path / folder / "a.jpg")
    magicap("index", "album", "private", "--preset", preset, "--out", "album/index", cwd=tmp_path)
    words = ["search", "a dog", "--index", "album/index", "--html", "page.html"]
    assert magicap(*words, cwd=tmp_path).code == 0
    assert (tmp_path / "page.html").read_text().count("<img") == 2
    os.utime(tmp_path / "private/a.jpg", (0, 0))
    os.utime(tmp_path / "album/a.jpg", (0, 0))  # as after a copy of the whole folder
    assert magicap(*words, cwd=tmp_path).code == 0
    assert (tmp_path / "page.html").read_text().count("<img") == 1
    (tmp_path / "album/a.jpg").unlink()
    (tmp_path / "album/a.jpg").symlink_to("../private/a.jpg")
    assert magicap(*words, cwd=tmp_path).code == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("outside the indexed folder, or changed since") == 2
    assert "<img" not in page
