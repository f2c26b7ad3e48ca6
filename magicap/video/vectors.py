"""The sampled frames of a video as unit vectors of a scorer.

Shapes: N samples, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.images.reader import FilePath
from magicap.models.finite import are_unit, broken_image
from magicap.video.container import open_video
from magicap.video.sampling import Sample, samples
from magicap.video.settings import EVERY, LIMITS, VideoLimits, require_every

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer

OnProgress = Callable[[float], object]


@dataclass(frozen=True)
class VideoVectors:
    """What is kept of a video: a vector a sample."""

    times: tuple[float, ...]
    """From when each is shown, in seconds."""

    cuts: tuple[float, ...]
    """When, since the sample before, the picture changed most from one frame to the next, in seconds."""

    vectors: Tensor
    """(N, D) float32, on the CPU."""

    end: float
    """When the last frame leaves the screen, in seconds."""

    def __len__(self) -> int:
        """N."""
        return len(self.times)


def encode_video(
    scorer: ImageTextScorer,
    path: FilePath,
    every: float = EVERY,
    *,
    limits: VideoLimits = LIMITS,
    batch_size: int = 16,
    on_progress: OnProgress = lambda seconds: None,
) -> VideoVectors:
    """Read a video once, and keep a vector of each sample.

    A frame is resized at once to what the scorer reads, so memory does not grow with the video, but for the
    vectors.

    Args:
        every: seconds between samples, see :func:`magicap.video.sampling.samples`.
        limits: what the video may cost.
        batch_size: samples encoded together.
        on_progress: called with how many more seconds of the video are read.

    Raises:
        BadVideo: it cannot be read, see :data:`magicap.video.container.REASONS`.
        BadImage: the scorer gives no usable numbers for a frame; the code is ``"numbers"``.
        BadSettings: ``every`` is below 0.01.
        MissingPackage: PyAV is not installed.
    """
    require_every("every", every)
    times: list[float] = []
    cuts: list[float] = []
    vectors = []
    with open_video(path, limits) as video:

        def pixels(sample: Sample) -> Tensor:
            on_progress(sample.time - (times[-1] if times else 0.0))
            times.append(sample.time)
            cuts.append(sample.cut)
            return scorer.pixels(sample.picture)

        read = map(pixels, samples(video, every))
        while batch := list(islice(read, batch_size)):
            encoded = scorer.encode_pixels(torch.stack(batch)).float().cpu()
            if not bool(are_unit(encoded).all()):
                raise broken_image(path)
            vectors.append(encoded)
        on_progress(video.end - times[-1])
    return VideoVectors(tuple(times), tuple(cuts), torch.cat(vectors), video.end)
