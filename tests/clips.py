"""Clips that tests make: scenes of one colour pattern or picture each, with the times that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (96, 64)
TICKS = Fraction(1, 1000)
RATE = 10  # frames a second, unless times say otherwise


def pattern(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of coloured squares, another for every number."""
    colours = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def corner(size: tuple[int, int] = SIZE) -> Image.Image:
    """A black picture whose upper left quarter is red."""
    picture = Image.new("RGB", size)
    picture.paste((250, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    return picture


def write_clip(
    path: Path,
    frames: Sequence[tuple[float, Image.Image]],
    *,
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    flipped: bool = False,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Write a video of frames with the seconds from which they are shown; AVI has steady rates alone."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=RATE, options={"bf": "0"})
        stream.width, stream.height = frames[0][1].size
        stream.pix_fmt = "yuv420p"
        if path.suffix != ".avi":
            stream.codec_context.time_base = TICKS
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            stream.set_display_rotation(rotation, flipped)
        times = [time for time, _ in frames]
        for (time, picture), until in zip(frames, [*times[1:], times[-1] + 1 / RATE], strict=True):
            frame: Any = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = round(time / TICKS), TICKS
            frame.duration = round((until - time) / TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def steady(pictures: Sequence[Image.Image], seconds: Sequence[float]) -> list[tuple[float, Image.Image]]:
    """Frames at a steady rate: each picture for so many seconds."""
    counts = [round(length * RATE) for length in seconds]
    shown = [picture for picture, count in zip(pictures, counts, strict=True) for _ in range(count)]
    return [(number / RATE, picture) for number, picture in enumerate(shown)]


def write_sound(path: Path, cover: Image.Image | None = None) -> Path:
    """Write a second of silence, perhaps with a cover picture."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44_100)
        picture: Any = None
        if cover is not None:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height = cover.size
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        silence: Any = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), "fltp", "mono")
        silence.rate, silence.pts = 44_100, 0
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
        if cover is not None:
            container.mux(picture.encode(av.VideoFrame.from_image(cover)))
            container.mux(picture.encode(None))
    return path
