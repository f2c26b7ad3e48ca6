"""``magicap doctor``: a line a question with the fix where something is amiss; checksums of what ships."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from command import magicap

from magicap.captioners import checksums
from magicap.commands import doctor
from magicap.commands.doctor import NOTE, OK, QUESTIONS, WRONG


def test_every_question_has_its_line():
    ended = magicap("doctor")
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert [line.split(":")[0].split()[1] for line in lines] == list(QUESTIONS)
    assert ended.code == (2 if any(line.startswith(WRONG) for line in lines) else 0)


def test_json_says_the_same():
    ended = magicap("doctor", "--json")
    answer = json.loads(ended.out)
    assert [check["name"] for check in answer["checks"]] == list(QUESTIONS)
    assert answer["ok"] == all(check["status"] != WRONG for check in answer["checks"]) == (ended.code == 0)
    assert all(check["fix"] for check in answer["checks"] if check["status"] != OK)


def test_what_ships_is_whole_and_listed():
    listed = (checksums.PACKAGE / checksums.CHECKSUMS).read_text().splitlines()
    assert checksums.damaged_files() == {}, "after a change of weights run: make checksums"
    assert [line.split("  ")[1] for line in listed] == list(checksums.weight_files(checksums.PACKAGE))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package's folder with two files of weights and their checksums, which the doctor looks into."""
    for name in ("embedded/a.safetensors", "baseline/b.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    checksums.write_checksums(tmp_path)
    monkeypatch.setattr(doctor, "damaged_files", lambda: checksums.damaged_files(tmp_path))
    return tmp_path


def test_damaged_and_lost_weights_are_named(package):
    assert QUESTIONS["weights"]()[0] == OK
    (package / "embedded/a.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    (package / "baseline/b.safetensors").unlink()
    status, detail, fix = QUESTIONS["weights"]()
    assert status == WRONG
    assert detail == "baseline/b.safetensors is missing, embedded/a.safetensors is damaged"
    assert "pip install" in fix
    shutil.rmtree(package)
    assert doctor.finding_of("weights", QUESTIONS["weights"]).status == WRONG  # not even the list is there


def test_java_is_asked_for_its_version(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert QUESTIONS["java"]()[:2] == (NOTE, "none")
    for script, status in (("echo 'version \"17\"' >&2", OK), ("exit 1", NOTE)):
        (tmp_path / "java").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "java").chmod(0o755)
        assert QUESTIONS["java"]()[0] == status


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_hub_is_not_asked_where_that_is_not_wanted(monkeypatch, name):
    for other in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(other, "1" if other == name else "0")
    monkeypatch.setattr(doctor, "ask_hub", None)
    status, detail, _ = QUESTIONS["hub"]()
    assert (status, f"as {name} is set" in detail) == (OK, True)


def test_a_hub_that_cannot_be_reached_is_noted(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for endpoint in ("http://127.0.0.1:9", "no address"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        status, detail, fix = QUESTIONS["hub"]()
        assert (status, detail.startswith(f"{endpoint} cannot be reached")) == (NOTE, True)
        assert "HTTPS_PROXY" in fix
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.01)
    monkeypatch.setattr(doctor, "ask_hub", lambda *_: None)
    assert "no answer in" in QUESTIONS["hub"]()[1]


def test_a_torchvision_that_does_not_fit_is_wrong(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    status, detail, fix = QUESTIONS["torchvision"]()
    assert (status, "do not fit" in detail) == (WRONG, True)
    assert "torch torchvision" in fix


def test_versions_below_what_is_needed_are_wrong(monkeypatch):
    versions = {"torch": "2.0.1", "numpy": "2.9"}
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda name: ["torch>=2.15", "numpy>=2.4", "x>1; extra == 'eval'"]
    )
    monkeypatch.setattr(doctor.metadata, "version", versions.__getitem__)
    status, detail, fix = QUESTIONS["versions"]()
    assert (status, fix) == (WRONG, "pip install 'torch>=2.15'")
    assert "torch 2.0.1, numpy 2.9" in detail


def test_little_memory_or_disk_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "available_memory", lambda: 0.5)
    monkeypatch.setattr(doctor, "DISK_GIB", 1e9)
    assert QUESTIONS["memory"]()[0] == QUESTIONS["disk"]()[0] == WRONG
    monkeypatch.setattr(doctor, "available_memory", lambda: None)
    assert QUESTIONS["memory"]()[0] == OK
