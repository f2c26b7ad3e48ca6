"""Videos: frames at their times and upright, broken files refused by name, captions, the command."""

from __future__ import annotations

import contextlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from clips import corner, pattern, steady, write_clip, write_sound
from PIL import Image

from magicap import BadSettings, BadVideo, Captioner, MissingPackage, SceneSettings
from magicap.cli import main
from magicap.video.container import open_video
from magicap.video.sampling import frame_at, samples
from magicap.video.settings import VideoLimits
from magicap.video.vectors import encode_video

pytest.importorskip("av", reason="the extra video is not installed")


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny.captioner(0, max_new_tokens=5)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """Three scenes of 3, 4 and 2.5 seconds."""
    folder = tmp_path_factory.mktemp("clips")
    return write_clip(folder / "three.mp4", steady([pattern(1), pattern(2), pattern(3)], [3, 4, 2.5]))


def sampled(path: Path, every: float) -> list:
    with open_video(path) as video:
        return list(samples(video, every))


def times(path: Path, every: float) -> list[float]:
    return [round(sample.time, 3) for sample in sampled(path, every)]


# ---- frames by their times ----


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("a.mov", "libx264"),
        ("a.ts", "libx264"),
    ],
)
def test_frames_are_sampled_at_even_times_whatever_the_container(tmp_path, name, codec):
    frames = steady([pattern(1), pattern(2)], [1, 1.5])
    path = write_clip(tmp_path / name, frames, codec=codec)
    assert times(path, 0.5) == [0, 0.5, 1, 1.5, 2]
    last = np.asarray(sampled(path, 0.5)[-1].picture, dtype=float)
    assert np.abs(last - np.asarray(pattern(2))).mean() < 30
    with open_video(path) as video:
        assert len(list(video.frames())) == len(frames)
        assert video.end == pytest.approx(2.5, abs=0.15)


def test_a_frame_is_sampled_as_long_as_it_stays_on_the_screen_and_once(tmp_path):
    pictures = [pattern(number) for number in range(6)]
    shown = zip([0, 0.4, 0.6, 0.7, 5, 5.9], pictures, strict=True)
    path = write_clip(tmp_path / "vfr.mp4", list(shown), codec="libx264")
    # At 1, 2, 3 and 4 s it is the frame of 0.7 s that is shown; that of 0.6 s is gone before any sample.
    assert times(path, 1) == [0, 0.7, 5]
    assert times(path, 0.5) == [0, 0.4, 0.7, 5]
    assert [sample.cut for sample in sampled(path, 1)] == pytest.approx([0, 0.7, 5], abs=0.31)


def test_the_cut_is_where_the_picture_changes_not_where_a_sample_is(tmp_path):
    path = write_clip(tmp_path / "cut.mp4", steady([pattern(1), pattern(2)], [1.3, 1.7]))
    assert [round(sample.cut, 3) for sample in sampled(path, 1)][1:] in ([1.0, 1.3], [0.1, 1.3], [0.9, 1.3])


@pytest.mark.parametrize(
    ("rotation", "flipped", "where"),
    [
        (None, False, (0, 0)),
        (90, False, (0, 1)),
        (180, False, (1, 1)),
        (-90, False, (1, 0)),
        (0, True, (1, 0)),
        (90, True, (1, 1)),
    ],
)
def test_frames_are_turned_as_the_video_says(tmp_path, rotation, flipped, where):
    frames = [(0.0, corner()), (0.1, corner())]
    path = write_clip(tmp_path / "turned.mp4", frames, rotation=rotation, flipped=flipped)
    (picture,) = (sample.picture for sample in sampled(path, 1))
    assert picture.size == ((64, 96) if rotation in (90, -90) else (96, 64))
    red = np.asarray(picture)[:, :, 0] > 125
    rows, columns = np.nonzero(red)
    assert (columns.mean() > picture.width / 2, rows.mean() > picture.height / 2) == where
    assert red.mean() == pytest.approx(0.25, abs=0.05)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = write_clip(tmp_path / "wide.mkv", [(0.0, corner())], pixel_aspect=Fraction(4, 3))
    assert [sample.picture.size for sample in sampled(path, 1)] == [(128, 64)]


def test_the_frame_at_a_time_is_found_from_anywhere(three):
    for time, number in [(0, 1), (2.95, 1), (3.0, 2), (6.9, 2), (7.04, 3), (9.4, 3), (500, 3)]:
        picture = np.asarray(frame_at(three, time), dtype=float)
        distances = [np.abs(picture - np.asarray(pattern(n))).mean() for n in (1, 2, 3)]
        assert int(np.argmin(distances)) + 1 == number, time


# ---- broken and hostile files ----


def broken(folder: Path, three: Path, kind: str) -> Path:
    path = folder / "clip.mp4"
    whole = three.read_bytes()
    contents = {
        "empty": b"",
        "text": b"<html>not found</html>" * 50,
        "zeros": bytes(50_000),
        "cut": whole[: len(whole) // 2],
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n" + str(three).encode() + b"\n",
        "list": b"ffconcat version 1.0\nfile '" + str(three).encode() + b"'\n",
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "sound":
        write_sound(path)
    elif kind == "cover":
        write_sound(path, corner())
    elif kind == "cut behind its header":
        frames = steady([pattern(1), pattern(2)], [2, 2])
        write_clip(path, frames, options={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("missing", "missing"),
        ("folder", "directory"),
        ("empty", "empty"),
        ("text", "format"),
        ("zeros", "format"),
        ("cut", "format"),
        ("playlist", "format"),
        ("list", "format"),
        ("sound", "stream"),
        ("cover", "stream"),
        ("cut behind its header", "damaged"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, three, kind, code):
    path = broken(tmp_path, three, kind)
    with pytest.raises(BadVideo, match=r"clip\.mp4: .*; (fetch|check|convert|name)") as raised:
        sampled(path, 1)
    assert raised.value.code == code
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_file_gives_frames_or_one_error(tmp_path, three, seed):
    generator = np.random.default_rng(seed)
    content = np.frombuffer(three.read_bytes(), np.uint8).copy()
    content[generator.integers(0, len(content), 2 + 5 * seed)] = generator.integers(0, 256)
    path = tmp_path / "clip.mp4"
    path.write_bytes(content.tobytes())
    with contextlib.suppress(BadVideo):
        assert sampled(path, 1)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"pixels": 96 * 64 - 1}, "pixels"),
        ({"seconds": 9.0}, "seconds"),
        ({"frames": 94}, "frames"),
        ({"samples": 9}, "samples"),
    ],
)
def test_limits_hold(three, limits, code):
    with pytest.raises(BadVideo) as raised, open_video(three, VideoLimits(**limits)) as video:
        list(samples(video, 1))
    assert raised.value.code == code


def test_limits_themselves_are_no_error(three):
    limits = VideoLimits(pixels=96 * 64, seconds=9.5, frames=95, samples=10)
    with open_video(three, limits) as video:
        assert len(list(samples(video, 1))) == 10


def test_a_thin_video_is_refused(tmp_path):
    path = write_clip(tmp_path / "thin.mkv", [(0.0, Image.new("RGB", (1024, 8)))])
    with pytest.raises(BadVideo, match="ratio of at most"):
        sampled(path, 1)


@pytest.mark.parametrize("every", [10, 1e7, 1e9])
def test_of_a_clip_that_is_shorter_there_is_one_sample(three, every):
    assert times(three, every) == [0]


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), "1"])
def test_seconds_between_samples_are_checked(captioner, three, every):
    with pytest.raises(BadSettings, match=r"every must be at least 0\.01 seconds"):
        captioner.video(three, every=every)


# ---- captions ----


def test_vectors_are_those_of_the_sampled_pictures(captioner, three):
    video = encode_video(captioner.scorer, three, 1, batch_size=4)
    pictures = [sample.picture for sample in sampled(three, 1)]
    assert torch.allclose(video.vectors, captioner.scorer.encode_images(pictures), atol=1e-5)
    assert video.end == pytest.approx(9.5)


def test_three_scenes_are_found_captioned_and_scored(captioner, three):
    scenes = captioner.video(three, scenes=SceneSettings(threshold=0.95), every=0.5)
    assert [(scene.start, scene.end) for scene in scenes] == [(0, 3), (3, 7), (7, 9.5)]
    video = encode_video(captioner.scorer, three, 0.5)
    for scene in scenes:
        inside = [row for row, time in enumerate(video.times) if scene.start <= time < scene.end]
        text = captioner.scorer.encode_texts([scene.caption])[0]
        assert scene.score == pytest.approx(float((video.vectors[inside] @ text).mean()), abs=1e-5)
        others = [
            float((video.vectors[inside] @ captioner.scorer.encode_texts([caption])[0]).mean())
            for caption in scene.candidates.values()
        ]
        assert scene.score == pytest.approx(max(others), abs=1e-5)
        assert scene.start <= scene.frame_time < scene.end


def test_a_still_scene_has_the_caption_of_its_picture(captioner, tmp_path):
    path = write_clip(tmp_path / "still.mp4", [(0.0, pattern(7)), (1.0, pattern(7))])
    (sample,) = sampled(path, 5)
    (scene,) = captioner.video(path, every=5)
    assert scene.caption == captioner.caption(sample.picture)
    assert scene.caption.confidence is None


# ---- the command ----


@pytest.fixture
def video(capsys, preset):
    """The command, with a tiny captioner: exit code, stdout, stderr."""

    def run(*words: str):
        code = main(["video", *map(str, words), "--preset", preset])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return run


def test_a_line_a_scene(video, three):
    code, out, err = video(three, "--threshold", "0.95")
    lines = [line.split("\t") for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [line[:2] for line in lines] == [
        ["00:00:00.000", "00:00:03.000"],
        ["00:00:03.000", "00:00:07.000"],
        ["00:00:07.000", "00:00:09.500"],
    ]
    assert all(len(line) == 3 and line[2] for line in lines)


def test_a_broken_video_is_a_row_and_the_others_go_on(video, three, tmp_path):
    bad = broken(tmp_path, three, "text")
    code, out, err = video(bad, three, "--format", "json", "--threshold", "0.95")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 2
    assert rows[0] == {"video": str(bad), "error": "format", "message": err.strip().removeprefix("magicap: ")}
    assert [(row["start"], row["end"]) for row in rows[1:]] == [(0, 3), (3, 7), (7, 9.5)]
    assert {"video", "caption", "score", "frame_time", "source"} < set(rows[1])


def test_subtitles_go_to_stdout_or_into_a_folder(video, three, tmp_path):
    _, out, _ = video(three, "--format", "srt", "--threshold", "0.95")
    assert out.count(" --> ") == 3
    other = tmp_path / "other.mkv"
    write_clip(other, steady([pattern(4)], [1]))
    code, silent, _ = video(three, other, "--format", "srt", "--threshold", "0.95", "--out", tmp_path / "s")
    assert (code, silent) == (0, "")
    assert (tmp_path / "s" / "three.srt").read_text() == out
    assert (tmp_path / "s" / "other.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:01,000\n")


def test_a_video_that_fails_has_no_result_of_before(video, three, tmp_path):
    """Its file of JSON lines says so."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    clip.write_bytes(three.read_bytes())
    for format in ("txt", "srt", "json"):
        assert video(clip, "--format", format, "--out", out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["clip.jsonl", "clip.srt", "clip.txt"]
    clip.write_bytes(b"no video")
    for format in ("txt", "srt", "json"):
        assert video(clip, "--format", format, "--out", out)[0] == 2
    assert [path.name for path in out.iterdir()] == ["clip.jsonl"]
    assert json.loads((out / "clip.jsonl").read_text())["error"] == "format"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4", "b.mp4", "--format", "vtt"], "subtitles are a file a video, found 2 videos"),
        (["a.mp4", "x/a.mkv", "--format", "vtt", "--out", "o"], "two videos have one name"),
        (["a.mp4", "--out", "file.txt"], "expected a folder, found the file file.txt"),
        (["a.mp4", "--out", ""], "--out: expected a folder, found an empty name"),
        (["a.mp4", "--every", "0"], "--every must be at least 0.01 seconds, found 0.0"),
        (["a.mp4", "--threshold", "2"], "threshold must be between -1 and 1, found 2.0"),
        (["a.mp4"], "a.mp4: expected a video's file, found none; check the path"),
    ],
)
def test_bad_calls_are_refused_in_one_line(video, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("x")
    code, out, err = video(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_captioner_without_a_scorer_is_refused(capsys, supervised, three):
    assert main(["video", str(three), "--preset", supervised]) == 2
    assert "name a zero-shot captioner" in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_install(video, three, monkeypatch, captioner):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = video(three)
    assert code == 2
    assert "pip install 'magicap[video]'" in err
    with pytest.raises(MissingPackage):
        captioner.video(three)
