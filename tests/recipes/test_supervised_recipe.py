"""The recipe of the supervised captioner on tiny data: all its stages, and resuming as if never stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch
from captioned_pictures import captioned_pictures
from repository import parse
from repository import recipe as load_recipe
from safetensors.torch import load_file

from magicap import BadData, BadModel, BadSettings, BeamSearch, SupervisedCaptioner

STAGES = ("xe", "finetune", "scst")
CAPTIONS = [
    ["A dog runs.", "The dog runs on grass."],
    ["Two children play.", "Children play on a beach."],
    ["A man climbs a rock.", "The man in red climbs."],
]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("train_cnn_lstm")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Pictures of three kinds."""
    return captioned_pictures(tmp_path_factory.mktemp("data"), lambda number: CAPTIONS[number % 3])


@pytest.fixture(scope="module")
def settings(data) -> dict[str, Any]:
    """Two steps an epoch, one epoch a stage."""
    return {
        "captions": str(data / "captions.jsonl"),
        "images": [str(data / "images.tar")],
        "image_model": "mobilenetv2_035",
        "image_size": 64,
        "width": 16,
        "embedding": 8,
        "attention": 8,
        "layers": 1,
        "heads": 2,
        "max_words": 6,
        "min_count": 3,
        "views": 2,
        "batch_size": 4,
        "captions_per_image": 2,
        "xe_epochs": 1,
        "finetune_epochs": 1,
        "scst_epochs": 1,
        "scst_samples": 3,
        "cpu": True,
    }


@pytest.fixture(scope="module", params=["none", "soft", "hard", "transformer"])
def trained(request, recipe, settings, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    recipe.main(recipe.Config(**settings, out=str(out), decoder=request.param, beam_size=2))
    return out


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "network.safetensors")


def changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name].nan_to_num(), other[name].nan_to_num())}


# ---- what comes out ----


def test_what_the_recipe_makes_captions_a_picture(trained):
    captioner = SupervisedCaptioner.from_pretrained(trained / "best", device="cpu")
    assert captioner.decoding == BeamSearch(2, 1.0, 6)
    words = {word for texts in CAPTIONS for text in texts for word in text.lower().rstrip(".").split()}
    assert set(captioner.network.vocabulary.entries[4:]) == words - {"in", "red", "rock"}
    for caption in captioner.caption(tiny.pictures(2)):
        assert 1 <= len(caption.steps) <= 6


def test_every_stage_is_logged_and_hands_its_best_on(trained):
    for stage in STAGES:
        last = log(trained / stage)[-1]
        assert last["step"] == 2
        assert set(last["validation"]) == {"score", "ended"}
        assert 0 <= last["validation"]["ended"] <= 1
    assert not changed(weights(trained / "best"), weights(trained / "scst" / "best"))


def test_each_stage_changes_what_it_says_it_does(trained):
    xe, finetuned, scst = (weights(trained / stage / "best") for stage in STAGES)
    by_finetuning = changed(xe, finetuned)
    trainable = {name for name in by_finetuning if name.startswith("encoder.")}
    assert any("conv_head" in name for name in trainable)
    frozen = ("conv_stem", "bn1", "blocks.0.", "blocks.1.", "blocks.2.")
    assert not [
        name for name in trainable if name.startswith(tuple(f"encoder.network.{part}" for part in frozen))
    ]
    assert not [name for name in trainable if "running_" in name]
    assert any(name.startswith("decoder.") for name in by_finetuning)
    by_scst = changed(finetuned, scst)
    assert by_scst
    assert all(name.startswith("decoder.") for name in by_scst)


def test_a_recipe_that_is_done_does_nothing_more(recipe, trained):
    before = {path: path.read_text() for path in trained.rglob("log.jsonl")}
    assert len(before) == 3
    recipe.main(recipe.Config(**json.loads((trained / "config.json").read_text())))
    assert {path: path.read_text() for path in trained.rglob("log.jsonl")} == before


# ---- resuming ----


class Interrupted(Exception):
    pass


def losses_of(recipe, config, stop_at: int | None = None) -> list[float]:
    """The loss of every step that a run takes, killed before a step if asked; a checkpoint after each."""
    losses: list[float] = []

    def noted(forward):
        def wrapper(objective, batch):
            if len(losses) == stop_at:
                raise Interrupted
            value = forward(objective, batch)
            losses.append(value.item())
            return value

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for objective in (recipe.CaptionCrossEntropy, recipe.SelfCritical):
            patch.setattr(objective, "forward", noted(objective.forward))
        recipe.main(replace(config, checkpoint_minutes=0))
    return losses


@pytest.mark.parametrize("stop_at", range(6))
def test_a_killed_run_resumes_on_the_same_curve(recipe, settings, whole, tmp_path, stop_at):
    config = recipe.Config(**settings, out=str(tmp_path), decoder="soft")
    with pytest.raises(Interrupted):
        losses_of(recipe, config, stop_at)
    assert losses_of(recipe, config) == pytest.approx(whole[stop_at:], rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def whole(recipe, settings, tmp_path_factory) -> list[float]:
    """The losses of a run that nobody stops: two steps a stage."""
    config = recipe.Config(**settings, out=str(tmp_path_factory.mktemp("whole")), decoder="soft")
    losses = losses_of(recipe, config)
    assert len(set(losses)) == 6
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["none", "hard", "transformer"])
def test_every_decoder_resumes_on_the_same_curve(recipe, settings, tmp_path, decoder):
    longer = settings | {"xe_epochs": 2, "scst_epochs": 2, "decoder": decoder}
    expected = losses_of(recipe, recipe.Config(**longer, out=str(tmp_path / "whole")))
    config, found = recipe.Config(**longer, out=str(tmp_path / "killed")), 0
    for stop_at in (3, 2, 3):  # in the second epoch of xe, in finetune, in the second epoch of scst
        with pytest.raises(Interrupted):
            losses_of(recipe, config, stop_at)
        found += stop_at
    assert losses_of(recipe, config) == pytest.approx(expected[found:], rel=1e-4, abs=1e-5)


# ---- what a run starts from, and what runs share ----


def test_a_run_starts_from_a_captioner_of_its_shape(recipe, settings, tmp_path):
    more = settings | {"decoder": "soft", "finetune_epochs": 0, "scst_epochs": 0}
    recipe.main(recipe.Config(**more, out=str(tmp_path / "first")))
    first = tmp_path / "first" / "best"
    recipe.main(recipe.Config(**more, out=str(tmp_path / "more"), base=str(first), xe_rate=0.0, seed=2))
    assert not changed(weights(first), weights(tmp_path / "more" / "best"))
    other = more | {"decoder": "none", "image_weights": str(first / "network.safetensors"), "seed": 3}
    recipe.main(recipe.Config(**other, out=str(tmp_path / "other")))
    mine = weights(tmp_path / "other" / "best")
    encoder = {name: each for name, each in weights(first).items() if name.startswith("encoder.")}
    assert encoder
    assert not changed(encoder, {name: mine[name] for name in encoder})


def test_runs_with_one_encoder_share_its_features(recipe, settings, tmp_path):
    shared = settings | {"features": str(tmp_path / "features"), "finetune_epochs": 0, "scst_epochs": 0}
    recipe.main(recipe.Config(**shared, out=str(tmp_path / "soft")))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    assert len(kept) == 3  # two views, and the dev pictures
    recipe.main(recipe.Config(**shared, out=str(tmp_path / "none"), decoder="none"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == kept
    recipe.main(recipe.Config(**shared, out=str(tmp_path / "seed"), seed=2))  # another random encoder
    assert len(list((tmp_path / "features").iterdir())) == 6


@pytest.mark.parametrize("change", [{"image_size": 96}, {"image_options": []}])
def test_features_of_other_pictures_are_not_taken(recipe, settings, tmp_path, change):
    shared = settings | {"features": str(tmp_path / "features"), "finetune_epochs": 0, "scst_epochs": 0}
    recipe.main(recipe.Config(**shared, out=str(tmp_path / "one")))
    recipe.main(recipe.Config(**shared | change, out=str(tmp_path / "other")))
    assert len(list((tmp_path / "features").iterdir())) == 6


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 0}, "--views must be a whole number of at least 1, found 0"),
        ({"scst_samples": 1}, "--scst_samples must be a whole number of at least 2, found 1"),
        ({"xe_epochs": 0, "finetune_epochs": 0, "scst_epochs": 0}, "nothing to train"),
        ({"image_options": ["pad_type"]}, "--image_options are written NAME=VALUE, found 'pad_type'"),
    ],
)
def test_settings_that_cannot_be_are_refused(recipe, settings, change, message):
    with pytest.raises(BadSettings, match=message):
        recipe.Config(**settings | change, out="out")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"decoder": "gru"}, BadSettings, "none, soft, hard, transformer, found 'gru'"),
        ({"decoder": "transformer", "heads": 3}, BadSettings, "width 16 is no multiple of 3 heads"),
        ({"image_model": "nosuch"}, BadModel, "timm cannot make the network 'nosuch'"),
        ({"image_weights": "nosuch.safetensors"}, BadModel, "nosuch.safetensors cannot be read"),
        ({"min_count": 99}, BadSettings, "no word stands 99 times"),
    ],
)
def test_what_cannot_be_built_is_told_before_any_work(recipe, settings, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        recipe.main(recipe.Config(**settings | change, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_folder_begun_with_other_settings_is_refused(recipe, settings, tmp_path):
    begun = settings | {"out": str(tmp_path), "finetune_epochs": 0, "scst_epochs": 0}
    recipe.main(recipe.Config(**begun))
    with pytest.raises(BadSettings, match=r"smoothing to be 0.1 .* found 0.2; choose another --out"):
        recipe.main(recipe.Config(**begun | {"smoothing": 0.2}))
    recipe.main(recipe.Config(**begun | {"beam_size": 5}))  # of the captioner alone
    assert json.loads((tmp_path / "best" / "magicap.json").read_text())["decoding"]["beam_size"] == 5


def test_an_empty_split_is_named(recipe, settings, data, tmp_path):
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    for split, missing in (("train", "dev or val"), ("dev", "train")):
        file = tmp_path / f"{split}.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in rows if row["split"] == split))
        with pytest.raises(BadData, match=rf"{split}.jsonl: .* split {missing}, found none"):
            recipe.main(recipe.Config(**settings | {"captions": str(file)}, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_command_line_sets_the_config(recipe, capsys):
    words = "--captions c --images a.tar b --out o --decoder hard --image_options a=1 b=2 --cpu --base s"
    config = parse(recipe.Config, words.split(), "train_cnn_lstm")
    assert config == recipe.Config(
        "c", ["a.tar", "b"], "o", "s", decoder="hard", image_options=["a=1", "b=2"], cpu=True
    )
    assert not capsys.readouterr().err
    former = "--captions c --images a --out o --teach_epochs 3 --tune_rate=0.5 --pay-samples 9 --resting x y"
    assert parse(recipe.Config, former.split(), "train_cnn_lstm") == recipe.Config(
        "c", ["a"], "o", xe_epochs=3, finetune_rate=0.5, scst_samples=9, frozen=["x", "y"]
    )
    assert capsys.readouterr().err.splitlines() == [
        f"train_cnn_lstm.py: {old} is now {new}; the next release knows that name only"
        for old, new in (
            ("--teach_epochs", "--xe_epochs"),
            ("--tune_rate", "--finetune_rate"),
            ("--pay-samples", "--scst_samples"),
            ("--resting", "--frozen"),
        )
    ]
