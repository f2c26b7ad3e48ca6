"""Find and caption the scenes of clips that are made here, of a data set's pictures, so all is known of them.

    python eval/video.py --images $MAGICAP_DATA/flickr8k/images-dev.tar --split dev \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl --thresholds 0.5 0.6 0.7

A scene of a clip is one picture that the camera moves over (Ken Burns): a window of 60 to 100 % of its sides
goes from one place and size to another. Scenes last 3 to 9 seconds, at 25 frames a second.

Figures: the share of clips whose scenes are all found, none too many; precision and recall of cuts, right
within half a second, and how far right ones are off; CIDEr-D of the captions of scenes from the mean of
their frames, from the frame nearest to it, and of the one that is taken, beside those of the still pictures.
With ``--minutes`` one long clip is made instead, of scenes of 6 seconds: processor time and memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import HfArgumentParser

from magicap import Captioner
from magicap.captioners.presets import DEFAULT
from magicap.captioners.video import FRAME, POOLED, caption_scenes
from magicap.data.captions import read_captions
from magicap.data.pictures import ImageFiles
from magicap.errors import MagicapError
from magicap.images.reader import open_image
from magicap.metrics import cider_d
from magicap.video.scenes import Span, find_scenes
from magicap.video.settings import EVERY, SceneSettings
from magicap.video.vectors import VideoVectors, encode_video

RATE, SIZE = 25, (480, 360)
RIGHT = 0.5  # seconds that a right cut may be off
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    captions: str = field(metadata={"help": "data set of the pictures"})
    split: str = field(metadata={"help": "its split"})
    clips: int = field(default=3, metadata={"help": "how many clips are made"})
    scenes: int = field(default=3, metadata={"help": "of a clip"})
    fade: float = field(default=0.0, metadata={"help": "seconds of a cross-fade between scenes; 0: cuts"})
    every: list[float] = field(
        default_factory=lambda: [EVERY], metadata={"help": "seconds between samples, a row each"}
    )
    thresholds: list[float] = field(
        default_factory=lambda: [SceneSettings.threshold], metadata={"help": "of cosines, a row each"}
    )
    min_seconds: float = field(default=SceneSettings.min_seconds, metadata={"help": "of a scene, at least"})
    caption: bool = field(default=True, metadata={"help": "caption the scenes that are found right"})
    minutes: float = field(default=0.0, metadata={"help": "make one clip of so many minutes instead"})
    size: list[int] = field(default_factory=lambda: [*SIZE], metadata={"help": "width and height of clips"})
    preset: str = field(default=DEFAULT, metadata={"help": "captioner"})
    seed: int = field(default=0, metadata={"help": "of pictures, lengths and moves"})


@dataclass(frozen=True)
class Clip:
    """A clip of known scenes."""

    path: Path
    pictures: list[int]
    cuts: list[float]
    """When all scenes but the first begin, in seconds; of cross-fades the middle."""


def main(config: Config) -> None:
    torch.set_grad_enabled(False)
    rows = [row for row in read_captions(config.captions, config.split) if row.captions]
    generator = np.random.default_rng(config.seed)
    order = generator.permutation(len(rows)).tolist()
    captioner = Captioner.from_pretrained(config.preset)
    with ImageFiles(config.images) as files, tempfile.TemporaryDirectory() as folder:

        def picture(row: int) -> Image.Image:
            return open_image(files.read(rows[row].image))

        if config.minutes:
            lengths = [6.0] * round(config.minutes * 10)
            clip = make_clip(Path(folder) / "long.mp4", order, picture, lengths, config, generator)
            measure(captioner, clip, config)
            return
        clips = []
        for number in range(config.clips):
            chosen = order[number * config.scenes : (number + 1) * config.scenes]
            lengths = generator.uniform(3, 9, config.scenes).round(2).tolist()
            clips.append(
                make_clip(Path(folder) / f"{number}.mp4", chosen, picture, lengths, config, generator)
            )
        print("| samples every | threshold | clips all right | cuts: precision | recall | off, s |")
        print("|--:" * 6 + "|")
        for every in config.every:
            videos = [encode_video(captioner.scorer, clip.path, every) for clip in clips]
            for threshold in config.thresholds:
                settings = SceneSettings(threshold, config.min_seconds)
                scenes = [find_scenes(video, settings) for video in videos]
                print_cuts(every, threshold, clips, scenes)
        if config.caption:
            stills = captioner.caption([picture(row) for clip in clips for row in clip.pictures])
            references = {row: rows[row].captions for clip in clips for row in clip.pictures}
            print_captions(captioner, clips, videos, scenes, [*map(str, stills)], references)


def make_clip(
    path: Path,
    chosen: list[int],
    picture: Callable[[int], Image.Image],
    lengths: list[float],
    config: Config,
    generator: np.random.Generator,
) -> Clip:
    """Write a clip of so many scenes; where there are more of them than pictures, these come again."""
    counts = [round(length * RATE) for length in lengths]
    rows = [chosen[number % len(chosen)] for number in range(len(lengths))]
    size = config.size[0], config.size[1]
    fade = round(config.fade * RATE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        before: list[Image.Image] = []
        for row, count in zip(rows, counts, strict=True):
            frames = moving(picture(row), count + fade, size, generator)
            fading = zip(before, range(1, fade + 1), strict=False)
            for old, step in fading:
                blend = Image.blend(old, next(frames), step / (fade + 1))
                container.mux(stream.encode(av.VideoFrame.from_image(blend)))
            for frame in islice(frames, count - len(before)):
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
            before = list(frames)
        container.mux(stream.encode(None))
    ends = np.cumsum(counts) / RATE
    return Clip(path, rows, (ends[:-1] + config.fade / 2).tolist())


def moving(
    picture: Image.Image, count: int, size: tuple[int, int], generator: np.random.Generator
) -> Iterator[Image.Image]:
    """What a camera sees of a picture that goes from one window of it to another."""
    whole = np.array(picture.size, dtype=np.float64)
    shape = np.array(size) * (whole / size).min()  # the largest window of the clip's shape
    sides = [shape * share for share in generator.uniform(0.6, 1.0, 2)]
    corners = [generator.uniform(0, 1, 2) * (whole - side) for side in sides]
    for step in np.linspace(0, 1, count):
        side = sides[0] + step * (sides[1] - sides[0])
        left, top = (corners[0] + step * (corners[1] - corners[0])).clip(0, whole - side)
        box = (left, top, left + side[0], top + side[1])
        yield picture.resize(size, Image.Resampling.BILINEAR, box)


def print_cuts(every: float, threshold: float, clips: list[Clip], scenes: list[list[Span]]) -> None:
    right, false, offs, whole = 0, 0, [], 0
    for clip, spans in zip(clips, scenes, strict=True):
        starts = [span.start for span in spans[1:]]
        off = [min((abs(cut - start) for start in starts), default=np.inf) for cut in clip.cuts]
        matched = [value for value in off if value <= RIGHT]
        right, false = right + len(matched), false + len(starts) - len(matched)
        offs += matched
        whole += len(matched) == len(clip.cuts) == len(starts)
    cuts = sum(len(clip.cuts) for clip in clips)
    precision = 100 * right / (right + false) if right + false else np.nan
    figures = f"{precision:.1f} | {100 * right / cuts:.1f} | {np.mean(offs) if offs else np.nan:.3f}"
    print(f"| {every:g} | {threshold:g} | {whole} of {len(clips)} | {figures} |", flush=True)


def print_captions(
    captioner: Captioner,
    clips: list[Clip],
    videos: list[VideoVectors],
    scenes: list[list[Span]],
    stills: list[str],
    references: dict[int, tuple[str, ...]],
) -> None:
    """CIDEr-D over the scenes of clips whose scenes are as many as they should be."""
    texts: dict[str, list[str]] = {POOLED: [], FRAME: [], "taken": [], "still": []}
    expected, scores, sources = [], [], []
    still = iter(stills)
    for clip, video, spans in zip(clips, videos, scenes, strict=True):
        of_clip = list(islice(still, len(clip.pictures)))
        if len(spans) != len(clip.pictures):
            continue
        for scene, row, text in zip(
            caption_scenes(captioner, video, spans), clip.pictures, of_clip, strict=True
        ):
            for source, caption in scene.candidates.items():
                texts[source].append(str(caption))
            texts["taken"].append(str(scene.caption))
            texts["still"].append(text)
            expected.append(references[row])
            scores.append(scene.score)
            sources.append(scene.source)
    print(f"\n{len(expected)} scenes, of {sources.count(FRAME)} the frame's caption is taken; CIDEr-D:")
    for name, captions in texts.items():
        print(f"{name}: {100 * cider_d(captions, expected)['CIDEr-D'].value:.1f}")


def measure(captioner: Captioner, clip: Clip, config: Config) -> None:
    """Read and caption one long clip: processor time, and the most memory before and after each."""
    captioner.caption(Image.new("RGB", (64, 64)))
    before, start = peak(), time.process_time()
    video = encode_video(captioner.scorer, clip.path, config.every[0])
    read, after = time.process_time() - start, peak()
    spans = find_scenes(video, SceneSettings(config.thresholds[0], config.min_seconds))
    scenes = caption_scenes(captioner, video, spans)
    captioned = time.process_time() - start - read
    print_cuts(config.every[0], config.thresholds[0], [clip], [spans])
    print(
        f"{video.end:.0f} s, {clip.path.stat().st_size / 1e6:.0f} MB, {len(video)} samples: read in "
        f"{read:.1f} s of processor time, {len(scenes)} scenes captioned in {captioned:.1f} s; most memory "
        f"{before:.0f} MiB before, {after:.0f} MiB after reading, {peak():.0f} MiB in the end"
    )


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"video.py: {error}")
