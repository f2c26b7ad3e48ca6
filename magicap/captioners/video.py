"""A video captioned scene by scene: from the mean of a scene's frames, checked against a single frame.

Shapes: N samples, S scenes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.captioners.zero_shot_search import ZeroShotSearch
from magicap.images.reader import FilePath
from magicap.results import Caption
from magicap.video.scenes import Span, find_scenes
from magicap.video.settings import EVERY, LIMITS, SceneSettings, VideoLimits
from magicap.video.vectors import OnProgress, VideoVectors, encode_video

POOLED, FRAME = "pooled", "frame"

_TOGETHER = 32  # vectors that are captioned at once


@dataclass(frozen=True)
class VideoScene:
    """A scene of a video with its caption. Times are in seconds from the video's beginning."""

    start: float
    """When it begins."""

    end: float
    """When it ends: the next begins."""

    candidates: Mapping[str, Caption]
    """``"pooled"``: the caption of the mean of the frames; ``"frame"``: of the frame at :attr:`frame_time`.
    Their ``confidence`` is None: that is fitted for photographs."""

    source: str
    """Which of them is the scene's."""

    score: float
    """Mean cosine of the scene's caption with its sampled frames, -1 to 1."""

    frame_time: float
    """Of the sampled frame that is most like the mean of the scene's frames."""

    @property
    def caption(self) -> Caption:
        """What it shows."""
        return self.candidates[self.source]


def caption_video(
    captioner: ZeroShotSearch,
    path: FilePath,
    decoding: Any = None,
    *,
    every: float = EVERY,
    scenes: SceneSettings | None = None,
    limits: VideoLimits = LIMITS,
    seed: int = 0,
    on_progress: OnProgress = lambda seconds: None,
) -> list[VideoScene]:
    """Caption a video scene by scene; see :meth:`magicap.Captioner.video`."""
    video = encode_video(captioner.scorer, path, every, limits=limits, on_progress=on_progress)
    return caption_scenes(captioner, video, find_scenes(video, scenes), decoding, seed=seed)


@torch.inference_mode()
def caption_scenes(
    captioner: ZeroShotSearch,
    video: VideoVectors,
    spans: Sequence[Span],
    decoding: Any = None,
    *,
    seed: int = 0,
) -> list[VideoScene]:
    """Caption scenes of a video that was read.

    A scene is captioned from the mean of its frames' vectors, of length one, and from the vector of the frame
    nearest to that. Of the two captions the one is taken whose mean cosine with all frames of the scene is
    higher; of equals the first.

    Args:
        spans: S scenes.
        decoding: how to search; None takes the captioner's own.
        seed: for searches that sample; scene i samples with ``seed + i``.

    Raises:
        BadSettings: the decoding does not fit the models.
    """
    frames = [video.vectors[span.rows.start : span.rows.stop] for span in spans]
    means = torch.stack([vectors.mean(dim=0) for vectors in frames])  # (S, D)
    nearest = [
        span.rows[int((vectors @ mean).argmax())]
        for span, vectors, mean in zip(spans, frames, means, strict=True)
    ]
    search, seeds = captioner.decoding if decoding is None else decoding, [*range(seed, seed + len(spans))]
    vectors = {POOLED: F.normalize(means, dim=1), FRAME: video.vectors[nearest]}
    captions = {source: _captions(captioner, vectors[source], search, seeds) for source in vectors}
    # The mean of cosines is the cosine with the mean as it is, not of length one.
    cosines = {
        source: (captioner.scorer.encode_texts(captions[source]).cpu() * means).sum(dim=1).tolist()
        for source in captions
    }
    captioned = []
    for row, span in enumerate(spans):
        worded = [source for source in captions if captions[source][row].strip()] or [POOLED]
        best = max(worded, key=lambda source: cosines[source][row])
        candidates = {source: captions[source][row] for source in captions}
        time = video.times[nearest[row]]
        captioned.append(VideoScene(span.start, span.end, candidates, best, cosines[best][row], time))
    return captioned


def _captions(
    captioner: ZeroShotSearch, vectors: Tensor, decoding: Any, seeds: Sequence[int]
) -> list[Caption]:
    """Captions of image vectors (B, D)."""
    captions: list[Caption] = []
    for start in range(0, len(seeds), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        captions += captioner.caption_vectors(vectors[part], decoding, seeds[part])
    return captions
