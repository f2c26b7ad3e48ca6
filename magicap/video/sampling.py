"""Frames of a video at even times, as upright RGB pictures.

The frame at a time is the one that is on the screen then, however long it stays there: frame rates vary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from magicap.errors import BadVideo
from magicap.images.reader import FilePath
from magicap.video.container import Video, open_video
from magicap.video.settings import EVERY, LIMITS, VideoLimits, require_every

_THUMBNAIL = 32  # pixels a side, in which two frames are compared
_ROUNDING = 1e-6  # seconds
_UPRIGHT = {  # of a display matrix (a, b, c, d), which takes (x, y) to (ax + cy, bx + dy), the signs
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True)
class Sample:
    """A frame that was sampled."""

    time: float
    """From when it is shown, in seconds."""

    cut: float
    """When, since the sample before, the picture changed most from one frame to the next, in seconds."""

    picture: Image.Image
    """RGB, upright, its pixels square."""


def samples(video: Video, every: float = EVERY) -> Iterator[Sample]:
    """The frames that are on the screen at the first frame's time and every so many seconds after, each once.

    Args:
        every: seconds.

    Raises:
        BadSettings: ``every`` is below 0.01 seconds.
        BadVideo: as from :meth:`magicap.video.container.Video.frames`, or there are too many samples.
    """
    require_every("every", every)
    count, due, cut, most = 0, 0.0, 0.0, -1.0
    start, before = None, None
    for time, until, frame in _with_ends(video):
        thumbnail = _thumbnail(frame)
        change = math.inf if before is None else float(np.abs(thumbnail - before).mean())
        before = thumbnail
        if change > most:
            most, cut = change, time
        if start is None:
            start = due = time
        if due < until - _ROUNDING:  # on the screen when a sample is due
            count += 1
            if count > video.limits.samples:
                expected = f"expected at most {video.limits.samples} samples, found more"
                raise BadVideo("samples", f"{expected}; take more seconds between them", source=video.name)
            yield Sample(time, cut, upright_picture(video, frame))
            most = -1.0
            due = start + math.ceil((until - start - _ROUNDING) / every) * every


def _with_ends(video: Video) -> Iterator[tuple[float, float, Any]]:
    """Frames with the times between which they are on the screen."""
    held: tuple[float, Any] | None = None
    for time, frame in video.frames():
        if held is not None:
            yield held[0], time, held[1]
        held = time, frame
    if held is not None:
        yield held[0], max(video.end, held[0] + 2 * _ROUNDING), held[1]


def frame_at(path: FilePath, time: float, limits: VideoLimits = LIMITS) -> Image.Image:
    """The picture that is on the screen at a time, in seconds; the last one after the end.

    Raises:
        BadVideo: as from :func:`magicap.video.container.open_video`.
        MissingPackage: PyAV is not installed.
    """
    with open_video(path, limits) as video:
        video.seek(time)
        shown = None
        for begins, frame in video.frames():
            if shown is not None and begins > time + _ROUNDING:
                break
            shown = frame
        return upright_picture(video, shown)


def upright_picture(video: Video, frame: Any) -> Image.Image:
    """A frame of PyAV as an RGB picture, turned as its display matrix says, its pixels made square."""
    picture: Image.Image = frame.to_image()
    if picture.size != (size := video.size_of(frame)):
        picture = picture.resize(size)
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.sign(np.frombuffer(data, np.int32, count=5)).tolist()
            if (turn := _UPRIGHT.get((a, b, c, d))) is not None:
                return picture.transpose(turn)
    return picture


def _thumbnail(frame: Any) -> NDArray[np.int16]:
    grey = frame.reformat(_THUMBNAIL, _THUMBNAIL, "gray8", interpolation="POINT").to_ndarray()
    return np.asarray(grey, dtype=np.int16)
