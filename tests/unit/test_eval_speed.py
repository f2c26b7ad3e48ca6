"""eval/speed.py and what lies beside it: how speeds are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from repository import script

from magicap.errors import BadSettings

CHECKOUT = '''"""Stands for a checkout: all that a worker asks of the package."""

import json


class Captioner:
    fingerprint = {fingerprint!r}

    def __init__(self):
        self.{cache} = self
        self.cleared = 0

    @classmethod
    def from_pretrained(cls, device):
        return cls()

    def clear(self):
        self.cleared += 1

    def caption(self, pictures, batch_size=None):
        print("this is no answer")
        if isinstance(pictures, bytes):
            return "one of " + pictures.decode()
        return ["{word} of " + picture.decode() + {end!r} for picture in pictures]
'''


def checkout(folder: Path, **differing: str) -> Path:
    (folder / "magicap").mkdir(parents=True)
    text = CHECKOUT.format(
        **{"fingerprint": "abc", "cache": "cache", "word": "some", "end": ".", **differing}
    )
    (folder / "magicap" / "__init__.py").write_text(text)
    return folder


def test_two_checkouts_caption_the_same_pictures_in_turn(tmp_path, capsys):
    roots = {
        "ours": checkout(tmp_path / "a"),
        "theirs": checkout(tmp_path / "b", cache="trie", word="some few"),
    }
    checkouts = script("speed_checkouts")
    found = checkouts.compare_checkouts(roots, [b"one", b"two"], [1, 2], rounds=3, threads=1)
    assert {side for side, _ in found} == {"ours", "theirs"}
    assert found["ours", 1].captions == found["theirs", 1].captions == ["one of one", "one of two"]
    assert found["theirs", 2].captions == ["some few of one.", "some few of two."]
    assert all(len(each.seconds.wall) == len(each.seconds.cpu) == 3 for each in found.values())
    assert all(1e7 < each.peak_bytes < 1e10 for each in found.values())
    checkouts.print_checkouts(found)
    out = capsys.readouterr().out
    assert "2 of 2 (100.0%)" in out
    assert "0 of 2 (0.0%)" in out
    assert "theirs: peak resident memory" in out
    assert "different models" not in out


def test_what_is_no_checkout_is_refused(tmp_path):
    checkouts = script("speed_checkouts")
    with pytest.raises(BadSettings, match="expected a checkout"):
        checkouts.Checkout(tmp_path, tmp_path, 1)


def test_checkouts_of_other_weights_are_told_apart(tmp_path, capsys):
    roots = {"ours": checkout(tmp_path / "a"), "theirs": checkout(tmp_path / "b", fingerprint="def")}
    script("speed_checkouts").compare_checkouts(roots, [b"one"], [1], rounds=1, threads=1)
    assert "different models or memories" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("loads", "quiet", "slept"), [([0.1], True, 0), ([0.9, 0.5, 0.2], True, 2), ([0.9] * 9, False, 3)]
)
def test_a_machine_that_is_not_quiet_is_waited_for_and_named(loads, quiet, slept, monkeypatch, capsys):
    protocol = script("speed_protocol")
    clock = [0.0]
    load = iter([loads[0], *loads])
    monkeypatch.setattr(protocol.os, "getloadavg", lambda: (next(load), 1.0, 1.0))
    monkeypatch.setattr(protocol.time, "monotonic", lambda: clock[0])
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(protocol.time, "sleep", sleep)
    assert protocol.require_quiet(12.0) is quiet
    out = capsys.readouterr().out
    assert out.startswith(f"load average {loads[0]:.2f} 1.00 1.00")
    assert ("NOT QUIET" in out) is not quiet
    assert len(pauses) == slept


def test_systems_take_turns_and_who_was_first_is_last_next():
    order: list[str] = []
    protocol = script("speed_protocol")
    protocol.in_turns({name: lambda name=name: order.append(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"


def test_seconds_are_medians_of_rounds():
    seconds = script("speed_protocol").Seconds()
    for wall in (4.0, 8.0, 6.0):
        seconds.add(wall, 2 * wall, 2)
    assert (seconds.median, seconds.median_cpu) == (3.0, 6.0)
    assert seconds.spread == pytest.approx(2 / 3)
