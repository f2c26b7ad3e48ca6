"""Texts as numbers of their words, and what is worked out word by word: the same as of whole texts."""

import pickle

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from magicap.arrays import distinct
from magicap.metrics.cider import DocumentFrequencies, expected_cider_d
from magicap.metrics.hashed_texts import HashedTexts
from magicap.packed_texts import PackedTexts, WordExpansion

WORDS = [
    *"a A dog dog. dogs, it's don't cannot Mr. T. e.g. 5 5:50 3rd 1/2 (555) 1234 . , ... < b> http://a.b".split()
]
texts = st.lists(
    st.one_of(
        st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
        st.text(max_size=12),
        st.sampled_from(["", " ", "a  dog", " a", "a ", "a\ndog", "no. 5", "T. The", "1 1/2", "a\u00a0b"]),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def language_model():
    return tiny.captioner(0).language_model


@given(texts)
def test_packed_texts_read_like_a_list(strings):
    packed = PackedTexts.of(strings)
    assert packed == strings
    assert list(packed) == strings
    assert [packed[number] for number in range(-len(strings), len(strings))] == strings * 2
    assert packed[1:] == strings[1:]
    assert packed != [*strings, "more"]
    with pytest.raises(IndexError):
        packed[len(strings)]
    assert pickle.loads(pickle.dumps(packed)) == strings


@given(texts, texts, st.data())
def test_texts_are_chosen_and_looked_up(strings, others, data):
    packed = PackedTexts.of(strings)
    chosen = data.draw(st.lists(st.integers(0, len(strings) - 1), max_size=6))
    assert packed.select(np.array(chosen, dtype=np.int64)) == [strings[place] for place in chosen]
    places = packed.positions_of([*others, *strings])
    assert [None if place is None else strings[place] for place in places] == [
        *(text if text in strings else None for text in others),
        *strings,
    ]


@settings(deadline=None)
@given(texts)
def test_hashes_of_words_are_those_of_whole_texts(strings):
    by_word, by_text = HashedTexts.of(PackedTexts.of(strings)), HashedTexts.of(strings)
    assert by_word.lengths.tolist() == by_text.lengths.tolist()
    assert by_word.tokens.tolist() == by_text.tokens.tolist()


@settings(deadline=None)
@given(strings=texts)
def test_tokens_of_words_are_those_of_whole_captions(language_model, strings):
    tokens, lengths = language_model.encode_packed(PackedTexts.of(strings))
    expected = language_model.encode_captions(strings)
    assert lengths.tolist() == [len(ids) for ids in expected]
    assert tokens.tolist() == [token for ids in expected for token in ids]


@settings(deadline=None)
@given(texts)
def test_expected_utility_is_the_same_of_packed_captions(strings):
    weights = np.full(len(strings), 1 / len(strings))
    frequencies = DocumentFrequencies.of_texts(strings)
    packed = HashedTexts.of(PackedTexts.of(strings))
    expected = expected_cider_d(strings, weights, frequencies)
    assert expected_cider_d(packed, weights, frequencies) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=60))
def test_distinct_values_are_numpys(values):
    values = np.array(values, dtype=np.int64)
    unique, inverse = distinct(values)
    expected, places = np.unique(values, return_inverse=True)
    assert unique.tolist() == expected.tolist()
    assert inverse.tolist() == places.tolist()


def test_a_word_is_worked_out_once():
    asked = []

    def doubled(numbers):
        asked.extend(numbers)
        return [[number] * number for number in numbers]

    expansion = WordExpansion(5)
    for numbers in ([3, 1, 3], [1, 0, 2]):
        runs, lengths = expansion.expand(np.array(numbers), doubled)
        assert lengths.tolist() == numbers
        assert runs.tolist() == [number for number in numbers for _ in range(number)]
    assert sorted(asked) == [0, 1, 2, 3]
