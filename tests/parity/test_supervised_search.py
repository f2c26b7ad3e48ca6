"""The supervised search against its slow definition, and decoders step by step against whole captions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from beam_reference import reference_beam, reference_best, reference_greedy, reference_words
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from magicap import BadSettings, BeamSearch, Sampling
from magicap.supervised.decoder import Decoder, DecoderConfig
from magicap.supervised.network import DECODERS
from magicap.supervised.search import BeamOutput
from magicap.supervised.searches import search_captions
from magicap.supervised.vocabulary import END, NEVER_WRITTEN, PAD, START

FEATURES, LOCATIONS, WORDS = 6, 5, 13
KINDS = sorted(DECODERS)
seeds = st.integers(0, 2**32)


def random_decoder(kind: str, seed: int, ending: float = 0.0, words: int = WORDS) -> Decoder:
    """Weights so large that pictures and words matter, in double precision; END has a bonus."""
    torch.manual_seed(seed)
    config = DecoderConfig(kind, 12, 7, 5, layers=2, heads=3, max_words=8)
    decoder = DECODERS[kind](config, FEATURES, words).double().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn_like(parameter) * 1.5 / parameter.shape[-1] ** 0.5)
        decoder.output.bias[END] += ending
    return decoder


def random_grid(pictures: int, seed: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(pictures, LOCATIONS, FEATURES, generator=chance, dtype=torch.float64)


def captions(output: BeamOutput, picture: int) -> list[tuple[int, ...]]:
    """A picture's captions without padding."""
    return [tuple(id_ for id_ in ids if id_ != PAD) for ids in output.ids[picture].tolist()]


def best(output: BeamOutput, length_penalty: float) -> list[tuple[int, ...]]:
    rows = output.best(length_penalty).tolist()
    return [captions(output, picture)[row] for picture, row in enumerate(rows)]


# ---- beam search ----


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=seeds,
    pictures=st.integers(1, 3),
    beam_size=st.integers(1, 5),
    length=st.integers(1, 7),
    length_penalty=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    ending=st.sampled_from([0.0, 1.0, 2.0, 4.0]),
)
@settings(max_examples=5)
def test_equals_the_slow_reference(kind, seed, pictures, beam_size, length, length_penalty, ending):
    decoder, grid = random_decoder(kind, seed, ending), random_grid(pictures, seed)
    output = search_captions(decoder, grid, range(pictures), BeamSearch(beam_size, length_penalty, length))
    assert output.ids.shape == output.log_probability.shape == (pictures, beam_size, length)
    chosen = best(output, length_penalty)
    for picture in range(pictures):
        expected, closest = reference_beam(decoder, grid[picture], beam_size, length)
        assume(closest > 1e-5)
        assert captions(output, picture) == [one.ids for one in expected]
        for row, one in enumerate(expected):
            padded = [*one.log_probability, *[0.0] * (length - len(one.ids))]
            assert output.log_probability[picture, row].tolist() == pytest.approx(padded, abs=1e-4)
            assert output.ended[picture, row] == one.ended
            score = output.scores(length_penalty)[picture, row].item()
            assert score == pytest.approx(one.score(length_penalty), abs=1e-4)
        ranked = sorted((one.score(length_penalty) for one in expected), reverse=True)
        if all(a - b > 1e-5 for a, b in pairwise(ranked)):
            assert chosen[picture] == reference_best(expected, length_penalty).ids


def test_captions_of_the_comparison_end_at_various_steps():
    """Else the comparison with the reference would say little."""
    lengths = {
        len(caption)
        for seed in range(8)
        for caption in captions(
            search_captions(
                random_decoder("soft", seed, 2.0), random_grid(1, seed), [0], BeamSearch(4, 1.0, 7)
            ),
            0,
        )
    }
    assert len(lengths) >= 5


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, ending=st.sampled_from([0.0, 1.0, 2.0]))
@settings(max_examples=3)
def test_a_beam_of_one_and_the_coldest_sample_are_greedy(kind, seed, ending):
    decoder, grid = random_decoder(kind, seed, ending), random_grid(3, seed)
    expected = [tuple(reference_greedy(decoder, each, 7)) for each in grid]
    for decoding in (BeamSearch(1, max_new_tokens=7), Sampling(temperature=1e-8, max_new_tokens=7)):
        assert best(search_captions(decoder, grid, [5, 6, 7], decoding), 1.0) == expected


def test_a_beam_as_wide_as_all_captions_finds_the_likeliest():
    decoder, grid = random_decoder("soft", 1, 1.0, words=7), random_grid(2, 1)  # three words and END
    output = search_captions(decoder, grid, [0, 0], BeamSearch(64, 0.0, 3))
    for picture, each in enumerate(grid):
        finite = output.log_probability[picture].sum(dim=1) > -torch.inf
        found = [
            caption
            for caption, is_one in zip(captions(output, picture), finite.tolist(), strict=True)
            if is_one
        ]
        expected, _ = reference_beam(decoder, each, 64, 3)
        assert found == [one.ids for one in expected]
        assert len(found) == 1 + 3 + 9 + 27


def test_captions_that_ended_go_before_those_that_were_cut():
    ids = torch.tensor([[[5, 6, 7], [5, END, PAD], [END, PAD, PAD]], [[5, 6, 7], [6, 6, 6], [7, 7, 7]]])
    log_probability = torch.tensor(
        [[[-0.1] * 3, [-1.0, -1.0, 0.0], [-1.5, 0.0, 0.0]], [[-2.0] * 3, [-1.0] * 3, [-3.0] * 3]]
    )
    output = BeamOutput(ids, log_probability)
    assert output.ended.tolist() == [[False, True, True], [False, False, False]]
    assert output.best(0.0).tolist() == [2, 1]
    assert output.best(1.0).tolist() == [1, 1]
    assert output.scores(2.0)[0].tolist() == pytest.approx([-0.3 / 9, -2 / 4, -1.5])


# ---- sampling ----


@pytest.mark.parametrize("kind", KINDS)
def test_samples_depend_on_their_own_seed_alone(kind):
    decoder, grid = random_decoder(kind, 3, -1.0), random_grid(5, 3)
    decoding, own = Sampling(captions=3, max_new_tokens=7), [11, 12, 13, 14, 15]
    together = search_captions(decoder, grid, own, decoding)
    order = [3, 0, 4, 2, 1]
    mixed = search_captions(decoder, grid[order], [own[number] for number in order], decoding)
    assert torch.equal(mixed.ids, together.ids[order])
    for number in range(5):
        alone = search_captions(decoder, grid[number][None], [own[number]], decoding)
        assert torch.equal(alone.ids[0], together.ids[number])
        assert torch.allclose(alone.log_probability[0], together.log_probability[number], atol=1e-5)
    assert len({str(captions(together, number)) for number in range(5)}) == 5
    other = search_captions(decoder, grid, [seed + 1 for seed in own], decoding)
    assert not torch.equal(other.ids, together.ids)


def test_words_are_sampled_as_often_as_they_are_likely():
    decoder, grid = random_decoder("none", 5), random_grid(1, 5)
    likely = torch.full((WORDS,), -torch.inf)
    for word, log_p in reference_words(decoder, grid[0], []).items():
        likely[word] = log_p
    for temperature in (0.5, 1.0, 2.0):
        sampled = search_captions(decoder, grid, [1], Sampling(20000, temperature, max_new_tokens=1))
        share = torch.bincount(sampled.ids.flatten(), minlength=WORDS) / 20000
        assert (share - (likely / temperature).softmax(dim=0)).abs().max() < 0.015
        # The decoder's own, whatever the temperature.
        assert torch.allclose(sampled.log_probability, likely[sampled.ids], atol=1e-5)
        assert not share[list(NEVER_WRITTEN)].any()


@given(seed=seeds, kind=st.sampled_from(KINDS))
@settings(max_examples=4)
def test_what_is_sampled_is_a_caption_with_its_probabilities(seed, kind):
    decoder, grid = random_decoder(kind, seed, 1.0), random_grid(2, seed)
    output = search_captions(decoder, grid, [seed, seed + 1], Sampling(3, 1.5, max_new_tokens=6))
    for picture in range(2):
        for row, caption in enumerate(captions(output, picture)):
            assert END not in caption[:-1]
            assert not set(caption) & set(NEVER_WRITTEN)
            assert len(caption) == 6 or caption[-1] == END
            expected = [
                reference_words(decoder, grid[picture], caption[:position])[word]
                for position, word in enumerate(caption)
            ]
            found = output.log_probability[picture, row].tolist()
            assert found == pytest.approx(expected + [0.0] * (6 - len(caption)), abs=1e-4)


# ---- settings ----


@pytest.mark.parametrize(
    ("decoding", "values", "name"),
    [
        (kind, {name: value}, name)
        for kind, names in (
            (BeamSearch, ("beam_size", "max_new_tokens")),
            (Sampling, ("captions", "max_new_tokens")),
        )
        for name in names
        for value in (0, -1, 2.5, "3", True, None)
    ]
    + [
        (kind, {"length_penalty": value}, "length_penalty")
        for kind in (BeamSearch, Sampling)
        for value in (-0.1, 10.5, float("nan"), "1")
    ]
    + [(Sampling, {"temperature": value}, "temperature") for value in (0, -1.0, float("inf"), None)],
)
def test_values_that_cannot_be_are_refused_by_name(decoding, values, name):
    with pytest.raises(BadSettings, match=name):
        decoding(**values)


@pytest.mark.parametrize(
    "values",
    [{"width": 0}, {"max_words": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"heads": 0}, {"layers": 0}],
)
def test_decoders_that_cannot_be_are_refused(values):
    with pytest.raises(BadSettings, match=rf"^{next(iter(values))} must be"):
        DecoderConfig(**values)


def test_heads_divide_the_width_of_a_transformer():
    with pytest.raises(BadSettings, match="width 10 is no multiple of 3 heads"):
        DECODERS["transformer"](DecoderConfig("transformer", 10, heads=3), FEATURES, WORDS)


# ---- decoders ----


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, count=st.integers(1, 3), length=st.integers(1, 8))
@settings(max_examples=4)
def test_whole_captions_read_as_step_by_step(kind, seed, count, length):
    decoder, grid = random_decoder(kind, seed), random_grid(2, seed)
    ids = torch.randint(START, WORDS, (2, count, length), generator=torch.Generator().manual_seed(seed))
    whole = decoder(grid, ids)
    encoder_output = decoder.encode(grid)
    state = decoder.start(encoder_output, count)
    for position in range(length):
        prediction = decoder.step(encoder_output, state, ids[:, :, position])
        for name in ("logits", "attention", "context_weights", "gate"):
            expected, found = getattr(whole, name), getattr(prediction, name)
            assert (expected is None) == (found is None)
            assert expected is None or torch.allclose(expected[:, :, position], found)
        state = prediction.state
    for picture in range(2):  # captions and pictures do not see each other
        for caption in range(count):
            alone = decoder(grid[picture][None], ids[picture, caption][None, None]).logits[0, 0]
            assert torch.allclose(alone, whole.logits[picture, caption])


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_sees_what_comes_after_it(kind):
    decoder, grid = random_decoder(kind, 2), random_grid(1, 2)
    one = torch.tensor([[[START, 5, 6, 7, 8]]])
    other = torch.tensor([[[START, 5, 6, 9, 4]]])
    one, other = (decoder(grid, ids).logits for ids in (one, other))
    assert torch.allclose(one[:, :, :3], other[:, :, :3])
    assert not torch.allclose(one[:, :, 3], other[:, :, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_a_distribution_and_the_gate_a_share(kind):
    decoder, grid = random_decoder(kind, 4), random_grid(3, 4)
    ids = torch.randint(START, WORDS, (3, 2, 6))
    for mode in (False, True):
        reading = decoder.train(mode)(grid, ids)
        assert (reading.attention is None) == (kind == "none")
        if reading.attention is not None:
            assert reading.attention.shape == (3, 2, 6, LOCATIONS)
            assert torch.allclose(reading.attention.sum(dim=-1), torch.ones(()).double())
            assert (reading.attention >= 0).all()
        assert (reading.gate is None) == (kind in ("none", "transformer"))
        if reading.gate is not None:
            assert reading.gate.shape == (3, 2, 6)
            assert ((reading.gate >= 0) & (reading.gate <= 1)).all()
            assert reading.gate.std() > 0


def test_hard_attention_takes_the_likeliest_location_and_samples_while_learning():
    decoder, grid = random_decoder("hard", 6), random_grid(2, 6)
    ids = torch.randint(START, WORDS, (2, 40, 5))
    reading = decoder(grid, ids)
    assert torch.equal(reading.context_weights.argmax(dim=-1), reading.attention.argmax(dim=-1))
    assert torch.equal(
        reading.context_weights.sort(dim=-1).values.unique(dim=0)[0, 0, 0], torch.eye(LOCATIONS).double()[-1]
    )
    learning = decoder.train()(grid, ids)
    at_one = learning.context_weights.amax(dim=-1) == 1
    assert 0.35 < at_one.double().mean() < 0.65  # the others are soft
    assert torch.equal(learning.context_weights[~at_one], learning.attention[~at_one])
    chosen = learning.context_weights.argmax(dim=-1)
    assert (chosen != learning.attention.argmax(dim=-1))[at_one].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_matters(kind):
    decoder = random_decoder(kind, 7)
    ids = torch.tensor([[[START, 5, 6]]] * 2)
    one, other = decoder(random_grid(2, 7), ids).logits
    assert not torch.allclose(one, other, atol=1e-3)
