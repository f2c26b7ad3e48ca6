"""What every recipe that trains can be asked for, and what the loop makes of it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from magicap.checks import require_int, require_number
from magicap.errors import BadSettings
from magicap.extras import require
from magicap.training import processes

_UNITS = {"s": 1, "m": 60, "h": 3600}
RUN_MAY_CHANGE = (
    "out",
    "cpu",
    "mixed_precision",
    "max_time",
    "max_steps",
    "checkpoint_minutes",
    "resume",
    "log_with",
    "log_every",
    "workers",
)
"""Options that may differ when a run resumes."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how training runs, and how long at a time."""

    cpu: bool = False
    """Stay on the CPU even where a GPU is at hand."""

    max_time: str | None = None
    """Stop with a checkpoint after this time, such as 90s, 45m or 1h30m, counted from the start of the
    recipe; the same command then goes on."""

    checkpoint_minutes: float = 2.0
    """Minutes between two checkpoints; there is one at the end of every phase besides."""

    resume: bool = True
    """Go on where an earlier run of this folder stopped; otherwise begin anew in it, by the same options."""

    log_with: str | None = None
    """Tracker of accelerate that gets the figures beside log.jsonl: tensorboard, wandb, mlflow and others."""

    log_every: int = 20
    """Steps between two lines of log.jsonl."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Compute losses under autocast in fewer bits: bf16, or fp16 on a GPU."""

    gradient_accumulation: int = 1
    """Batches of each process whose gradients make one step. Contrastive losses find negatives within one."""

    def __post_init__(self) -> None:
        require_int("--gradient_accumulation", self.gradient_accumulation)
        require_int("--log_every", self.log_every)
        require_number("--checkpoint_minutes", self.checkpoint_minutes, lambda n: n >= 0, "at least 0")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise BadSettings(f"--mixed_precision must be no, bf16 or fp16, found {self.mixed_precision!r}")
        _ = self.deadline  # the time counts from here

    @cached_property
    def deadline(self) -> float | None:
        """When ``max_time`` is over, by ``time.monotonic()``; None: never."""
        return None if self.max_time is None else time.monotonic() + seconds_of(self.max_time)

    def step_rows(self, batch_size: int) -> int:
        """Rows of one step of all processes and micro-batches, of ``batch_size`` rows each."""
        return batch_size * processes.count() * self.gradient_accumulation


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast and how often."""

    epochs: int
    """Passes over the training data."""

    warmup_share: float = 0.05
    """Share of all steps over which the learning rate rises from zero; it then falls as a cosine."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    validations_per_epoch: float = 1.0
    """How often an epoch is held against the validation data, on average; 0.5 for every other one."""

    average: float = 0.0
    """Decay of an exponential average of the weights, which is what is then validated and kept; 0: none."""

    max_steps: int | None = None
    """Stop early after this many steps; for trying a recipe out."""

    description: str = "training"
    """What the progress bar calls this phase."""

    run: RunOptions = field(default_factory=RunOptions)
    """Where and how it runs."""

    def __post_init__(self) -> None:
        require_int("epochs", self.epochs)
        require_number("validations a pass", self.validations_per_epoch, lambda n: n > 0, "above 0")
        if self.max_steps is not None:
            require_int("max_steps", self.max_steps)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunOptions):
    """Options that the recipes share."""

    seed: int = 1
    """Seed of weights, order and everything else that is random."""

    max_steps: int | None = None
    """Stop each stage for good after this many steps, to try a recipe out."""

    def begin(self) -> None:
        """Join the other processes, if there are any, and seed this one."""
        processes.start(self.cpu)
        require("accelerate").utils.set_seed(self.seed)

    def loop(self, epochs: int, **settings: Any) -> LoopConfig:
        """The loop of one stage, with these options."""
        return LoopConfig(epochs=epochs, max_steps=self.max_steps, run=self, **settings)


def seconds_of(text: str) -> float:
    """Seconds of a time such as ``90s``, ``45m``, ``1h30m``; minutes where there is no unit.

    Raises:
        BadSettings: it is none, or zero.
    """
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        parts = [(text, "m")]
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) not in (text, f"{text}m") or seconds <= 0:
        raise BadSettings(f"--max_time is a time such as 90s, 45m or 1h30m, found {text!r}")
    return seconds
