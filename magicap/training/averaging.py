"""Weights kept beside those that are being trained: their running average, and the best so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from magicap.checks import require_number
from magicap.training import processes


class WeightAverage:
    """Exponential moving average of a model's trained weights (Polyak averaging).

    The decay rises from 0.1 to its full value, as ``(1 + n) / (10 + n)`` after n steps, so that the random
    weights of the start are forgotten.

    Args:
        model: the model being trained; frozen weights are left as they are.
        decay: in [0, 1); 0 switches averaging off.

    Raises:
        BadSettings: the decay is another.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        require_number("decay", decay, lambda share: 0 <= share < 1, "at least 0 and below 1")
        self.decay, self.steps = decay, 0
        self.live = [p for p in model.parameters() if p.requires_grad] if decay else []
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are after one more step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        if self.mean:
            torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average inside, and its own weights again afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of steps, by reference."""
        return {"steps": self.steps, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a checkpoint's average; its weights must be as many and of the same shapes."""
        self.steps = state["steps"]
        for mean, saved in zip(self.mean, state["mean"], strict=True):
            mean.copy_(saved)

    @torch.no_grad()
    def _exchange(self) -> None:
        for number, (parameter, mean) in enumerate(zip(self.live, self.mean, strict=True)):
            live: Tensor = parameter.detach().clone()
            parameter.copy_(mean)
            self.mean[number] = live


class BestWeights:
    """The state of a model that validated best, kept in memory; resumes with a checkpoint."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.state = model, _copied(model)

    def keep(self, _: nn.Module) -> None:
        """Take the model's weights as they are; what a loop calls after its best validation."""
        self.state = _copied(self.model)

    def restore(self) -> None:
        """Give the model its best weights back; those of the first process, which validates."""
        self.state = processes.from_first(self.state)
        self.model.load_state_dict(self.state)

    def state_dict(self) -> dict[str, Any]:
        """The best weights by name, by reference."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a checkpoint's best weights; the model keeps those that it has."""
        self.state = state


def _copied(model: nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
