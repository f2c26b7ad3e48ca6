"""The n-gram baseline: equal to the paper's recursion written out, and a probability."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicap.errors import BadSettings
from magicap.evaluation.kneser_ney import KneserNey

V = 5
sentences = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=6), min_size=1, max_size=8)


def slow(training, order):
    """p(token | history) by Chen and Goodman's equation 24, one n-gram at a time."""
    seen = Counter()
    for sentence in training:
        tokens = ("s",) * (order - 1) + tuple(sentence)
        for end in range(order - 1, len(tokens)):
            seen[tokens[end - order + 1 : end + 1]] += 1
    counts = {order: seen}
    for n in range(order - 1, 0, -1):
        counts[n] = Counter(gram[1:] for gram in counts[n + 1])
    discounts = {}
    for n, table in counts.items():
        once, twice = (sum(count == k for count in table.values()) for k in (1, 2))
        discounts[n] = once / (once + 2 * twice) if once else 0.5

    def probability(token, history):
        n = len(history) + 1
        lower = probability(token, history[1:]) if history else 1 / V
        following = {gram: count for gram, count in counts[n].items() if gram[:-1] == history}
        total = sum(following.values())
        if not total:
            return lower
        d = discounts[n]
        kept = max(counts[n][(*history, token)] - d, 0)
        return (kept + d * len(following) * lower) / total

    def nats(sentence):
        tokens = ("s",) * (order - 1) + tuple(sentence)
        ends = range(order - 1, len(tokens))
        return -sum(math.log(probability(tokens[t], tokens[t - order + 1 : t])) for t in ends)

    return nats


@given(sentences, sentences, st.integers(1, 4))
def test_it_is_the_papers_recursion(training, held_out, order):
    model = KneserNey(training, V, order)
    nats = slow(training, order)
    np.testing.assert_allclose(model.nats(held_out), [nats(sentence) for sentence in held_out], rtol=1e-9)


@given(sentences, st.lists(st.integers(0, V - 1), max_size=5), st.integers(1, 4))
def test_what_may_follow_adds_up_to_one(training, prefix, order):
    model = KneserNey(training, V, order)
    before = model.nats([prefix])[0] if prefix else 0.0
    after = model.nats([[*prefix, token] for token in range(V)])
    assert np.exp(before - after).sum() == pytest.approx(1)


def test_a_seen_sentence_is_likelier_than_its_words_in_disorder():
    model = KneserNey([[0, 1, 2, 3, 4]] * 5 + [[4, 3, 2]], V, 5)
    seen, mixed = model.nats([[0, 1, 2, 3, 4], [3, 0, 4, 1, 2]])
    assert seen < mixed


@pytest.mark.parametrize(
    ("training", "order", "says"),
    [([], 5, "expected sentences"), ([[1]], 0, "order"), ([[9]], 2, "ids below 5")],
)
def test_what_makes_no_model_is_refused(training, order, says):
    with pytest.raises(BadSettings, match=says):
        KneserNey(training, V, order)
