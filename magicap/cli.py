"""The command line: captions on stdout, progress and complaints on stderr."""

from __future__ import annotations

import argparse
import gc
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from magicap import __version__
from magicap.decoding.settings import MagicSearch
from magicap.errors import BadImage, BadSettings, MagicapError
from magicap.folders import find_images
from magicap.presets import DEFAULT, PRESETS
from magicap.results import Caption

if TYPE_CHECKING:
    from magicap.captioner import Captioner

SOME_FAILED = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 if all went well, 2 if the call was wrong or any picture failed, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    _quieten_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names need not be text: in UTF-8 their bytes pass as they are, elsewhere they are escaped.
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    try:
        code: int = options.run(options)
        return code
    except MagicapError as error:
        print(f"magicap: {error}", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        print("magicap: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left early, as `head` does; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="magicap", description="Captions for pictures.")
    parser.add_argument("--version", action="version", version=f"magicap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    caption = commands.add_parser(
        "caption",
        help="caption pictures",
        description="Caption pictures. One picture prints its caption, several print PATH, a tab and\n"
        "the caption. Exit code 2 if any picture failed; the others are captioned all the same.",
        epilog="presets:\n"
        + "\n".join(f"  {name}: {p.origin}. Licence: {p.licence}." for name, p in PRESETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    caption.set_defaults(run=run_caption)
    caption.add_argument(
        "paths", nargs="+", metavar="FILE|FOLDER", help="pictures, and folders searched for them"
    )
    caption.add_argument(
        "--preset",
        default=DEFAULT,
        metavar="NAME|FOLDER",
        help=f"{', '.join(PRESETS)}, or a captioner's folder (default: %(default)s)",
    )
    caption.add_argument("--json", action="store_true", help="a JSON object a picture, errors included")
    caption.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures at a time (%(default)s)"
    )
    caption.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)")
    caption.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (%(default)s)")
    for name, kind in _SEARCH_OPTIONS.items():
        caption.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"magic search's {name}")
    return parser


_SEARCH_OPTIONS = {"top_k": int, "alpha": float, "beta": float, "max_new_tokens": int}


def run_caption(options: argparse.Namespace) -> int:
    """``magicap caption``: find the pictures before loading anything, then write a line each."""
    unlisted: list[BadImage] = []
    paths = list(find_images(options.paths, on_error=unlisted.append))
    for error in unlisted:
        _write(Path(error.source), Caption("", error=error), as_json=options.json, alone=False)
    if not paths:
        print("magicap: no pictures found in " + ", ".join(options.paths), file=sys.stderr)
        return SOME_FAILED

    captioner = _load(options)
    alone = len(options.paths) == 1 and not Path(options.paths[0]).is_dir()
    captions = captioner.caption(iter(paths), batch_size=options.batch_size)
    failed = bool(unlisted)
    for path, caption in zip(_progress(paths), captions, strict=True):
        failed |= caption.error is not None
        _write(path, caption, as_json=options.json, alone=alone)
    return SOME_FAILED if failed else 0


def _load(options: argparse.Namespace) -> Captioner:
    # Importing the model libraries makes millions of objects that all stay: looking for garbage among them
    # takes an eighth of a cold start.
    gc.disable()
    try:
        from magicap.captioner import Captioner

        captioner = Captioner.from_pretrained(options.preset, device=options.device, dtype=options.dtype)
    finally:
        gc.enable()
    captioner.decoding = _with_options(captioner, options)
    return captioner


def _with_options(captioner: Captioner, options: argparse.Namespace) -> Any:
    given = {name: getattr(options, name) for name in _SEARCH_OPTIONS if getattr(options, name) is not None}
    if given and not isinstance(captioner.decoding, MagicSearch):
        raise BadSettings(
            f"{', '.join(given)} are settings of magic search, which this captioner does not use"
        )
    return replace(captioner.decoding, **given) if given else captioner.decoding  # type: ignore[type-var]


def _progress(paths: list[Path]) -> Iterator[Path]:
    """A bar on stderr for more than a few pictures; none where stderr is no terminal."""
    from tqdm import tqdm

    bar = tqdm(paths, unit="picture", disable=None if len(paths) > 3 else True, dynamic_ncols=True)
    yield from bar


def _write(path: Path, caption: Caption, *, as_json: bool, alone: bool) -> None:
    if caption.error is not None:
        _say(f"magicap: {caption.error}", sys.stderr)
    if as_json:
        _say(json.dumps(_row(path, caption)), sys.stdout)
    elif caption.error is None:
        words = " ".join(caption.split())  # one line a picture, whatever a model says
        _say(words if alone else f"{path}\t{words}", sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    """Print a line without tearing the progress bar, and let a closed pipe be noticed at once."""
    from tqdm import tqdm

    tqdm.write(line, file=stream)
    stream.flush()


def _row(path: Path, caption: Caption) -> dict[str, Any]:
    if caption.error is not None:
        return {"image": str(path), "error": caption.error.code, "message": str(caption.error)}
    return {
        "image": str(path),
        "caption": caption.text,
        "score": round(caption.score, 4),
        "finished": caption.finished,
    }


def _quieten_libraries() -> None:
    """Advice of the model libraries, and bars in a log file, are of no use to who asked for a caption."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module=r"torch|transformers|open_clip|timm|huggingface_hub")


if __name__ == "__main__":
    sys.exit(main())
