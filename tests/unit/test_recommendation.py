"""Queries of several parts, marginal relevance and near-duplicates: against slow loops, and as commands."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from magicap import BadSettings, Item, RetrievalIndex
from magicap.cli import main
from magicap.commands.search import arranged_words
from magicap.retrieval import duplicates
from magicap.retrieval.diversity import marginal_relevance
from magicap.retrieval.duplicates import near_duplicates
from magicap.retrieval.queries import GAMMA, SHARE, weighed_sum

SENTENCES = ["A dog runs.", "Two children play on a beach.", "A red car.", "A man climbs a rock."]
_vectors = st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=25)


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32).reshape(-1, 3), dim=1)


@given(_vectors, st.sampled_from([-0.5, 0.1, 0.83, 0.99]), st.sampled_from([1, 40, 1 << 20]))
def test_groups_are_the_components_that_a_slow_search_finds(rows, threshold, piece):
    vectors = unit(rows)
    cosines = vectors.double() @ vectors.double().T
    left, expected = set(range(len(rows))), []
    while left:
        group, new = set(), {min(left)}
        while new:
            group |= new
            new = {j for i in new for j in left - group if cosines[i, j] >= threshold}
        left -= group
        expected += [sorted(group)] if len(group) > 1 else []
    whole = duplicates.MOST_PAIRS
    duplicates.MOST_PAIRS = piece
    try:
        assert near_duplicates(vectors, threshold) == expected
    finally:
        duplicates.MOST_PAIRS = whole


@given(_vectors, st.integers(1, 30), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_maximal_marginal_relevance_is_that_of_its_definition(rows, count, diversity):
    vectors = unit(rows)
    relevance = vectors[:, 0]
    chosen = marginal_relevance(relevance, vectors, count, diversity)
    assert len(set(chosen)) == len(chosen) == min(count, len(rows))
    assert relevance[chosen[0]] == relevance.max()

    def score(number, before):
        redundancy = max(float(vectors[number] @ vectors[other]) for other in before)
        return (1 - diversity) * float(relevance[number]) - diversity * redundancy

    for step in range(1, len(chosen)):
        before = chosen[:step]
        best = max(score(number, before) for number in set(range(len(rows))) - set(before))
        assert score(chosen[step], before) == pytest.approx(best, abs=1e-5)


def test_a_query_is_what_is_liked_less_what_is_not():
    rng = np.random.default_rng(0)
    items, liked, unliked = (unit(rng.normal(size=(count, 3)).tolist()) for count in (9, 2, 3))
    mean = items.mean(dim=0) / items.mean(dim=0).norm()

    def rest(part):
        part = part - SHARE * (part @ mean) * mean
        return part / part.norm()

    total = sum(map(rest, liked)) / 2 - GAMMA * sum(map(rest, unliked)) / 3
    torch.testing.assert_close(weighed_sum(liked, unliked, items)[0], total / total.norm())
    assert torch.equal(weighed_sum(liked[:1], items[:0], items), liked[:1])


@pytest.fixture(scope="module")
def scorer():
    return tiny.scorer()


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Six pictures, two of which are copies of a third."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number, picture in enumerate(tiny.pictures(4)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    shutil.copy(folder / "1.png", folder / "8.png")
    shutil.copy(folder / "1.png", folder / "9.png")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def index(scorer, album):
    index = RetrievalIndex(scorer)
    index.update_images(sorted(album.glob("*.png")))
    return index


def names(matches):
    return [os.path.basename(match.item.path) for match in matches]


def test_what_is_given_is_left_out_and_the_cosines_are_with_the_sum(index, scorer):
    matches = index.recommend(["album/0.png", SENTENCES[1]], ["album/2.png", SENTENCES[2]])
    assert sorted(names(matches)) == ["1.png", "3.png", "8.png", "9.png"]
    assert [match.rank for match in matches] == [1, 2, 3, 4]
    parts = [scorer.encode_images([f"album/{n}.png"]) for n in (0, 2)]
    words = [scorer.encode_texts([SENTENCES[n]]) for n in (1, 2)]
    query = weighed_sum(*(torch.cat(pair) for pair in zip(parts, words, strict=True)), index.vectors)
    for match in matches:
        assert match.cosine == pytest.approx(float(index.vectors[match.position] @ query[0]), abs=1e-5)
    assert matches == sorted(matches, key=lambda match: -match.cosine)
    assert index.recommend([SENTENCES[0]]) == index.search_texts([SENTENCES[0]])[0]
    kept = index.recommend([Item(path=os.path.abspath("album/0.png"))], keep_given=True)
    assert names(kept) == names(index.search_images(["album/0.png"])[0])


def test_copies_are_a_group_and_diversity_puts_them_apart(index):
    assert [names(group) for group in index.duplicates(0.9999)] == [["1.png", "8.png", "9.png"]]
    assert [match.cosine for match in index.duplicates(0.9999)[0]] == pytest.approx([1, 1, 1], abs=1e-5)
    alike = names(index.recommend(["album/1.png"], top_k=3, keep_given=True))
    unlike = names(index.recommend(["album/1.png"], top_k=3, diversity=0.9, keep_given=True))
    assert alike == ["1.png", "8.png", "9.png"]
    assert len({"1.png", "8.png", "9.png"} & set(unlike)) == 1
    least = index.recommend(["album/1.png"], min_similarity=0.9999)
    assert names(least) == ["8.png", "9.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"like": []},
        {"like": "a dog"},
        {"like": [" "]},
        {"like": ["a dog"], "top_k": 0},
        {"like": ["a dog"], "diversity": 1.5},
        {"like": ["a dog"], "min_similarity": 2},
    ],
)
def test_what_cannot_be_asked_is_refused(index, wrong):
    with pytest.raises(BadSettings):
        index.recommend(**wrong)
    with pytest.raises(BadSettings):
        index.duplicates(1.5)


@pytest.mark.parametrize(
    ("words", "arranged"),
    [
        (
            ["--like", "a.jpg", "b.jpg", "--unlike", "c.jpg", "on a beach", "-dog"],
            ["on a beach", "- dog", "--like=a.jpg", "--like=b.jpg", "--unlike=c.jpg"],
        ),
        (["--index", "album", "a dog"], ["a dog", "--index=album"]),
        (["--unlike", "dog", "--json", "a cat"], ["a cat", "--unlike=dog", "--json"]),
        (["--text", "--", "--words"], ["- -words", "--text"]),
        (["a dog", "-top", "--top"], ["a dog", "-top", "--top"]),
    ],
)
def test_words_are_arranged_for_argparse(words, arranged):
    assert arranged_words(words) == arranged


@pytest.fixture
def run(album, preset, capsys):
    """Runs a command that must end with a code, on the indexed album."""

    def run(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        return capsys.readouterr()

    run("index", "album", "--preset", preset)
    return run


def test_a_search_by_pictures_and_sentences(run):
    words = ["--like", "album/0.png", "album/2.png", "--unlike", "album/3.png", "on a beach", "-dog"]
    out, _ = run("search", *words, "--index", "album", "--json", "--html", "sheet.html")
    rows = list(map(json.loads, out.splitlines()))
    assert sorted(row["image"] for row in rows) == ["album/1.png", "album/8.png", "album/9.png"]
    assert rows[0]["like"] == ["on a beach", "album/0.png", "album/2.png"]
    assert rows[0]["unlike"] == ["dog", "album/3.png"]
    with open("sheet.html", encoding="utf-8") as page:
        assert "<title>on a beach + 0.png + 2.png − dog − 3.png</title>" in page.read()
    one = run("search", "album/1.png", "--index", "album", "--min-similarity", 0.9999, "--json")[0]
    assert len(one.splitlines()) == 3  # a picture alone finds itself, too
    assert len(run("search", "--like", "album/1.png", "--index", "album", "--json")[0].splitlines()) == 5
    for wrong in (["-dog"], [], ["a dog", "--diversity", 2], ["a dog", "--min-similarity", -2]):
        assert run("search", *wrong, "--index", "album", code=2)[1].startswith("magicap: ")
    assert "no picture at x.jpg" in run("search", "--like", "x.jpg", "--index", "album", code=2)[1]


def test_near_duplicates_are_printed_without_encoding_anew(run, preset):
    out, err = run("index", "album", "--duplicates", "--threshold", 0.9999)
    assert out.splitlines()[0] == "group   cosine  image"
    assert [line.split()[2] for line in out.splitlines()[1:]] == ["album/1.png", "album/8.png", "album/9.png"]
    assert "(0 new, 6 unchanged, 0 dropped)" in err
    assert "1 groups of near-duplicates at a cosine of 0.9999, 2 to spare" in err
    rows = run("index", "album", "--duplicates", "--threshold", 0.9999, "--json")[0].splitlines()
    assert [json.loads(row)["image"] for row in rows] == ["album/1.png", "album/8.png", "album/9.png"]
    assert "--threshold" in run("index", "album", "--duplicates", "--threshold", 2, code=2)[1]
    assert "--duplicates" in run("index", "album", "--json", code=2)[1]
