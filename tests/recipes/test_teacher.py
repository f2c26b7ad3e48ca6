"""A teacher's vectors and how captions are spelled; shares of data sets in a batch."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from magicap.data import normalise_caption
from magicap.errors import BadModel
from magicap.training.batches import Domains
from magicap.training.losses import distillation
from magicap.training.teacher import TeacherVectors, apply_map, cut_short, linear_map, reduce_width, respell

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=8)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_vectors_come_back_for_the_texts_that_are_known(tmp_path):
    vectors = unit(3, 8)
    TeacherVectors(["a", "b", "ü"], vectors).save(tmp_path)
    rows, found = TeacherVectors.load(tmp_path).of(["ü", "unheard of", "a", "a"])
    assert rows.tolist() == [0, 2, 3]
    torch.testing.assert_close(found, vectors[[2, 0, 0]], atol=1e-3, rtol=0)
    with pytest.raises(BadModel, match="distill_text_tower"):
        TeacherVectors.load(tmp_path / "elsewhere")


def test_a_teacher_follows_a_scorer_into_its_space():
    scorer = tiny.scorer()
    texts = [f"{text} {number}" for text in tiny.SENTENCES for number in range(60)]
    own = scorer.encode_texts(texts)
    turn = torch.linalg.qr(torch.randn(own.shape[1], 40, generator=torch.Generator().manual_seed(3)).T)[0]
    teacher = TeacherVectors(texts, own @ turn.T).in_space_of(scorer)
    _, found = teacher.of(texts)
    assert float((found * own).sum(dim=1).mean()) > 0.99


def test_at_full_width_only_the_mean_is_taken_off():
    vectors = unit(50, 6) + torch.tensor([0.5, 0, 0, 0, 0, 0])
    centred = F.normalize(vectors - vectors.mean(dim=0), dim=1)
    reduced = reduce_width(vectors, 6)
    torch.testing.assert_close(reduced @ reduced.T, centred @ centred.T, atol=1e-5, rtol=0)


def test_the_axes_kept_are_those_along_which_captions_vary():
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [9.0, 0.01, 4, 0.01, 0.01]
    )
    centred = F.normalize(rows - rows.mean(dim=0), dim=1)
    reduced = reduce_width(rows, 2)
    assert reduced.shape == (200, 2)
    torch.testing.assert_close(reduced @ reduced.T, centred @ centred.T, atol=2e-2, rtol=0)


def test_a_linear_map_is_found():
    source, matrix = unit(400, 7), torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
    target = F.normalize(source @ matrix, dim=1)
    found = apply_map(source, linear_map(source, source @ matrix + 0.3))
    torch.testing.assert_close(found, F.normalize(source @ matrix + 0.3, dim=1), atol=2e-2, rtol=0)
    assert found.shape == target.shape


def test_a_perfect_student_costs_nothing_and_a_worse_one_more():
    teacher = unit(20, 8)
    assert float(distillation(teacher, teacher)) == pytest.approx(0, abs=1e-5)
    near, far = F.normalize(teacher + 0.1 * unit(20, 8, seed=3), dim=1), unit(20, 8, seed=4)
    assert 0 < float(distillation(near, teacher)) < float(distillation(far, teacher))


@given(WORDS, st.integers(0, 99))
def test_a_respelled_caption_is_the_same_caption(words, seed):
    caption = normalise_caption(" ".join(words))
    assert normalise_caption(respell(caption, random.Random(seed))) == caption


@given(WORDS, st.integers(0, 99))
def test_a_caption_cut_short_is_a_beginning(words, seed):
    caption = normalise_caption(" ".join(words))
    cut = cut_short(caption, random.Random(seed))
    assert cut
    assert caption.startswith(cut)
    assert cut != caption or len(words) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 20), st.integers(0, 5), st.data())
def test_every_batch_has_its_share_of_every_data_set(sizes, batch_size, seed, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
    shares = [weight / sum(weights) for weight in weights]
    batches = Domains(sizes, shares).batches(batch_size, seed)
    assert len(batches) == -(-sum(sizes) // batch_size)
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    for batch in batches:
        assert len(batch) == batch_size
        counts = Counter(next(n for n, end in enumerate(ends) if row < end) for row in batch)
        for number, share in enumerate(shares):
            assert abs(counts[number] - share * batch_size) <= 1
    assert batches == Domains(sizes, shares).batches(batch_size, seed)


def test_a_small_data_set_is_read_through_before_it_is_read_again():
    batches = Domains([20, 3], [0.5, 0.5]).batches(2, seed=0)
    small = [row for batch in batches for row in batch if row >= 20]
    assert [sorted(small[start : start + 3]) for start in (0, 3, 6, 9)] == [[20, 21, 22]] * 4
