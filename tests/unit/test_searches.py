"""The table of searches, decodings of one's own, and what a search is given."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
import torch

from magicap import BadSettings, BeamMagicSearch, Captioner, CaptionMemory, MagicSearch
from magicap.decoding.context import DecodingContext
from magicap.decoding.searches import SEARCHES
from magicap.decoding.settings import DECODINGS
from magicap.results import Hypothesis
from magicap.supervised.searches import SEARCHES as SUPERVISED_SEARCHES
from magicap.supervised.settings import SUPERVISED_DECODINGS

CAPTIONS = [f"A {who} {does}." for who in ("dog", "man", "child") for does in ("runs", "climbs", "plays")]


@pytest.fixture
def captioner() -> Captioner:
    made = tiny.with_soft_prompt(1)
    memory = CaptionMemory.from_texts(made.scorer, CAPTIONS)
    decoding = BeamMagicSearch(top_k=6, beam_size=3, neighbours=7, max_new_tokens=6, soft_prompt=True)
    return Captioner(made.language_model, made.scorer, decoding, memory)


class ShortestNeighbour:
    """The example of DecodingContext's docstring."""

    def search(self, context: DecodingContext) -> list[list[Hypothesis]]:
        _, positions = context.nearest(3)
        rows = [[context.memory.texts[i] for i in row] for row in positions.tolist()]
        return [[Hypothesis(min(texts, key=len), source="memory")] for texts in rows]


def test_a_decoding_of_ones_own_captions(captioner):
    pictures = tiny.pictures(3)
    captions = captioner.caption(pictures, ShortestNeighbour())
    vectors = captioner.scorer.encode_images(pictures)
    for caption, vector in zip(captions, vectors, strict=True):
        nearest = (captioner.memory.vectors @ vector).topk(3).indices.tolist()
        assert caption == min((CAPTIONS[i] for i in nearest), key=len)
        assert caption.score == pytest.approx(
            float(captioner.scorer.encode_texts([caption.text])[0] @ vector), abs=1e-5
        )
        assert caption.steps == ()
        assert caption.hypotheses[0].source == "memory"
        assert caption.finished
    with pytest.raises(BadSettings, match="ShortestNeighbour cannot be saved"):
        Captioner(captioner.language_model, captioner.scorer, ShortestNeighbour()).save_pretrained("x")


def test_what_is_no_decoding_is_refused(captioner):
    for wrong in (3, "magic", tiny.supervised().decoding):
        with pytest.raises(BadSettings, match=r"an object with search\(context\)"):
            captioner.caption(tiny.pictures(1)[0], wrong)


def test_every_decoding_that_has_a_name_has_a_search():
    assert set(SEARCHES) == set(DECODINGS.values())
    assert set(SUPERVISED_SEARCHES) == set(SUPERVISED_DECODINGS.values())
    for row in SEARCHES.values():
        assert [row.stream, row.search, row.compete].count(None) == 2


def test_hypotheses_are_kept_with_the_caption(captioner):
    (caption,) = captioner.caption([tiny.pictures(1)[0]])
    assert caption.steps == ()
    assert len(caption.hypotheses) == 5
    assert caption.hypotheses[0].text == caption.text
    scores = [hypothesis.score for hypothesis in caption.hypotheses]
    assert scores == sorted(scores, reverse=True)
    for hypothesis in caption.hypotheses:
        assert 0 <= hypothesis.expected_utility <= 10
        assert hypothesis.score == pytest.approx(hypothesis.expected_utility)
        assert hypothesis.source in ("beam", "memory")
        assert (hypothesis.log_probability is None) <= (hypothesis.source == "memory")
    two = captioner.caption(tiny.pictures(1)[0], replace(captioner.decoding, num_hypotheses=2))
    assert two.hypotheses == caption.hypotheses[:2]


def test_the_first_few_are_reranked_by_the_picture(captioner):
    """Those with the largest expected utility, whatever their cosines; the others stay behind them."""
    plain = replace(captioner.decoding, num_hypotheses=20)
    search = replace(plain, rerank_weight=3.0, rerank_top=4)
    picture = tiny.pictures(1)[0]
    before, after = (
        captioner.caption(picture, plain).hypotheses,
        captioner.caption(picture, search).hypotheses,
    )
    assert {h.text for h in after[:4]} == {h.text for h in before[:4]}
    assert after[4:] == before[4:]
    scores = [hypothesis.score for hypothesis in after[:4]]
    assert scores == sorted(scores, reverse=True)
    for hypothesis in after[:4]:
        assert hypothesis.score == pytest.approx(hypothesis.expected_utility + 3 * hypothesis.cosine)


def test_a_magic_search_has_steps_and_no_hypotheses(captioner):
    caption = captioner.caption(tiny.pictures(1)[0], MagicSearch(top_k=6, max_new_tokens=4))
    assert caption.hypotheses == ()
    assert caption.steps
    for step in caption.steps:
        assert step.confidence == step.model_confidence
        assert step.degeneration == step.degeneration_penalty
        assert step.image == step.image_score


def test_a_search_without_steps_says_so_in_one_sentence(captioner):
    with pytest.raises(BadSettings, match=r"BeamMagicSearch compares whole captions and has no steps"):
        captioner.stream(tiny.pictures(1)[0])


def test_the_memory_is_searched_once_for_evidence_and_soft_prompt(captioner, monkeypatch):
    searches = []
    nearest = CaptionMemory.nearest

    def counted(memory, queries, count=1):
        searches.append(len(queries))
        return nearest(memory, queries, count)

    monkeypatch.setattr(CaptionMemory, "nearest", counted)
    captioner.memory = CaptionMemory(  # more than a soft prompt is made of
        [f"{text} {number}" for text in CAPTIONS for number in range(40)],
        captioner.memory.vectors.repeat_interleave(40, dim=0),
    )
    captioner.caption(tiny.pictures(4), replace(captioner.decoding, neighbours=300))
    assert searches == [4]


def test_fewer_neighbours_are_the_first_of_more(captioner):
    context = DecodingContext(
        captioner.cache, captioner.scorer.encode_images(tiny.pictures(3)), memory=captioner.memory
    )
    cosines, positions = context.nearest(6)
    assert torch.equal(context.nearest(2)[1], positions[:, :2])
    fresh = DecodingContext(captioner.cache, context.image_vectors, memory=captioner.memory)
    assert torch.equal(fresh.nearest(2)[0], cosines[:, :2])
    with pytest.raises(BadSettings, match="no memory"):
        DecodingContext(captioner.cache, context.image_vectors).nearest(1)


def test_a_captioner_gives_its_parts_back(captioner):
    parts = captioner.parts
    again = Captioner(parts.language_model, parts.scorer, parts.decoding, parts.memory)
    assert again.fingerprint == captioner.fingerprint
    assert again.decoding == captioner.decoding
    assert captioner.trie is captioner.cache


def test_settings_load_no_torch():
    code = "import sys, magicap.decoding.settings, magicap.supervised.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
