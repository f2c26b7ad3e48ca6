"""A captioner finds the weights of its decodings without a captioned picture."""

from __future__ import annotations

import pytest
import tiny

from magicap import BadSettings, BeamMagicSearch, Captioner, CaptionMemory, Greedy, MagicSearch
from magicap.adaptation import tuning_magic
from magicap.metrics.cider import cider_d


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    captioner = tiny.captioner()
    memory = CaptionMemory.from_texts(captioner.scorer, [*tiny.SENTENCES, "A cat sits.", "A red wall."])
    return Captioner(captioner.language_model, captioner.scorer, None, memory)


def test_the_best_of_the_tried_weights_is_taken(captioner, monkeypatch):
    monkeypatch.setattr(tuning_magic, "BETAS", (0.5, 4.0))
    monkeypatch.setattr(tuning_magic, "ALPHAS", (0.1, 0.5))
    figures = []

    def measured(written, references):
        scores = cider_d(written, references)
        figures.append(scores["CIDEr-D"].value)
        return scores

    monkeypatch.setattr(tuning_magic, "cider_d", measured)
    chosen = captioner.calibrate(MagicSearch(top_k=5, alpha=0.2, max_new_tokens=6))
    of_betas, of_alphas = figures[:3], [max(figures[:3]), *figures[3:]]
    assert len(of_alphas) == 3
    assert chosen.beta == (2.0, 0.5, 4.0)[of_betas.index(max(of_betas))]
    assert chosen.alpha == (0.2, 0.1, 0.5)[of_alphas.index(max(of_alphas))]
    assert (chosen.top_k, chosen.max_new_tokens) == (5, 6)


def test_pictures_are_compared_with_the_captions_nearest_to_them(captioner, monkeypatch):
    monkeypatch.setattr(tuning_magic, "BETAS", (0.5,))
    monkeypatch.setattr(tuning_magic, "ALPHAS", (0.1,))
    asked = []

    def measured(written, references):
        asked.append(references)
        return cider_d(written, references)

    monkeypatch.setattr(tuning_magic, "cider_d", measured)
    pictures = tiny.pictures(20)
    captioner.calibrate(MagicSearch(top_k=5, max_new_tokens=6), pictures)
    queries = captioner.scorer.encode_images(pictures)
    nearest = {captioner.memory.texts[row[0]] for row in captioner.memory.nearest(queries)[1].tolist()}
    assert {references[0] for references in asked[0]} == nearest
    captioner.calibrate(MagicSearch(top_k=5, max_new_tokens=6), pictures[:3])  # too few to compare on
    assert {len(references) for references in asked[-1]} == {1}


def test_weights_that_nothing_is_better_than_are_kept(captioner):
    memory = CaptionMemory.from_texts(captioner.scorer, ["A dog.", "A dog runs."])
    alone = Captioner(captioner.language_model, captioner.scorer, None, memory)
    settings = MagicSearch(top_k=3, alpha=0.3, beta=3.0, max_new_tokens=1)
    assert alone.calibrate(settings, [tiny.pictures(1)[0]] * 20) == settings


def test_beam_magic_search_gets_neighbours_and_a_temperature(captioner):
    chosen = captioner.calibrate(images=tiny.pictures(2))
    assert isinstance(chosen, BeamMagicSearch)
    assert chosen.neighbours in (10, 20, 50, 100, 200, 400)


def test_what_has_no_weights_is_refused(captioner):
    with pytest.raises(BadSettings, match="found Greedy and a memory"):
        captioner.calibrate(Greedy())
    with pytest.raises(BadSettings, match="found BeamMagicSearch and no memory"):
        Captioner(captioner.language_model, captioner.scorer).calibrate(BeamMagicSearch())
