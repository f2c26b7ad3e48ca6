"""The loop, the averages, the groups and the losses that recipes share."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import tiny
import torch
from accelerate.tracking import GeneralTracker, register_tracker_class
from hypothesis import given, settings
from hypothesis import strategies as st

from magicap.data import CaptionedImage
from magicap.errors import BadSettings, MissingPackage, TrainingFailed, TrainingStopped
from magicap.training.averaging import WeightAverage
from magicap.training.batches import Epoch, by_length, even_parts, shuffled
from magicap.training.checks import open_run_folder
from magicap.training.loop import fit
from magicap.training.losses import (
    hardest_negative_hinge,
    info_nce,
    next_token_cross_entropy,
    simctg_contrastive,
)
from magicap.training.objectives.base import Objective
from magicap.training.options import LoopConfig, RunOptions
from magicap.training.pairs import Pairs
from magicap.training.parameter_groups import EncoderRates, layerwise
from magicap.training.progress import progress


def test_what_is_sampled_for_a_picture_follows_from_seed_and_row():
    rows = [CaptionedImage(f"{n}.jpg", "train", tuple("abcdefgh")) for n in range(2)]

    def sample(seed: int, row: int) -> tuple[list[str], float]:
        item = Pairs(rows, lambda *_: torch.rand(()), 3, seed)[row]
        return item["texts"], item["image"].item()

    before = torch.get_rng_state()
    assert sample(1, 0) == sample(1, 0)
    assert len({str(sample(seed, row)) for seed in (1, 2) for row in (0, 1)}) == 4
    assert torch.equal(before, torch.get_rng_state())


class Interrupted(Exception):
    pass


class Loss(Objective):
    """Any function of a batch as the objective of a model."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch):
        return self.loss(batch)


def losses_of(
    folder: Path,
    stop_at: int | None = None,
    rate: float = 0.01,
    epochs: int = 3,
    average: float = 0.0,
    **options,
) -> list[float]:
    """Train a small network on noise, killed at a step if asked, and give the loss of every step taken.

    Its third epoch has fewer batches than the others.
    """
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    data = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    losses = []

    def loss(batch):
        if len(losses) == stop_at:
            raise Interrupted
        value = (model(batch["x"]) - batch["x"].sum(dim=1, keepdim=True)).square().mean()
        losses.append(value.item())
        return value

    def epoch(number):
        rows = data[: 40 if number != 2 else 32]
        return Epoch(rows, shuffled(len(rows), 8, number), lambda rows: {"x": torch.stack(rows)})

    fit(
        Loss(model, loss),
        [{"params": list(model.parameters()), "lr": rate, "weight_decay": 0.0}],
        epoch=epoch,
        validate=lambda _: {"score": sum(p.sum().item() for p in model.parameters())},
        save_best=lambda _: None,
        folder=folder,
        config=LoopConfig(
            epochs=epochs, average=average, run=RunOptions(cpu=True, checkpoint_minutes=0, **options)
        ),
    )
    return losses


@pytest.mark.parametrize("stop_at", [1, 5, 7, 12])
def test_a_killed_run_resumes_on_the_same_curve(tmp_path, stop_at):
    whole = losses_of(tmp_path / "whole")
    assert len(whole) == 14
    with pytest.raises(Interrupted):
        losses_of(tmp_path / "killed", stop_at)
    assert losses_of(tmp_path / "killed") == pytest.approx(whole[stop_at:], rel=1e-6)


def last_validation(folder: Path) -> float:
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["validation"]["score"]


def test_the_average_of_the_weights_is_what_is_validated_and_survives_a_kill(tmp_path):
    losses = losses_of(tmp_path / "live"), losses_of(tmp_path / "whole", average=0.9)
    assert losses[0] == losses[1]  # averaging changes nothing in training itself
    with pytest.raises(Interrupted):
        losses_of(tmp_path / "killed", 7, average=0.9)
    losses_of(tmp_path / "killed", average=0.9)
    assert last_validation(tmp_path / "killed") == pytest.approx(
        last_validation(tmp_path / "whole"), rel=1e-5
    )
    assert last_validation(tmp_path / "whole") != pytest.approx(last_validation(tmp_path / "live"), rel=1e-3)


def test_the_average_equals_its_definition_and_leaves_frozen_weights_alone():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average, expected = WeightAverage(model, 0.5), model.weight.detach().clone()
    for step in range(1, 9):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    live, bias = model.weight.detach().clone(), model.bias.clone()
    with average.in_place():
        assert torch.allclose(model.weight, expected, atol=1e-6)
        assert torch.equal(model.bias, bias)
    assert torch.equal(model.weight, live)
    with pytest.raises(BadSettings, match=r"decay must be at least 0 and below 1, found 1\.0"):
        WeightAverage(model, 1.0)


def test_validation_may_come_every_other_epoch(tmp_path):
    torch.manual_seed(0)
    model, steps = torch.nn.Linear(1, 1), []
    fit(
        Loss(model, lambda batch: steps.append(batch["epoch"]) or model(batch["x"]).square().mean()),
        [{"params": list(model.parameters()), "lr": 0.1, "weight_decay": 0.0}],
        epoch=lambda _: Epoch([torch.ones(1)] * 3, [[0], [1], [2]], lambda rows: {"x": rows[0]}),
        validate=lambda _: {"score": len(steps)},
        save_best=lambda _: None,
        folder=tmp_path,
        config=LoopConfig(epochs=4, validations_per_epoch=0.5, run=RunOptions(cpu=True)),
    )
    assert steps == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [row["step"] for row in rows if "validation" in row] == [6, 12]


def test_lower_blocks_learn_slower_and_the_lowest_are_frozen():
    model = tiny.scorer().model
    model.visual = torch.nn.Module()
    model.visual.trunk = torch.nn.Module()
    model.visual.trunk.patch_embed = torch.nn.Linear(2, 2)
    model.visual.trunk.blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    model.visual.trunk.norm = torch.nn.LayerNorm(2)
    model.visual.head = torch.nn.Linear(2, 2)
    rates = {"rate": 1.0, "trunk_rate": 0.1, "trunk_decay": 0.5, "trunk_blocks": 2, "decay": 0.3}
    groups = layerwise(model, **rates, encoder=EncoderRates(1, 0.01))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    trunk = model.visual.trunk
    assert [rate.get(id(block.weight)) for block in trunk.blocks] == [None, 0.05, 0.1]
    assert not trunk.blocks[0].weight.requires_grad
    assert not trunk.patch_embed.weight.requires_grad
    assert rate[id(trunk.norm.weight)] == 0.1
    assert rate[id(model.visual.head.weight)] == rate[id(model.token_embedding.weight)] == 1.0
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(trunk.blocks[2].weight)] == 0.3
    assert decays[id(trunk.blocks[2].bias)] == 0.0


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


class Noted(GeneralTracker):
    """A tracker that keeps what it is given."""

    name, requires_logging_directory, tracker = "noted", False, None
    figures: ClassVar[list] = []

    def __init__(self, project, **_):
        super().__init__()
        self.figures.append(project)

    def store_init_configuration(self, values):
        self.figures.append(values["epochs"])

    def log(self, values, step=None, **_):
        self.figures.append((step, *values))

    def finish(self):
        self.figures.append("finished")


def test_figures_go_to_a_tracker_as_well(tmp_path):
    register_tracker_class(Noted)
    losses_of(tmp_path / "run", log_with="noted", log_every=5)
    assert Noted.figures == [
        "run", 3, (4, "score"), (5, "epoch", "loss", "lr"), (8, "score"), (10, "epoch", "loss", "lr"),
        (12, "score"), (14, "score"), "finished",
    ]  # fmt: skip
    with pytest.raises(BadSettings, match=r"--log_with is one of .*, found 'paper'"):
        losses_of(tmp_path / "other", log_with="paper")
    with pytest.raises(MissingPackage, match="pip install tensorboard"):
        losses_of(tmp_path / "other", log_with="tensorboard")


def test_a_run_begins_anew_where_it_is_asked_to(tmp_path):
    whole = losses_of(tmp_path)
    assert losses_of(tmp_path) == []
    assert losses_of(tmp_path, resume=False) == pytest.approx(whole)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_a_gradient_that_is_no_number_ends_the_run_before_it_spoils_the_weights(tmp_path):
    """The root of zero is a finite loss with an infinite slope."""
    weight = torch.nn.Parameter(torch.zeros(1))
    objective = Loss(torch.nn.ParameterList([weight]), lambda _: weight.abs().sqrt().sum())
    with pytest.raises(TrainingFailed, match="the gradient is no finite number; lower the learning rate"):
        fit_once(objective, tmp_path)
    assert weight.item() == 0


@pytest.mark.parametrize("stage_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_last_validation_is_not_lost(tmp_path, stage_signal):
    model = torch.nn.Linear(1, 1)
    objective = Loss(model, lambda batch: model(batch["x"]).square().mean())

    def validate(_):
        os.kill(os.getpid(), stage_signal)
        return {"score": 1.0}

    with pytest.raises((KeyboardInterrupt, TrainingStopped)):
        fit_once(objective, tmp_path, validate)
    assert (tmp_path / "checkpoint").is_dir()


def fit_once(objective, folder, validate=lambda _: {"score": 0.0}):
    """One step."""
    fit(
        objective,
        [{"params": list(objective.parameters()), "lr": 0.1, "weight_decay": 0.0}],
        epoch=lambda _: Epoch([torch.ones(1)], [[0]], lambda rows: {"x": torch.stack(rows)}),
        validate=validate,
        save_best=lambda _: None,
        folder=folder,
        config=LoopConfig(epochs=1, run=RunOptions(cpu=True)),
    )


@pytest.mark.parametrize(
    "setting", [{"epochs": 0}, {"epochs": 1, "validations_per_epoch": 0}, {"epochs": 1, "max_steps": 0}]
)
def test_no_steps_are_no_training(setting):
    with pytest.raises(BadSettings, match="found 0"):
        LoopConfig(**setting)


def test_weights_in_no_group_are_frozen(tmp_path):
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)])
    before = [layer.weight.item() for layer in model]
    fit(
        Loss(model, lambda batch: model[1](model[0](batch["x"])).square().mean()),
        [{"params": list(model[1].parameters()), "lr": 0.1, "weight_decay": 0.0}],
        epoch=lambda _: Epoch([torch.ones(1)] * 2, [[0, 1]], lambda rows: {"x": torch.stack(rows)}),
        validate=lambda _: {"score": 0.0},
        save_best=lambda _: None,
        config=LoopConfig(epochs=2, run=RunOptions(cpu=True)),
    )
    assert model[0].weight.item() == before[0]
    assert model[1].weight.item() != before[1]


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 30))
def test_parts_are_even_and_hold_every_row_once(rows, size):
    parts = even_parts(range(rows), size)
    assert [row for part in parts for row in part] == list(range(rows))
    lengths = {len(part) for part in parts}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == -(-rows // size)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(1, 9), st.none() | st.integers(0, 9)
)
def test_batches_by_length_hold_every_row_once(lengths, size, seed):
    batches = by_length(lengths, size, seed)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    assert batches == by_length(lengths, size, seed)


def test_progress_is_a_line_now_and_then_where_stderr_is_piped(capsys, monkeypatch):
    with progress(3, "reading", unit="picture") as bar:
        bar.update(3)
    assert not capsys.readouterr().err  # done before the first line is due
    monkeypatch.setattr("magicap.training.progress.LINES_EVERY", 0.0)
    with progress(4, "reading", unit="picture", initial=2) as bar:
        bar.update()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("reading: 3/4 picture, 00:00 passed, 00:00 left")


def test_without_its_package_training_names_the_extra_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingPackage, match=r"accelerate.*pip install 'magicap\[train\]'"):
        losses_of(tmp_path)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(TrainingFailed, match=r"the loss became .*; lower the learning rate"):
        losses_of(tmp_path, rate=1e30)


def test_a_run_begun_under_former_option_names_is_refused_by_name(tmp_path):
    open_run_folder(tmp_path, {"seed": 1, "tune_epochs": 2}, ())
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(
        BadSettings, match=r"config\.json: .*former option tune_epochs; choose another --out$"
    ):
        open_run_folder(tmp_path, {"seed": 1, "finetune_epochs": 2}, ("finetune_epochs",))
    assert (tmp_path / "config.json").read_text() == before
    open_run_folder(tmp_path, {"seed": 1, "tune_epochs": 2, "new": True}, ())  # an option added since


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
