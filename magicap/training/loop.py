"""One training loop for all recipes: a log, checkpoints, and resuming as if never stopped."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from magicap.errors import BadSettings, TrainingFailed, TrainingStopped
from magicap.extras import require
from magicap.training import processes
from magicap.training.accelerator import start_accelerator
from magicap.training.averaging import WeightAverage
from magicap.training.batches import Batch, Epoch
from magicap.training.checkpoints import complete_checkpoint, remove_checkpoints, replace_checkpoint
from magicap.training.objectives.base import Objective
from magicap.training.options import LoopConfig
from magicap.training.progress import progress
from magicap.training.stopping import stop_signal

Validate = Callable[[Any], dict[str, float]]
SaveBest = Callable[[Any], object]


@dataclass
class TrainingState:
    """Where training stands; written with every checkpoint."""

    step: int = 0
    best: float = -math.inf
    seconds: float = 0.0
    processes: int = 1

    def state_dict(self) -> dict[str, float]:
        """All fields by name."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a checkpoint's state.

        Raises:
            BadSettings: other many processes wrote it, with steps of another size.
        """
        if state["processes"] != self.processes:
            raise BadSettings(
                f"expected {state['processes']} processes as when this run began, found {self.processes}; "
                "start as many, or choose another --out"
            )
        vars(self).update(state)


def fit(
    objective: Objective,
    parameter_groups: Sequence[dict[str, Any]],
    *,
    epoch: Callable[[int], Epoch],
    validate: Validate,
    save_best: SaveBest,
    config: LoopConfig,
    folder: Path | None = None,
    checkpointed: Sequence[Any] = (),
) -> TrainingState:
    """Train, keep the state that validates best, and resume where an earlier run of this folder stopped.

    In several processes all take part in every step; the first alone validates and writes files.

    Args:
        objective: the loss of a batch. Its weights that stand in no group are frozen.
        parameter_groups: AdamW groups, each with its own ``lr`` and ``weight_decay``. A resumed run takes
            the ``lr`` given now.
        epoch: an epoch by its number; the same number must give the same steps. Epochs may differ in length.
        validate: figures on held-out data, of the objective; ``"score"`` is the one to maximise. It runs in
            the first process alone, so it must not wait for the others.
        save_best: called with the objective after each validation that beats all before; there too.
        folder: gets ``log.jsonl`` and ``checkpoint/``; None: nothing is written, and nothing can resume.
        checkpointed: objects with ``state_dict`` and ``load_state_dict`` that resume with the rest.

    Raises:
        TrainingFailed: the loss, or its gradient, is no finite number.
        TrainingStopped: the time is up, or the process was asked to end; a checkpoint is written.
        KeyboardInterrupt: as above, after the step at hand; a second Ctrl-C does not wait for it.
        MissingPackage: accelerate, or the tracker, is not installed.
    """
    lengths = [len(epoch(number)) for number in range(config.epochs)]
    total = int(min(sum(lengths), config.max_steps or math.inf))
    _freeze_others(objective, parameter_groups)
    run = _Run(objective, parameter_groups, total, config, folder, checkpointed)
    state = run.state
    validate_every = max(1, int(sum(lengths) / (config.epochs * config.validations_per_epoch)))
    with (
        stop_signal() as stop,
        progress(total, config.description, unit="step", initial=state.step) as bar,
    ):
        while state.step < total:
            number, done = _position(state.step, lengths)
            for micro_batches in run.steps_of(epoch(number), done):
                run.stop_if_asked(stop(), total)
                value = run.step([batch | {"epoch": number} for batch in micro_batches])
                bar.set_postfix(loss=f"{value:.3f}", best=f"{state.best:.3f}", refresh=False)
                bar.update()
                if state.step % config.run.log_every == 0:
                    run.log({"epoch": number, "loss": value, "lr": run.schedule.get_last_lr()[-1]})
                is_last = state.step >= total
                if is_last or state.step % validate_every == 0:
                    run.validate(validate, save_best)
                run.save_checkpoint_if_due(is_last)
                if is_last:
                    break
        run.stop_if_asked(stop(), total, in_time=True)  # or what comes next would begin
    run.end()
    return state


class _Run:
    """What a run trains, and all that its checkpoints hold."""

    def __init__(
        self,
        objective: Objective,
        parameter_groups: Sequence[dict[str, Any]],
        total: int,
        config: LoopConfig,
        folder: Path | None,
        checkpointed: Sequence[Any],
    ) -> None:
        leaves_out = objective.may_leave_out_weights
        self.accelerator = start_accelerator(config, folder, may_leave_out_weights=leaves_out)
        self.config, self.folder, self.objective = config, folder, objective
        rates = [group["lr"] for group in parameter_groups]
        optimizer = torch.optim.AdamW(list(parameter_groups), fused=True)
        self.model, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, _warmup_cosine(total, config.warmup_share)
        )
        self.state = TrainingState(processes=processes.count())
        self.average = WeightAverage(objective, config.average)
        # Files of a checkpoint are numbered in this order.
        self.accelerator.register_for_checkpointing(self.schedule, self.state, self.average, *checkpointed)
        self._resume(rates)
        self._saved = time.monotonic()
        self._started = self._saved - self.state.seconds

    def _resume(self, rates: Sequence[float]) -> None:
        if self.folder is None:
            return
        with processes.first_alone():
            if processes.is_first():
                self.folder.mkdir(parents=True, exist_ok=True)
                if not self.config.run.resume:
                    remove_checkpoints(self.folder)
                    (self.folder / "log.jsonl").unlink(missing_ok=True)
        if (complete := complete_checkpoint(self.folder)) is not None:
            self.accelerator.load_state(str(complete))
            _set_rates(self.schedule, rates)
        elif processes.count() > 1:  # the same weights, but dropout and noise of each process's own
            torch.manual_seed(torch.initial_seed() + processes.number())

    def steps_of(self, epoch: Epoch, done: int) -> Iterator[tuple[Batch, ...]]:
        """This process's micro-batches of the steps that are left of an epoch, on its device."""
        send = require("accelerate").utils.send_to_device
        accumulation = self.config.run.gradient_accumulation
        batches = epoch.batches(done, processes.number(), processes.count(), accumulation)
        for micro_batches in zip(*[iter(batches)] * accumulation, strict=True):
            yield tuple(send(batch, self.accelerator.device) for batch in micro_batches)

    def step(self, micro_batches: Sequence[Batch]) -> float:
        """Take one step, and give the loss before it, of all processes.

        Raises:
            TrainingFailed: the loss, or its gradient, is no finite number, in whichever process.
        """
        self.model.train()
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.accelerator.device)
        last = len(micro_batches) - 1
        for number, (batch, weight) in enumerate(
            zip(micro_batches, self._weights(micro_batches), strict=True)
        ):
            # Gradients are averaged over the processes once a step.
            with nullcontext() if number == last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    value = weight * self.model(batch)
                self.accelerator.backward(value)
            loss += value.detach()
        mean = processes.sum_over_processes(loss).item() / processes.count()
        if not math.isfinite(mean):
            raise TrainingFailed(f"the loss became {mean}; lower the learning rate and resume")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if self.accelerator.scaler is None and not torch.isfinite(norm):  # a scaler leaves such a step out
            raise TrainingFailed("the gradient is no finite number; lower the learning rate and resume")
        self.optimizer.step()
        self.schedule.step()
        self.average.update()
        self.state.step += 1
        self.state.seconds = time.monotonic() - self._started
        return mean

    def _weights(self, micro_batches: Sequence[Batch]) -> list[float]:
        """What each micro-batch counts: its items' share of those of the step, in all processes."""
        if len(micro_batches) == 1:
            return [1.0]
        own = torch.tensor(
            [self.objective.items(batch) for batch in micro_batches], device=self.accelerator.device
        )
        items = processes.sum_over_processes(own)
        weights: list[float] = (items / items.sum()).tolist()
        return weights

    def validate(self, validate: Validate, save_best: SaveBest) -> None:
        """Log the figures of the averaged weights, and keep these where their score beats all before."""
        score = self._validate(validate, save_best) if processes.is_first() else None
        self.state.best = max(self.state.best, processes.from_first(score))

    def _validate(self, validate: Validate, save_best: SaveBest) -> float:
        with self.average.in_place():
            self.objective.eval()
            with torch.no_grad():
                figures = validate(self.objective)
            if figures["score"] > self.state.best:
                save_best(self.objective)
            self.log({"validation": figures})
        return figures["score"]

    def log(self, row: dict[str, Any]) -> None:
        """Add a line to ``log.jsonl``, and its figures to the tracker."""
        if self.folder is None or not processes.is_first():
            return
        line = {"step": self.state.step, "seconds": round(self.state.seconds, 1), **row}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        figures = row.get("validation", row)
        self.accelerator.log(figures, step=self.state.step)

    def save_checkpoint_if_due(self, is_last: bool) -> None:
        """Write a checkpoint after the last step, and where the one before is old enough."""
        minutes = (time.monotonic() - self._saved) / 60
        # Clocks differ: the first process's decides for all.
        if is_last or processes.from_first(minutes >= self.config.run.checkpoint_minutes):
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Write the state of all processes."""
        if self.folder is not None:
            replace_checkpoint(self.folder, lambda new: self.accelerator.save_state(str(new)))
        self._saved = time.monotonic()

    def stop_if_asked(self, received: int, total: int, in_time: bool = False) -> None:
        """Write a checkpoint and stop, in all processes, where one got a signal or the time is up.

        Args:
            received: number of the signal, 0 for none.
            total: steps in all.
            in_time: whatever the clock says, the run has done what it had to.

        Raises:
            TrainingStopped, KeyboardInterrupt: as :func:`fit` says.
        """
        deadline = self.config.run.deadline
        is_late = not in_time and deadline is not None and time.monotonic() >= deadline
        asked = [received == signal.SIGINT, received == signal.SIGTERM, is_late]
        in_all = processes.sum_over_processes(
            torch.tensor(asked, dtype=torch.int, device=self.accelerator.device)
        )
        interrupted, terminated, late = in_all.tolist()
        if not interrupted and not terminated and not late:
            return
        self.save_checkpoint()
        self.end()
        if interrupted:
            raise KeyboardInterrupt
        why = "it was asked to end" if terminated else f"--max_time {self.config.run.max_time} is over"
        raise TrainingStopped(
            f"{self.config.description} stopped after step {self.state.step} of {total}, since {why}; "
            "the same command goes on from there",
            exit_code=128 + signal.SIGTERM if terminated else 0,
        )

    def end(self) -> None:
        """Close the trackers."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Figures by name with null for what is no number, which JSON has no other word for."""
    figures = {name: _finite(value) if isinstance(value, dict) else value for name, value in row.items()}
    floats = {name: value for name, value in figures.items() if isinstance(value, float)}
    return figures | {name: None for name, value in floats.items() if not math.isfinite(value)}


def _freeze_others(objective: torch.nn.Module, parameter_groups: Sequence[dict[str, Any]]) -> None:
    trainable = {id(parameter) for group in parameter_groups for parameter in group["params"]}
    for parameter in objective.parameters():
        parameter.requires_grad_(id(parameter) in trainable)


def _position(step: int, lengths: Sequence[int]) -> tuple[int, int]:
    """The epoch in which a step falls, and how many steps of that epoch lie before it.

    With epochs of lengths 5, 5 and 4 step 7 is (1, 2).
    """
    epoch = 0
    while step >= lengths[epoch]:
        step -= lengths[epoch]
        epoch += 1
    return epoch, step


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
