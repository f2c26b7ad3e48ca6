"""METEOR and SPICE: the Java originals, and what happens where they are missing, hang or break."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from magicap.errors import MetricUnavailable, MissingPackage
from magicap.metrics import evaluate, meteor, spice
from magicap.metrics.java import package_folder
from magicap.metrics.meteor import meteor_score

SAID = ["a dog runs across the grass", "a cat", "", "two men play football ||| here", "a red car"]
HEARD = [
    ["a brown dog is running on grass", "the dog ran"],
    ["a kitten sleeps on a sofa"],
    ["a car"],
    ["men playing soccer", "two men are playing football here"],
    ["a bus", "A red car."],
]


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """Put a Python script on the PATH in place of java."""

    def make(program: str) -> None:
        script = tmp_path / "bin" / "java"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{program}\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", str(script.parent))

    return make


@pytest.mark.java
@pytest.mark.slow
def test_meteor_closes_as_the_original_does():
    """The statistics' arithmetic, done here, against the answer of Java's own EVAL command."""
    score = meteor(SAID, HEARD)["METEOR"]
    lines = [" ".join(map(str, row)) for row in score.statistics]
    lines[4] = lines[4].replace(
        " 0.0 3.0 3.0", " 1.0 3.0 3.0"
    )  # the perfect caption's one chunk, as Java counts
    folder = package_folder("pycocoevalcap") / "meteor"
    command = ["java", "-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    evaluated = subprocess.run(
        command,
        input=f"EVAL ||| {' ||| '.join(lines)}\n",
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    *images, corpus = map(float, evaluated.stdout.split())
    np.testing.assert_allclose(score.per_image, images, atol=1e-12)
    assert score.value == pytest.approx(corpus, abs=1e-12)
    assert score.per_image[2] == 0
    assert score.per_image[4] == pytest.approx(1)  # a perfect caption
    assert score.resampled(np.ones((1, 5)))[0] == pytest.approx(corpus)


def test_meteor_of_no_matches_is_zero():
    assert meteor_score(np.zeros((2, 23))).tolist() == [0.0, 0.0]


def test_without_java_the_figure_is_absent_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    report = evaluate(SAID, HEARD, metrics=["meteor", "cider_d"])
    assert "METEOR" not in report.scores
    assert "CIDEr-D" in report.scores
    assert "no 'java' on the PATH" in report.absent["METEOR"]


def test_without_the_package_the_figure_is_absent_with_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    report = evaluate(SAID, HEARD, metrics=["spice", "bleu"])
    assert list(report.absent) == ["SPICE"]
    assert "pip install 'magicap[eval]'" in report.absent["SPICE"]
    with pytest.raises(MissingPackage, match="expected the package pycocoevalcap"):
        meteor(SAID, HEARD)


def test_a_hung_process_is_ended_and_named(fake_java, tmp_path):
    fake_java(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(
        MetricUnavailable, match=r"METEOR: java .*meteor-1.5.* no answer within 1 s and was ended"
    ):
        meteor(SAID, HEARD, seconds=1)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("sys.exit('no memory')", "ended with code 1 after printing 0 lines: no memory"),
        (
            "print('1'); sys.exit('java.lang.OutOfMemoryError\\n' + '\\tat a.b(C.java)\\n' * 99)",
            "ended with code 1 after printing 1 lines: java.lang.OutOfMemoryError$",
        ),
        ("pass", "printed nothing"),
        ("print('Error: ' + sys.stdin.readline())", "expected 5 lines of 23 numbers"),
        ("print('1.0 2.0')", "expected 5 lines of 23 numbers"),
    ],
)
def test_a_broken_process_is_named(fake_java, program, says):
    fake_java(program)
    with pytest.raises(MetricUnavailable, match=says):
        meteor(SAID, HEARD)


def test_spice_without_its_parser_says_how_to_get_it():
    folder = package_folder("pycocoevalcap") / "spice" / "lib"
    if (folder / "stanford-corenlp-3.6.0.jar").exists():
        pytest.skip("the parser is installed here")
    with pytest.raises(MetricUnavailable, match=r"stanford-corenlp-3\.6\.0\.jar .* fetches them"):
        spice(SAID, HEARD)


SPICE_ANSWERS = """
asked, answered = sys.argv[sys.argv.index('spice-1.0.jar') + 1], sys.argv[sys.argv.index('-out') + 1]
rows = json.load(open(asked))[::-1][%s]
scores = [{'image_id': row['image_id'], 'scores': {'All': {'f': len(row['test']) / 100}}} for row in rows]
json.dump(scores, open(answered, 'w'))
"""


@pytest.fixture
def parser_there(monkeypatch):
    # By way of sys.modules: the package's attribute of that name is the function.
    monkeypatch.setattr(sys.modules["magicap.metrics.spice"], "PARSER_FILES", ())


def test_spice_hands_over_captions_and_reads_the_answer(fake_java, parser_there):
    fake_java(SPICE_ANSWERS % ":")
    score = spice(SAID, HEARD)["SPICE"]
    assert score.per_image.tolist() == [len(text) / 100 for text in SAID]
    assert json.dumps(dict(score.signature))


def test_spice_that_leaves_images_out_is_no_figure(fake_java, parser_there):
    fake_java(SPICE_ANSWERS % "1:")
    with pytest.raises(MetricUnavailable, match="left out 1 of 5 images"):
        spice(SAID, HEARD)
