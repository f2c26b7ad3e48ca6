"""Captions that begin with a prefix: against the slow reference, and what must hold whatever the models."""

from __future__ import annotations

import itertools

import pytest
import tiny
from reference import reference_caption
from repository import DOCS

from magicap import (
    BadSettings,
    BeamMagicSearch,
    Captioner,
    ContrastiveSearch,
    Greedy,
    MagicSearch,
    Nucleus,
    TopK,
)

PREFIXES = ("A", "A dog runs", "Two children play on a", "a café —")


def ids(caption) -> list[int]:
    return [step.token_id for step in caption.steps]


def test_equals_the_slow_reference():
    """Twenty pictures, a prefix each."""
    captioner = tiny.captioner(3)
    pairs = list(zip(tiny.pictures(20, seed=5), itertools.cycle(PREFIXES), strict=False))
    for picture, prefix in pairs:
        search = MagicSearch(top_k=8, alpha=0.6, beta=0.5, max_new_tokens=5, prefix=prefix)
        caption = captioner.caption(picture, search)
        assert ids(caption) == reference_caption(captioner, picture, search)
        assert caption.startswith(prefix)


@pytest.mark.slow
def test_the_embedded_captioner_equals_the_slow_reference():
    captioner = Captioner.from_pretrained()
    pictures = sorted((DOCS / "pictures").glob("*.jpg"))
    pairs = list(itertools.product(pictures, ("A photo of", "There is", "This picture shows a", "Two")))
    assert len(pairs) == 20
    for picture, prefix in pairs:
        search = MagicSearch(top_k=8, alpha=0.1, beta=0.6, max_new_tokens=8, prefix=prefix)
        expected = reference_caption(captioner, picture, search)
        assert ids(captioner.caption(picture, search)) == expected


@pytest.mark.parametrize("kind", [MagicSearch, BeamMagicSearch, ContrastiveSearch, Greedy, TopK, Nucleus])
def test_every_decoding_begins_with_its_prefix(kind):
    captioner = tiny.captioner(0)
    pictures = tiny.pictures(2)
    search = kind(max_new_tokens=3, prefix="Two dogs")
    captions = captioner.caption(pictures, search)
    assert all(caption.startswith("Two dogs") for caption in captions)
    assert captions == [captioner.caption(p, search, seed=n) for n, p in enumerate(pictures)]
    if kind is not BeamMagicSearch:
        steps = list(captioner.stream(pictures[0], search))
        assert steps[0].text == "Two dogs" + steps[0].token
        assert steps[-1].text.strip() == captions[0]


def test_with_a_soft_prompt_a_batch_gives_each_picture_what_it_gets_alone():
    captioner = tiny.with_soft_prompt(1)
    search = MagicSearch(top_k=8, beta=1.0, max_new_tokens=6, soft_prompt=True, prefix="A man")
    pictures = tiny.pictures(4)
    together = captioner.caption(pictures, search)
    assert [ids(caption) for caption in together] == [ids(captioner.caption(p, search)) for p in pictures]


def test_white_space_around_a_prefix_is_nothing():
    captioner, picture = tiny.captioner(0), tiny.pictures(1)[0]
    assert MagicSearch(prefix=" A dog\n") == MagicSearch(prefix="A dog")
    assert ids(captioner.caption(picture, MagicSearch(8, 0.1, 2.0, 6, prefix="  "))) == ids(
        captioner.caption(picture, MagicSearch(8, 0.1, 2.0, 6))
    )


def test_the_states_of_a_prefix_are_kept_and_counted():
    captioner, picture = tiny.captioner(0), tiny.pictures(1)[0]
    search = MagicSearch(top_k=8, beta=1.0, max_new_tokens=4, prefix="A dog runs across the")
    captioner.caption(picture, search)
    tokens, size = captioner.cache.stats.language_tokens, captioner.cache.nbytes
    captioner.caption(picture, search)
    assert captioner.cache.stats.language_tokens == tokens
    assert captioner.cache.nbytes == size


@pytest.mark.parametrize("kind", [MagicSearch, BeamMagicSearch, TopK])
def test_a_prefix_without_room_behind_it_is_refused(kind):
    captioner, picture = tiny.captioner(0), tiny.pictures(1)[0]
    with pytest.raises(BadSettings, match=r"at most 23 tokens together.*shorten"):
        captioner.caption(picture, kind(max_new_tokens=20, prefix="A dog runs across the grass."))


@pytest.mark.parametrize("prefix", [3, None, "a" * 2001, "\ud800"])
def test_what_is_no_prefix_is_refused(prefix):
    with pytest.raises(BadSettings, match="prefix must be a text of at most 2000 characters"):
        TopK(prefix=prefix)


@pytest.mark.parametrize("kind", [MagicSearch, BeamMagicSearch, TopK])
def test_a_prefix_with_a_special_token_is_refused(kind):
    captioner, picture = tiny.captioner(0), tiny.pictures(1)[0]
    with pytest.raises(BadSettings, match=r"special token <.endoftext.> in 'A dog<"):
        captioner.caption(picture, kind(max_new_tokens=3, prefix="A dog<|endoftext|> A"))


def test_a_prefix_that_constraints_forbid_is_refused():
    with pytest.raises(BadSettings, match="prefix must keep to exclude and max_words"):
        BeamMagicSearch(prefix="A dog", exclude=("dog",))
    with pytest.raises(BadSettings, match="prefix must keep to exclude and max_words"):
        BeamMagicSearch(prefix="A dog runs", max_words=2)
