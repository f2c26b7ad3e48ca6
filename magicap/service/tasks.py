"""What the worker thread does with a batch of pictures: caption, explain, search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from magicap.captioners.supervised import SupervisedCaptioner
from magicap.captioners.zero_shot import Captioner
from magicap.errors import BadModel
from magicap.generators import Returning
from magicap.results import Caption

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner
    from magicap.explanations.attention import AttentionExplanation
    from magicap.images.transform import PreparedImage
    from magicap.models.fine_grained.scorer import Alignment
    from magicap.retrieval.index import RetrievalIndex
    from magicap.retrieval.items import Match
    from magicap.service.batching import Job


@dataclass(frozen=True)
class CaptionTask:
    """Caption pictures, and report to each job after every token a position and what competes there."""

    captioner: BaseCaptioner[Any] = field(repr=False)
    decoding: Any
    candidates: int = 0

    def run(self, jobs: Sequence[Job]) -> list[Caption]:
        """The jobs' captions, in order; empty ones, without an error, once every job is unwanted."""
        progress = Returning(
            self.captioner.caption_batch_with_progress(
                _images(jobs), self.decoding, seeds=[job.seed for job in jobs], candidates=self.candidates
            )
        )
        for position, competing in enumerate(progress):
            if all(job.is_unwanted for job in jobs):
                return [Caption("")] * len(jobs)
            for row, competitors in competing:
                jobs[row].report((position, competitors))
        return progress.value


@dataclass(frozen=True)
class AlignTask:
    """Where in pictures the words of their caption sit; None for a captioner that cannot tell."""

    captioner: Captioner = field(repr=False)
    text: str

    def run(self, jobs: Sequence[Job]) -> list[Alignment | None]:
        """The alignment of each job's picture with the text, in order."""
        try:
            scorer = self.captioner.fine_grained
        except BadModel:  # it was trained on this scorer in float32, and the service computes in fewer bits
            scorer = None
        if scorer is None:
            return [None] * len(jobs)
        return [
            scorer.align_pixels(torch.from_numpy(image.pixels), (image.width, image.height), self.text)
            for image in _images(jobs)
        ]


@dataclass(frozen=True)
class AttentionTask:
    """Captions of a supervised captioner with the decoder's attention at each word."""

    captioner: SupervisedCaptioner = field(repr=False)
    decoding: Any

    def run(self, jobs: Sequence[Job]) -> list[AttentionExplanation]:
        """The explanation of each job's picture, in order; each is captioned by itself."""
        return [
            self.captioner.explain(image, self.decoding, seed=job.seed)
            for image, job in zip(_images(jobs), jobs, strict=True)
        ]


@dataclass(frozen=True)
class SearchTask:
    """What an index holds that is nearest to a sentence, or to pictures."""

    index: RetrievalIndex = field(repr=False)
    top: int
    text: str | None = None

    def run(self, jobs: Sequence[Job]) -> list[Sequence[Match]]:
        """The ``top`` matches of each job, best first; with a text, of the text and not of a picture."""
        if self.text is not None:
            return [matches for _ in jobs for matches in self.index.search_texts([self.text], self.top)]
        pixels = torch.stack([torch.from_numpy(image.pixels) for image in _images(jobs)])
        return list(self.index.search(self.index.scorer.encode_pixels(pixels), self.top))


def _images(jobs: Sequence[Job]) -> list[PreparedImage]:
    """The jobs' pictures; tasks that need one are given to jobs that have one."""
    return [job.image for job in jobs if job.image is not None]
