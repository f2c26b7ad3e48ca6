"""Beam magic search: the same whatever is captioned beside it, within its constraints, and its parts.

That it equals its slow reference is held in ``test_beam_magic_reference.py``.
"""

import json
import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magicap import BadSettings, BeamMagicSearch, CaptionMemory
from magicap.decoding.beam_magic import beam_magic_search
from magicap.decoding.constraints import Constraints
from magicap.decoding.context import DecodingContext
from magicap.decoding.minimum_bayes_risk import EvidenceSet, evidence_from_neighbours, leave_one_out
from magicap.decoding.retrieval_ngram import LONGEST, RetrievalNgramModel
from magicap.decoding.settings import DECODINGS
from magicap.metrics.cider import DocumentFrequencies, TfIdf, expected_cider_d, pairwise_cider_d
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB
from magicap.settings_io import from_dict, to_dict

CAPTIONS = [
    "A dog runs across the grass.",
    "A dog runs on a beach.",
    "A man climbs a rock near the sea.",
    "Two children play on a beach, near the sea.",
    "A man in a red shirt.",
    "The dog and the dog and the man.",
    "Mountain bikers jumping.",
]


@pytest.fixture(scope="module")
def captioner():
    return tiny.captioner(0)


@pytest.fixture(scope="module")
def memory(captioner):
    return CaptionMemory.from_texts(captioner.scorer, CAPTIONS)


@pytest.fixture(scope="module")
def images(captioner):
    return captioner.scorer.encode_images(tiny.pictures(5))


def small(**changes):
    given = {"top_k": 6, "beam_size": 3, "num_finished": 4, "neighbours": 5, "max_new_tokens": 20}
    return BeamMagicSearch(**{**given, **changes})


def hypotheses_of(captioner, images, search, memory):
    """All hypotheses of pictures, the best first."""
    context = DecodingContext(captioner.cache, images, memory=memory)
    return [competition.hypotheses for competition in beam_magic_search(context, search)]


@pytest.mark.parametrize("remembers", [True, False])
def test_captions_are_the_same_alone_and_in_a_batch(captioner, memory, images, remembers):
    search, known = small(), memory if remembers else None
    together = hypotheses_of(captioner, images, search, known)
    for number, choices in enumerate(together):
        (alone,) = hypotheses_of(captioner, images[number : number + 1], search, known)
        scores = {choice.text: choice.score for choice in choices}
        assert scores[alone[0].text] == pytest.approx(choices[0].score, abs=1e-4)  # rounding breaks ties
        assert alone[0].score == pytest.approx(choices[0].score, abs=1e-4)


def test_no_pictures_are_no_captions(captioner, memory, images):
    assert hypotheses_of(captioner, images[:0], small(), memory) == []


def test_the_picture_decides_where_it_is_weighed(captioner, memory, images):
    for image in images:
        search = small(rerank_weight=1e5, rerank_top=None)
        (choices,) = hypotheses_of(captioner, image[None], search, memory)
        cosines = captioner.scorer.encode_texts([choice.text for choice in choices]) @ image
        assert int(cosines.argmax()) == 0


@pytest.mark.parametrize("most", [6, 10, 20])
def test_a_remembered_caption_is_no_longer_than_a_written_one(captioner, memory, images, most):
    texts = {
        text: len(ids) - 2
        for text, ids in zip(CAPTIONS, captioner.language_model.encode_captions(CAPTIONS), strict=True)
    }
    assert {length > most for length in texts.values()} >= {most < 20}
    for choices in hypotheses_of(captioner, images, small(max_new_tokens=most), memory):
        assert texts.get(choices[0].text, 0) <= most
        fits = [texts.get(choice.text, 0) <= most for choice in choices]
        assert fits == sorted(fits, reverse=True)


def test_a_captioner_with_a_memory_is_saved_with_it(captioner, memory, tmp_path):
    from magicap import Captioner

    whole = Captioner(captioner.language_model, captioner.scorer, small(exclude=("dog",)), memory)
    whole.save_pretrained(tmp_path / "it")
    again = Captioner.from_pretrained(tmp_path / "it")
    assert again.memory.texts == memory.texts
    assert torch.allclose(again.memory.vectors, memory.vectors, atol=0.01)
    assert again.decoding == whole.decoding
    assert again.fingerprint != captioner.fingerprint  # or kept captions would be taken for its own
    forgetful = Captioner(captioner.language_model, captioner.scorer)
    forgetful.save_pretrained(tmp_path / "it")
    assert Captioner.from_pretrained(tmp_path / "it").memory is None  # not that of the one before
    caption = again.caption(tiny.pictures(1)[0])
    assert "dog" not in caption.lower()
    assert caption.hypotheses[0].expected_utility > 0


def test_settings_survive_json():
    search = small(include=["dog"], exclude=(word for word in ["cat"]), max_words=9)
    assert search.exclude == ("cat",)
    assert from_dict(json.loads(json.dumps(to_dict(search, DECODINGS))), DECODINGS) == search


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ngram_weight": 1.5}, "ngram_weight must be between 0 and 1"),
        ({"image_weight": -1}, "image_weight"),
        ({"temperature": 0}, "temperature must be at least 0.001"),
        ({"beam_size": 0}, "beam_size"),
        ({"neighbours": 10**6}, "neighbours must be at most 2000"),
        ({"include": "dog"}, "a list of words"),
        ({"include": None}, "a list of words"),
        ({"include": ("two words",)}, "single words"),
        ({"include": ("dog",), "exclude": ("Dog",)}, "both included and excluded"),
        ({"max_words": 2, "min_words": 3}, "room for min_words"),
        ({"min_words": -1}, "min_words"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(BadSettings, match=message):
        small(**wrong)


@pytest.mark.parametrize(
    "control", [{"include": ("sea",)}, {"exclude": ("dog", "man")}, {"min_words": 8}, {"max_words": 4}]
)
def test_captions_are_as_they_must_be(captioner, memory, images, control):
    search = small(**control)
    constraints = Constraints(**control)
    for choices in hypotheses_of(captioner, images, search, memory):
        assert all(constraints.hold(choice.text) for choice in choices)


ODD_LETTERS = "aA bB.cNn'tKİ-\u212a"


@given(st.text(st.sampled_from(ODD_LETTERS), max_size=20), st.sampled_from("a not n b k".split()))
def test_words_that_must_be_there_are_those_of_the_tokenizer(text, word):
    assert Constraints(include=(word,)).hold(text) == (word in words(PTB(text)))


def test_without_a_memory_words_are_banned_while_they_are_written(captioner, images):
    usual = hypotheses_of(captioner, images, small(), None)
    banned = words(PTB(usual[0][0].text))[0]
    search = small(exclude=(banned,), max_words=5)
    for choices in hypotheses_of(captioner, images, search, None):
        assert choices
        assert all(search.constraints.hold(choice.text) for choice in choices)


def test_words_that_nothing_has_are_refused(captioner, memory, images):
    with pytest.raises(BadSettings, match="none of the 7 captions"):
        hypotheses_of(captioner, images, small(include=("giraffe",)), memory)
    with pytest.raises(BadSettings, match="this captioner has no memory"):
        captioner.caption(tiny.pictures(1)[0], small(include=("giraffe",)))


def test_banned_words_are_dropped_while_they_are_written():
    constraints = Constraints(exclude=("car",), max_words=3)
    assert constraints.can_hold("a carpet")
    assert not constraints.can_hold("a car")  # though it might have become one
    assert not constraints.can_hold("one two three four")


vocabulary = st.sampled_from(["a", "dog", "dog", "runs", "on", "the", "sea", "red", "man"])
captions = st.lists(st.lists(vocabulary, max_size=9).map(" ".join), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(corpus=captions, texts=captions)
def test_pairwise_cider_d_is_cider_d(corpus, texts):
    """Repeated words too; but for a caption with itself, which is never asked."""
    frequencies = DocumentFrequencies.of_texts(corpus)
    pairwise = pairwise_cider_d(texts, len(texts), frequencies)
    left, right = (index.ravel() for index in np.indices((len(texts), len(texts))))
    vectors = TfIdf.of([words(PTB(text)) for text in texts], frequencies)
    expected = vectors.similarity(left, right).reshape(pairwise.shape)
    different = ~np.eye(len(texts), dtype=bool)
    assert pairwise[different] == pytest.approx(expected[different], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(corpus=captions, texts=captions, data=st.data())
def test_expected_cider_d_is_what_the_matrix_gives(corpus, texts, data):
    M = data.draw(st.integers(1, len(texts)))
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=M, max_size=M)))
    weights /= weights.sum()
    alike = pairwise_cider_d(texts, M, DocumentFrequencies.of_texts(corpus)).astype(float)
    np.fill_diagonal(alike[:M], 0.0)
    expected = leave_one_out(alike, weights)
    assert expected_cider_d(texts, weights, DocumentFrequencies.of_texts(corpus)) == pytest.approx(
        expected, abs=1e-4
    )


def test_evidence_is_compared_with_the_rest_of_it():
    texts, weights = ["a dog", "a dog runs", "a cat"], np.array([0.5, 0.25, 0.25])
    evidence = EvidenceSet(texts, weights, DocumentFrequencies.of_texts(CAPTIONS))
    pairwise = pairwise_cider_d([*evidence.texts, "a dog sits"], 3, evidence.document_frequencies)
    utilities = evidence.expected_utility(["a dog sits"])
    assert utilities[0] == pytest.approx((pairwise[0, 1] + pairwise[0, 2]) / 2, abs=1e-5)
    assert utilities[3] == pytest.approx(pairwise[3] @ [0.5, 0.25, 0.25], abs=1e-5)


def test_an_endless_temperature_weighs_all_the_same(memory, images):
    for each in evidence_from_neighbours(memory, *memory.nearest(images, 4), math.inf):
        assert each.weights == pytest.approx([0.25] * 4)


def ngram_model(captions, weights, pictures):
    tokens, lengths = np.concatenate(captions), np.array([len(ids) for ids in captions])
    return RetrievalNgramModel(tokens, lengths, np.array(pictures), np.array(weights), 10)


def behind(model, prefixes, candidates):
    """(N, K) probabilities of candidates behind prefixes of as many pictures, a token at a time."""
    contexts = model.start(prefixes[0][0])
    for token in range(1, len(prefixes[0])):
        _, longer = model.probabilities(contexts, torch.tensor(prefixes)[:, token, None])
        contexts = longer[:, 0]
    return model.probabilities(contexts, torch.tensor([candidates] * len(prefixes)))[0].numpy()


def test_what_captions_go_on_with():
    model = ngram_model([[0, 1, 2, 9], [0, 1, 3, 9]], [1.5, 0.5], [0, 0])
    (after_one,) = behind(model, [(0, 1)], [2, 3, 7])
    assert after_one[0] > after_one[1] > after_one[2] == pytest.approx(0)
    assert behind(model, [(0, 1)], list(range(10))).sum() == pytest.approx(1)
    assert behind(model, [(0, 5, 6)], [9]) == pytest.approx(2 / 6)  # behind what was never said


def counted(captions, weights, prefix, candidate):
    """The definition: each context has the shorter one as its prior, which counts half a caption."""
    probability = 0.0
    for length in range(min(LONGEST, len(prefix)) + 1):
        context = prefix[len(prefix) - length :]
        followed = [
            (ids[place], weight)
            for ids, weight in zip(captions, weights, strict=True)
            for place in range(1, len(ids))
            if place >= length and ids[place - length : place] == context
        ]
        if not followed:
            break
        total = sum(weight for _, weight in followed)
        count = sum(weight for token, weight in followed if token == candidate)
        trust = 0.5 if length else 0.0
        probability = (count + trust * probability) / (total + trust)
    return probability


token_lists = st.lists(st.integers(1, 4), max_size=5).map(lambda ids: [0, *ids, 9])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(token_lists, min_size=1, max_size=5), min_size=1, max_size=3), st.data())
def test_an_ngram_model_is_what_its_definition_says(pictures, data):
    captions = [ids for of_picture in pictures for ids in of_picture]
    weights = data.draw(st.lists(st.floats(0.1, 3), min_size=len(captions), max_size=len(captions)))
    owner = [number for number, of_picture in enumerate(pictures) for _ in of_picture]
    length = data.draw(st.integers(0, 4))
    prefixes = [
        [0, *data.draw(st.lists(st.integers(1, 5), min_size=length, max_size=length))] for _ in pictures
    ]
    probabilities = behind(ngram_model(captions, weights, owner), prefixes, list(range(10)))
    for number, (of_picture, prefix) in enumerate(zip(pictures, prefixes, strict=True)):
        own = [weight for weight, picture in zip(weights, owner, strict=True) if picture == number]
        expected = [counted(of_picture, own, prefix, candidate) for candidate in range(10)]
        assert probabilities[number] == pytest.approx(expected, abs=1e-12)
