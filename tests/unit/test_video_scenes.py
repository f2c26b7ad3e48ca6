"""Scenes begin where frames are no longer alike, and become subtitles."""

from __future__ import annotations

import pytest
import tiny
import torch
import torch.nn.functional as F

from magicap import BadSettings, MagicSearch, SceneSettings
from magicap.captioners.video import caption_scenes
from magicap.video.scenes import find_scenes
from magicap.video.subtitles import as_srt, as_vtt, clock
from magicap.video.vectors import VideoVectors


def vectors_of(groups: list[tuple[int, int]], every: float = 1.0, noise: float = 0.1) -> VideoVectors:
    """Samples of scenes, (direction, samples) each, at even times."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.eye(8)[direction] for direction, count in groups for _ in range(count)]
    vectors = torch.stack(rows) + noise * torch.randn(len(rows), 8, generator=generator)
    at = tuple(number * every for number in range(len(rows)))
    return VideoVectors(at, at, F.normalize(vectors, dim=1), len(rows) * every)


def edges(video: VideoVectors, **settings: float) -> list[tuple[float, float]]:
    spans = find_scenes(video, SceneSettings(**settings))
    assert [row for span in spans for row in span.rows] == list(range(len(video)))
    return [(span.start, span.end) for span in spans]


def test_a_scene_ends_where_frames_are_no_longer_alike():
    assert edges(vectors_of([(0, 4), (1, 3), (2, 5)])) == [(0, 4), (4, 7), (7, 12)]


def test_one_scene_stays_one():
    assert edges(vectors_of([(3, 9)])) == [(0, 9)]
    assert edges(vectors_of([(3, 1)])) == [(0, 1)]


def test_a_flash_makes_no_scene():
    assert edges(vectors_of([(0, 4), (5, 1), (0, 4)])) == [(0, 9)]
    assert edges(vectors_of([(0, 4), (5, 1), (1, 4)])) in ([(0, 5), (5, 9)], [(0, 4), (4, 9)])


def test_short_scenes_are_scenes_where_that_is_asked_for():
    video = vectors_of([(0, 1), (1, 1), (2, 1)])
    assert edges(video, min_seconds=0) == [(0, 1), (1, 2), (2, 3)]
    assert edges(video, min_seconds=3) == [(0, 3)]


def test_the_threshold_decides():
    video = vectors_of([(0, 4), (1, 4)])
    assert edges(video, threshold=-1) == [(0, 8)]
    assert len(edges(video, threshold=1, min_seconds=0)) == 8


@pytest.mark.parametrize("settings", [{"threshold": 1.1}, {"threshold": float("nan")}, {"min_seconds": -1}])
def test_settings_of_scenes_are_checked(settings):
    with pytest.raises(BadSettings, match=next(iter(settings))):
        SceneSettings(**settings)


def test_another_decoding_and_many_scenes():
    captioner = tiny.captioner(0)
    video = vectors_of([(number % 8, 2) for number in range(40)])
    width = captioner.scorer.width
    wide = VideoVectors(video.times, video.cuts, F.pad(video.vectors, (0, width - 8)), video.end)
    spans = find_scenes(wide)
    assert len(spans) == 40
    scenes = caption_scenes(captioner, wide, spans, MagicSearch(top_k=4, max_new_tokens=3))
    assert scenes[0].caption == scenes[8].caption or scenes[0].score != scenes[8].score


# ---- subtitles ----

CUES = [(0.0, 3661.0005, "A man & a\n\nwoman --> <b>"), (3661.25, 3662, "Two dogs.")]


def test_times_of_subtitles():
    assert [clock(0), clock(59.9996), clock(3661.25, ","), clock(360_000)] == [
        "00:00:00.000",
        "00:01:00.000",
        "01:01:01,250",
        "100:00:00.000",
    ]


def test_subrip():
    assert as_srt(CUES) == (
        "1\n00:00:00,000 --> 01:01:01,000\nA man & a woman -> <b>\n\n"
        "2\n01:01:01,250 --> 01:01:02,000\nTwo dogs.\n"
    )


def test_webvtt():
    assert as_vtt(CUES) == (
        "WEBVTT\n\n00:00:00.000 --> 01:01:01.000\nA man &amp; a woman --&gt; &lt;b&gt;\n\n"
        "01:01:01.250 --> 01:01:02.000\nTwo dogs.\n"
    )
    assert as_vtt([]) == "WEBVTT\n"
