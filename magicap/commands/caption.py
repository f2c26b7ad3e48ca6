"""``magicap caption``: pictures in, a line each out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.decodings import decoding_with
from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.captioners.provenance import Provenance
from magicap.checks import require_number
from magicap.commands import bulk
from magicap.commands.decoding_options import decoding_options, given_settings
from magicap.commands.model_options import MODEL_OPTIONS, MemoryOptions, ModelOptions
from magicap.commands.options import About, add_options, flag, from_namespace, options_of
from magicap.commands.output import complain, print_json, print_line, progress_bar
from magicap.commands.picture_list import read_list
from magicap.commands.shared import SOME_FAILED
from magicap.decoding.settings import DECODINGS
from magicap.drawing import require_drawable
from magicap.errors import BadImage, BadSettings
from magicap.evaluation.rows import caption_row
from magicap.files import only_writer
from magicap.images.folders import find_images
from magicap.images.region import Box, read_box
from magicap.results import Caption

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner

APPEND = "append"

UNSURE = " (unsure)"
"""What marks a caption with --mark-unsure."""

_OF_WHOLE_PICTURES = ("explain", "min_confidence", "mark_unsure")  # options

UNSURE_BELOW = 0.5
"""Confidence below which it is marked, where --min-confidence says nothing else."""


@dataclass(frozen=True)
class Options:
    """What ``magicap caption`` is to do, but for the settings of its search."""

    paths: Annotated[tuple[str, ...], About("SOURCE", positional=True)] = ()
    """Pictures, folders that are searched for them; with --out also globs, tar files, tables, data sets."""

    from_file: Annotated[str | None, About("LIST")] = None
    """Caption the pictures and folders that a file names too, one a line; - reads the names from stdin."""

    null: bool = False
    """Also -0: names in LIST are parted by NUL characters, as find -print0 writes them."""

    box: Annotated[str | None, About("LEFT,TOP,RIGHT,BOTTOM")] = None
    """Caption this part of each picture, in pixels of the upright picture, seen in its surroundings."""

    preset: Annotated[str, About("NAME|FOLDER")] = DEFAULT
    """Name of a preset, listed below, or a captioner's folder."""

    json: bool = False
    """Print a JSON object a picture, errors included."""

    batch_size: int | None = None
    """Pictures at a time; default: 32, on a GPU what its memory holds."""

    min_confidence: Annotated[float | None, About("P")] = None
    """Leave out captions that are right with a probability below P, 0 to 1; with --json they are marked."""

    mark_unsure: bool = False
    """Leave no caption out, but end those with " (unsure)" whose probability is below P, or 0.5 without P."""

    ocr: Annotated[str | None, About(choices=("steer", APPEND))] = None
    """Read the text in each picture: steer prefers captions with its words, append also ends captions with
    the text that they do not say."""

    explain: Annotated[str | None, About("FILE")] = None
    """Draw why one picture has its caption, what competed or the attention: a .png, .svg or .pdf file."""

    decoding: Annotated[str | None, About(choices=sorted(DECODINGS))] = None
    """How to search; of another kind than the captioner's own, at that search's defaults."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "caption",
        help="caption pictures",
        description="Caption pictures. One picture prints its caption, several print PATH, a tab and\n"
        "the caption. With --out they go into files, a row a picture; run again after whatever ended\n"
        "it, the same command goes on. Exit code 2 if any picture failed; the others are captioned\n"
        "all the same.",
        epilog="presets:\n"
        + "\n".join(f"  {name}: {p.origin}. Licence: {p.licence}." for name, p in PRESETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    add_options(parser.add_argument_group("models"), MODEL_OPTIONS)
    add_options(parser.add_argument_group("many pictures"), options_of(bulk.Options))
    add_options(parser.add_argument_group("how to search"), decoding_options())
    parser.set_defaults(
        run=lambda namespace: run(
            from_namespace(namespace, Options),
            given_settings(namespace),
            from_namespace(namespace, bulk.Options),
            from_namespace(namespace, ModelOptions),
            from_namespace(namespace, MemoryOptions),
        )
    )


def run(
    options: Options,
    settings: Mapping[str, Any],
    output: bulk.Options,
    models: ModelOptions,
    memory: MemoryOptions,
) -> int:
    """Find the pictures before loading anything, then write a line each, or rows into files.

    Args:
        settings: those of the search that are given; the others are the captioner's own.
        output: what is asked of files, if they are.
    """
    named = _named(options)
    load = partial(_captioner, options, settings, models, memory)
    if output.is_asked_for():
        why = "for captions that are printed; rows of --out have confidence and error"
        _refuse(options, ("json", "box", *_OF_WHOLE_PICTURES, "ocr"), why)
        return bulk.run(output, named, options.batch_size, load)
    unsure_below = _unsure_below(options)
    region = _region(options)
    if options.ocr:
        why = "not known of captions that text steers; leave out, or leave out --ocr"
        _refuse(options, ("box", *_OF_WHOLE_PICTURES), why)
        from magicap.ocr.reading import require_engine

        require_engine()
    unlisted: list[BadImage] = []
    paths = list(find_images(named, on_error=unlisted.append))
    for error in unlisted:
        _write(Path(error.source), Caption("", error=error), options.json, alone=False)
    if not paths:
        places = [*options.paths, *([f"those of {options.from_file}"] if options.from_file else [])]
        complain("no pictures found in " + ", ".join(places))
        return SOME_FAILED

    if options.explain:
        _require_one_drawable(options.explain, [*paths, *(error.source for error in unlisted)])

    captioner = load()
    if options.ocr:
        from magicap.captioners.with_text import require_text_to_matter

        require_text_to_matter(captioner.decoding, append=options.ocr == APPEND)
    if unsure_below is not None and not captioner.knows_confidence():
        raise BadSettings(
            f"{options.preset} does not know how sure it is with these options: leave out "
            "--min-confidence and --mark-unsure, or fit it with recipes/calibrate_confidence.py"
        )
    with only_writer(options.explain):
        failed = _caption(captioner, named, paths, options, unsure_below, region)
    return SOME_FAILED if failed or unlisted else 0


def _captioner(
    options: Options, settings: Mapping[str, Any], models: ModelOptions, memory: MemoryOptions
) -> AnyCaptioner:
    captioner = models.load(options.preset, memory.samples)
    captioner.decoding = decoding_with(
        captioner, options.decoding, settings, preset=options.preset, option_name=flag
    )
    return captioner


def _refuse(options: Options, names: Sequence[str], why: str) -> None:
    """Refuse those of some options that are given."""
    values = {flag(name): getattr(options, name) for name in names}
    if named := [name for name, value in values.items() if value is not None and value is not False]:
        raise BadSettings(f"{', '.join(named)}: {why}")


def _caption(
    captioner: AnyCaptioner,
    named: Sequence[str],
    paths: Sequence[Path],
    options: Options,
    unsure_below: float | None,
    region: Box | None,
) -> bool:
    """Write a line a picture; whether any failed.

    Args:
        named: the files and folders of the call, which the pictures at ``paths`` were found in.
    """
    provenance = Provenance.of(captioner) if options.json else None
    alone = not options.from_file and len(named) == 1 and not Path(named[0]).is_dir()
    captions = _captions(captioner, paths, options, region)
    failed, left_out, unread = False, 0, 0
    in_folders = set(paths) - set(map(Path, named))
    with progress_bar(len(paths)) as on_progress:
        for path, caption in zip(paths, captions, strict=True):
            failed |= caption.error is not None
            unread += caption.error is not None and caption.error.code == "format" and path in in_folders
            unsure = _is_below(caption, unsure_below)
            if unsure and not options.json and not options.mark_unsure:
                left_out += 1
            else:
                _write(path, caption, options.json, alone, provenance, unsure=unsure, region=region)
            on_progress(1)
    if unread:
        pictures = "1 picture is in a format" if unread == 1 else f"{unread} pictures are in formats"
        complain(f"{pictures} that magicap does not read, as said of each")
    if left_out:
        captions_left_out = "caption is" if left_out == 1 else "captions are"
        complain(f"{left_out} {captions_left_out} left out, below --min-confidence")
    return failed


def _named(options: Options) -> list[str]:
    """The files and folders of the call, those of its list last."""
    if options.from_file is None:
        if options.null:
            raise BadSettings("--null says how names are parted in a list: give one with --from-file")
        if not options.paths:
            raise BadSettings(
                "expected pictures or folders, found none; name some, or a list with --from-file"
            )
        return list(options.paths)
    return [*options.paths, *read_list(options.from_file, null=options.null)]


def _unsure_below(options: Options) -> float | None:
    """The confidence below which captions are unsure; None where nobody asks."""
    if options.min_confidence is None:
        return UNSURE_BELOW if options.mark_unsure else None
    require_number("--min-confidence", options.min_confidence, lambda p: 0 <= p <= 1, "between 0 and 1")
    return options.min_confidence


def _is_below(caption: Caption, confidence: float | None) -> bool:
    return confidence is not None and caption.confidence is not None and caption.confidence < confidence


def _region(options: Options) -> Box | None:
    """The part of each picture that is captioned; None: the whole."""
    if options.box is None:
        return None
    _refuse(options, _OF_WHOLE_PICTURES, "for whole pictures; leave out --box")
    return read_box(options.box, "--box")


def _require_one_drawable(path: str, pictures: Sequence[str | Path]) -> None:
    if len(pictures) != 1:
        raise BadSettings(f"--explain draws one picture, found {len(pictures)}; name the one to explain")
    require_drawable(path, pictures)


def _captions(
    captioner: AnyCaptioner, paths: Sequence[Path], options: Options, region: Box | None
) -> Iterator[Caption]:
    if options.ocr:
        from magicap.captioners.with_text import caption_with_text

        append = options.ocr == APPEND
        yield from caption_with_text(captioner, iter(paths), append=append, batch_size=options.batch_size)
        return
    if not options.explain:
        yield from captioner.caption(iter(paths), region=region, batch_size=options.batch_size)
        return
    try:
        explanation = captioner.explain(paths[0])
    except BadImage as error:
        yield Caption("", error=error)
        return
    explanation.save(options.explain)
    yield explanation.caption


def _write(
    path: Path,
    caption: Caption,
    as_json: bool,
    alone: bool,
    provenance: Provenance | None = None,
    *,
    unsure: bool = False,
    region: Box | None = None,
) -> None:
    if caption.error is not None:
        complain(str(caption.error))
    if as_json:
        row = caption_row(str(path), caption, provenance)
        print_json(row | ({"region": region} if region else {}) | ({"unsure": True} if unsure else {}))
    elif caption.error is None:
        words = " ".join(caption.split()) + unsure * UNSURE  # one line a picture, whatever a model writes
        print_line(*([] if alone else [str(path)]), words)
