"""Bilinear pooling of words and patches: its score against loops, files, re-ranking, the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from repository import recipe
from tiny import SENTENCES

from magicap.errors import BadModel, BadSettings
from magicap.models.fine_grained.bilinear import BilinearPooling
from magicap.models.fine_grained.local_features import FineGrainedSettings, padded
from magicap.models.fine_grained.scorer import FineGrainedScorer

SETTINGS = FineGrainedSettings(
    width=6, hidden=8, region=1, image_block=-1, weight=0.7, pooling="bilinear", glimpses=3
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def one_by_one(
    pooling: BilinearPooling, patches: torch.Tensor, words: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """One picture, one text and one glimpse at a time, with a matrix between words and patches."""
    scores = torch.zeros(len(patches), len(words))
    for i, places in enumerate(patches):
        for j, text in enumerate(words):
            own = text[mask[j]]
            for query, value in zip(pooling.attention.detach(), pooling.value.detach(), strict=True):
                if len(own):
                    attention = (own @ torch.diag(query) @ places.T).flatten().softmax(dim=0)
                    scores[i, j] += attention @ (own @ torch.diag(value) @ places.T).flatten()
    return scores / len(pooling.value)


@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    chunk=st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_any_chunks_give_what_loops_give(sizes, counts, chunk, seed):
    torch.manual_seed(seed)
    pooling = BilinearPooling(4, 2)
    patches = unit(*sizes, 4, seed=seed)
    words, mask = padded(unit(sum(counts), 4, seed=seed + 1), torch.tensor(counts))
    expected = one_by_one(pooling, patches, words, mask)
    words[~mask] = 7.0  # what stands at padding does not matter
    assert torch.allclose(pooling(patches, words, mask, chunk), expected, atol=1e-5)
    images, texts = torch.meshgrid(torch.arange(sizes[0]), torch.arange(len(counts)), indexing="ij")
    assert torch.allclose(pooling.of_pairs(patches, words, mask, images, texts, chunk), expected, atol=1e-5)


def test_words_patches_and_both_weights_learn_even_beside_a_text_without_words():
    pooling, patches = BilinearPooling(5, 2), unit(2, 4, 5).requires_grad_()
    words = unit(3, 2, 5, seed=1).requires_grad_()
    pooling(patches, words, torch.tensor([[True, True], [True, False], [False, False]])).sum().backward()
    for tensor in (patches, words, pooling.attention, pooling.value):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def fine() -> FineGrainedScorer:
    torch.manual_seed(3)
    return FineGrainedScorer(tiny.scorer(), SETTINGS)


def test_it_is_the_local_score_wherever_there_is_one(fine):
    images, texts = fine.encode_images(tiny.pictures(3)), fine.encode_texts(SENTENCES)
    local = one_by_one(fine.heads.bilinear, images.patches, texts.words, texts.mask)
    expected = images.vectors @ texts.vectors.T + SETTINGS.weight * local
    assert torch.allclose(fine.compare(images, texts), expected, atol=1e-5)
    to_text, to_picture = fine.rerank(images, texts, 99)
    assert torch.allclose(to_text, expected.double(), atol=1e-5)
    assert torch.allclose(to_picture, expected.double(), atol=1e-5)


def test_how_words_and_patches_are_pooled_is_saved(fine, tmp_path):
    fine.save_pretrained(tmp_path)
    again = FineGrainedScorer.from_pretrained(tmp_path, fine.scorer)
    assert again.settings == SETTINGS
    assert torch.equal(
        again.similarity(tiny.pictures(2), SENTENCES), fine.similarity(tiny.pictures(2), SENTENCES)
    )
    file = tmp_path / "fine_grained.json"
    stored = json.loads(file.read_text())
    del stored["settings"]["pooling"]  # then it is read as late interaction, which has no such weights
    file.write_text(json.dumps(stored))
    with pytest.raises(BadModel, match=r"fine-grained scorer .* cannot be loaded"):
        FineGrainedScorer.from_pretrained(tmp_path, fine.scorer)


def test_a_folder_from_before_there_was_a_choice_is_late_interaction(fine, tmp_path):
    late = FineGrainedScorer(fine.scorer, FineGrainedSettings(width=6, hidden=8, region=1))
    late.save_pretrained(tmp_path)
    file = tmp_path / "fine_grained.json"
    stored = json.loads(file.read_text())
    del stored["settings"]["pooling"], stored["settings"]["glimpses"]
    file.write_text(json.dumps(stored))
    again = FineGrainedScorer.from_pretrained(tmp_path, fine.scorer)
    assert again.settings == late.settings
    assert again.heads.bilinear is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pooling": "mean"}, "pooling must be late_interaction or bilinear, found 'mean'"),
        ({"glimpses": 0}, "glimpses must be .* found 0"),
    ],
)
def test_a_pooling_that_there_is_not_is_refused(wrong: dict[str, Any], message: str):
    with pytest.raises(BadSettings, match=message):
        FineGrainedSettings(**wrong)


def test_the_recipe_trains_it(data, tmp_path):
    train = recipe("train_fine_grained")
    tiny.scorer().save_pretrained(tmp_path / "scorer")
    settings = {
        "captions": str(data / "captions.jsonl"),
        "images": [str(data / "images.tar")],
        "scorer": str(tmp_path / "scorer"),
        "width": 6,
        "hidden": 8,
        "region": 1,
        "batch_size": 4,
        "top": 2,
        "max_steps": 2,
        "cpu": True,
    }
    out = tmp_path / "out"
    train.main(train.Config(**settings, out=str(out), pooling="bilinear"))
    log = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    figures = log[-1]["validation"]
    assert figures["score"] >= figures["score_before"]
    made = FineGrainedScorer.from_pretrained(
        out / "best", train.ImageTextScorer.from_pretrained(settings["scorer"])
    )
    assert made.heads.bilinear.attention.shape == (2, 6)
    with pytest.raises(BadSettings, match="pooling to be 'bilinear' as when this run began"):
        train.main(train.Config(**settings, out=str(out)))
