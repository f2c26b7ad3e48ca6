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
    of_betas, of_alphas = figures[:2], [max(figures[:2]), *figures[2:]]
    assert len(of_alphas) == 3
    assert chosen.beta == (0.5, 4.0)[of_betas.index(max(of_betas))]
    assert chosen.alpha in [
        (0.2, 0.1, 0.5)[n] for n, figure in enumerate(of_alphas) if figure == max(of_alphas)
    ]
    assert (chosen.top_k, chosen.max_new_tokens) == (5, 6)


def test_beam_magic_search_gets_neighbours_and_a_temperature(captioner):
    chosen = captioner.calibrate(images=tiny.pictures(2))
    assert isinstance(chosen, BeamMagicSearch)
    assert chosen.neighbours in (10, 20, 50, 100, 200, 400)


def test_what_has_no_weights_is_refused(captioner):
    with pytest.raises(BadSettings, match="found Greedy and a memory"):
        captioner.calibrate(Greedy())
    with pytest.raises(BadSettings, match="found BeamMagicSearch and no memory"):
        Captioner(captioner.language_model, captioner.scorer).calibrate(BeamMagicSearch())
