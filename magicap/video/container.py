"""Videos opened within limits: their frames in the order in which they are shown, with their times.

Only common containers are opened, and no file that one of them names: a playlist could name any file, or an
address. The bytes are read as they are decoded, so a video may be larger than the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, BinaryIO

from magicap.errors import BadVideo
from magicap.extras import require
from magicap.images.reader import FilePath, ImageLimits, describe_source
from magicap.reading import SpecialFile, open_regular
from magicap.video.settings import LIMITS, VideoLimits

REASONS: dict[str, str] = {
    "missing": "no file at that path, or one that cannot be opened",
    "directory": "a folder",
    "special": "a pipe, socket or device",
    "empty": "no bytes",
    "format": "not one of the accepted containers, or damaged at its beginning",
    "stream": "sound, subtitles or a cover alone: no moving pictures",
    "codec": "pictures that no decoder here reads, or pictures above the decoder's limits",
    "pixels": "more pixels a frame than the limit",
    "side": "a side longer than the limit",
    "aspect": "pictures too long and thin",
    "seconds": "longer than the limit",
    "frames": "more frames than the limit",
    "samples": "more sampled frames than the limit",
    "times": "times that go back",
    "damaged": "cut short, or too much of it cannot be decoded",
    "undecodable": "not one frame that can be decoded",
}
"""Codes of :class:`magicap.errors.BadVideo`."""

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
"""As FFmpeg calls them."""

_STEP_BACK = 1.0  # seconds: more is no rounding of the file, but a recording joined to another
_FEW = 10  # packets that cannot be decoded and are passed over, as at the beginning of a broadcast
_SHARE = 0.1  # of packets: more that are missing or cannot be decoded, and the video is damaged
_THREADS = 4  # each holds a frame more
_BLOCKS = 1 << 16  # pixels


@contextmanager
def open_video(path: FilePath, limits: VideoLimits = LIMITS) -> Iterator[Video]:
    """Open a video's file and read its header.

    Raises:
        BadVideo: ``code`` is a key of :data:`REASONS`.
        MissingPackage: PyAV is not installed.
    """
    av, name = require("av"), describe_source(path)
    with _opened(path, name) as file:
        if not file.read(1):
            raise BadVideo("empty", "expected a video, found no bytes; fetch it again", source=name)
        file.seek(0)
        try:
            container = av.open(
                file,
                mode="r",
                container_options={"format_whitelist": CONTAINERS},
                io_open=_refuse,
                metadata_errors="replace",
            )
        except (av.FFmpegError, OSError) as error:
            expected = "MP4, MOV, Matroska, WebM, AVI, MPEG, FLV, ASF or Ogg"
            raise BadVideo(
                "format",
                f"expected a video ({expected}), found another file, or a damaged one ({_reason(error)}); "
                "convert it, or fetch it again",
                source=name,
            ) from error
        with container:
            yield Video(container, name, limits)


@contextmanager
def _opened(path: FilePath, name: str) -> Iterator[BinaryIO]:
    code, actual = "missing", "none"
    try:
        file = open_regular(path)
    except (OSError, ValueError) as error:
        if isinstance(error, IsADirectoryError):
            code, actual = "directory", "a folder"
        elif isinstance(error, SpecialFile):
            code, actual = "special", "a pipe, socket or device"
        elif not isinstance(error, FileNotFoundError):
            actual = f"one that cannot be opened ({getattr(error, 'strerror', None) or error})"
        raise BadVideo(
            code, f"expected a video's file, found {actual}; check the path", source=name
        ) from error
    with file:
        yield file


def _refuse(address: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError(f"a video that names another file, {address!r:.80}")


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the number and the name of what it was doing."""
    return str(getattr(error, "strerror", None) or error)


class Video:
    """An open video.

    Attributes:
        name: what errors call it.
        duration: how long it is as its header says, in seconds; None: it does not say.
        end: when its last frame so far leaves the screen, in seconds; all of it once it is read.
    """

    def __init__(self, container: Any, name: str, limits: VideoLimits) -> None:
        self.name, self.limits, self.end = name, limits, 0.0
        self._container = container
        self._stream = self._pictures()
        self._pixel_aspect: Fraction = self._stream.sample_aspect_ratio or Fraction(1)
        self._origin = Fraction(container.start_time or 0, 1_000_000)
        self._expected = self._stream.frames  # packets that are to come; 0: the file does not say
        self._prepare_decoder()
        self.duration = container.duration / 1e6 if container.duration and container.duration > 0 else None
        if self.duration is not None and self.duration > limits.seconds:
            raise self._too_long(self.duration)

    def size_of(self, frame: Any) -> tuple[int, int]:
        """Width and height of a frame as it is shown: pixels need not be square."""
        return round(frame.width * self._pixel_aspect), int(frame.height)

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Frames as PyAV has them, each with the time from which it is shown, in seconds; times grow.

        Raises:
            BadVideo: it goes beyond a limit, or too much of it cannot be decoded.
        """
        last = None
        for count, frame in enumerate(self._decoded()):
            self._check_size(frame)  # which may change on the way
            time = self._time(frame, last)
            if count >= self.limits.frames:
                raise self._bad("frames", f"expected at most {self.limits.frames} frames, found more; cut it")
            if time > self.limits.seconds:
                raise self._too_long(time)
            if last is not None and time <= last:
                if last - time > _STEP_BACK:
                    raise self._bad(
                        "times",
                        f"expected times that grow, found {time:.2f} s after {last:.2f} s; "
                        "convert it anew, or cut it there",
                    )
                continue
            self.end, last = min(time + self._shown_for(frame), self.limits.seconds), time
            yield time, frame
        if last is None:
            raise self._bad("undecodable", "expected frames, found none that can be decoded; fetch it again")

    def seek(self, time: float) -> None:
        """Let :meth:`frames` begin at a frame that is decoded by itself, at most at this time."""
        ticks = int((Fraction(time) + self._origin) / self._stream.time_base)
        av, self._expected = require("av"), 0
        try:
            self._container.seek(max(0, ticks), stream=self._stream)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(_reason(error)) from error

    def _pictures(self) -> Any:
        """The first stream of moving pictures."""
        kinds = require("av.stream").Disposition
        for stream in self._container.streams.video:
            if stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails):
                continue
            if stream.codec_context is None or not stream.time_base:
                raise self._bad("codec", "expected pictures that FFmpeg decodes, found others; convert it")
            return stream
        actual = "found sound or a cover alone; name another file"
        raise self._bad("stream", f"expected moving pictures, {actual}")

    def _prepare_decoder(self) -> None:
        """Check the size of frames as the header has it, and let the decoder refuse much larger ones."""
        av, context = require("av"), self._stream.codec_context
        self._check_size(context)
        context.thread_type, context.thread_count = "AUTO", _THREADS
        # Its own sizes are whole blocks, which may be a good deal more than what is shown of small ones.
        most = 2 * self.limits.pixels + _BLOCKS
        context.options = {**context.options, "max_pixels": str(most)}
        try:
            context.open(strict=False)
        except (av.FFmpegError, ValueError) as error:
            raise self._bad(
                "codec", f"expected pictures that can be decoded, found others ({_reason(error)}); convert it"
            ) from error

    def _check_size(self, frame: Any) -> None:
        """Refuse a size, of a frame or of the header, that is beyond the limits."""
        (width, height), limits = self.size_of(frame), self.limits
        actual = f"found {width} x {height}; make it smaller"
        if max(width, frame.width) * height > limits.pixels:
            raise self._bad("pixels", f"expected frames of at most {limits.pixels} pixels, {actual}")
        if max(width, height) > ImageLimits.side:
            raise self._bad("side", f"expected sides of at most {ImageLimits.side} pixels, {actual}")
        if max(width, height) > ImageLimits.aspect * min(width, height):
            raise self._bad("aspect", f"expected sides in a ratio of at most {ImageLimits.aspect}, {actual}")

    def _decoded(self) -> Iterator[Any]:
        av, packets, unusable = require("av"), 0, 0
        for packet in self._packets():
            packets += packet.size > 0
            frames = []
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                unusable += 1
            for frame in frames:
                if frame.is_corrupt:
                    unusable += 1
                else:
                    yield frame
            if unusable > _FEW and unusable > _SHARE * packets:
                raise self._damaged(f"{unusable} of {packets} packets")
        if packets < (1 - _SHARE) * self._expected:
            raise self._damaged(f"cut short: {packets} of {self._expected} frames")

    def _packets(self) -> Iterator[Any]:
        av = require("av")
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                raise self._damaged(_reason(error)) from error
            if packet is None:
                return
            yield packet

    def _time(self, frame: Any, last: float | None) -> float:
        ticks = frame.dts if frame.pts is None else frame.pts
        if ticks is not None:
            return max(0.0, float(ticks * frame.time_base - self._origin))
        return 0.0 if last is None else self.end  # some files say no times: then one behind the other

    def _shown_for(self, frame: Any) -> float:
        """How long a frame is shown, as far as it says; one of the stream's rate otherwise."""
        if frame.duration:
            return float(frame.duration * frame.time_base)
        return float(1 / self._stream.average_rate) if self._stream.average_rate else 0.0

    def _too_long(self, seconds: float) -> BadVideo:
        actual = f"found {seconds:.0f} s; cut it"
        return self._bad("seconds", f"expected at most {self.limits.seconds:.0f} s, {actual}")

    def _damaged(self, reason: str) -> BadVideo:
        return self._bad("damaged", f"the video is cut short or corrupted ({reason}); fetch it again")

    def _bad(self, code: str, message: str) -> BadVideo:
        return BadVideo(code, message, source=self.name)
