"""``magicap ocr``: the text in pictures, with its places, a JSON object a picture."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import complain, print_json, progress_bar
from magicap.commands.shared import SOME_FAILED
from magicap.errors import BadImage
from magicap.images.folders import find_images
from magicap.ocr.settings import OcrSettings


@dataclass(frozen=True)
class Options:
    """What ``magicap ocr`` is to read, but for :class:`OcrSettings`."""

    paths: Annotated[tuple[str, ...], About("PICTURE", positional=True)]
    """Pictures, and folders that are searched for them."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "ocr",
        help="read the text in pictures",
        description="Read the text in pictures and print a JSON object each: its lines from top to bottom,\n"
        "with their four corners in pixels and how sure they are. No text is no error. Exit code\n"
        "2 if any picture failed; the others are read all the same.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, [*options_of(Options), *options_of(OcrSettings)])
    parser.set_defaults(run=with_options(run, Options, OcrSettings))


def run(options: Options, settings: OcrSettings) -> int:
    """List the pictures before the models are loaded, then print a line each."""
    from magicap.ocr.reading import read_text, require_engine

    require_engine()
    errors: list[BadImage] = []

    def report(error: BadImage) -> None:
        errors.append(error)
        complain(str(error))
        print_json({"image": error.source, "error": error.code, "message": str(error)})

    paths: list[Path] = list(find_images(options.paths, on_error=report))
    if not paths and not errors:
        complain("no pictures found in " + ", ".join(options.paths))
        return SOME_FAILED
    with progress_bar(len(paths)) as on_progress:
        for path in paths:
            try:
                lines = read_text(path, settings)
            except BadImage as error:
                report(error)
            else:
                print_json({"image": str(path), "lines": [line.as_json() for line in lines]})
            on_progress(1)
    return SOME_FAILED if errors else 0
