"""Broken numbers: never a confident answer from them."""

from __future__ import annotations

from command import assert_refused, magicap


def test_a_memory_has_one_vector_a_caption(cases, made_cases):
    folder = made_cases("numbers") / "memory_one_short"
    ended = magicap("caption", cases / "pictures/plain.jpg", "--preset", folder, "--json")
    assert_refused(ended, "memory_one_short", "one vector a caption")


def test_a_plain_picture_is_captioned(cases):
    ended = magicap("caption", "pictures/plain.jpg", cwd=cases)
    assert (ended.code, ended.err) == (0, ""), ended
    assert ended.out.strip().endswith(".")
