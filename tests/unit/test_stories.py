"""Stories through the public face: sentences, their pictures, what is refused, and the command."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import tiny
from clips import pattern, steady, write_clip
from command import assert_refused, magicap
from PIL import Image

from magicap import BadImage, BadSettings, BeamMagicSearch, Captioner, MagicSearch
from magicap.captioners.stories import ends_sentence, story_search

SEARCH = MagicSearch(top_k=5, alpha=0.6, beta=0.5, max_new_tokens=4)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny.captioner(0)


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> list[str]:
    """Three files, and the folder that they are in as the one to work in."""
    monkeypatch.chdir(tmp_path)
    names = ["a.png", "b.png", "c.png"]
    for name, pixels in zip(names, tiny.pictures(3), strict=True):
        Image.fromarray(pixels).save(name)
    return names


def test_a_story_is_a_string_of_its_sentences(captioner):
    story = captioner.story(tiny.pictures(1)[0], title="A dog", sentences=3, decoding=SEARCH)
    assert isinstance(story, str)
    assert story == " ".join(sentence.text for sentence in story.sentences)
    assert story.startswith("A dog")  # the title is the beginning of the first sentence
    assert story.heading == "A dog"
    again = pickle.loads(pickle.dumps(story))
    assert (again, again.heading, again.sentences) == (story, story.heading, story.sentences)


def test_a_title_that_ends_stands_before_the_story(captioner):
    picture = tiny.pictures(1)[0]
    for title, end in (("A dog", "."), ("A dog.", "")):
        story = captioner.story(picture, title=title, title_end=end, sentences=2, decoding=SEARCH)
        assert not story.startswith("A dog")
        assert story.sentences[0].steps[0].text.startswith("A dog.")


def test_no_sentence_is_told_twice(captioner):
    cautious = MagicSearch(top_k=3, alpha=0.0, beta=0.0, max_new_tokens=1)  # which alone says one word again
    story = captioner.story(tiny.pictures(1)[0], title="A dog", sentences=9, decoding=cautious)
    texts = [sentence.text.casefold().strip(" .") for sentence in story.sentences]
    assert len(set(texts)) == len(texts)
    assert 2 <= len(texts) < 9  # and it ends where nothing else can be said


def test_pictures_share_the_sentences_in_order(captioner):
    pictures = tiny.pictures(2)
    story = captioner.story(pictures, title="A dog", sentences=5, decoding=SEARCH)
    assert [sentence.picture for sentence in story.sentences] == [0, 0, 0, 1, 1]
    assert [one.picture for one in captioner.story(pictures, title="", decoding=SEARCH).sentences] == [0, 1]
    vectors = captioner.scorer.encode_images(pictures)
    for sentence in story.sentences:
        (text,) = captioner.scorer.encode_texts([sentence.text])
        assert sentence.cosine == pytest.approx(float(vectors[sentence.picture] @ text), abs=1e-5)


def test_a_long_story_forgets_its_first_sentences(captioner):
    story = captioner.story(tiny.pictures(4), title="A dog.", sentences=8, decoding=SEARCH)
    assert len(story.sentences) == 8
    assert story.sentences[0].text not in story.sentences[-1].steps[-1].text


def test_the_picture_changes_the_story_and_without_it_there_is_one(captioner):
    pictures = tiny.pictures(6)
    steered = {captioner.story(one, title="A", sentences=1, decoding=SEARCH) for one in pictures}
    blind = MagicSearch(5, 0.6, 0.0, 4)
    assert (
        len(steered)
        > len({captioner.story(one, title="A", sentences=1, decoding=blind) for one in pictures})
        == 1
    )


def test_without_a_decoding_it_is_as_published_with_a_soft_prompt_where_captions_have_one():
    published = {"top_k": 5, "alpha": 0.6, "beta": 0.15}
    for captioner in (tiny.captioner(0), tiny.with_soft_prompt(0, soft_prompt=True)):
        search = story_search(captioner.decoding)
        assert {name: getattr(search, name) for name in published} == published
        assert search.soft_prompt == captioner.decoding.soft_prompt


@pytest.mark.parametrize(
    ("text", "ends"),
    [("A dog.", True), ('"Run!"', True), ("Where?”", True), ("A dog", False), ("Mr.", False), ("", False)],
)
def test_where_sentences_end(text, ends):
    assert ends_sentence(text) is ends


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sentences": 0}, "sentences must be a whole number of at least 1"),
        ({"sentences": 101}, "sentences must be at most 100"),
        ({"decoding": BeamMagicSearch()}, "written by MagicSearch, ContrastiveSearch or Greedy"),
        ({"decoding": MagicSearch(prefix="A")}, "leave the prefix out"),
        ({"title": None}, "title must be a text, found None"),
        ({"title_end": 3}, "title_end must be a text, found 3"),
        ({"title": "A dog <|endoftext|>"}, "found the special token <.endoftext.>"),
        ({"title": "A dog " * 12}, "at most 23 tokens together"),
    ],
)
def test_what_is_no_story_is_refused(captioner, arguments, match):
    with pytest.raises(BadSettings, match=match):
        captioner.story(tiny.pictures(1)[0], **{"title": "A dog", "decoding": SEARCH, **arguments})


def test_pictures_that_are_too_many_or_cannot_be_read_are_refused(captioner, tmp_path):
    with pytest.raises(BadSettings, match="at most a picture a sentence, found 3 for 2"):
        captioner.story(tiny.pictures(3), title="A dog", sentences=2, decoding=SEARCH)
    with pytest.raises(BadSettings, match="at most a picture a sentence, found 101 for 100"):
        captioner.story([tmp_path / "missing.jpg"] * 101, title="A", sentences=100)  # before one is read
    with pytest.raises(BadSettings, match="expected a picture"):
        captioner.story([], title="A dog", decoding=SEARCH)
    with pytest.raises(BadImage, match="missing"):
        captioner.story([tiny.pictures(1)[0], tmp_path / "missing.jpg"], title="A dog", decoding=SEARCH)


def story(preset, *words):
    return magicap("story", *words, "--preset", preset, "--max-new-tokens", "4")


def test_the_command_prints_a_line_or_a_line_a_sentence(preset, pictures):
    ended = story(preset, pictures[0], "--title", "A dog", "--sentences", "2")
    assert (ended.code, len(ended.out.splitlines())) == (0, 1)
    assert ended.out.startswith("A dog")
    ended = story(preset, *pictures, "--title", "A dog")
    assert [line.split("\t")[0] for line in ended.out.splitlines()] == pictures
    ended = story(preset, *pictures[:2], "--title", "A dog", "--sentences", "3", "--beta", "0", "--json")
    told = json.loads(ended.out)
    assert [one["image"] for one in told["sentences"]] == ["a.png", "a.png", "b.png"]
    assert told["story"] == " ".join(one["text"] for one in told["sentences"])
    assert told["title"] == "A dog"


def test_pictures_are_searched_by_the_title(preset, pictures):
    assert magicap("index", ".", "--preset", preset).code == 0
    ended = story(preset, "--index", ".", "--title", "A red wall", "--top", "2", "--json")
    (first, second) = json.loads(ended.out)["sentences"]
    best = magicap("search", "A red wall", "--index", ".", "--preset", preset, "--top", "2", "--json")
    assert [json.loads(line)["image"] for line in best.out.splitlines()] == [first["image"], second["image"]]


def test_moments_of_videos_are_left_out(preset, pictures):
    pytest.importorskip("av", reason="the extra video is not installed")
    write_clip(Path("clip.mp4"), steady([pattern(1), pattern(2)], [2, 2]))
    assert magicap("index", ".", "--preset", preset).code == 0
    words = ("--title", "A red wall", "--top", "9", "--json")
    told = json.loads(story(preset, "--index", ".", *words).out)
    assert sorted({one["image"] for one in told["sentences"]}) == pictures
    assert magicap("index", "clip.mp4", "--preset", preset).code == 0
    assert_refused(story(preset, "--index", "clip.mp4", *words), "found moments of videos alone")


def test_what_cannot_be_asked_is_one_line(preset, supervised, pictures):
    assert_refused(story(preset), "expected pictures, or an index")
    assert_refused(story(preset, "a.png", "--index", "."), "give one of the two")
    assert_refused(story(preset, "--index", "."), "give --title")
    assert_refused(story(preset, "a.png", "--title-end", "."), "give --title")
    assert_refused(story(preset, "a.png", "--sentences", "0"), "--sentences must be")
    assert_refused(story("none", *pictures, "--sentences", "2"), "found 3 for 2")  # before all else
    assert_refused(story("none", "a.png", "--sentences", "101"), "--sentences must be at most 100")
    assert_refused(story("none", "a.png", "--top", "3"), "--top", "give --index")
    assert_refused(story(preset, "a.png", "--title", "A <|endoftext|>"), "special token <|endoftext|>")
    assert_refused(story(preset, "missing.png"), "missing.png")
    assert_refused(story(supervised, "a.png"), "supervised")
    assert_refused(story(preset, "a.png", "--alpha", "2"), "alpha must be between 0 and 1")


def test_another_language_model_tells_the_story(preset, pictures, tmp_path):
    tiny.language_model(tiny.word_tokenizer(), seed=9).save_pretrained(tmp_path / "stories")
    words = ["a.png", "--title", "A dog", "--sentences", "2"]
    other = story(preset, *words, "--language-model", tmp_path / "stories")
    assert other.code == 0
    assert other.out != story(preset, *words).out
