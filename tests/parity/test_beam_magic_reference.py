"""Beam magic search equals its slow reference: tiny models under all settings, the embedded captioner."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from beam_magic_reference import (
    Hypothesis,
    image_vector,
    reference_hypotheses,
    soft_prompt,
    start_id,
    top_candidates,
)
from torch.nn.utils.rnn import pad_sequence

from magicap import BadSettings, BeamMagicSearch, Captioner, CaptionMemory, LanguageModel, MagicSearch
from magicap.data import ImageFiles, read_captions
from magicap.decoding import beam
from magicap.models import causal_steps
from magicap.models.token_cache import GrowingCache

ALL = 10**6
WORDS = (
    "a a a the the on in dog dogs man runs run climbs jumping children beach sea red shirt wall rock café"
).split()
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "free": {},
    "include": {"include": ("dog",)},
    "exclude": {"exclude": ("man", "a")},
    "min_words": {"min_words": 6},
    "max_words": {"max_words": 4},
}
NEEDS_MEMORY = ("include", "min_words")  # which are refused without one
PICTURES = tiny.pictures(40, seed=7)


class Listed(NamedTuple):
    """A caption that competed, as the captioner shows it."""

    text: str
    expected_utility: float
    rerank: float
    finished: bool


def listed(captioner: Captioner, picture: object, search: BeamMagicSearch) -> list[Listed]:
    """All captions that competed, the best first: the one place that knows how an explanation holds them."""
    hypotheses = captioner.explain(picture, search, candidates=ALL).hypotheses
    return [Listed(h.text, h.expected_utility, h.score - h.expected_utility, h.finished) for h in hypotheses]


def assert_same_hypotheses(listed: list[Listed], expected: list[Hypothesis]) -> None:
    """The same captions with the same scores, in the same order where scores are not the same."""
    reference = {hypothesis.text: hypothesis for hypothesis in expected}
    assert {one.text for one in listed} == reference.keys()
    assert len(listed) == len(expected)
    for one in listed:
        hypothesis = reference[one.text]
        assert one.expected_utility == pytest.approx(hypothesis.expected_utility, abs=1e-4)
        assert one.rerank == pytest.approx(hypothesis.rerank, abs=1e-4)
        if hypothesis.source == "beam":
            assert one.finished == hypothesis.finished
    scores = [reference[one.text].score for one in listed]
    # What is re-ranked comes first, what has too many tokens last: there scores may rise, and nowhere else.
    rises = [
        place for place, pair in enumerate(itertools.pairwise(expected)) if pair[0].score < pair[1].score
    ]
    assert len(rises) <= 2
    for place, (before, after) in enumerate(itertools.pairwise(scores)):
        assert place in rises or before >= after - 1e-4
    # Of hypotheses that agree with no caption of the memory, ties that no rounding makes, the higher S.
    tied = [one.text for one in expected if one.source == "beam" and one.score == 0]
    if any(hypothesis.source == "memory" for hypothesis in expected):
        assert [one.text for one in listed if one.text in tied] == tied


@pytest.fixture(scope="module")
def captioners() -> dict[bool, Captioner]:
    """Captioners with a memory, without a soft prompt and with one, of random weights but for the words.

    The language models have learned a little from the memory's captions, so that beams end and write what
    agrees with the memory.
    """
    rng = random.Random(0)
    captions = {" ".join(rng.choices(WORDS, k=rng.randint(2, 8))).capitalize() + "." for _ in range(320)}
    made = {False: tiny.captioner(0), True: tiny.with_soft_prompt(0)}
    for captioner in made.values():
        learn(captioner.language_model, sorted(captions), steps=30)
        captioner.memory = CaptionMemory.from_texts(captioner.scorer, sorted(captions))
        assert len(captioner.memory) > 250  # more than a soft prompt looks at
    for parameter in made[True].language_model.soft_prompt.parameters():
        parameter *= 3  # or random prompts would hardly change what is written
    return made


def learn(language_model: LanguageModel, captions: list[str], steps: int) -> None:
    ids = [[language_model.start_id, *language_model.tokenizer(text).input_ids] for text in captions]
    rows = [torch.tensor([*row, language_model.end_id]) for row in ids]
    inputs = pad_sequence(rows, batch_first=True, padding_value=language_model.end_id)
    labels = pad_sequence(rows, batch_first=True, padding_value=-100)
    optimizer = torch.optim.Adam(language_model.model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        language_model.model(inputs, labels=labels).loss.backward()
        optimizer.step()
    language_model.model.requires_grad_(False)


def small(**changes: Any) -> BeamMagicSearch:
    settings = {"top_k": 10, "beam_size": 3, "num_finished": 6, "neighbours": 12, "max_new_tokens": 12}
    return BeamMagicSearch(**{"ngram_weight": 0.7, **settings, **changes})


def with_memory(captioner: Captioner, memory: CaptionMemory | None) -> Captioner:
    return Captioner(captioner.language_model, captioner.scorer, memory=memory)


def cases() -> list[Any]:
    """Constraints, whether there is a memory, whether a soft prompt, rerank weight, image weight."""
    rows = itertools.product(CONSTRAINTS, (True, False), (False, True), (0.0, 3.0), (0.0, 0.7))
    possible = [row for row in rows if row[1] or row[0] not in NEEDS_MEMORY]
    return [(number, *row) for number, row in enumerate(possible)]


def test_what_no_beam_descends_from_is_dropped_and_changes_no_hypothesis(captioners, monkeypatch):
    columns: list[int] = []

    class Counting(GrowingCache):
        def select_columns(self, kept: torch.Tensor) -> None:
            columns.append(kept.shape[1])
            super().select_columns(kept)

    search = small(max_new_tokens=20, num_finished=30, image_weight=0.0)
    captioner = captioners[True]
    kept = captioner.caption(PICTURES, search, batch_size=3)
    monkeypatch.setattr(causal_steps, "GrowingCache", Counting)
    monkeypatch.setattr(beam, "GrowingCache", Counting)
    assert captioner.caption(PICTURES, search, batch_size=3) == kept
    assert columns
    assert max(columns) <= 30  # half of what all beams write
    columns.clear()
    monkeypatch.setattr(beam, "GrowingCache", int)  # as if no cache could drop any
    whole = captioner.caption(PICTURES, search, batch_size=3)
    assert not columns
    for one, other in zip(kept, whole, strict=True):
        assert [h.text for h in one.hypotheses] == [h.text for h in other.hypotheses]


@pytest.mark.parametrize(
    ("number", "constraint", "has_memory", "soft_prompt", "rerank_weight", "image_weight"), cases()
)
def test_tiny_models_under_all_settings(
    captioners, number, constraint, has_memory, soft_prompt, rerank_weight, image_weight
):
    captioner = captioners[soft_prompt]
    if not has_memory:
        captioner = with_memory(captioner, None)
    # In four tokens few captions end; of two that ended the worse soon bars the way of others.
    for place, (num_finished, max_new_tokens) in enumerate(((6, 12), (2, 12), (6, 4))):
        search = small(
            num_finished=num_finished,
            rerank_weight=rerank_weight,
            image_weight=image_weight,
            soft_prompt=soft_prompt,
            max_new_tokens=max_new_tokens,
            **CONSTRAINTS[constraint],
        )
        picture = PICTURES[(3 * number + place) % len(PICTURES)]
        expected = reference_hypotheses(captioner, picture, search, captioner.memory)
        if expected:
            assert_same_hypotheses(listed(captioner, picture, search), expected)
        else:
            with pytest.raises(BadSettings, match="no caption of at most 4 tokens"):
                listed(captioner, picture, search)


@pytest.mark.parametrize("has_memory", [True, False])
def test_a_prefix(captioners, has_memory):
    """Some pictures with a memory and some without, with prefixes by turns."""
    for number, picture in enumerate(PICTURES[:5]):
        captioner = captioners[bool(number % 2)] if has_memory else with_memory(captioners[False], None)
        search = small(
            prefix=("A", "Two children", "A dog runs", "a", "The red café")[number % 5],
            image_weight=(None, 0.7)[number % 2],
            rerank_weight=(0.0, 3.0)[number % 3 == 0],
            soft_prompt=has_memory and bool(number % 2),
            exclude=("man",) if number % 4 == 0 else (),
        )
        expected = reference_hypotheses(captioner, picture, search, captioner.memory)
        assert all(hypothesis.text.startswith(search.prefix) for hypothesis in expected)
        assert_same_hypotheses(listed(captioner, picture, search), expected)
    together = captioner.caption(PICTURES[:5], search, batch_size=5)
    assert together == [captioner.caption(picture, search) for picture in PICTURES[:5]]


def test_a_batch_of_captions(captioners):
    search = small(rerank_weight=2.0, soft_prompt=True)
    captioner = captioners[True]
    pictures = PICTURES[:8]
    expected = [reference_hypotheses(captioner, picture, search, captioner.memory)[0] for picture in pictures]
    captions = captioner.caption(pictures, search, batch_size=3)
    assert captions == [hypothesis.text for hypothesis in expected]
    assert len(set(captions)) > 1


@pytest.mark.parametrize("has_memory", [True, False])
def test_probabilities_conditioned_by_the_soft_prompt(captioners, has_memory):
    """They stand in the steps of magic search, which is conditioned in the same way."""
    captioner = captioners[True] if has_memory else with_memory(captioners[True], None)
    language_model = captioner.language_model
    search = MagicSearch(top_k=1, alpha=0.0, beta=0.0, max_new_tokens=3, soft_prompt=True)
    for picture in PICTURES[:3]:
        image = image_vector(captioner.scorer, picture)
        ids = [start_id(language_model)]
        with torch.no_grad():
            added = soft_prompt(language_model, image, captioner.memory)
            for step in captioner.caption(picture, search).steps:
                (p,) = top_candidates(language_model, [tuple(ids)], added, 1)
                assert p == {step.token_id: pytest.approx(step.model_confidence, abs=1e-5)}
                ids.append(step.token_id)


def test_a_memory_in_a_subspace(captioners):
    captioner = with_memory(captioners[True], captioners[True].memory.reduced(12))
    search = small(rerank_weight=1.0, image_weight=0.3, soft_prompt=True, exclude=("dog",))
    for picture in PICTURES[:3]:
        expected = reference_hypotheses(captioner, picture, search, captioner.memory)
        assert_same_hypotheses(listed(captioner, picture, search), expected)


def test_a_memory_smaller_than_the_neighbours_asked_for(captioners):
    whole = captioners[True].memory
    for count in (1, 2, 5):
        memory = CaptionMemory(whole.texts[:count], whole.vectors[:count])
        captioner = with_memory(captioners[True], memory)
        search = small(soft_prompt=True, temperature=0.5)
        expected = reference_hypotheses(captioner, PICTURES[count], search, memory)
        assert_same_hypotheses(listed(captioner, PICTURES[count], search), expected)


def test_constraints_that_leave_no_first_word(captioners):
    captioner = with_memory(captioners[False], None)
    search = small(top_k=1, beam_size=1, max_new_tokens=1)
    banned = captioner.caption(PICTURES[0], search).text
    nothing = replace(search, exclude=(banned,), max_new_tokens=4)
    expected = reference_hypotheses(captioner, PICTURES[0], nothing, None)
    assert [hypothesis.text for hypothesis in expected] == [""]
    assert_same_hypotheses(listed(captioner, PICTURES[0], nothing), expected)


# The embedded captioner

QUICK = {"neighbours": 100, "beam_size": 4, "num_finished": 10}
FEW_CANDIDATES = {**QUICK, "top_k": 10}  # where the scorer reads every candidate


class Variation(NamedTuple):
    """Changes of the embedded captioner's own settings, and the dev pictures they are tried on."""

    name: str
    pictures: int
    changes: dict[str, Any]
    has_memory: bool = True


VARIATIONS = (
    Variation("its own settings", 4, {}),
    Variation("quick", 6, QUICK),
    Variation("no soft prompt", 4, {**QUICK, "soft_prompt": False}),
    Variation("exclude and max_words", 5, {**QUICK, "exclude": ("man", "dog"), "max_words": 8}),
    Variation("include and min_words", 4, {**QUICK, "include": ("two",), "min_words": 9}),
    Variation("constraints, no soft prompt", 3, {**QUICK, "exclude": ("a",), "soft_prompt": False}),
    Variation("rerank", 3, {**QUICK, "rerank_weight": 20.0, "rerank_top": 8}),
    Variation("image weight and rerank", 3, {**FEW_CANDIDATES, "image_weight": 0.5, "rerank_weight": 5.0}),
    Variation("no memory", 3, {**FEW_CANDIDATES, "soft_prompt": False}, has_memory=False),
    Variation(
        "no memory, constraints",
        2,
        {**FEW_CANDIDATES, "exclude": ("a",), "max_words": 6, "soft_prompt": False},
        has_memory=False,
    ),
    Variation("no memory, soft prompt, no picture", 1, {**QUICK, "image_weight": 0.0}, has_memory=False),
    Variation("no memory, soft prompt", 2, FEW_CANDIDATES, has_memory=False),
)
FIRST_PICTURES = list(itertools.accumulate((row.pictures for row in VARIATIONS), initial=0))


@pytest.fixture(scope="module")
def embedded() -> Captioner:
    return Captioner.from_pretrained()


@pytest.fixture(scope="module")
def dev_pictures(data_dir: Path) -> list[bytes]:
    """Forty, from all over the split."""
    tar = ImageFiles([data_dir / "flickr8k" / "images-dev.tar"])
    rows = read_captions(data_dir / "flickr8k" / "captions.jsonl", ("dev",))
    return [tar.read(row.image) for row in rows[:: len(rows) // 40][:40]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variation", "first"),
    [pytest.param(row, first, id=row.name) for row, first in zip(VARIATIONS, FIRST_PICTURES, strict=False)],
)
def test_the_embedded_captioner_on_photographs(embedded, dev_pictures, variation, first):
    captioner = embedded if variation.has_memory else with_memory(embedded, None)
    search = replace(embedded.decoding, **variation.changes)
    pictures = dev_pictures[first : first + variation.pictures]
    assert len(pictures) == variation.pictures
    for picture, caption in zip(pictures, captioner.caption(pictures, search), strict=True):
        expected = reference_hypotheses(captioner, picture, search, captioner.memory)
        scores = {hypothesis.text: hypothesis.score for hypothesis in expected}
        assert caption in scores
        assert caption == expected[0].text or scores[caption] > expected[0].score - 1e-4
        assert caption.hypotheses[0].score == pytest.approx(scores[caption], abs=1e-3)
