"""A scorer learns from pictures and their captions: InfoNCE or VSE++, beside what it is to keep.

Shapes: B pictures, N captions, D the shared space, F features that the image trunk pools.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn

from magicap.models.backbone import keep_batch_statistics
from magicap.models.scorer import ImageTextScorer
from magicap.training.batches import Batch
from magicap.training.losses import hardest_negative_hinge, info_nce
from magicap.training.objectives.base import Objective
from magicap.training.processes import gather_owners, gather_rows, share_of_mean
from magicap.training.teacher import TeacherVectors

ContrastiveLoss = Literal["infonce", "vse++"]
_LARGEST_LOGIT_SCALE = math.log(100)  # CLIP's own bound (Radford et al. 2021)


@dataclass(frozen=True)
class TeacherTerm:
    """Keeps a text tower near the teacher that it was distilled from."""

    vectors: TeacherVectors
    """The teacher's, in the scorer's space."""

    weight: float
    """Of one less the mean cosine."""


class ClassTerm(nn.Module):
    """Keeps the answers of a class vector's classifier while the trunk below it is tuned.

    Args:
        classifier: the trained one; a frozen copy gives the answers to keep.
        features: (N, F) of all whole pictures by the trunk as it was.
        weight: of the Kullback-Leibler divergence.
    """

    def __init__(self, classifier: nn.Module, features: Tensor, weight: float) -> None:
        super().__init__()
        self.before = copy.deepcopy(classifier).requires_grad_(False)
        self._now, self._features, self._weight = [classifier], features, weight  # a list: it is not ours

    def forward(self, pooled: Tensor, rows: Tensor) -> Tensor:
        """Of the trunk's features (B, F) of pictures, given their numbers (B,)."""
        answers = self._now[0](pooled).float().log_softmax(dim=1)
        features = self._features[rows.cpu()].to(pooled.device)
        before = self.before(features).float().log_softmax(dim=1)
        divergence = F.kl_div(answers, before, log_target=True, reduction="batchmean")
        return share_of_mean(self._weight * divergence, len(rows))


@dataclass(frozen=True)
class PatchDropoutSchedule:
    """Leaves patches out in all but the last epochs (FLIP, Li et al. 2023)."""

    module: Any
    """timm's ``PatchDropout`` in the trunk."""

    share: float
    """Of the patches."""

    epochs: int
    """The first so many epochs; later ones see whole pictures."""

    def set(self, epoch: int) -> None:
        """Make the module leave out what it shall in this epoch."""
        self.module.prob = self.share if epoch < self.epochs else 0.0


def patch_dropout(visual: Any) -> PatchDropout:
    """An image trunk's patch dropout, put in at rate 0; one without use where a trunk takes none."""
    trunk: Any = getattr(visual, "trunk", None)
    dropout = PatchDropout(0.0, num_prefix_tokens=getattr(trunk, "num_prefix_tokens", 1))
    if hasattr(trunk, "patch_drop"):
        trunk.patch_drop = dropout
    return dropout


class Contrastive(Objective):
    """Pictures and captions of a batch, in all processes, against one another.

    With gradient accumulation the negatives come from one micro-batch.

    Args:
        scorer: what is trained.
        loss: InfoNCE, or the hardest-negative hinge of VSE++.
        on_features: ``images`` of a batch are features (B, F) of a frozen trunk, not pixels.
        lock_text: the text tower gets no gradient.
        teacher: where the text tower was distilled.
        classes: where the scorer has a class vector; for image towers with a trunk.
        patch_dropout: of the trunk.
    """

    def __init__(
        self,
        scorer: ImageTextScorer,
        *,
        loss: ContrastiveLoss = "infonce",
        on_features: bool = False,
        lock_text: bool = False,
        teacher: TeacherTerm | None = None,
        classes: ClassTerm | None = None,
        patch_dropout: PatchDropoutSchedule | None = None,
    ) -> None:
        super().__init__()
        self.may_leave_out_weights = lock_text
        self.model, self.classes, self._scorer = scorer.model, classes, scorer
        self.loss, self.on_features, self.lock_text = loss, on_features, lock_text
        self._teacher = None if lock_text else teacher
        self._patch_dropout = patch_dropout

    def items(self, batch: Batch) -> float:
        """Micro-batches count alike: each is a problem of its own."""
        return 1.0

    def train(self, mode: bool = True) -> Contrastive:
        """As any module's, but batch norm keeps its statistics, and what is frozen drops nothing out."""
        super().train(mode)
        keep_batch_statistics(self)
        for module in self.modules():
            learning = [parameter.requires_grad for parameter in module.parameters()]
            if learning and not any(learning):
                module.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Contrastive loss of the batch's pictures and captions, plus the teacher's and the classes' terms.

        Args:
            batch: of :class:`magicap.training.pairs.Pairs`.
        """
        vectors, pooled = self._image_vectors(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.lock_text):
            texts = self._scorer.text_vectors(batch["respelled"])
        images, owner = F.normalize(vectors.float(), dim=-1), gather_owners(batch["owner"], len(vectors))
        total = pair_loss(self._scorer, gather_rows(images), gather_rows(texts), owner, self.loss)
        if self._teacher is not None:
            total = total + self._distance_to_teacher(texts, batch["texts"])
        if self.classes is not None and pooled is not None:
            total = total + self.classes(pooled, batch["rows"])
        return total

    def _image_vectors(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(B, D) before normalisation, and (B, F) where the image tower has a trunk."""
        if self._patch_dropout is not None:
            self._patch_dropout.set(batch["epoch"])
        visual = self.model.visual
        if self.on_features:
            pooled = batch["images"].float()
            return visual.head(pooled), pooled
        pixels = self._scorer.transform.normalise(batch["images"])
        if not hasattr(visual, "trunk"):
            return visual(pixels), None
        pooled = visual.trunk(pixels)
        return visual.head(pooled), pooled

    def _distance_to_teacher(self, vectors: Tensor, texts: Sequence[str]) -> Tensor:
        assert self._teacher is not None
        rows, targets = self._teacher.vectors.of(texts)
        cosine = (vectors[rows.to(vectors.device)] * targets.to(vectors.device)).sum(dim=1)
        mean = (1 - cosine).sum() / max(1, len(rows))
        return self._teacher.weight * share_of_mean(mean, len(rows))


def inverse_temperature(scorer: ImageTextScorer) -> Tensor:
    """The trained factor on cosines, its parameter brought back to CLIP's bound where a step went beyond."""
    with torch.no_grad():
        scorer.model.logit_scale.clamp_(max=_LARGEST_LOGIT_SCALE)
    scale: Tensor = scorer.model.logit_scale.exp()
    return scale


def pair_loss(
    scorer: ImageTextScorer, images: Tensor, texts: Tensor, owner: Tensor, loss: ContrastiveLoss
) -> Tensor:
    """Contrastive loss of pictures and their captions.

    Args:
        images: (B, D) unit vectors of the pictures.
        texts: (N, D) unit vectors of the captions.
        owner: (N,) the picture that each caption belongs to.
        loss: ``infonce``, or ``vse++`` for the hardest-negative hinge.
    """
    scale = inverse_temperature(scorer)
    if loss == "vse++":
        # The hinge knows no temperature, but magic search's softmax needs one: it alone learns from InfoNCE.
        of_temperature = info_nce(images.detach(), texts.detach(), owner, scale)
        return hardest_negative_hinge(images, texts, owner) + of_temperature
    return info_nce(images, texts, owner, scale)
