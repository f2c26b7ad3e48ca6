"""A text tower learns the vectors of a sentence encoder (teacher and student)."""

from __future__ import annotations

from torch import Tensor

from magicap.models.scorer import ImageTextScorer
from magicap.training.batches import Batch
from magicap.training.losses import distillation
from magicap.training.objectives.base import Objective
from magicap.training.processes import gather_rows


class Distillation(Objective):
    """See :func:`magicap.training.losses.distillation`; neighbours are the sentences of all processes.

    Args:
        scorer: whose text tower is the student.
    """

    def __init__(self, scorer: ImageTextScorer) -> None:
        super().__init__()
        self.may_leave_out_weights = True  # the temperature is no part of it
        self.model, self._scorer = scorer.model, scorer

    def forward(self, batch: Batch) -> Tensor:
        """The distance of the student's vectors from the teacher's.

        Args:
            batch: ``texts``, and ``teacher`` (B, D), the teacher's unit vectors of them.
        """
        vectors = self._scorer.text_vectors(batch["texts"])
        return distillation(gather_rows(vectors), gather_rows(batch["teacher"].to(vectors.dtype)))
