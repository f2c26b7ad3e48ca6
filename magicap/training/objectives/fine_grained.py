"""The local projections of a fine-grained scorer learn which words find which patches.

Shapes: B pictures, N captions, W width of a tower's states, E of the local space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magicap.models.fine_grained.local_features import LocalHeads, padded
from magicap.training.batches import Batch
from magicap.training.losses import info_nce
from magicap.training.objectives.base import Objective
from magicap.training.processes import gather_owners, gather_padded, gather_rows


class FineGrainedContrastive(Objective):
    """InfoNCE of local scores; a picture's captions never count as wrong.

    Pictures and captions of all processes stand against one another; with gradient accumulation those of one
    micro-batch.
    """

    def __init__(self, heads: LocalHeads) -> None:
        super().__init__()
        self.heads = heads

    def items(self, batch: Batch) -> float:
        """Micro-batches count alike: each is a problem of its own."""
        return 1.0

    def forward(self, batch: Batch) -> Tensor:
        """InfoNCE of the local scores of all pictures with all captions.

        Args:
            batch: ``images`` (B, W, rows, columns); ``words`` (words of all captions, W), and ``counts`` (N,)
                how many each has; ``owner`` (N,) the picture of each.
        """
        patches = gather_rows(self.heads.patches(batch["images"].flatten(2).transpose(1, 2)))
        own_words, _ = padded(self.heads.words(batch["words"]), batch["counts"])
        words, counts = gather_padded(own_words), gather_rows(batch["counts"])
        mask = torch.arange(words.shape[1], device=words.device) < counts[:, None]
        owner = gather_owners(batch["owner"], len(batch["images"]))
        scores = self.heads.scores(patches, words, mask)
        # With unit vectors as pictures and rows of scores as texts, their products are the scores.
        pictures = torch.eye(len(scores), device=scores.device)
        return info_nce(pictures, scores.T, owner, self.heads.logit_scale.exp())
