"""Memory is given back to the system now and then, where the C library can."""

from __future__ import annotations

import ctypes

import pytest
import tiny

from magicap.captioners import free_memory


@pytest.fixture
def trims(monkeypatch):
    trims: list[int] = []
    monkeypatch.setattr(free_memory, "malloc_trim", lambda: trims.append)
    free_memory.give_back_memory(free_memory.PICTURES)  # what was captioned before counts no more
    trims.clear()
    return trims


def test_once_enough_pictures_were_captioned(trims, monkeypatch):
    monkeypatch.setattr(free_memory, "PICTURES", 5)
    captioner, pictures = tiny.captioner(), tiny.pictures(4)
    captioner.caption(pictures, batch_size=2)
    assert not trims
    captioner.caption(pictures[0])
    assert trims == [0]
    captioner.caption(pictures)
    assert trims == [0]


def test_a_library_without_it_does_without(monkeypatch):
    monkeypatch.setattr(free_memory, "PICTURES", 1)
    monkeypatch.setattr(free_memory, "malloc_trim", free_memory.malloc_trim.__wrapped__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert free_memory.malloc_trim() is None
    assert tiny.captioner().caption(tiny.pictures(1)[0])
