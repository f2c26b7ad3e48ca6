"""Every recipe runs for two steps on tiny data, and what comes out captions a picture."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny import SENTENCES
from torch.utils.data import DataLoader

from magicap import Captioner, ImageTextScorer, MagicSearch
from magicap.data import CaptionedImage
from magicap.training import loop
from magicap.training.loop import LoopConfig, fit
from magicap.training.losses import (
    hardest_negative_hinge,
    info_nce,
    next_token_cross_entropy,
    simctg_contrastive,
)

RECIPES = Path(__file__).parent.parent / "recipes"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve captioned pictures: eight to train on, four to validate with."""
    folder = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)
    with tarfile.open(folder / "images.tar", "w") as tar, open(folder / "captions.jsonl", "w") as captions:
        for number in range(12):
            encoded = io.BytesIO()
            Image.fromarray(chance.integers(0, 256, (64, 80, 3), np.uint8)).save(encoded, "JPEG")
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = encoded.tell()
            encoded.seek(0)
            tar.addfile(member, encoded)
            row = {"image": member.name, "split": "train" if number < 8 else "dev", "captions": SENTENCES}
            captions.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer(data, tmp_path_factory) -> Path:
    train = recipe("train_tokenizer")
    out = tmp_path_factory.mktemp("tokenizer")
    train.main(train.Config(text=[str(data / "captions.jsonl")], out=str(out), vocabulary_size=300))
    return out


@pytest.fixture(scope="module")
def language_model(data, tokenizer, tmp_path_factory) -> Path:
    tune = recipe("tune_language_model")
    out = tmp_path_factory.mktemp("language_model")
    captions = str(data / "captions.jsonl")
    shape = {"layers": 1, "width": 16, "heads": 2, "positions": 48}
    config = tune.Config(
        text=[captions],
        validation_text=captions,
        out=str(out),
        tokenizer=str(tokenizer / "language_model"),
        **shape,
        batch_size=4,
        contrastive=0.5,
        max_steps=2,
        cpu=True,
    )
    tune.main(config)
    return out


def scorer_settings(data: Path, tokenizer: Path) -> dict[str, Any]:
    return {
        "captions": str(data / "captions.jsonl"),
        "images": [str(data / "images.tar")],
        "tokenizer": str(tokenizer / "scorer"),
        "image_model": "test_vit",
        "image_size": 160,
        "width": 16,
        "text_layers": 1,
        "text_heads": 2,
        "align_epochs": 1,
        "tune_epochs": 1,
        "align_batch_size": 4,
        "tune_batch_size": 4,
        "max_steps": 2,
        "cpu": True,
    }


@pytest.fixture(scope="module", params=["infonce", "vse++"])
def scorer(request, data, tokenizer, tmp_path_factory) -> Path:
    train = recipe("train_scorer")
    out = tmp_path_factory.mktemp("scorer")
    train.main(train.Config(**scorer_settings(data, tokenizer), out=str(out), loss=request.param))
    return out


def test_what_the_recipes_make_captions_a_picture(language_model, scorer, tmp_path):
    assemble = recipe("assemble_captioner")
    parts = {"language_model": str(language_model / "best"), "scorer": str(scorer / "best")}
    assemble.main(assemble.Config(**parts, out=str(tmp_path / "it"), top_k=7, max_new_tokens=9))
    captioner = Captioner.from_pretrained(tmp_path / "it")
    assert captioner.decoding == MagicSearch(top_k=7, max_new_tokens=9)
    assert captioner.scorer.text_tower is not None
    caption = captioner.caption(np.zeros((30, 40, 3), np.uint8))
    assert 1 <= len(caption.steps) <= 9


def test_logs_hold_loss_and_validation(language_model, scorer):
    for log in (language_model / "log.jsonl", scorer / "align" / "log.jsonl", scorer / "tune" / "log.jsonl"):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        assert rows[-1]["step"] == 2
        assert "score" in rows[-1]["validation"]


def test_a_recipe_that_is_done_does_nothing_more(language_model, data, tokenizer):
    tune = recipe("tune_language_model")
    settings = json.loads((language_model / "config.json").read_text())
    log = (language_model / "log.jsonl").read_text()
    tune.main(tune.Config(**settings))
    assert (language_model / "log.jsonl").read_text() == log


def test_a_folder_begun_with_other_settings_is_refused(language_model, scorer):
    for name, out in (("tune_language_model", language_model), ("train_scorer", scorer)):
        module = recipe(name)
        settings = json.loads((out / "config.json").read_text())
        with pytest.raises(SystemExit, match=r"seed to be 1 .* found 2; choose another --out"):
            module.main(module.Config(**settings | {"seed": 2}))
        assert json.loads((out / "config.json").read_text()) == settings


def test_the_temperature_learns_under_either_loss(scorer):
    learned = ImageTextScorer.from_pretrained(scorer / "best").logit_scale
    assert learned != pytest.approx(1 / 0.07, rel=1e-4)
    assert learned < 100


def test_the_temperature_stays_within_its_bound():
    train = recipe("train_scorer")
    hot = tiny.scorer()
    hot.model.logit_scale.data.fill_(9.0)
    assert train.bounded(hot).logit_scale == pytest.approx(100)


def test_fewer_pictures_than_a_batch_and_a_trunk_without_blocks_still_train(data, tokenizer, tmp_path):
    train = recipe("train_scorer")
    settings = scorer_settings(data, tokenizer) | {"image_model": "test_resnet", "pool": "avg"}
    train.main(train.Config(**settings | {"align_batch_size": 99, "tune_batch_size": 99}, out=str(tmp_path)))
    log = [json.loads(line) for line in (tmp_path / "tune" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 1


def test_an_empty_split_is_named(data, tokenizer, tmp_path):
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows if r["split"] == "train"))
    (tmp_path / "dev.jsonl").write_text("\n".join(json.dumps(r) for r in rows if r["split"] == "dev"))
    score, tune, tokens = map(recipe, ("train_scorer", "tune_language_model", "train_tokenizer"))
    for file, split in (("train.jsonl", "dev or val"), ("dev.jsonl", "train")):
        path, message = str(tmp_path / file), rf"{file}: .* split {split}, found none"
        settings = scorer_settings(data, tokenizer) | {"captions": path, "out": str(tmp_path / "out")}
        with pytest.raises(SystemExit, match=message):
            score.main(score.Config(**settings))
        with pytest.raises(SystemExit, match=message):
            tune.main(tune.Config([path], path, settings["out"], tokenizer=str(tokenizer / "language_model")))
    with pytest.raises(SystemExit, match=r"dev.jsonl: .* split train"):
        tokens.main(tokens.Config([str(tmp_path / "dev.jsonl")], settings["out"]))
    assert not (tmp_path / "out").exists()


def test_recipes_read_other_forms_of_data_sets_too(data, tokenizer, tmp_path):
    """Pictures and captions from an imagefolder; text from Karpathy's JSON."""
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    with tarfile.open(data / "images.tar") as tar, open(tmp_path / "metadata.jsonl", "w") as metadata:
        for row in rows:
            name = f"{row['split']}/{row['image']}"
            (tmp_path / row["split"]).mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(tar.extractfile(row["image"]).read())
            metadata.write(json.dumps({"file_name": name, "text": row["captions"]}) + "\n")
    images = [
        {"filename": row["image"], "split": split, "sentences": [{"raw": text} for text in row["captions"]]}
        for row, split in zip(rows, ["restval"] * 4 + ["train"] * 4 + ["val"] * 4, strict=True)
    ]
    karpathy = tmp_path / "dataset_flickr8k.json"
    karpathy.write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    tokens, tune, score = map(recipe, ("train_tokenizer", "tune_language_model", "train_scorer"))
    tokens.main(tokens.Config([str(karpathy)], str(tmp_path / "tokenizer"), vocabulary_size=300))
    one, other = (folder / "scorer" / "tokenizer.json" for folder in (tokenizer, tmp_path / "tokenizer"))
    assert one.read_text() == other.read_text()
    texts = {"text": [str(karpathy)], "validation_text": str(karpathy), "out": str(tmp_path / "text")}
    shape = {"layers": 1, "width": 16, "heads": 2, "max_steps": 1, "cpu": True}
    tune.main(tune.Config(**texts, **shape, tokenizer=str(tokenizer / "language_model")))
    pictures = {"captions": str(tmp_path / "metadata.jsonl"), "images": [str(tmp_path)], "tune_epochs": 0}
    score.main(score.Config(**scorer_settings(data, tokenizer) | pictures, out=str(tmp_path / "pairs")))
    assert (tmp_path / "text" / "best").is_dir()
    assert (tmp_path / "pairs" / "best").is_dir()


def test_a_fresh_model_needs_a_position_for_every_token():
    tune = recipe("tune_language_model")
    with pytest.raises(SystemExit, match="found 20 and 40"):
        tune.Config(["text"], "text", "out", positions=20)
    tune.Config(["text"], "text", "out", positions=20, base="gpt2")


def test_what_is_drawn_for_a_picture_follows_from_seed_and_row():
    train = recipe("train_scorer")
    rows = [CaptionedImage(f"{n}.jpg", "train", tuple("abcdefgh")) for n in range(2)]

    def draw(seed: int, row: int) -> tuple[list[str], float]:
        item = train.Pairs(rows, lambda *_: torch.rand(()), 3, seed)[row]
        return item["texts"], item["image"].item()

    before = torch.get_rng_state()
    assert draw(1, 0) == draw(1, 0)
    assert len({str(draw(seed, row)) for seed in (1, 2) for row in (0, 1)}) == 4
    assert torch.equal(before, torch.get_rng_state())


def test_a_recipe_starts_from_a_tuned_model_just_as_well(language_model, data, tmp_path):
    tune = recipe("tune_language_model")
    captions = str(data / "captions.jsonl")
    config = tune.Config(
        text=[captions],
        validation_text=captions,
        out=str(tmp_path / "more"),
        base=str(language_model / "best"),
        learning_rate=0.0,
        max_steps=1,
        cpu=True,
    )
    tune.main(config)
    first, second = (
        json.loads((p / "log.jsonl").read_text().splitlines()[-1])
        for p in (language_model, tmp_path / "more")
    )
    assert second["validation"]["score"] == pytest.approx(first["validation"]["score"], rel=1e-5)


def test_the_scorer_recipe_starts_from_a_clip_just_as_well(data, tmp_path):
    tiny.scorer().save_pretrained(tmp_path / "clip")
    train = recipe("train_scorer")
    pictures = {"captions": str(data / "captions.jsonl"), "images": [str(data / "images.tar")]}
    out = tmp_path / "out"
    config = train.Config(
        **pictures, out=str(out), base=str(tmp_path / "clip"), tune_batch_size=4, max_steps=2, cpu=True
    )
    train.main(config)
    assert not (out / "align").exists()
    before, after = (ImageTextScorer.from_pretrained(folder) for folder in (tmp_path / "clip", out / "best"))
    assert (before.encode_texts(SENTENCES) - after.encode_texts(SENTENCES)).abs().max() > 1e-4


class Interrupted(Exception):
    pass


def losses_of(folder: Path, stop_at: int | None = None, rate: float = 0.01, epochs: int = 3) -> list[float]:
    """Train a small network on noise, killed at a step if asked, and give the loss of every step taken."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    data = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    losses = []

    def loss(model, batch):
        if len(losses) == stop_at:
            raise Interrupted
        value = (model(batch["x"]) - batch["x"].sum(dim=1, keepdim=True)).square().mean()
        losses.append(value.item())
        return value

    def loader(epoch):
        order = torch.Generator().manual_seed(epoch)
        rows = [{"x": row} for row in data]
        return DataLoader(rows, batch_size=8, shuffle=True, generator=order)

    fit(
        model,
        [{"params": list(model.parameters()), "lr": rate, "weight_decay": 0.0}],
        loader=loader,
        loss=loss,
        validate=lambda _: {"score": 0.0},
        save_best=lambda _: None,
        folder=folder,
        config=LoopConfig(epochs=epochs, checkpoint_minutes=0, cpu=True),
    )
    return losses


@pytest.mark.parametrize("stop_at", [1, 5, 7, 14])
def test_a_killed_run_resumes_on_the_same_curve(tmp_path, stop_at):
    whole = losses_of(tmp_path / "whole")
    assert len(whole) == 15
    with pytest.raises(Interrupted):
        losses_of(tmp_path / "killed", stop_at)
    assert losses_of(tmp_path / "killed") == pytest.approx(whole[stop_at:], rel=1e-6)


def test_a_run_killed_while_a_checkpoint_changes_places_resumes(tmp_path, monkeypatch):
    whole, folder = losses_of(tmp_path / "whole"), tmp_path / "killed"
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name == "checkpoint.new" and (folder / "checkpoint.old").is_dir():
            raise Interrupted
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Interrupted):
            losses_of(folder)
    assert not (folder / "checkpoint").exists()
    assert losses_of(folder) == pytest.approx(whole[1:], rel=1e-6)
    assert not (folder / "checkpoint.old").exists()


def test_a_resumed_run_takes_the_rate_given_now(tmp_path):
    losses_of(tmp_path / "slow", rate=0.001, epochs=5)
    with pytest.raises(Interrupted):
        losses_of(tmp_path / "slowed", stop_at=14, epochs=5)
    losses_of(tmp_path / "slowed", rate=0.001, epochs=5)
    slow, slowed = (
        [json.loads(line)["lr"] for line in (tmp_path / name / "log.jsonl").open() if '"lr"' in line]
        for name in ("slow", "slowed")
    )
    assert len(slow) == 1
    assert slowed == pytest.approx(slow)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "num_processes", 2)
    with pytest.raises(SystemExit, match="expected one process, found 2"):
        losses_of(tmp_path)


def test_contrastive_losses_prefer_true_pairs():
    images, owner = torch.eye(3), torch.tensor([0, 1, 2])
    wrong = images[torch.tensor([1, 2, 0])]
    for loss in (
        lambda t: info_nce(images, t, owner, 10.0),
        lambda t: hardest_negative_hinge(images, t, owner),
    ):
        assert loss(images) < 1e-3 < loss(wrong)


def test_a_pictures_own_texts_do_not_compete_with_each_other():
    """With two texts that fit alike, each can have half of the picture's probability and no more."""
    images, owner = torch.eye(2), torch.tensor([0, 0, 1])
    half = torch.log(torch.tensor(2.0)) / 4  # one of two pictures pays ln 2, in one of two directions
    assert info_nce(images, images[owner], owner, 50.0) == pytest.approx(half.item(), abs=1e-4)
    assert hardest_negative_hinge(images, images[owner], owner) == 0


def test_info_nce_of_one_text_a_picture_is_clips_loss():
    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(5, 7), dim=1) for _ in range(2))
    from open_clip import ClipLoss

    expected = ClipLoss()(images, texts, torch.tensor(14.0))
    assert info_nce(images, texts, torch.arange(5), 14.0) == pytest.approx(expected.item(), rel=1e-5)


def test_padding_does_not_count():
    torch.manual_seed(0)
    logits, ids, hidden = torch.randn(2, 6, 9), torch.randint(0, 9, (2, 6)), torch.randn(2, 6, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    changed, hidden_changed = logits.clone(), hidden.clone()
    changed[1, 3:], hidden_changed[1, 3:] = 99.0, 1.0
    assert next_token_cross_entropy(logits, ids, mask) == next_token_cross_entropy(changed, ids, mask)
    assert simctg_contrastive(hidden, mask) == simctg_contrastive(hidden_changed, mask)
