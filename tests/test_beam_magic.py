"""Beam magic search: as its slow judge says, whatever is captioned beside it, and within its constraints."""

import json
import math

import numpy as np
import pytest
import tiny
import torch
from beam_magic_reference import reference_election, reference_written
from hypothesis import given, settings
from hypothesis import strategies as st

from magicap import BadSettings, BeamMagicSearch, CaptionMemory
from magicap.decoding.beam import beam_hypotheses
from magicap.decoding.beam_magic import beam_magic_search
from magicap.decoding.conditioning import told
from magicap.decoding.constraints import Constraints
from magicap.decoding.minimum_bayes_risk import EvidenceSet, judged, retrieve_evidence
from magicap.decoding.retrieval_ngram import RetrievalNgramModel
from magicap.decoding.settings import DECODINGS
from magicap.settings_io import from_dict, to_dict
from magicap.metrics.cider import TfIdf
from magicap.metrics.ngrams import words
from magicap.metrics.pairwise_cider import Rarity, expected_cider_d, pairwise_cider_d
from magicap.metrics.tokenizer import PTB

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
    given = {"top_k": 6, "beam_size": 3, "finished": 4, "neighbours": 5, "max_new_tokens": 6}
    return BeamMagicSearch(**{**given, **changes})


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("image_weight", [0.0, 0.7])
@pytest.mark.parametrize("remembers", [True, False])
def test_what_is_written_is_what_the_slow_judge_writes(
    captioner, memory, images, remembers, image_weight, prompted
):
    search = small()
    if prompted:
        captioner = tiny.prompted(0)
    near = retrieve_evidence(memory, images, 5, 2.0) if remembers else [None] * len(images)
    language_model = captioner.language_model
    priors = [
        None
        if each is None
        else RetrievalNgramModel(language_model.encode_captions(each.texts), 5 * each.weights)
        for each in near
    ]
    units = [0.3] * len(images)
    prompts = told(language_model, images, memory) if prompted else [None] * len(images)
    roots = [captioner.cache.root(search.top_k)] * len(images)
    if prompted:
        roots = captioner.cache.roots(search.top_k, prompts)
    written = beam_hypotheses(captioner.cache, roots, images, priors, units, image_weight, search)
    for image, found, each, prompt in zip(images, written, near, prompts, strict=True):
        texts, weights = ([], []) if each is None else (list(each.texts), each.weights.tolist())
        expected = reference_written(captioner, image, texts, weights, 0.3, image_weight, search, prompt)
        assert [caption.text for caption in found] == [text for text, _ in expected]
        scores = [score for _, score in expected]
        assert [caption.score for caption in found] == pytest.approx(scores, abs=1e-3)


def test_who_wins_is_who_the_slow_judge_elects(captioner, memory, images):
    search = small(rerank_weight=0.0)
    near = retrieve_evidence(memory, images, search.neighbours, search.temperature)
    for choices, each in zip(beam_magic_search(captioner.cache, images, search, memory), near, strict=True):
        more = [choice.text for choice in choices if choice.text not in set(each.texts)]
        expected = reference_election(memory, list(each.texts), each.weights.tolist(), more)
        assert {choice.text: pytest.approx(choice.consensus, abs=1e-4) for choice in choices} == expected
        assert choices[0].consensus == pytest.approx(max(expected.values()), abs=1e-4)


@pytest.mark.parametrize("remembers", [True, False])
def test_captions_are_the_same_alone_and_in_a_batch(captioner, memory, images, remembers):
    search, known = small(), memory if remembers else None
    together = beam_magic_search(captioner.cache, images, search, known)
    for number, choices in enumerate(together):
        (alone,) = beam_magic_search(captioner.cache, images[number : number + 1], search, known)
        assert alone[0].text == choices[0].text
        assert alone[0].score == pytest.approx(choices[0].score, abs=1e-4)


def test_no_pictures_are_no_captions(captioner, memory, images):
    assert beam_magic_search(captioner.cache, images[:0], small(), memory) == []


def test_the_picture_has_a_say_where_it_is_given_one(captioner, memory, images):
    for image in images:
        (choices,) = beam_magic_search(captioner.cache, image[None], small(rerank_weight=1e5), memory)
        cosines = captioner.scorer.encode_texts([choice.text for choice in choices]) @ image
        assert int(cosines.argmax()) == 0


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
    assert caption.steps[0].confidence > 0


def test_settings_survive_json():
    search = small(include=["dog"], exclude=(word for word in ["cat"]), max_words=9)
    assert search.exclude == ("cat",)
    assert from_dict(json.loads(json.dumps(to_dict(search)))) == search


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"memory_weight": 1.5}, "memory_weight must be between 0 and 1"),
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
    for choices in beam_magic_search(captioner.cache, images, search, memory):
        assert all(constraints.hold(choice.text) for choice in choices)


def test_without_a_memory_words_are_banned_while_they_are_written(captioner, images):
    usual = beam_magic_search(captioner.cache, images, small(), None)
    banned = words(PTB(usual[0][0].text))[0]
    search = small(exclude=(banned,), max_words=5)
    for choices in beam_magic_search(captioner.cache, images, search, None):
        assert choices
        assert all(search.constraints.hold(choice.text) for choice in choices)


def test_words_that_nothing_has_are_refused(captioner, memory, images):
    with pytest.raises(BadSettings, match="none of the 7 captions"):
        beam_magic_search(captioner.cache, images, small(include=("giraffe",)), memory)
    with pytest.raises(BadSettings, match="this captioner has no memory"):
        beam_magic_search(captioner.cache, images, small(include=("giraffe",)), None)


def test_banned_words_are_dropped_while_they_are_written():
    constraints = Constraints(exclude=("car",), max_words=3)
    assert constraints.can_hold("a carpet")
    assert not constraints.can_hold("a car")  # though it might have become one
    assert not constraints.can_hold("one two three four")


vocabulary = st.sampled_from(["a", "dog", "dog", "runs", "on", "the", "sea", "red", "man"])
captions = st.lists(st.lists(vocabulary, max_size=9).map(" ".join), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(corpus=captions, texts=captions)
def test_likeness_is_cider_d(corpus, texts):
    """Repeated words too; but for a caption with itself, which is never asked."""
    found = pairwise_cider_d(texts, len(texts), Rarity.of(corpus))
    tokens = [words(PTB(text)) for text in [*corpus, *texts]]
    document = np.concatenate([np.arange(len(corpus)), np.full(len(texts), -1)])
    left, right = (each.ravel() + len(corpus) for each in np.indices((len(texts), len(texts))))
    expected = TfIdf.of(tokens, document).similarity(left, right).reshape(found.shape)
    apart = ~np.eye(len(texts), dtype=bool)
    assert found[apart] == pytest.approx(expected[apart], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(corpus=captions, texts=captions, data=st.data())
def test_expected_cider_d_is_what_the_matrix_gives(corpus, texts, data):
    M = data.draw(st.integers(1, len(texts)))
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=M, max_size=M)))
    weights /= weights.sum()
    alike = pairwise_cider_d(texts, M, Rarity.of(corpus)).astype(float)
    np.fill_diagonal(alike[:M], 0.0)
    expected = judged(alike, weights)
    assert expected_cider_d(texts, weights, Rarity.of(corpus)) == pytest.approx(expected, abs=1e-4)


def test_each_is_judged_by_the_others():
    texts, weights = ["a dog", "a dog runs", "a cat"], np.array([0.5, 0.25, 0.25])
    electorate = EvidenceSet(texts, weights, Rarity.of(CAPTIONS))
    alike = pairwise_cider_d([*electorate.texts, "a dog sits"], 3, electorate.document_frequencies)
    agreed = electorate.agreement(["a dog sits"])
    assert agreed[0] == pytest.approx((alike[0, 1] + alike[0, 2]) / 2, abs=1e-5)
    assert agreed[3] == pytest.approx(alike[3] @ [0.5, 0.25, 0.25], abs=1e-5)


def test_an_endless_temperature_weighs_all_the_same(memory, images):
    for each in retrieve_evidence(memory, images, 4, math.inf):
        assert each.weights == pytest.approx([0.25] * 4)


def test_what_captions_go_on_with():
    prior = RetrievalNgramModel([[0, 1, 2, 9], [0, 1, 3, 9]], np.array([1.5, 0.5]))
    after_one = prior.probabilities((0, 1), [2, 3, 7])
    assert after_one[0] > after_one[1] > after_one[2] == pytest.approx(0)
    everything = prior.probabilities((0, 1), list(range(10)))
    assert everything.sum() == pytest.approx(1)
    assert prior.probabilities((5, 6), [9])[0] == pytest.approx(2 / 6)  # behind what was never said
