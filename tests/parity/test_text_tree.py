"""Texts that begin alike, encoded as a tree, have the vectors that each has alone."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from magicap.models import text_tree
from magicap.models.text_tree import TokenTree

words = st.sampled_from(["a", "dog", "runs", "A dog", "über", ".", "<x>", "☃", ""])
texts = st.lists(words, max_size=12).map(" ".join)
groups = st.lists(st.lists(texts, max_size=6), max_size=6)


@pytest.fixture(scope="module", params=[False, True], ids=["CLIP", "CustomTextCLIP"])
def scorer(request):
    return tiny.scorer(custom_text=request.param)


@given(groups)
def test_groups_of_any_size_and_texts_of_any_length(scorer, groups):
    encoded = scorer.encode_text_groups(groups)
    assert len(encoded) == len(groups)
    for vectors, group in zip(encoded, groups, strict=True):
        assert vectors.shape == (len(group), scorer.width)
        torch.testing.assert_close(vectors, scorer.encode_texts(group), atol=1e-5, rtol=0)


def test_many_groups_are_cut_into_parts_and_come_back_in_order(scorer):
    groups = [[f"{'a dog ' * (number % 7)} {number}"] * (number % 3 + 1) for number in range(40)]
    for vectors, group in zip(scorer.encode_text_groups(groups), groups, strict=True):
        torch.testing.assert_close(vectors, scorer.encode_texts(group), atol=1e-5, rtol=0)


def test_many_texts_of_a_group_are_cut_into_trees_of_few(scorer, monkeypatch):
    sizes: list[int] = []
    whole = text_tree.TokenTree.of

    def counted(rows):
        tree = whole(rows)
        sizes.append(len(tree.ids))
        return tree

    monkeypatch.setattr(text_tree.TokenTree, "of", counted)
    group = [f"{'a dog ' * (number % 5)} runs {number % 60}" for number in range(150)]
    (vectors,) = scorer.encode_text_groups([group])
    torch.testing.assert_close(vectors, scorer.encode_texts(group), atol=1e-5, rtol=0)
    assert len(sizes) == 10
    assert max(sizes) <= 16 * scorer.tokenizer.context_length


def test_a_tower_that_is_not_causal_reads_each_text_by_itself():
    scorer = tiny.scorer()
    scorer.text_tower = None
    groups = [["a dog runs", "a dog"], [], ["two men"]]
    for vectors, group in zip(scorer.encode_text_groups(groups), groups, strict=True):
        torch.testing.assert_close(vectors, scorer.encode_texts(group), atol=1e-5, rtol=0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_tree_holds_each_prefix_once(rows):
    tree = TokenTree.of(rows)
    prefixes = {tuple(row[: length + 1]) for row in rows for length in range(len(row))}
    read = [tuple(torch.tensor(tree.ids)[torch.from_numpy(seen)].tolist()) for seen in tree.visible]
    assert len(read) == len(prefixes)
    assert {*read} == prefixes
    assert [read[end] for end in tree.ends] == [*map(tuple, rows)]
    assert tree.positions == [len(prefix) - 1 for prefix in read]
