"""``magicap caption --out``: what users see of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import bulk
import pytest

from magicap.cli import main


@pytest.fixture
def pictures(tmp_path):
    return bulk.pictures_in(tmp_path / "pictures", 9)


@pytest.fixture
def caption(preset, capsys, monkeypatch, tmp_path):
    """Runs the command; gives its exit code, and what it wrote to stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(["caption", "--preset", preset, "--readers", "0", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def test_a_summary_and_the_first_errors(caption, tmp_path):
    code, out, err = caption(bulk.pictures_in(tmp_path / "p", 90), "--out", "o.jsonl")
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 10 + 2
    assert all(line.startswith("magicap: ") and ".png: " in line for line in lines[:10])
    assert lines[10] == "magicap: further errors are in the rows alone"
    assert lines[11].startswith("magicap: o.jsonl: 90 rows, 75 captions, 15 errors, 0 skipped; ")
    assert lines[11].endswith(" pictures a second")
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 90


def test_exit_codes_and_a_second_run(caption, pictures, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    os.rename(pictures / "picture 0.png", good / "0.png")
    assert caption(good, "--out", "o.csv")[0] == 0
    code, _, err = caption(good, "--out", "o.csv")
    assert (code, "o.csv is there, and whole; give --on-existing" in err) == (2, True)
    code, _, err = caption(good, "--out", "o.csv", "--on-existing", "skip")
    assert (code, err) == (0, "magicap: o.csv is there, and kept; sources were not compared\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--out", "o.xyz"],
            "o.xyz: expected a name that ends in .jsonl, ",
        ),
        (["--out", "o", "--format", "txt", "--json"], "--json: for captions that are printed"),
        (["--out", "o.jsonl", "--shard", "3/3"], "expected --shard I/N with I from 0 to N - 1, found 3/3"),
        (["--out", "o.jsonl", "--shard", "a/3"], "--shard: expected I/N, such as 0/4, found 'a/3'"),
        (
            ["--out", "o.jsonl", "--on-existing", "append"],
            "--on-existing append is for --format txt",
        ),
        (["--out", "o.jsonl", "--n", "0"], "n "),
        (["--format", "csv"], "--format csv needs --out"),
        (
            ["--limit", "3", "--tags"],
            "--tags, --limit, --readers: for captions that go into files",
        ),
        (
            ["--out", "o.jsonl", "--decoding", "magic", "--n", "2"],
            "--n needs a decoding that compares",
        ),
        (["--out", "no/such/folder/o.jsonl"], ""),
    ],
)
def test_a_call_that_is_wrong(caption, pictures, words, message):
    code, out, err = caption(pictures, *words)
    if message:
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1
        assert not os.path.exists("o")
        assert not os.path.exists("o.jsonl.run")
    else:
        assert len(os.listdir("no/such/folder")) == 2


def test_no_pictures(caption, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = caption("empty", "--out", "o.jsonl")
    assert (code, err) == (2, "magicap: no pictures found in empty\n")
    assert sorted(os.listdir()) == ["empty"]
    code, _, err = caption("missing.jpg", "--out", "o.jsonl")
    assert (code, "missing.jpg: missing: " in err) == (2, True)


def test_a_list_of_pictures(caption, pictures, tmp_path):
    names = [str(path) for path in sorted(pictures.glob("*.png"))]
    (tmp_path / "list").write_text("\n".join(names))
    assert caption("--from-file", "list", "--out", "o.jsonl")[0] == 2
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == names


def test_what_is_written_can_be_evaluated(caption, pictures, tmp_path, capsys):
    caption(pictures, "--out", "o.jsonl")
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if not row["error"]]
    with open("references.jsonl", "w") as file:
        for row in rows:
            file.write(json.dumps({"image": row["id"], "captions": ["a dog runs", row["caption"]]}) + "\n")
    assert main(["eval", "o.jsonl", "--references", "references.jsonl", "--metrics", "bleu"]) == 0
    assert "100.0" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupted_a_run_says_that_it_goes_on(pictures, preset, tmp_path, workers):
    for number in range(200):
        os.link(pictures / "picture 0.png", pictures / f"copy {number}.png")
    words = [
        "caption",
        pictures,
        "--preset",
        preset,
        "--out",
        "o.jsonl",
        "--readers",
        "1",
        "--workers",
        workers,
        "--batch-size",
        "2",
    ]
    command = [sys.executable, "-m", "magicap", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        journal = tmp_path / "o.jsonl.run" / "journal-00000.jsonl"
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        err = process.communicate()[1]
    assert process.returncode == 143, err
    assert "rows are kept: the same command goes on with the run" in err
    assert err.splitlines()[-1] == "magicap: interrupted"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "o.jsonl: 209 rows" in done.stderr
