"""The short form of ``make fuzz``, and that it finds what is there to find."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from fuzz.doors import Door, others, pictures
from fuzz.run import fuzz

from magicap.errors import BadData


def test_changed_pictures_are_read_or_refused(tmp_path):
    for _, outcome in fuzz(pictures(tmp_path), seed=0, count=80):
        assert not outcome.findings
        assert outcome.counts.total() > 3


def test_other_changed_files_are_read_or_refused(tmp_path):
    for _, outcome in fuzz(others(tmp_path), seed=0, count=48):
        assert not outcome.findings
        assert outcome.counts.total() == 6


def _refused(path: Path) -> None:
    raise BadData("no such thing")


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (lambda path: [][1], "IndexError"),
        (lambda path: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda path: np.ones(2 << 30), "MemoryError"),
        (lambda path: path.read_bytes(), ""),
        (_refused, ""),
    ],
)
def test_crashes_and_errors_are_found(tmp_path, read, found):
    [(_, outcome)] = fuzz([Door("door", {tmp_path / "a": b"whole"}, read)], seed=0, count=3)
    assert outcome.counts.total() == 3
    assert len(outcome.findings) == (3 if found else 0)
    assert all(found in finding for finding in outcome.findings)


def test_what_takes_too_long_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzz.run.SECONDS", 0.2)

    def busy(path: Path) -> None:
        while True:
            time.perf_counter()

    [(_, outcome)] = fuzz([Door("door", {tmp_path / "a": b"whole"}, busy)], seed=0, count=2)
    assert [finding.split(":")[1] for finding in outcome.findings] == ["0", "1"]
    assert "SIGPROF" in outcome.findings[0]
