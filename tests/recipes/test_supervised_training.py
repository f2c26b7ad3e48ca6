"""Losses and rewards of a supervised captioner, and that it learns from both."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magicap import BeamSearch, Sampling
from magicap.data import CaptionedImage
from magicap.metrics.cider import cider_d
from magicap.supervised.decoder import Decoder, DecoderConfig
from magicap.supervised.network import DECODERS
from magicap.supervised.searches import search_captions
from magicap.supervised.vocabulary import END, PAD, Vocabulary, caption_words
from magicap.training.captioning import validation
from magicap.training.losses import (
    caption_cross_entropy,
    doubly_stochastic,
    reinforce_locations,
    self_critical,
)
from magicap.training.objectives.captioning import CaptionCrossEntropy, SelfCritical, reward_words
from magicap.training.rewards import END_WORD, CiderReward

KINDS = sorted(DECODERS)
SENTENCES = (
    "A dog runs on the grass.",
    "Two boys play in the sea.",
    "A man climbs a red rock.",
    "The girl jumps high.",
)

# ---- losses ----


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [9.0, -9.0, 3.0]]])
    words = torch.tensor([[2, 1, 0]])  # 0 is padding
    log_p = [
        [logit - math.log(sum(math.exp(other) for other in row)) for logit in row]
        for row in logits[0].tolist()
    ]
    plain = -(log_p[0][2] + log_p[1][1]) / 2
    assert caption_cross_entropy(logits, words, 0).item() == pytest.approx(plain, abs=1e-6)
    even = -(sum(log_p[0]) + sum(log_p[1])) / 3 / 2
    smoothed = caption_cross_entropy(logits, words, 0, smoothing=0.2).item()
    assert smoothed == pytest.approx(0.8 * plain + 0.2 * even, abs=1e-6)


def test_doubly_stochastic_attention_by_hand():
    attention = torch.tensor([[[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]], [[1.0, 0.0]] * 3])[None]
    mask = torch.tensor([[[True, True, False], [False] * 3]])  # the second caption is none
    expected = ((1 - 0.7) ** 2 + (1 - 1.3) ** 2) / 2
    assert doubly_stochastic(attention, mask).item() == pytest.approx(expected, abs=1e-6)


def test_locations_are_reinforced_along_the_exact_gradient():
    """The mean gradient over samples is that of the expected advantage, which is known here."""
    gains, logits = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    exact = torch.autograd.grad(-(logits.softmax(dim=0) * gains).sum(), logits)[0]
    attention = logits.softmax(dim=0)
    mean = torch.zeros(3)
    for location, probability in enumerate(attention.tolist()):
        sampled = torch.eye(3)[location].view(1, 1, 3)
        loss = reinforce_locations(
            attention.view(1, 1, 3), sampled, torch.ones(1, 1, dtype=torch.bool), gains[location].view(1), 0.0
        )
        mean += probability * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    assert torch.allclose(mean, exact, atol=1e-6)


def test_words_with_soft_attention_and_padding_reinforce_no_location():
    logits = torch.randn(1, 3, 4, requires_grad=True)
    attention = logits.softmax(dim=-1)
    context_weights = torch.stack([torch.eye(4)[1], attention[0, 1].detach(), torch.eye(4)[2]])[None]
    mask = torch.tensor([[True, True, False]])
    loss = reinforce_locations(attention, context_weights, mask, torch.tensor([2.0]), 0.0)
    assert loss.item() == pytest.approx(-2.0 * attention[0, 0, 1].log().item() / 2, abs=1e-5)
    loss.backward()
    assert logits.grad[0, 0].abs().sum() > 0
    assert logits.grad[0, 1:].abs().sum() == 0
    entropy = reinforce_locations(attention, context_weights, mask, torch.tensor([0.0]), 1.0)
    own = -(attention * attention.log()).sum(dim=-1)[0]
    assert entropy.item() == pytest.approx(-(own[0] + own[1]).item() / 2, abs=1e-5)


def test_what_is_better_than_the_others_becomes_likelier():
    logits = torch.zeros(2, 3, requires_grad=True)  # two pictures, of each three captions of one word
    log_p = logits.log_softmax(dim=1)[:, :, None]
    mask = torch.ones(2, 3, 1, dtype=torch.bool)
    same = self_critical(log_p, mask, torch.tensor([[3.0] * 3, [0.0] * 3]))
    assert same.item() == 0
    assert not torch.autograd.grad(same, logits, retain_graph=True)[0].any()
    loss = self_critical(log_p, mask, torch.tensor([[1.0, 4.0, 1.0], [2.0, 2.0, 1.0]]))
    with torch.no_grad():
        stepped = (logits - torch.autograd.grad(loss, logits)[0]).softmax(dim=1)
    assert stepped[0, 1] > 1 / 3 > stepped[0, 0]
    assert stepped[1, 0] == pytest.approx(stepped[1, 1].item())
    assert stepped[1, 0] > 1 / 3 > stepped[1, 2]


def test_self_critical_by_hand():
    log_p = torch.tensor([[[-1.0, -2.0], [-3.0, -50.0]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    expected = -(2.0 * (-1 - 2) + -2.0 * -3) / 3  # advantages: 5 - 3 and 3 - 5
    assert self_critical(log_p, mask, torch.tensor([[5.0, 3.0]])).item() == pytest.approx(expected)


# ---- rewards ----


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=6), min_size=2, max_size=8))
@settings(max_examples=25)
def test_the_reward_is_cider_d_of_captions_with_their_end(written):
    """Counted over the same images, with a word for the end that metrics read as any other."""
    references = [
        [[chr(ord("a") + (number * 3 + word) % 5) for word in range(3 + other)] for other in range(2)]
        for number in range(len(written))
    ]
    rewards = CiderReward(references)([[[*words, END_WORD]] for words in written], references)
    assert rewards.shape == (len(written), 1)
    texts, truths = (
        [" ".join([*words, "zend"]) for words in written],
        [[" ".join([*words, "zend"]) for words in image] for image in references],
    )
    expected = cider_d(texts, truths)["CIDEr-D"]
    assert rewards.mean() == pytest.approx(expected.value, abs=1e-6)
    assert rewards[:, 0] == pytest.approx(expected.per_image, abs=1e-6)


def test_an_ended_caption_has_a_larger_reward_than_one_that_was_cut():
    references = [[caption_words(text)] for text in SENTENCES]
    reward = CiderReward(references)
    full = references[0][0]
    (paid,) = reward([[[*full, END_WORD], full, full[:-2], [], full * 2]], references[:1])
    assert paid.argmax() == 0
    assert (paid[0], paid[3]) == (pytest.approx(10), 0)
    assert paid[1] > paid[2] > 0


def test_each_image_is_held_against_its_own_references():
    references = [[caption_words(text)] for text in SENTENCES]
    reward = CiderReward(references)
    written = [[[*words[0], END_WORD], [*references[0][0], END_WORD]] for words in references]
    together = reward(written, references)
    assert together.shape == (4, 2)
    alone = [reward([own], [known])[0] for own, known in zip(written, references, strict=True)]
    assert together == pytest.approx(np.stack(alone))
    assert (together[1:, 0] > together[1:, 1]).all()


# ---- learning ----


def small(kind: str, vocabulary: Vocabulary, seed: int = 0):
    torch.manual_seed(seed)
    config = DecoderConfig(kind, 32, 24, 16, layers=1, heads=2, dropout=0.0, max_words=8)
    return DECODERS[kind](config, 12, len(vocabulary))


class Network(torch.nn.Module):
    """A decoder and its words, as objectives of captions see a network that trains on grids."""

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.decoder, self.vocabulary = decoder, vocabulary


def cross_entropy(decoder: Decoder, vocabulary: Vocabulary, smoothing: float = 0.0, coverage: float = 0.0):
    network = Network(decoder, vocabulary)
    return CaptionCrossEntropy(network, on_grids=True, smoothing=smoothing, coverage=coverage)


def batch_of(grid: torch.Tensor, texts=SENTENCES, owner=range(4)) -> dict[str, Any]:
    """Four pictures with a caption each, as training reads them."""
    return {"images": grid, "texts": texts, "owner": torch.tensor(owner), "seeds": [11, 12, 13, 14]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_learns_four_captions_by_heart(kind):
    vocabulary = Vocabulary.of(SENTENCES, 1)
    decoder = small(kind, vocabulary)
    grid = torch.randn(4, 6, 12)
    objective, batch = cross_entropy(decoder, vocabulary, coverage=0.1), batch_of(grid)
    optimizer = torch.optim.AdamW(decoder.parameters(), 0.01)
    losses = []
    for _ in range(100 if kind == "hard" else 60):
        loss = objective.train()(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    output = search_captions(decoder.eval(), grid, range(4), BeamSearch(3, 1.0, 8))
    best = output.ids[torch.arange(4), output.best(1.0)].tolist()
    assert [vocabulary.text([id_ for id_ in row if id_ != PAD]) for row in best] == list(SENTENCES)
    rows = [CaptionedImage(f"{n}.jpg", "dev", (text,)) for n, text in enumerate(SENTENCES)]
    figures = validation(decoder, grid.split(3), rows, vocabulary)
    assert figures == {"score": pytest.approx(1000), "ended": 1.0}


def test_padding_and_absent_captions_change_no_loss():
    vocabulary = Vocabulary.of(SENTENCES, 1)
    grid = torch.randn(2, 6, 12)
    texts = [SENTENCES[0], SENTENCES[3], SENTENCES[1]]
    ids = vocabulary.batch(texts, [0, 0, 1], 8)
    wider = torch.full((2, 3, ids.shape[2] + 2), PAD)
    wider[:, :2, : ids.shape[2]] = ids
    for kind in ("none", "soft", "transformer"):
        decoder = small(kind, vocabulary).eval()
        one, other = (
            cross_entropy(decoder, vocabulary, 0.1, 0.5).eval().of_ids(grid, each).item()
            for each in (ids, wider)
        )
        assert one == pytest.approx(other, abs=1e-5)


def test_coverage_and_smoothing_are_added_as_asked():
    vocabulary = Vocabulary.of(SENTENCES, 1)
    decoder, grid = small("soft", vocabulary).eval(), torch.randn(4, 6, 12)
    ids = vocabulary.batch(SENTENCES, range(4), 8)
    plain, covered = (
        cross_entropy(decoder, vocabulary, 0.0, weight).eval()(batch_of(grid)).item() for weight in (0.0, 0.5)
    )
    reading = decoder(grid, ids[:, :, :-1])
    expected = doubly_stochastic(reading.attention, ids[:, :, 1:] != PAD).item()
    assert covered - plain == pytest.approx(0.5 * expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_self_critical_training_raises_the_reward(kind):
    """Mean reward of what is sampled, before and after some steps of self-critical training."""
    vocabulary = Vocabulary.of(SENTENCES, 1)
    tokenized = [[caption_words(text)] for text in SENTENCES]
    reward = CiderReward(tokenized)
    decoder, grid = small(kind, vocabulary, 1), torch.randn(4, 6, 12)
    words = cross_entropy(decoder, vocabulary)
    sampled = SelfCritical(Network(decoder, vocabulary), reward, samples=5)

    def learn(objective: torch.nn.Module, rate: float, steps: int) -> None:
        optimizer = torch.optim.AdamW(decoder.parameters(), rate)
        for step in range(steps):
            optimizer.zero_grad()
            seeds = [4 * step + picture for picture in range(4)]
            objective.train()(batch_of(grid) | {"seeds": seeds}).backward()
            optimizer.step()

    def mean_reward() -> float:
        output = search_captions(decoder.eval(), grid, range(4), Sampling(60, max_new_tokens=8))
        return float(
            reward(
                [[reward_words(vocabulary, row) for row in image] for image in output.ids.tolist()], tokenized
            ).mean()
        )

    learn(words, 0.01, 15)
    before = mean_reward()
    learn(sampled, 0.003, 30)
    assert mean_reward() > 1.1 * before


def test_captions_are_sampled_and_rewarded_without_dropout():
    """Else the gradient would be that of other captions than the rewards are of."""
    vocabulary = Vocabulary.of(SENTENCES, 1)
    reward = CiderReward([[caption_words(text)] for text in SENTENCES])
    decoder, grid = small("soft", vocabulary), torch.randn(4, 6, 12)
    losses = []
    for dropout in (0.0, 0.9):
        decoder.dropout.p = dropout
        loss = SelfCritical(Network(decoder, vocabulary), reward, samples=3).train()(batch_of(grid))
        losses.append(loss.item())
    assert losses[0] == losses[1] != 0
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters() if p.grad is not None)


def test_sampled_words_are_reinforced_along_the_exact_gradient():
    """Over captions of one word, the mean gradient of all pairs of samples is that of the expected reward."""
    rewards, logits = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    exact = torch.autograd.grad(-(logits.softmax(dim=0) * rewards).sum(), logits)[0]
    log_p = logits.log_softmax(dim=0)
    mean = torch.zeros(3)
    for one, other in product(range(3), repeat=2):
        sampled = torch.tensor([one, other])
        loss = self_critical(
            log_p[sampled].view(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool), rewards[sampled][None]
        )
        probability = log_p[sampled].sum().exp().item()
        mean += probability * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    assert torch.allclose(mean, exact, atol=1e-6)


def test_the_baseline_of_hard_attention_moves_with_the_likelihood():
    vocabulary = Vocabulary.of(SENTENCES, 1)
    decoder = small("hard", vocabulary)
    assert decoder.baseline.isnan()
    assert decoder.move_baseline(torch.tensor(-3.0)) == -3
    assert decoder.move_baseline(torch.tensor(-2.0)).item() == pytest.approx(-2.9)
    other = small("hard", vocabulary, 1)
    other.load_state_dict(decoder.state_dict())
    assert other.baseline.item() == pytest.approx(-2.9)


def test_validation_scores_greedy_captions_in_percent():
    vocabulary = Vocabulary.of(SENTENCES, 1)
    decoder, grid = small("soft", vocabulary, 3).eval(), torch.randn(4, 6, 12)
    decoder.output.bias.data[END] -= 0.3
    greedy = search_captions(decoder, grid, range(4), BeamSearch(1, max_new_tokens=8))
    texts = [vocabulary.text(ids) for (ids,) in greedy.ids.tolist()]
    rows = [CaptionedImage(f"{n}.jpg", "dev", (text, "A dog.")) for n, text in enumerate(SENTENCES)]
    figures = validation(decoder, grid.split(3), rows, vocabulary)
    expected = cider_d(texts, [row.captions for row in rows])["CIDEr-D"].value
    assert figures["score"] == pytest.approx(100 * expected)
    assert figures["ended"] == pytest.approx(greedy.ended.float().mean().item())
