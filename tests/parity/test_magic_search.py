"""Magic search against its slow definition, and what must hold whatever the models."""

from __future__ import annotations

import itertools

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import reference_caption, reference_contrastive, reference_steps

from magicap import BadSettings, Captioner, ContrastiveSearch, Greedy, MagicSearch, Nucleus, TopK
from magicap.decoding.context import DecodingContext
from magicap.decoding.magic import can_still_win, magic_score
from magicap.decoding.searches import stream_steps
from magicap.results import added_text


def ids(caption) -> list[int]:
    return [step.token_id for step in caption.steps]


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_slow_reference(seed, custom_text):
    captioner = tiny.captioner(seed, custom_text=custom_text)
    for picture in tiny.pictures(3, seed):
        for alpha, beta in [(0.2, 1.0), (0.6, 0.3), (0.0, 4.0)]:
            settings = MagicSearch(top_k=8, alpha=alpha, beta=beta, max_new_tokens=8)
            expected = reference_caption(captioner, picture, settings)
            assert ids(captioner.caption(picture, settings)) == expected


def test_equals_the_slow_reference_with_unlike_tokenizers():
    """GPT-2's byte-level BPE proposes, CLIP's lower-casing word BPE judges."""
    if (folder := tiny.gpt2_bpe()) is None:
        pytest.skip("data: GPT-2's vocabulary is not beside MAGICAP_DATA")
    from transformers import GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    captioner = Captioner(tiny.language_model(tokenizer, seed=3), tiny.scorer(seed=3))
    settings = MagicSearch(top_k=12, alpha=0.1, beta=2.0, max_new_tokens=10)
    for picture in tiny.pictures(4):
        assert ids(captioner.caption(picture, settings)) == reference_caption(captioner, picture, settings)


def test_a_batch_gives_each_picture_what_it_gets_alone():
    captioner = tiny.captioner(4, beta=3.0)
    pictures = tiny.pictures(7)
    alone = [captioner.caption(picture) for picture in pictures]
    for batch_size in (1, 3, 7):
        together = captioner.caption(pictures, batch_size=batch_size)
        assert [ids(caption) for caption in together] == [ids(caption) for caption in alone]
    assert len({caption.text for caption in alone}) > 1


def test_without_the_picture_it_is_contrastive_search():
    captioner = tiny.captioner(1)
    expected = reference_contrastive(captioner, top_k=8, alpha=0.6, length=8)
    picture = tiny.pictures(1)[0]
    assert ids(captioner.caption(picture, MagicSearch(8, 0.6, 0.0, 8))) == expected
    assert ids(captioner.caption(picture, ContrastiveSearch(8, 0.6, 8))) == expected


def test_without_picture_and_penalty_it_is_greedy_search():
    captioner = tiny.captioner(2)
    model, start = captioner.language_model.model, captioner.language_model.start_id
    expected = model.generate(
        torch.tensor([[start]]),
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=captioner.language_model.pad_id,
    )
    picture = tiny.pictures(1)[0]
    assert ids(captioner.caption(picture, MagicSearch(8, 0.0, 0.0, 8))) == expected[0, 1:].tolist()
    assert ids(captioner.caption(picture, Greedy(8))) == expected[0, 1:].tolist()


def test_steps_tell_what_each_voice_gave():
    captioner = tiny.captioner(0)
    caption = captioner.caption(tiny.pictures(1)[0])
    expected = reference_steps(captioner, tiny.pictures(1)[0], captioner.decoding)
    assert ids(caption) == [token for token, *_ in expected]
    for step, (_, confidence, degeneration, image) in zip(caption.steps, expected, strict=True):
        shares = step.confidence, step.degeneration, step.image
        assert shares == pytest.approx((confidence, degeneration, image), abs=1e-5)
        assert step.score == pytest.approx(confidence + degeneration + image, abs=1e-5)
    assert caption.text == caption.steps[-1].text.strip()
    assert caption.finished == (caption.steps[-1].token_id == captioner.language_model.end_id)
    assert list(captioner.stream(tiny.pictures(1)[0])) == list(caption.steps)


def test_a_stream_computes_no_further_than_it_is_read():
    captioner = tiny.captioner(0, max_new_tokens=20)
    list(itertools.islice(captioner.stream(tiny.pictures(1)[0]), 2))
    assert captioner.cache.stats.prefixes_made == 2


def test_text_only_draws_depend_on_their_own_seed_alone():
    captioner = tiny.captioner(0)
    pictures = tiny.pictures(4)
    for decoding in (TopK(top_k=5, max_new_tokens=6), Nucleus(top_p=0.8, max_new_tokens=6)):
        together = captioner.caption(pictures, decoding, seed=7)
        alone = [captioner.caption(picture, decoding, seed=7 + i) for i, picture in enumerate(pictures)]
        assert [ids(caption) for caption in together] == [ids(caption) for caption in alone]
        assert captioner.caption(pictures, decoding, seed=7) == together
        assert len(set(together)) > 1


def test_letters_of_several_tokens_are_told_when_whole():
    assert [added_text(a, b) for a, b in [("a", "a b"), ("a b", "a b"), ("", "☃"), ("ab", "ac")]] == [
        " b",
        "",
        "☃",
        "c",
    ]
    captioner = tiny.captioner(0)
    for picture in tiny.pictures(4):
        caption = captioner.caption(picture, MagicSearch(8, 0.2, 3.0, 20))
        assert not any(step.text.endswith("\ufffd") for step in caption.steps)


def test_no_pictures_no_steps():
    captioner = tiny.captioner(0)
    nothing = captioner.scorer.encode_images([])
    for decoding in (MagicSearch(), TopK(), Nucleus(), Greedy()):
        assert list(stream_steps(DecodingContext(captioner.cache, nothing), decoding)) == []


def test_the_coldest_draw_is_greedy():
    captioner = tiny.captioner(0)
    picture = tiny.pictures(1)[0]
    assert captioner.caption(picture, TopK(temperature=1e-30, max_new_tokens=6)) == captioner.caption(
        picture, Greedy(6)
    )


def test_narrow_draws_are_greedy():
    captioner = tiny.captioner(0)
    picture = tiny.pictures(1)[0]
    greedy = ids(captioner.caption(picture, Greedy(6)))
    assert ids(captioner.caption(picture, TopK(top_k=1, max_new_tokens=6))) == greedy
    assert ids(captioner.caption(picture, Nucleus(top_p=1e-9, max_new_tokens=6))) == greedy


def test_more_candidates_than_words_means_all_words():
    captioner = tiny.captioner(0)
    size = len(captioner.language_model.tokenizer)
    picture = tiny.pictures(1)[0]
    everything = MagicSearch(top_k=10 * size, max_new_tokens=3)
    assert ids(captioner.caption(picture, everything)) == reference_caption(captioner, picture, everything)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (lambda: MagicSearch(top_k=0), "top_k"),
        (lambda: MagicSearch(alpha=1.5), "alpha"),
        (lambda: MagicSearch(alpha=float("nan")), "alpha"),
        (lambda: MagicSearch(beta=-1), "beta"),
        (lambda: MagicSearch(max_new_tokens=0), "max_new_tokens"),
        (lambda: MagicSearch(top_k="45"), "top_k"),
        (lambda: MagicSearch(top_k=2.5), "top_k"),
        (lambda: MagicSearch(beta=float("inf")), "beta"),
        (lambda: MagicSearch(beta=True), "beta"),
        (lambda: TopK(temperature=0), "temperature"),
        (lambda: TopK(temperature=float("inf")), "temperature"),
        (lambda: Nucleus(top_p=0), "top_p"),
    ],
)
def test_contradictory_settings_are_refused_by_name(settings, name):
    with pytest.raises(BadSettings, match=name):
        settings()


def test_captions_longer_than_the_language_model_are_refused_before_any_work():
    with pytest.raises(BadSettings, match="at most 23"):
        tiny.captioner(0).caption(tiny.pictures(1)[0], MagicSearch(max_new_tokens=24))


@given(st.data())
def test_a_dropped_candidate_could_not_have_won(data):
    """Whatever the scores, ties included, the winner among the can_still_win is the winner among all."""
    batch, count = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    grid = st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 1.0])
    alpha = data.draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))
    beta = data.draw(st.sampled_from([0.0, 0.5, 2.0]))

    def matrix(values):
        rows = st.lists(st.lists(values, min_size=count, max_size=count), min_size=batch, max_size=batch)
        return torch.tensor(data.draw(rows))

    probability = matrix(grid).sort(dim=1, descending=True).values
    fit, cosine = matrix(grid), matrix(st.sampled_from([-1.0, -0.5, 0.0, 0.9, 1.0]))
    unknown = matrix(st.booleans()).bool()
    wanted = can_still_win(
        (1 - alpha) * probability + beta * fit, cosine.masked_fill(unknown, torch.nan), alpha
    )
    scores = magic_score(probability, cosine, fit, alpha, beta).score
    assert scores.masked_fill(~wanted, -torch.inf).argmax(dim=1).tolist() == scores.argmax(dim=1).tolist()
