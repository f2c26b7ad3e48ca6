"""Stories against their slow reference, token by token."""

from __future__ import annotations

import itertools

import pytest
import tiny
from repository import DOCS
from story_reference import reference_story

from magicap import Captioner, MagicSearch

TITLES = ("A dog", "Two children play.", "", "A red wall — by the sea")


def tokens(story) -> list[list[int]]:
    return [[step.token_id for step in sentence.steps] for sentence in story.sentences]


def test_twenty_pictures_and_titles_on_tiny_models():
    captioner = tiny.captioner(2)
    pairs = list(zip(tiny.pictures(20, seed=3), itertools.cycle(TITLES), strict=False))
    search = MagicSearch(top_k=4, alpha=0.6, beta=0.3, max_new_tokens=3)
    lengths = set()
    for number, (picture, title) in enumerate(pairs):
        pictures, end = [picture, *tiny.pictures(number % 2)], "." * (number % 3 == 0 and title == "A dog")
        story = captioner.story(pictures, title=title, sentences=2, decoding=search, title_end=end)
        sentences, chosen = reference_story(captioner, pictures, search, title, end, 2)
        assert [sentence.text for sentence in story.sentences] == sentences
        assert tokens(story) == chosen
        lengths.add(len(sentences))
    assert 2 in lengths


@pytest.mark.slow
def test_the_embedded_captioner_on_twenty_pictures_and_titles():
    """Two sentences each: that of the title, and one that goes on or begins anew."""
    captioner = Captioner.from_pretrained()
    pictures = sorted((DOCS / "pictures").glob("*.jpg"))
    titles = ("A day out", "The long way home.", "What the", "A photo from")
    pairs = list(itertools.product(pictures, titles))
    assert len(pairs) == 20
    search = MagicSearch(top_k=5, alpha=0.6, beta=0.15, max_new_tokens=12)
    for picture, title in pairs:
        story = captioner.story(picture, title=title, sentences=2, decoding=search)
        sentences, chosen = reference_story(captioner, [picture], search, title, "", 2)
        assert [sentence.text for sentence in story.sentences] == sentences
        assert tokens(story) == chosen
