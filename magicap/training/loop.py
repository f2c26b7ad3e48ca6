"""One training loop for all recipes: a log, checkpoints, and resuming as if never stopped."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from magicap.errors import BadSettings, TrainingFailed
from magicap.extras import require
from magicap.training.averaging import WeightAverage

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = dict[str, Any]
Loss = Callable[[torch.nn.Module, Batch], torch.Tensor]
"""The scalar to minimise, of a model and a batch."""

_LOG_EVERY = 20  # steps


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast and how often."""

    epochs: int
    """Passes over the training data."""

    warmup_share: float = 0.05
    """Share of all steps over which the learning rate rises from zero; it then falls as a cosine."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    checkpoint_minutes: float = 5.0
    """A checkpoint to resume from is written this often."""

    validations_per_epoch: float = 1.0
    """How often an epoch is held against the validation data, on average; 0.5 for every other one."""

    average: float = 0.0
    """Decay of an exponential average of the weights, which is what is then validated and kept; 0: none."""

    max_steps: int | None = None
    """Stop early after this many steps; for trying a recipe out."""

    mixed_precision: str = "no"
    """``bf16`` computes losses under autocast, two to three times faster on processors that can."""

    cpu: bool = False
    """Stay on the CPU even where a GPU is at hand."""


@dataclass
class TrainingState:
    """Where training stands; written with every checkpoint."""

    step: int = 0
    best: float = -math.inf
    seconds: float = 0.0

    def state_dict(self) -> dict[str, float]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def fit(
    model: torch.nn.Module,
    parameter_groups: Sequence[dict[str, Any]],
    *,
    loader: Callable[[int], DataLoader[Any]],
    loss: Loss,
    validate: Callable[[torch.nn.Module], dict[str, float]],
    save_best: Callable[[torch.nn.Module], None],
    config: LoopConfig,
    folder: Path | None = None,
    checkpointed: Sequence[Any] = (),
) -> TrainingState:
    """Train, keep the state that validates best, and resume where an earlier run of this folder stopped.

    Args:
        parameter_groups: AdamW groups, each with its own ``lr`` and ``weight_decay``. A resumed run takes
            the ``lr`` given now.
        loader: the batches of an epoch; the same number must give the same batches in the same order.
            Epochs may differ in length.
        loss: the scalar to minimise, of the model and a batch; ``batch["epoch"]`` is the number of the epoch.
        validate: figures on held-out data; ``"score"`` is the one to maximise.
        save_best: called after each validation that beats all before.
        folder: gets ``log.jsonl`` and ``checkpoint/``; None: nothing is written, and nothing can resume.
        checkpointed: objects with ``state_dict`` and ``load_state_dict`` that resume with the rest.

    Raises:
        BadSettings: started in several processes.
        TrainingFailed: the loss is no finite number.
        MissingPackage: accelerate is not installed.
    """
    accelerator = _accelerator(config)
    lengths = [len(loader(epoch)) for epoch in range(config.epochs)]
    total = int(min(sum(lengths), config.max_steps or math.inf))
    run = _Run(accelerator, model, parameter_groups, total, config, folder, checkpointed)
    state = run.state
    validate_every = max(1, int(sum(lengths) / (config.epochs * config.validations_per_epoch)))

    bar = tqdm(total=total, initial=state.step, unit="step", disable=None, dynamic_ncols=True)
    while state.step < total:
        epoch, done = _position(state.step, lengths)
        batches: Iterable[Batch] = accelerator.skip_first_batches(accelerator.prepare(loader(epoch)), done)
        for batch in batches:
            value = run.step(loss, batch | {"epoch": epoch})
            bar.update()
            bar.set_postfix(loss=f"{value:.3f}", best=f"{state.best:.3f}", refresh=False)
            if state.step % _LOG_EVERY == 0:
                run.log({"epoch": epoch, "loss": value, "lr": run.schedule.get_last_lr()[-1]})
            is_last = state.step >= total
            if is_last or state.step % validate_every == 0:
                run.validate(validate, save_best)
            run.save_checkpoint_if_due(is_last)
            if is_last:
                break
    bar.close()
    return state


class _Run:
    """What a run trains, and all that its checkpoints hold."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        parameter_groups: Sequence[dict[str, Any]],
        total: int,
        config: LoopConfig,
        folder: Path | None,
        checkpointed: Sequence[Any],
    ) -> None:
        self.accelerator, self.config, self.folder = accelerator, config, folder
        rates = [group["lr"] for group in parameter_groups]
        optimizer = torch.optim.AdamW(list(parameter_groups), fused=True)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, _warmup_cosine(total, config.warmup_share)
        )
        self.state = TrainingState()
        self.average = WeightAverage(accelerator.unwrap_model(self.model), config.average)
        # Files of a checkpoint are numbered in this order.
        accelerator.register_for_checkpointing(self.schedule, self.state, self.average, *checkpointed)
        self.checkpoint = None if folder is None else _open_checkpoints(folder)
        if self.checkpoint is not None and (complete := _complete(self.checkpoint)) is not None:
            accelerator.load_state(str(complete))
            _set_rates(self.schedule, rates)
        self._saved = time.monotonic()
        self._started = self._saved - self.state.seconds

    def step(self, loss: Loss, batch: Batch) -> float:
        """Take one step, and give the loss before it.

        Raises:
            TrainingFailed: the loss is no finite number.
        """
        self.model.train()
        self.optimizer.zero_grad()
        with self.accelerator.autocast():
            value = loss(self.model, batch)
        if not torch.isfinite(value):
            raise TrainingFailed(f"the loss became {value.item()}; lower the learning rate and resume")
        self.accelerator.backward(value)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.average.update()
        self.state.step += 1
        self.state.seconds = time.monotonic() - self._started
        return value.item()

    def validate(
        self,
        validate: Callable[[torch.nn.Module], dict[str, float]],
        save_best: Callable[[torch.nn.Module], None],
    ) -> None:
        """Log the figures of the averaged weights, and keep these where their score beats all before."""
        with self.average.in_place():
            model = self.accelerator.unwrap_model(self.model).eval()
            with torch.no_grad():
                figures = validate(model)
            if figures["score"] > self.state.best:
                self.state.best = figures["score"]
                save_best(model)
            self.log({"validation": figures})

    def log(self, row: dict[str, Any]) -> None:
        """Add a line to ``log.jsonl``."""
        if self.folder is None:
            return
        line = {"step": self.state.step, "seconds": round(self.state.seconds, 1), **row}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save_checkpoint_if_due(self, is_last: bool) -> None:
        """Write a checkpoint after the last step, and where the one before is old enough."""
        due = is_last or time.monotonic() - self._saved > 60 * self.config.checkpoint_minutes
        if self.checkpoint is not None and due:
            _save_checkpoint(self.accelerator, self.checkpoint)
            self._saved = time.monotonic()


def _accelerator(config: LoopConfig) -> Accelerator:
    """The device and the precision of a run.

    Raises:
        BadSettings: there are several processes.
    """
    accelerator: Accelerator = require("accelerate").Accelerator(
        cpu=config.cpu, mixed_precision=config.mixed_precision
    )
    if accelerator.num_processes > 1:
        raise BadSettings(
            f"expected one process, found {accelerator.num_processes}, which training cannot share among "
            "yet; start the recipe with python, not with accelerate launch or torchrun"
        )
    return accelerator


def _position(step: int, lengths: Sequence[int]) -> tuple[int, int]:
    """The epoch in which a step falls, and how many steps of that epoch lie before it.

    With epochs of lengths 5, 5 and 4 step 7 is (1, 2).
    """
    epoch = 0
    while step >= lengths[epoch]:
        step -= lengths[epoch]
        epoch += 1
    return epoch, step


def _save_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """A kill at any moment leaves a whole checkpoint, under its own name or set aside as the old one."""
    new, old = checkpoint.with_name("checkpoint.new"), _old(checkpoint)
    shutil.rmtree(new, ignore_errors=True)
    accelerator.save_state(str(new))
    if checkpoint.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
    new.rename(checkpoint)
    shutil.rmtree(old, ignore_errors=True)


def _open_checkpoints(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "checkpoint"


def _complete(checkpoint: Path) -> Path | None:
    """The checkpoint that a run left, the older one if it was killed while it replaced that."""
    return next((path for path in (checkpoint, _old(checkpoint)) if path.is_dir()), None)


def _old(checkpoint: Path) -> Path:
    return checkpoint.with_name("checkpoint.old")


def _set_rates(schedule: torch.optim.lr_scheduler.LambdaLR, rates: Sequence[float]) -> None:
    """A checkpoint brings its own rates back; those of now hold, so that a run can resume slower."""
    schedule.base_lrs = list(rates)
    groups = zip(schedule.optimizer.param_groups, rates, schedule.lr_lambdas, strict=True)
    for group, rate, factor in groups:
        group["initial_lr"] = rate
        group["lr"] = rate * factor(schedule.last_epoch)


def _warmup_cosine(total: int, warmup_share: float) -> Callable[[int], float]:
    """From a step to its share of the peak rate: up in a line, down as a cosine."""
    warmup = max(1, int(total * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor
