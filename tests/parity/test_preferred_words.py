"""Beam magic search with preferred words equals its slow reference."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
import tiny
from preferred_words_reference import steered_hypotheses

from magicap import BeamMagicSearch, Captioner, CaptionMemory

ALL = 10**6
WORDS = (
    "a a a the the on in dog dogs man runs run climbs jumping children beach sea red shirt wall rock café"
).split()
SEARCH = BeamMagicSearch(top_k=8, beam_size=3, num_finished=6, neighbours=12, max_new_tokens=12)
PICTURES = tiny.pictures(40, seed=3)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    rng = random.Random(1)
    texts = {" ".join(rng.choices(WORDS, k=rng.randint(2, 9))).capitalize() + "." for _ in range(220)}
    made = tiny.captioner(0)
    memory = CaptionMemory.from_texts(made.scorer, [*sorted(texts), "A yak."])
    return Captioner(made.language_model, made.scorer, memory=memory)


def assert_equal(captioner: Captioner, picture: Any, search: BeamMagicSearch) -> None:
    expected = steered_hypotheses(captioner, picture, search, captioner.memory)
    hypotheses = captioner.explain(picture, search, candidates=ALL).hypotheses
    assert {one.text for one in hypotheses} == {one.text for one in expected}
    reference = {one.text: one for one in expected}
    for one in hypotheses:
        assert one.expected_utility == pytest.approx(reference[one.text].expected_utility, abs=1e-4)
        assert one.score == pytest.approx(reference[one.text].score, abs=1e-4)
        assert one.source == reference[one.text].source
    for one, other in zip(hypotheses, expected, strict=True):
        assert one.text == other.text or one.score == pytest.approx(other.score, abs=1e-4)


def cases() -> list[Any]:
    """Words, their weight, whether and how many are re-ranked, constraints: one in seven of all, mixed."""
    rows = itertools.product(
        (("dog",), ("sea", "Café", "unheard", "a"), ("yak",)),  # the last stands in one caption
        (0.3, 2.0),
        ((0.0, None), (3.0, None), (3.0, 4)),
        ({}, {"include": ("man",)}, {"exclude": ("dogs",), "max_words": 6}),
    )
    return [(number, *row) for number, row in enumerate([*rows][::7])]


@pytest.mark.parametrize(("number", "prefer", "weight", "rerank", "constraint"), cases())
def test_hypotheses_are_those_of_the_reference(captioner, number, prefer, weight, rerank, constraint):
    rerank_weight, rerank_top = rerank
    search = replace(
        SEARCH,
        prefer=prefer,
        prefer_weight=weight,
        rerank_weight=rerank_weight,
        rerank_top=rerank_top,
        max_new_tokens=12 if number % 2 else 7,  # for some of the memory's captions not enough
        **constraint,
    )
    assert_equal(captioner, PICTURES[number % len(PICTURES)], search)


@pytest.mark.parametrize("prefix", ["A", "Dog", "Man run", "The"])
def test_with_a_prefix_they_bring_captions_that_begin_with_it(captioner, prefix):
    """Not with "Man runs" or "Dogs"; nine tokens behind the prefix are not enough for all that do."""
    search = replace(SEARCH, prefix=prefix, prefer=("sea", "dog", "a"), prefer_weight=2.0, max_new_tokens=9)
    brought = 0
    for picture in PICTURES[:3]:
        assert_equal(captioner, picture, search)
        hypotheses = captioner.explain(picture, search, candidates=ALL).hypotheses
        remembered = [one.text.split() for one in hypotheses if one.source == "memory"]
        words = prefix.split()
        assert all([word.rstrip(".") for word in text[: len(words)]] == words for text in remembered)
        brought += len(remembered)
    assert brought or prefix == "Man run"


def test_without_a_memory_what_the_beams_wrote_competes(captioner):
    bare = Captioner(captioner.language_model, captioner.scorer)
    plain = replace(SEARCH, rerank_weight=1.0, max_new_tokens=6)
    last = bare.explain(PICTURES[0], plain, candidates=ALL).hypotheses[-1].text
    word = "".join(filter(str.isalpha, last.split()[0])).lower() or "a"
    assert_equal(bare, PICTURES[0], replace(plain, prefer=(word,), prefer_weight=5.0))
