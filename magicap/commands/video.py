"""``magicap video``: the scenes of videos with captions, as lines, JSON or subtitles."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.presets import DEFAULT
from magicap.commands.model_options import MODEL_OPTIONS, MemoryOptions, ModelOptions
from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import complain, print_text, progress_bar
from magicap.commands.shared import SOME_FAILED
from magicap.errors import BadImage, BadSettings
from magicap.extras import require
from magicap.files import only_writer, require_writable, write_whole
from magicap.printable import printable, without_surrogates
from magicap.video.container import open_video
from magicap.video.settings import EVERY, SceneSettings, require_every
from magicap.video.subtitles import as_srt, as_vtt, clock

if TYPE_CHECKING:
    from magicap.captioners.video import VideoScene
    from magicap.captioners.zero_shot import Captioner

SUBTITLES = {"srt": as_srt, "vtt": as_vtt}
SUFFIXES = {"txt": "txt", "json": "jsonl", **{name: name for name in SUBTITLES}}


@dataclass(frozen=True)
class Options:
    """What ``magicap video`` is to do."""

    clips: Annotated[list[str], About("CLIP", positional=True)]
    """Videos: MP4, MOV, Matroska, WebM, AVI, MPEG, FLV, ASF or Ogg."""

    format: Annotated[str, About("NAME", choices=tuple(SUFFIXES))] = "txt"
    """What is written: txt (start, end and caption, between tabs), json (an object a scene), or the subtitles
    srt or vtt."""

    out: Annotated[str | None, About("FOLDER")] = None
    """Write a file a video into this folder, clip.srt of clip.mp4; json goes into clip.jsonl.
    Default: all to stdout."""

    every: Annotated[float, About("SECONDS")] = EVERY
    """Seconds between the frames that are looked at."""

    threshold: Annotated[float, About("X")] = SceneSettings.threshold
    """Least cosine of a frame with its scene, -1 to 1; a higher one makes more scenes."""

    min_scene: Annotated[float, About("SECONDS")] = SceneSettings.min_seconds
    """How long a scene lasts at least."""

    preset: Annotated[str, About("NAME|FOLDER")] = DEFAULT
    """Preset or folder of a zero-shot captioner."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "video",
        help="caption the scenes of videos",
        description="Cut videos into scenes and caption each. A scene ends where frames are no longer like\n"
        "those before. Exit code 2 if any video failed; the others are captioned all the same.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    add_options(parser.add_argument_group("models"), MODEL_OPTIONS)
    parser.set_defaults(run=with_options(run, Options, ModelOptions, MemoryOptions))


def run(options: Options, models: ModelOptions, memory: MemoryOptions) -> int:
    """Check options and the headers of all videos before a model is loaded, then write video by video."""
    require_every("--every", options.every)
    settings = SceneSettings(options.threshold, options.min_scene)
    require("av")
    files = _files(options)
    errors: dict[str, BadImage] = {}
    durations = {clip: _duration(clip, errors) for clip in files}
    captioner = None
    for clip, file in files.items():
        scenes: list[VideoScene] = []
        if clip not in errors:
            captioner = captioner or _captioner(options.preset, models, memory)
            scenes = _captioned(captioner, clip, durations[clip], options.every, settings, errors)
        _write(clip, scenes, errors.get(clip), file, options.format, is_alone=len(files) == 1)
    return SOME_FAILED if errors else 0


def _files(options: Options) -> dict[str, Path | None]:
    """The videos, each once, with the files that what is found goes into; None: stdout."""
    clips = list(dict.fromkeys(options.clips))
    if options.out is None:
        if options.format in SUBTITLES and len(clips) > 1:
            raise BadSettings(
                f"--format {options.format}: subtitles are a file a video, found {len(clips)} videos; "
                "name a folder for them with --out"
            )
        return dict.fromkeys(clips)
    if not options.out:
        raise BadSettings("--out: expected a folder, found an empty name; name one")
    folder = Path(options.out)
    if folder.exists() and not folder.is_dir():
        raise BadSettings(f"--out: expected a folder, found the file {folder}; name another")
    files = {clip: folder / f"{Path(clip).stem}.{SUFFIXES[options.format]}" for clip in clips}
    if len(set(files.values())) < len(clips):
        raise BadSettings("--out: two videos have one name; write them into two folders")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSettings(f"{folder} cannot be made: {error.strerror}; name another folder") from error
    for file in files.values():
        require_writable(file, clips)
    return dict(files)


def _duration(clip: str, errors: dict[str, BadImage]) -> float:
    """How long a video is as its header says, in seconds; 0: it does not say, or cannot be read."""
    try:
        with open_video(clip) as video:
            return video.duration or 0.0
    except BadImage as error:
        _report(clip, error, errors)
        return 0.0


def _report(clip: str, error: BadImage, errors: dict[str, BadImage]) -> None:
    complain(str(error))
    errors[clip] = error


def _captioner(preset: str, models: ModelOptions, memory: MemoryOptions) -> Captioner:
    captioner = models.load(preset, memory.samples)
    from magicap.captioners.zero_shot import Captioner

    if not isinstance(captioner, Captioner):
        raise BadSettings(
            f"scenes are found with a scorer, which {preset} has not: name a zero-shot captioner"
        )
    return captioner


def _captioned(
    captioner: Captioner,
    clip: str,
    duration: float,
    every: float,
    settings: SceneSettings,
    errors: dict[str, BadImage],
) -> list[VideoScene]:
    from magicap.captioners.video import caption_video

    with progress_bar(math.ceil(duration), "second") as on_progress:
        read = 0.0

        def advance(seconds: float) -> None:
            nonlocal read
            before, read = read, read + seconds
            on_progress(int(read) - int(before))

        try:
            return caption_video(captioner, clip, every=every, scenes=settings, on_progress=advance)
        except BadImage as error:
            _report(clip, error, errors)
            return []


def _write(
    clip: str,
    scenes: Sequence[VideoScene],
    error: BadImage | None,
    file: Path | None,
    format: str,
    *,
    is_alone: bool,
) -> None:
    """Write what was found of one video; an error has a row of JSON, too."""
    if format in SUBTITLES:
        cues = ((scene.start, scene.end, printable(scene.caption)) for scene in scenes)
        text = "" if error else SUBTITLES[format](cues)
    elif format == "json":
        rows = [{"video": clip, "error": error.code, "message": str(error)}] if error else []
        rows += [_row(clip, scene) for scene in scenes]
        text = "".join(f"{json.dumps(without_surrogates(row), allow_nan=False)}\n" for row in rows)
    else:
        names = [] if is_alone or file else [clip]
        lines = ([*names, clock(one.start), clock(one.end), " ".join(one.caption.split())] for one in scenes)
        text = "".join("\t".join(map(printable, line)) + "\n" for line in lines)
    if file is None:
        print_text(text)
    else:
        with only_writer(file):
            if text:
                write_whole(file, text)
            else:  # what an earlier call found is no result of this one
                file.unlink(missing_ok=True)


def _row(clip: str, scene: VideoScene) -> dict[str, Any]:
    return {
        "video": os.fspath(clip),
        "start": round(scene.start, 3),
        "end": round(scene.end, 3),
        "caption": scene.caption.text,
        "score": round(scene.score, 4),
        "frame_time": round(scene.frame_time, 3),
        "source": scene.source,
    }
