"""Captions with their progress: the same captions, and after each token what competes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import tiny

from magicap import BadSettings, BeamMagicSearch, Captioner, CaptionMemory, Nucleus
from magicap.decoding.settings import DECODINGS
from magicap.errors import BrokenNumbers
from magicap.generators import Returning
from magicap.images.transform import PreparedImage, prepare
from magicap.results import Caption, Competitors, Step

Progress = list[list[tuple[int, Competitors]]]


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    made = tiny.with_soft_prompt(1)
    memory = CaptionMemory.from_texts(made.scorer, tiny.SENTENCES)
    decoding = BeamMagicSearch(top_k=6, beam_size=3, neighbours=3, max_new_tokens=6, soft_prompt=True)
    return Captioner(made.language_model, made.scorer, decoding, memory)


@pytest.fixture(scope="module")
def images(captioner: Captioner) -> list[PreparedImage]:
    return [prepare(picture, captioner.transform) for picture in tiny.pictures(3)]


def followed(progress: Any) -> tuple[Progress, list[Caption]]:
    """What a generator yields and returns."""
    returning: Returning[Any, list[Caption]] = Returning(progress)
    return list(returning), returning.value


@pytest.mark.parametrize("kind", sorted(DECODINGS))
def test_captions_are_those_without_progress(captioner: Captioner, images: Any, kind: str) -> None:
    decoding = replace(DECODINGS[kind](), max_new_tokens=6)
    progress, captions = followed(captioner.caption_batch_with_progress(images, decoding, seeds=[7, 8, 9]))
    expected = captioner.caption(list(images), decoding, seed=7)
    assert captions == expected
    assert [caption.score for caption in captions] == pytest.approx([one.score for one in expected])
    for row, caption in enumerate(captions):
        mine = [competitors for step in progress for number, competitors in step if number == row]
        if caption.steps:
            assert tuple(competitors[0] for competitors in mine) == caption.steps
        else:
            assert mine[-1][0].text


def test_candidates_are_those_of_an_explanation(captioner: Captioner, images: Any) -> None:
    decoding = replace(DECODINGS["magic"](), max_new_tokens=5)
    progress, _ = followed(captioner.caption_batch_with_progress(images[:1], decoding, candidates=4))
    shown = captioner.explain(tiny.pictures(1)[0], decoding, candidates=4)
    assert tuple(step[0][1] for step in progress) == shown.candidates


def test_a_beam_is_reported_best_first(captioner: Captioner, images: Any) -> None:
    decoding = replace(captioner.decoding, num_hypotheses=100, max_new_tokens=18, ngram_weight=0.9, top_k=400)
    progress, captions = followed(captioner.caption_batch_with_progress(images, decoding, candidates=4))
    ended: dict[int, set[str]] = {row: set() for row in range(len(images))}
    best = [0.0] * len(images)  # log-probability of what is still being written, which only falls
    for step in progress:
        for row, hypotheses in step:
            scores = [hypothesis.score for hypothesis in hypotheses]
            assert scores == sorted(scores, reverse=True)
            assert 0 < len(scores) <= 4
            ended[row] |= {hypothesis.text for hypothesis in hypotheses if hypothesis.finished}
            writing = [h.log_probability for h in hypotheses if not h.finished]
            assert all(log_probability < best[row] for log_probability in writing)
            best[row] = max(writing, default=best[row])
    for row, caption in enumerate(captions):
        assert ended[row] <= {hypothesis.text for hypothesis in caption.hypotheses}
    assert any(ended.values())


def test_without_candidates_only_the_steps_that_were_taken_are_reported(
    captioner: Captioner, images: Any
) -> None:
    for decoding in (captioner.decoding, DECODINGS["magic"](max_new_tokens=4)):
        progress, captions = followed(captioner.caption_batch_with_progress(images, decoding, candidates=0))
        assert captions == captioner.caption(list(images), decoding)
        reported = [len(competitors) for step in progress for _, competitors in step]
        assert set(reported) <= {1}
        assert len(reported) == sum(len(caption.steps) for caption in captions)


def test_a_supervised_captioner_reports_nothing(images: Any) -> None:
    captioner = tiny.supervised()
    prepared = [prepare(picture, captioner.transform) for picture in tiny.pictures(2)]
    progress, captions = followed(captioner.caption_batch_with_progress(prepared))
    assert progress == []
    assert captions == captioner.caption(list(prepared))


def test_broken_numbers_are_tried_again(captioner: Captioner, images: Any, monkeypatch: Any) -> None:
    def broken(*_: Any) -> Iterator[Any]:
        yield [(0, (Step("a", "a", 1, 0.1, 0.0, 0.0, False),))]
        raise BrokenNumbers("NaN")

    expected = captioner.caption(list(images))
    monkeypatch.setattr(captioner, "_progress", broken)
    progress, captions = followed(captioner.caption_batch_with_progress(images))
    assert len(progress) == 1
    assert captions == expected


def test_seeds_and_candidates_are_checked(captioner: Captioner, images: Any) -> None:
    assert followed(captioner.caption_batch_with_progress([]))[1] == []
    with pytest.raises(BadSettings, match="a seed a picture, found 2 for 3"):
        next(captioner.caption_batch_with_progress(images, Nucleus(), seeds=[1, 2]))
    with pytest.raises(BadSettings, match="candidates"):
        next(captioner.caption_batch_with_progress(images, candidates=-1))
