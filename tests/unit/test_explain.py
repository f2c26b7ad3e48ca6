"""Explanations: the caption they explain is the usual one, and what they show is what was weighed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from reference import reference_steps

from magicap import (
    BadImage,
    BadSettings,
    BeamMagicSearch,
    BeamSearch,
    Captioner,
    CaptionMemory,
    Greedy,
    MissingPackage,
    Sampling,
)
from magicap.cli import main
from magicap.decoding.context import DecodingContext
from magicap.decoding.magic import can_still_win, magic_score, magic_time_steps
from magicap.decoding.prefix_cache import PrefixCache
from magicap.drawing import word
from magicap.results import Step
from magicap.supervised.grid import GridConfig, GridEncoder


@pytest.fixture(scope="module")
def magic():
    return tiny.captioner(0)


@pytest.fixture
def photo(tmp_path) -> str:
    path = tmp_path / "photo.png"
    Image.fromarray(tiny.pictures(1)[0][:30]).save(path)
    return str(path)


def same(one, other) -> bool:
    return (one.text, one.score, one.steps, one.hypotheses) == (
        other.text,
        other.score,
        other.steps,
        other.hypotheses,
    )


def terms(step: Step) -> tuple[float, float, float]:
    return step.model_confidence, step.degeneration_penalty, step.image_score


# ---- magic search ----


def test_explaining_changes_no_caption(magic):
    for picture in tiny.pictures(4):
        explained = magic.explain(picture).caption
        expected = magic.caption(picture)
        assert explained.text == expected.text
        assert explained.score == pytest.approx(expected.score, abs=1e-6)
        for step, usual in zip(explained.steps, expected.steps, strict=True):
            assert (step.text, step.token, step.token_id, step.last) == (
                usual.text,
                usual.token,
                usual.token_id,
                usual.last,
            )
            assert terms(step) == pytest.approx(terms(usual), abs=1e-5)


def test_the_first_candidate_is_the_one_chosen_and_the_others_fall_behind(magic):
    picture = tiny.pictures(1)[0]
    explanation = magic.explain(picture, candidates=4)
    expected = reference_steps(magic, picture, magic.decoding)
    assert tuple(steps[0] for steps in explanation.candidates) == explanation.caption.steps
    for steps, (token, *expected_terms) in zip(explanation.candidates, expected, strict=True):
        assert len({step.token_id for step in steps}) == len(steps) == 4
        assert steps[0].token_id == token
        assert terms(steps[0]) == pytest.approx(expected_terms, abs=1e-5)
        scores = [step.score for step in steps]
        assert scores == sorted(scores, reverse=True)


def test_the_best_candidates_are_the_best_of_all(magic):
    """Hidden states of hopeless candidates are never computed: none of them may be missing here."""
    vectors = magic.scorer.encode_images(tiny.pictures(3))
    few, whole = (
        magic_time_steps(
            DecodingContext(PrefixCache(magic.language_model, magic.scorer), vectors), magic.decoding, top_n
        )
        for top_n in (3, 99)
    )
    for some, everyone in zip(few, whole, strict=True):
        assert everyone.terms.score.isfinite().all()
        assert some.terms.score.isfinite().sum() <= everyone.terms.score.numel()
        best, among_all = (time_step.best(magic.language_model, 3) for time_step in (some, everyone))
        assert [[s.token_id for s in row] for row in best] == [[s.token_id for s in row] for row in among_all]


def test_those_that_can_still_win_hold_the_first_places():
    generator = torch.Generator().manual_seed(0)
    for top_n in (1, 2, 5, 30):
        known, cosine = (torch.rand(4, 20, generator=generator) for _ in range(2))
        wanted = can_still_win(known, torch.full_like(known, torch.nan), 0.1, top_n)
        exact = magic_score(known / 0.9, 2 * cosine - 1, torch.zeros_like(known), 0.1, 1.0).score
        best = exact.topk(min(top_n, 20), dim=1).indices
        assert wanted.gather(1, best).all()


def test_more_candidates_than_compete_are_all_that_compete(magic):
    explanation = magic.explain(tiny.pictures(1)[0], candidates=50)
    assert {len(steps) for steps in explanation.candidates} == {magic.decoding.top_k}


def test_other_searches_weigh_no_candidates(magic):
    picture = tiny.pictures(1)[0]
    with pytest.raises(BadSettings, match=r"only MagicSearch .* found Greedy"):
        magic.explain(picture, Greedy())
    with pytest.raises(BadSettings, match=r"expected a decoding such as MagicSearch, .* found BeamSearch"):
        magic.explain(picture, BeamSearch())
    with pytest.raises(BadSettings, match="candidates must be"):
        magic.explain(picture, candidates=0)
    with pytest.raises(BadImage):
        magic.explain(b"no picture")


def test_tokens_are_written_as_people_read_them():
    def step(text: str, token: str, last: bool = False) -> Step:
        return Step(text, token, 0, 0.0, 0.0, 0.0, last)

    steps = [step("A", "A"), step("A dog", " dog"), step("A dogs", "s"), step("A dog.", "."), step("A", "")]
    assert [word(token) for token in steps] == ["A", "dog", "-s", ".", "·"]
    assert word(step("A dog.", ".", last=True)) == "(end)"


# ---- supervised ----


@pytest.mark.parametrize("kind", ["soft", "hard", "transformer"])
@pytest.mark.parametrize("decoding", [None, Sampling(2, max_new_tokens=6)])
def test_attention_of_every_word_is_a_share_of_the_grid(kind, decoding):
    captioner = tiny.supervised(kind)
    picture = tiny.pictures(1)[0]
    explanation = captioner.explain(picture, decoding, seed=3)
    assert same(explanation.caption, captioner.caption(picture, decoding, seed=3))
    count = len(explanation.caption.steps)
    assert explanation.attention.shape == (count, 2, 2)
    assert explanation.attention.sum(axis=(1, 2)) == pytest.approx(np.ones(count), abs=1e-5)
    if kind == "transformer":
        assert explanation.gate is None
    else:
        assert explanation.gate.shape == (count,)
        assert ((explanation.gate > 0) & (explanation.gate < 1)).all()


def test_attention_is_what_the_decoder_looked_at_when_it_wrote():
    captioner = tiny.supervised()
    looked = []
    step = captioner.network.decoder.step
    captioner.network.decoder.step = lambda *args: looked.append(step(*args)) or looked[-1]
    explanation = captioner.explain(tiny.pictures(1)[0], BeamSearch(1, 1.0, 5))
    count = len(explanation.caption.steps)
    for number, prediction in enumerate(looked[:count]):
        attention = prediction.attention[0, 0].reshape(2, 2).numpy()
        assert explanation.attention[number] == pytest.approx(attention, abs=1e-6)


def test_a_decoder_without_attention_has_nothing_to_show():
    with pytest.raises(BadSettings, match=r"attention \(soft, hard, transformer\), found one of kind 'none'"):
        tiny.supervised("none").explain(tiny.pictures(1)[0])


def test_captions_longer_than_a_transformer_can_write_are_refused():
    captioner = tiny.supervised("transformer")
    assert len(captioner.explain(tiny.pictures(1)[0], BeamSearch(1, 1.0, 7)).caption.steps) <= 7
    with pytest.raises(BadSettings, match="max_new_tokens must be at most 7"):
        captioner.caption(tiny.pictures(1)[0], BeamSearch(1, 1.0, 8))


def test_a_grid_keeps_its_height_and_width():
    oblong = GridEncoder(GridConfig("mobilenetv2_035", size=64))
    pooled = torch.nn.AvgPool2d((2, 1))
    whole = oblong.network.forward_features
    oblong.network.forward_features = lambda pixels: pooled(whole(pixels))
    assert oblong(torch.zeros(1, 3, 64, 64)).shape == (1, 2, oblong.width)
    assert oblong.feature_map(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 2, oblong.width)
    vit = GridEncoder(GridConfig("vit_tiny_patch16_224", {"img_size": 64, "depth": 1}, size=64))
    assert (vit.extent, vit.locations) == ((4, 4), 16)
    assert [vit.extent_of(count) for count in (16, 9, 6)] == [(4, 4), (3, 3), (1, 6)]


# ---- drawings ----


@pytest.mark.parametrize("suffix", [".png", ".SVG", ".pdf"])
def test_drawings_are_saved_as_their_ending_says(magic, tmp_path, suffix):
    begins = {".png": b"\x89PNG", ".SVG": b"<?xml", ".pdf": b"%PDF"}[suffix]
    picture = tiny.pictures(1)[0][:30]
    for captioner in (magic, tiny.supervised()):
        path = tmp_path / f"out{suffix}"
        captioner.explain(picture).save(path)
        assert path.read_bytes().startswith(begins)
    assert [each.name for each in tmp_path.iterdir()] == [f"out{suffix}"]


def test_a_drawing_has_a_panel_a_word_and_the_picture(magic):
    for captioner in (magic, tiny.supervised()):
        explanation = captioner.explain(tiny.pictures(1)[0])
        figure = explanation.draw()
        assert len(figure.axes) == 1 + len(explanation.caption.steps)
        assert figure.get_suptitle() == explanation.caption.text


def test_an_ending_that_cannot_be_drawn_is_refused(magic, tmp_path):
    explanation = magic.explain(tiny.pictures(1)[0])
    with pytest.raises(BadSettings, match=r"\.png, \.svg, \.pdf"):
        explanation.save(tmp_path / "out.bmp")
    with pytest.raises(BadSettings, match="cannot be written"):
        explanation.save(tmp_path / "nowhere" / "out.png")


def test_missing_matplotlib_is_named_with_its_extra(magic, monkeypatch):
    explanation = magic.explain(tiny.pictures(1)[0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=r"magicap\[eval\]"):
        explanation.draw()


# ---- beam magic search ----


def test_the_chosen_hypothesis_is_shown_first(magic, tmp_path):
    memory = CaptionMemory.from_texts(magic.scorer, tiny.SENTENCES)
    captioner = Captioner(magic.language_model, magic.scorer, None, memory)
    search = BeamMagicSearch(max_new_tokens=20, beam_size=3, rerank_weight=0.5)
    for picture in tiny.pictures(3):
        explanation = captioner.explain(picture, search, candidates=4)
        assert same(explanation.caption, captioner.caption(picture, search))
        assert explanation.hypotheses == explanation.caption.hypotheses[:4]
        assert explanation.hypotheses[0].text.strip() == explanation.caption
        scores = [hypothesis.score for hypothesis in explanation.hypotheses]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)
    explanation.save(tmp_path / "why.svg")
    drawn = (tmp_path / "why.svg").read_text()
    assert all(hypothesis.text.split()[0] in drawn for hypothesis in explanation.hypotheses)
    assert "expected utility" in drawn
    assert "reranking by the picture" in drawn


# ---- command line ----


def test_the_command_draws_and_prints_the_caption_as_ever(preset, supervised, photo, tmp_path, capsys):
    for captioner in (preset, supervised):
        out = tmp_path / "why.png"
        assert main(["caption", photo, "--preset", captioner]) == 0
        usual = capsys.readouterr().out
        assert main(["caption", photo, "--preset", captioner, "--explain", str(out)]) == 0
        assert capsys.readouterr().out == usual
        with Image.open(out) as drawing:
            assert min(drawing.size) > 200
        out.unlink()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["photo.png", "--explain", "why.gif"], "ends in .png, .svg, .pdf"),
        (["photo.png", "--explain", "nowhere/why.png"], "cannot be written"),
        (["photo.png", "--explain", "photo.png"], "must not be written over"),
        (["photo.png", "photo.png", "--explain", "why.png"], "draws one picture, found 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_any_model_is_loaded(
    photo, tmp_path, monkeypatch, capsys, arguments, says
):
    monkeypatch.chdir(tmp_path)
    assert main(["caption", *arguments, "--preset", "nosuch"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert says in err


def test_a_picture_that_cannot_be_read_is_named_and_nothing_drawn(preset, tmp_path, capsys):
    broken, out = tmp_path / "broken.png", tmp_path / "why.png"
    broken.write_text("<html>404</html>")
    assert main(["caption", str(broken), "--preset", preset, "--explain", str(out)]) == 2
    assert "broken.png" in capsys.readouterr().err
    assert not out.exists()
