"""Where a video's scenes begin: where a frame is no longer like those of its scene.

A frame belongs to the scene before it as long as its cosine with the mean of that scene's frames, of length
one, is at least a threshold; else it begins another. Then neighbours whose means are alike by the same
threshold are one scene, and a scene that is too short, as a flash is or the middle of a cross-fade, goes to
the neighbour that it is more like.

Shapes: N samples, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from magicap.video.settings import SceneSettings
from magicap.video.vectors import VideoVectors


@dataclass(frozen=True)
class Span:
    """A scene: samples of a video that follow one another."""

    start: float
    """When it begins, in seconds: where the picture changes most between its first sample and the one
    before."""

    end: float
    """When the next begins, or the video ends."""

    rows: range
    """Its samples."""


def find_scenes(video: VideoVectors, settings: SceneSettings | None = None) -> list[Span]:
    """The scenes of a video, at least one; each begins where the one before ends.

    Args:
        settings: None: the defaults.
    """
    settings = settings or SceneSettings()
    starts = _starts(video.vectors, settings.threshold)
    edges = [video.times[0], *(video.cuts[start] for start in starts[1:]), video.end]
    _merge(video.vectors, starts, edges, settings)
    rows = map(range, starts, [*starts[1:], len(video)])
    return [Span(start, end, own) for (start, end), own in zip(pairwise(edges), rows, strict=True)]


def _starts(vectors: Tensor, threshold: float) -> list[int]:
    """Which samples (N, D) are not like the scene before them; the first begins one."""
    starts, total = [0], vectors[0].clone()
    for row in range(1, len(vectors)):
        if float(vectors[row] @ F.normalize(total, dim=0)) < threshold:
            starts.append(row)
            total.zero_()
        total += vectors[row]
    return starts


def _merge(vectors: Tensor, starts: list[int], edges: list[float], settings: SceneSettings) -> None:
    """Merge neighbours that are alike, the most alike first; then the shortest scene, if it is too short.

    Args:
        starts: the first samples of S scenes; those of scenes that are merged are removed.
        edges: S + 1 times between which the scenes lie; likewise.
    """
    sums = [vectors[start:end].sum(dim=0) for start, end in pairwise([*starts, len(vectors)])]
    alike = [_cosine(*pair) for pair in pairwise(sums)]  # S - 1, of a scene and the next
    while alike:
        first = max(range(len(alike)), key=alike.__getitem__)
        if alike[first] < settings.threshold:
            lengths = [end - start for start, end in pairwise(edges)]
            shortest = min(range(len(lengths)), key=lengths.__getitem__)
            if lengths[shortest] >= settings.min_seconds:
                return
            beside = [row for row in (shortest - 1, shortest) if 0 <= row < len(alike)]
            first = max(beside, key=alike.__getitem__)
        sums[first] = sums[first] + sums.pop(first + 1)
        del starts[first + 1], edges[first + 1], alike[first]
        for row in (first - 1, first):
            if 0 <= row < len(alike):
                alike[row] = _cosine(sums[row], sums[row + 1])


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(F.cosine_similarity(first, second, dim=0))
