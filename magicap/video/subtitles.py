"""Captions with times as subtitles: SubRip (.srt) and WebVTT (.vtt, https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Cue = tuple[float, float, str]
"""When a text appears and goes, in seconds, and the text."""


def as_srt(cues: Iterable[Cue]) -> str:
    """Subtitles as SubRip, numbered from 1."""
    return "\n".join(
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{_line(text).replace('-->', '->')}\n"
        for number, (start, end, text) in enumerate(cues, start=1)
    )


def as_vtt(cues: Iterable[Cue]) -> str:
    """Subtitles as WebVTT."""
    return "\n".join(
        ["WEBVTT\n", *(f"{clock(start)} --> {clock(end)}\n{escape(_line(text), quote=False)}\n"
                       for start, end, text in cues)]
    )  # fmt: skip


def clock(seconds: float, separator: str = ".") -> str:
    """Seconds as hours, minutes, seconds and thousandths: ``00:01:02.500``."""
    thousandths = round(seconds * 1000)
    minutes, below = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{below // 1000:02}{separator}{below % 1000:03}"


def _line(text: str) -> str:
    """A text on one line: an empty one would end the cue."""
    return " ".join(text.split())
