"""What the training loop asks of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from magicap.training.batches import Batch


class Objective(nn.Module, ABC):
    """A batch in, its loss out.

    Attributes:
        may_leave_out_weights: whether a step may use some of the weights that are trained and not others.
    """

    may_leave_out_weights: bool = False

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The scalar to minimise.

        Args:
            batch: this process's rows; ``batch["epoch"]`` is the number of the epoch.
        """

    def items(self, batch: Batch) -> float:
        """How many items the loss is a mean of: what a micro-batch counts beside the others of its step.

        By default its rows, which are those of its first tensor.
        """
        return float(next(len(value) for value in batch.values() if isinstance(value, torch.Tensor)))
