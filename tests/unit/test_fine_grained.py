"""Fine-grained matching: its score against a triple loop, re-ranking, files, recipe, evaluation, drawing."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from repository import ROOT
from tiny import SENTENCES

from magicap.errors import BadModel, BadSettings, ModelNotFound
from magicap.explanations.alignment import draw_alignment
from magicap.metrics.retrieval import retrieval_recall
from magicap.models.fine_grained.late_interaction import (
    candidates_first,
    late_interaction,
    late_interaction_of_pairs,
)
from magicap.models.fine_grained.local_features import FineGrainedSettings, LocalTexts, padded
from magicap.models.fine_grained.scorer import FineGrainedScorer
from magicap.models.scorer import ImageTextScorer
from magicap.training.objectives.fine_grained import FineGrainedContrastive

SETTINGS = FineGrainedSettings(width=6, hidden=8, region=1, image_block=-1, text_block=-2, weight=0.7)


def script(folder: str, name: str) -> ModuleType:
    """A script as its file; a recipe may import what lies beside it, as it does when it is run."""
    if folder == "recipes" and str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fine() -> FineGrainedScorer:
    torch.manual_seed(3)
    return FineGrainedScorer(tiny.scorer(), SETTINGS)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def naive(patches: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One picture, one text, one word at a time."""
    scores = torch.zeros(len(patches), len(words))
    for i, places in enumerate(patches):
        for j, text in enumerate(words):
            best = [max(float(word @ place) for place in places) for word in text[mask[j]]]
            scores[i, j] = sum(best) / len(best) if best else 0.0
    return scores


@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    chunk=st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_any_chunks_give_what_a_triple_loop_gives(sizes, counts, chunk, seed):
    patches = unit(*sizes, 4, seed=seed)
    words, mask = padded(unit(sum(counts), 4, seed=seed + 1), torch.tensor(counts))
    expected = naive(patches, words, mask)
    assert torch.allclose(late_interaction(patches, words, mask, chunk), expected, atol=1e-6)
    images, texts = torch.meshgrid(torch.arange(sizes[0]), torch.arange(len(counts)), indexing="ij")
    pairs = late_interaction_of_pairs(patches, words, mask, images, texts, chunk)
    assert torch.allclose(pairs, expected, atol=1e-6)


def test_what_stands_at_padding_does_not_matter():
    patches, words = unit(3, 4, 5), unit(2, 6, 5, seed=1)
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    before = late_interaction(patches, words, mask)
    words[1, 2:] = 7.0
    pairs = late_interaction_of_pairs(patches, words, mask, torch.arange(3), torch.ones(3, dtype=torch.long))
    assert torch.equal(late_interaction(patches, words, mask), before)
    assert torch.allclose(pairs, before[:, 1])


def test_the_score_is_learnt_from_both_sides():
    patches, words = unit(2, 4, 5).requires_grad_(), unit(3, 2, 5, seed=1).requires_grad_()
    late_interaction(patches, words, torch.ones(3, 2, dtype=torch.bool)).sum().backward()
    assert patches.grad.abs().sum() > 0
    assert words.grad.abs().sum() > 0


def test_candidates_come_first_and_the_others_keep_their_order():
    similarity = unit(4, 9)
    candidates = similarity.topk(3, dim=1).indices
    ranked = candidates_first(similarity, candidates, -similarity.gather(1, candidates))
    old = similarity.argsort(dim=1, descending=True)
    new = ranked.argsort(dim=1, descending=True)
    assert torch.equal(new[:, :3], old[:, :3].flip(1))
    assert torch.equal(new[:, 3:], old[:, 3:])


def test_global_vectors_are_the_scorers_own(fine):
    pictures = tiny.pictures(3)
    images, texts = fine.encode_images(pictures, batch_size=2), fine.encode_texts(SENTENCES, batch_size=3)
    assert torch.allclose(images.vectors, fine.scorer.encode_images(pictures), atol=1e-5)
    assert torch.allclose(texts.vectors, fine.scorer.encode_texts(SENTENCES), atol=1e-5)
    assert images.grid == (2, 2)
    assert images.patches.shape == (3, 4, SETTINGS.width)
    tokens = [len(fine.scorer.tokenizer.encode(text)) for text in SENTENCES]
    assert texts.mask.sum(dim=1).tolist() == tokens
    assert torch.allclose(texts.words[texts.mask].norm(dim=-1), torch.ones(sum(tokens)))


def test_similarity_is_the_cosine_and_the_weighed_matching(fine):
    pictures = tiny.pictures(3)
    images, texts = fine.encode_images(pictures), fine.encode_texts(SENTENCES)
    local = naive(images.patches, texts.words, texts.mask)
    expected = fine.scorer.similarity(pictures, SENTENCES) + SETTINGS.weight * local
    assert torch.allclose(fine.similarity(pictures, SENTENCES), expected, atol=1e-5)


def test_a_text_does_not_depend_on_its_neighbours(fine):
    alone, together = fine.encode_texts(SENTENCES[:1]), fine.encode_texts(SENTENCES)
    count = int(alone.mask.sum())
    assert torch.allclose(alone.words[0], together.words[0, :count], atol=1e-5)
    empty = fine.encode_texts(["", SENTENCES[0]])
    assert empty.mask.sum(dim=1).tolist() == [0, count]
    assert fine.encode_texts([]).words.shape == (0, 1, SETTINGS.width)


def test_reranking_scores_the_first_few_anew_in_both_directions(fine):
    images, texts = fine.encode_images(tiny.pictures(4)), fine.encode_texts([*SENTENCES, "A cat.", "Snow."])
    cosines, whole = images.vectors @ texts.vectors.T, fine.compare(images, texts).double()
    for ranked, before, full in zip(
        (fine.rerank(images, texts, 2)[0], fine.rerank(images, texts, 2)[1].T),
        (cosines, cosines.T),
        (whole, whole.T),
        strict=True,
    ):
        near = before.topk(2, dim=1).indices
        assert torch.allclose(ranked.gather(1, near), full.gather(1, near), atol=1e-5)
        assert torch.equal(
            ranked.argsort(dim=1, descending=True)[:, 2:], before.argsort(dim=1, descending=True)[:, 2:]
        )
    to_text, to_picture = fine.rerank(images, texts, 99)
    assert torch.allclose(to_text, whole, atol=1e-5)
    assert torch.allclose(to_picture, whole, atol=1e-5)
    with pytest.raises(BadSettings, match=r"top must be .* at least 1, found 0"):
        fine.rerank(images, texts, 0)


def test_recall_takes_another_score_for_texts():
    owner, right, wrong = torch.tensor([0, 1]), torch.eye(2), 1 - torch.eye(2)
    figures = retrieval_recall(right, owner, text_to_image=wrong)
    assert (figures["image_to_text_r1"], figures["text_to_image_r1"]) == (100, 0)
    assert retrieval_recall(right, owner) == retrieval_recall(right, owner, text_to_image=right)


def test_what_is_saved_loads_again_with_its_scorer_only(fine, tmp_path):
    fine.save_pretrained(tmp_path)
    again = FineGrainedScorer.from_pretrained(tmp_path, fine.scorer)
    assert again.settings == SETTINGS
    pictures = tiny.pictures(2)
    assert torch.equal(again.similarity(pictures, SENTENCES), fine.similarity(pictures, SENTENCES))
    other = tiny.scorer(seed=1)
    expected, found = fine.scorer.fingerprint, other.fingerprint
    with pytest.raises(BadModel, match=rf"expected the scorer {expected} .* found {found}; load that"):
        FineGrainedScorer.from_pretrained(tmp_path, other)


def test_who_may_read_one_saved_file_may_read_them_all(fine, tmp_path):
    fine.save_pretrained(tmp_path / "fine_grained")
    tiny.captioner().save_pretrained(tmp_path / "captioner")
    assert len({path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}) == 1


def test_folders_that_hold_none_are_refused(fine, tmp_path):
    with pytest.raises(ModelNotFound, match=r"expected a fine-grained scorer .* found none"):
        FineGrainedScorer.from_pretrained(tmp_path, fine.scorer)
    fine.save_pretrained(tmp_path)
    file = tmp_path / "fine_grained.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"format": 9}))
    with pytest.raises(BadModel, match="expected format 1, found 9"):
        FineGrainedScorer.from_pretrained(tmp_path, fine.scorer)
    file.write_text(json.dumps(stored | {"settings": {"wide": 3}}))
    with pytest.raises(BadModel, match=r"fine-grained scorer .* cannot be loaded"):
        FineGrainedScorer.from_pretrained(tmp_path, fine.scorer)


def test_towers_of_another_kind_are_refused(fine):
    blind = tiny.scorer(pool_type="last")
    assert blind.text_tower is None
    with pytest.raises(BadSettings, match="expected at least one picture"):
        fine.encode_images([])
    with pytest.raises(BadModel, match="expected a causal text tower"):
        FineGrainedScorer(blind)
    with pytest.raises(BadModel, match="at least 3 blocks in the text tower, found 2"):
        FineGrainedScorer(fine.scorer, replace(SETTINGS, text_block=-3))
    with pytest.raises(BadModel, match="at least 3 blocks in the image tower"):
        FineGrainedScorer(fine.scorer, replace(SETTINGS, image_block=-3))


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"region": 0}, {"image_block": 1}, {"dropout": 1.0}, {"weight": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(BadSettings, match=rf"^{name} must be .* found"):
        FineGrainedSettings(**wrong)


@pytest.mark.parametrize("text", [*SENTENCES, "naïve 🐕 café", "antidisestablishmentarianism", ""])
def test_words_are_aligned_as_people_part_them(fine, text):
    alignment = fine.align(tiny.pictures(1)[0], text)
    assert "".join(alignment.words) == "".join(fine.scorer.tokenizer.clean_fn(text).lower().split())
    assert alignment.cosines.shape == (len(alignment.words), 2, 2)
    assert alignment.cosines.isfinite().all()


@pytest.mark.parametrize(
    ("mode", "seen"),
    [("shortest", (1 / 3, 0, 2 / 3, 1)), ("longest", (0, -1, 1, 2)), ("squash", (0, 0, 1, 1))],
)
def test_an_alignment_says_what_of_the_picture_was_seen(mode, seen, tmp_path):
    tiny.scorer().save_pretrained(tmp_path)
    file = tmp_path / "open_clip_config.json"
    stored = json.loads(file.read_text())
    stored["preprocess_cfg"]["resize_mode"] = mode
    file.write_text(json.dumps(stored))
    fine = FineGrainedScorer(ImageTextScorer.from_pretrained(tmp_path), SETTINGS)
    alignment = fine.align(np.zeros((20, 60, 3), np.uint8), "a dog")
    assert alignment.seen == pytest.approx(seen)


def test_an_alignment_is_drawn(fine, tmp_path):
    picture = tiny.pictures(1)[0]
    for text in (SENTENCES[0], " ".join(["dog"] * 14), "$x$ costs $5", ""):
        for name in ("it.png", "it.svg"):
            draw_alignment(picture, fine.align(picture, text), tmp_path / name)
    assert Image.open(tmp_path / "it.png").width > 50
    draw_alignment(picture, fine.align(picture, SENTENCES[0]), tmp_path / "it.svg")
    assert "grass" in (tmp_path / "it.svg").read_text()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve captioned pictures, eight to train on, and a captioner."""
    folder = tmp_path_factory.mktemp("data")
    with tarfile.open(folder / "images.tar", "w") as tar, open(folder / "captions.jsonl", "w") as captions:
        for number, picture in enumerate(tiny.pictures(12)):
            encoded = io.BytesIO()
            Image.fromarray(picture).save(encoded, "JPEG")
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = encoded.tell()
            encoded.seek(0)
            tar.addfile(member, encoded)
            row = {"image": member.name, "split": "train" if number < 8 else "dev", "captions": SENTENCES}
            captions.write(json.dumps(row) + "\n")
    tiny.captioner().save_pretrained(folder / "captioner")
    return folder


@pytest.fixture(scope="module")
def settings(data, tmp_path_factory) -> dict[str, Any]:
    """Those of a recipe that has run for two steps."""
    train = script("recipes", "train_fine_grained")
    given = {
        "captions": str(data / "captions.jsonl"),
        "images": [str(data / "images.tar")],
        "scorer": str(data / "captioner" / "scorer"),
        "out": str(tmp_path_factory.mktemp("runs") / "fine_grained"),
        "width": 6,
        "hidden": 8,
        "region": 1,
        "batch_size": 4,
        "top": 2,
        "max_steps": 2,
        "cpu": True,
    }
    train.main(train.Config(**given))
    return given


def test_what_the_recipe_makes_is_evaluated_and_drawn(settings, data, tmp_path, capsys):
    best = str(Path(settings["out"]) / "best")
    retrieval, alignment = script("eval", "retrieval"), script("eval", "alignment")
    shared = {name: settings[name] for name in ("captions", "images", "scorer")}
    retrieval.main(retrieval.Config(**shared, fine_grained=best, top=[2], whole=True))
    printed = capsys.readouterr().out
    assert "n = 4 pictures and 16 texts" in printed
    assert [line.split("  ")[0] for line in printed.splitlines()[2:]] == [
        "global",
        "first 2 re-ranked",
        "all re-ranked",
    ]
    retrieval.main(retrieval.Config(**shared, limit=2))
    assert "re-ranked" not in capsys.readouterr().out
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "it.png")
    shown = {"image": str(tmp_path / "it.png"), "preset": str(data / "captioner"), "fine_grained": best}
    for text in ("a dog", None):
        alignment.main(alignment.Config(**shown, out=str(tmp_path / "out.png"), text=text))
        assert Image.open(tmp_path / "out.png").height > 50


def test_the_recipe_logs_what_reranking_brings_and_resumes(settings):
    train, out = script("recipes", "train_fine_grained"), Path(settings["out"])
    before = (out / "log.jsonl").read_text()
    figures = json.loads(before.splitlines()[-1])["validation"]
    assert figures["score"] >= figures["score_before"]
    assert json.loads((out / "best" / "fine_grained.json").read_text())["settings"]["weight"] >= 0
    train.main(train.Config(**settings))
    assert (out / "log.jsonl").read_text() == before
    with pytest.raises(BadSettings, match="width to be 6 as when this run began, found 7"):
        train.main(train.Config(**settings | {"width": 7}))


def test_the_weight_is_the_one_that_serves_best():
    train = script("recipes", "train_fine_grained")
    cosines, owner = torch.tensor([[0.5, 0.62], [0.62, 0.5]]), torch.tensor([0, 1])
    both = torch.arange(2).expand(2, 2)
    for local, weight in ((torch.eye(2), 0.2), (1 - torch.eye(2), 0.0)):
        figures = train.with_best_weight(train.Candidates(cosines, both, local, both, local), owner)
        assert figures["weight"] == weight
        assert figures["score"] == (200 if weight else 0)


def test_the_loss_knows_every_caption_of_a_picture():
    train = script("recipes", "train_fine_grained")
    torch.manual_seed(0)
    heads = FineGrainedScorer(tiny.scorer(), SETTINGS).heads
    states, counts = torch.randn(6, 32).half(), torch.tensor([1, 3, 2])
    images = torch.randn(2, 64, 2, 2).half()
    collate = train.with_words(train.Captions(unit(3, 4), states, counts), ["a", "b", "c"])
    rows = [
        {"texts": texts, "respelled": texts, "row": row, "seed": 0, "image": images[row]}
        for row, texts in enumerate((["c", "a"], ["b"]))
    ]
    value = FineGrainedContrastive(heads)(collate(rows))
    texts = LocalTexts(unit(3, 4), *padded(heads.words(states), counts))
    patches = heads.patches(images.flatten(2).transpose(1, 2))
    logits = 20 * naive(patches, texts.words, texts.mask)[:, [2, 0, 1]]
    to_picture = F.cross_entropy(logits.T, torch.tensor([0, 0, 1]))
    likely = logits.log_softmax(dim=1)
    to_text = -((likely[0, 0] + likely[0, 1]) / 2 + likely[1, 2]) / 2
    assert value.item() == pytest.approx(((to_picture + to_text) / 2).item(), rel=1e-4)
