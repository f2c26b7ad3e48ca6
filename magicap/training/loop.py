"""One training loop for all recipes: progress, a log, checkpoints, and resuming as if never stopped."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm

from magicap.errors import BadSettings, TrainingFailed
from magicap.training.averaging import WeightAverage

Batch = dict[str, Any]


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
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
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
    """
    accelerator = Accelerator(cpu=config.cpu, mixed_precision=config.mixed_precision)
    if accelerator.num_processes > 1:
        raise BadSettings(
            f"expected one process, found {accelerator.num_processes}, which training cannot share among "
            "yet; start the recipe with python, not with accelerate launch or torchrun"
        )
    lengths = [len(loader(epoch)) for epoch in range(config.epochs)]
    total = min(sum(lengths), config.max_steps or math.inf)
    rates = [group["lr"] for group in parameter_groups]
    optimizer = torch.optim.AdamW(list(parameter_groups), fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(int(total), config.warmup_share))
    accelerator.register_for_checkpointing(schedule)
    state = TrainingState()
    accelerator.register_for_checkpointing(state)
    average = WeightAverage(accelerator.unwrap_model(model), config.average)
    accelerator.register_for_checkpointing(average)
    accelerator.register_for_checkpointing(*checkpointed)
    checkpoint = None if folder is None else _open_checkpoints(folder)
    if checkpoint is not None and (complete := _complete(checkpoint)) is not None:
        accelerator.load_state(str(complete))
        _set_rates(schedule, rates)
    validate_every = max(1, int(sum(lengths) / (config.epochs * config.validations_per_epoch)))
    started = saved = time.monotonic()
    earlier = state.seconds

    bar = tqdm(total=int(total), initial=state.step, unit="step", disable=None, dynamic_ncols=True)
    while state.step < total:
        epoch, done = _position(state.step, lengths)
        batches: Iterable[Batch] = accelerator.skip_first_batches(accelerator.prepare(loader(epoch)), done)
        for batch in batches:
            batch["epoch"] = epoch
            value = _step(accelerator, model, optimizer, schedule, loss, batch, config.clip_norm)
            average.update()
            state.step += 1
            state.seconds = earlier + time.monotonic() - started
            bar.update()
            bar.set_postfix(loss=f"{value:.3f}", best=f"{state.best:.3f}", refresh=False)
            if state.step % 20 == 0:
                _log(folder, state, {"epoch": epoch, "loss": value, "lr": schedule.get_last_lr()[-1]})
            last = state.step >= total
            if last or state.step % validate_every == 0:
                with average.in_place():
                    _validate(accelerator.unwrap_model(model), validate, save_best, folder, state)
            due = last or time.monotonic() - saved > 60 * config.checkpoint_minutes
            if checkpoint is not None and due:
                _save_checkpoint(accelerator, checkpoint)
                saved = time.monotonic()
            if last:
                break
    bar.close()
    return state


def _position(step: int, lengths: Sequence[int]) -> tuple[int, int]:
    """The epoch in which a step falls, and how many steps of that epoch lie before it."""
    for epoch, length in enumerate(lengths):
        if step < length:
            return epoch, step
        step -= length
    raise ValueError(f"step {step} beyond the last epoch")


def _step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
    batch: Batch,
    clip_norm: float,
) -> float:
    model.train()
    optimizer.zero_grad()
    with accelerator.autocast():
        value = loss(model, batch)
    if not torch.isfinite(value):
        raise TrainingFailed(f"the loss became {value.item()}; lower the learning rate and resume")
    accelerator.backward(value)
    accelerator.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    schedule.step()
    return value.item()


def _validate(
    model: torch.nn.Module,
    validate: Callable[[torch.nn.Module], dict[str, float]],
    save_best: Callable[[torch.nn.Module], None],
    folder: Path | None,
    state: TrainingState,
) -> None:
    model.eval()
    with torch.no_grad():
        figures = validate(model)
    if figures["score"] > state.best:
        state.best = figures["score"]
        save_best(model)
    _log(folder, state, {"validation": figures})


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
    """A checkpoint brings its own rates back; those given now hold, so that a run can resume slower."""
    schedule.base_lrs = list(rates)
    groups = zip(schedule.optimizer.param_groups, rates, schedule.lr_lambdas, strict=True)
    for group, rate, factor in groups:
        group["initial_lr"] = rate
        group["lr"] = rate * factor(schedule.last_epoch)


def _log(folder: Path | None, state: TrainingState, row: dict[str, Any]) -> None:
    if folder is None:
        return
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": state.step, "seconds": round(state.seconds, 1), **row}) + "\n")


def _warmup_cosine(total: int, warmup_share: float) -> Callable[[int], float]:
    warmup = max(1, int(total * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor
