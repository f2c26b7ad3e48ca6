"""``magicap caption``: pictures in, a line each out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.commands.shared import SOME_FAILED, FormerOption, load_captioner, print_line, progress_bar
from magicap.decoding.settings import DECODINGS, BeamMagicSearch
from magicap.drawing import FORMATS, require_drawable
from magicap.errors import BadImage, BadSettings
from magicap.evaluation.rows import Provenance, caption_row
from magicap.images.folders import find_images
from magicap.results import Caption
from magicap.settings_io import former_names

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "caption",
        help="caption pictures",
        description="Caption pictures. One picture prints its caption, several print PATH, a tab and\n"
        "the caption. Exit code 2 if any picture failed; the others are captioned all the same.",
        epilog="presets:\n"
        + "\n".join(f"  {name}: {p.origin}. Licence: {p.licence}." for name, p in PRESETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "paths", nargs="+", metavar="FILE|FOLDER", help="pictures, and folders searched for them"
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT,
        metavar="NAME|FOLDER",
        help=f"{', '.join(PRESETS)}, or a captioner's folder (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a picture, errors included")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="pictures at a time (16; on a GPU what its memory holds)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (%(default)s)")
    parser.add_argument(
        "--explain", metavar="FILE",
        help=f"draw why: what competed, or the attention ({', '.join(FORMATS)}; one picture)",
    )  # fmt: skip
    _add_decoding_options(parser)


def _add_decoding_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--decoding",
        choices=sorted(DECODINGS),
        help="how to search, at that search's own defaults (default: the captioner's own)",
    )
    for name, (kind, about) in _SEARCH_OPTIONS.items():
        parser.add_argument(_option(name), type=kind, help=about)
    for name, about in _WORD_OPTIONS.items():
        parser.add_argument(_option(name), action="append", metavar="WORD", help=about)
    parser.add_argument(
        _option(_CONDITION),
        action=argparse.BooleanOptionalAction,
        help="magic searches: condition the language model on the picture by its soft prompt, or do not",
    )
    for former, name in former_names(BeamMagicSearch).items():
        option = partial(parser.add_argument, dest=name, action=FormerOption)
        if name == _CONDITION:
            option(_option(former), nargs=0, const=True, now=_option(name))
            option(_option(f"no_{former}"), nargs=0, const=False, now=_option(f"no_{name}"))
        else:
            option(_option(former), type=_SEARCH_OPTIONS[name][0], now=_option(name))


_SEARCH_OPTIONS = {
    "top_k": (int, "magic searches: how many next tokens compete"),
    "alpha": (float, "magic search: weight of the degeneration penalty"),
    "beta": (float, "magic search: weight of the picture"),
    "beam_size": (int, "beam searches: how many partial captions are kept"),
    "num_finished": (int, "beam magic search: how many captions that ended of themselves compete"),
    "neighbours": (int, "beam magic search: how many captions of the memory are the evidence"),
    "ngram_weight": (float, "beam magic search: weight of the retrieval n-gram model in a next token"),
    "image_weight": (float, "beam magic search: weight of the picture while captions are written"),
    "rerank_weight": (float, "beam magic search: weight of the picture when the caption is chosen"),
    "temperature": (float, "beam magic search, sampling: above 1 is more even, below 1 sharper"),
    "min_words": (int, "beam magic search: the fewest words of a caption"),
    "max_words": (int, "beam magic search: the most words of a caption"),
    "length_penalty": (float, "supervised captioners: above 1 prefers longer captions, below 1 shorter ones"),
    "max_new_tokens": (int, "the longest caption in tokens"),
}
"""Settings of decodings: each is an option where the captioner's decoding has it."""

_WORD_OPTIONS = {
    "include": "beam magic search: a word that the caption must have (again for another)",
    "exclude": "beam magic search: a word that it must not have (again for another)",
}

_CONDITION = "soft_prompt"


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def run(options: argparse.Namespace) -> int:
    """Find the pictures before loading anything, then write a line each."""
    unlisted: list[BadImage] = []
    paths = list(find_images(options.paths, on_error=unlisted.append))
    for error in unlisted:
        _write(Path(error.source), Caption("", error=error), as_json=options.json, alone=False)
    if not paths:
        print("magicap: no pictures found in " + ", ".join(options.paths), file=sys.stderr)
        return SOME_FAILED

    if options.explain:
        _require_one_drawable(options.explain, [*paths, *(error.source for error in unlisted)])

    captioner = load_captioner(options.preset, device=options.device, dtype=options.dtype)
    captioner.decoding = _with_options(captioner, options)
    provenance = Provenance.of(captioner) if options.json else None
    alone = len(options.paths) == 1 and not Path(options.paths[0]).is_dir()
    captions = _captions(captioner, paths, options)
    failed = bool(unlisted)
    with progress_bar(len(paths)) as on_progress:
        for path, caption in zip(paths, captions, strict=True):
            failed |= caption.error is not None
            _write(path, caption, as_json=options.json, alone=alone, provenance=provenance)
            on_progress(1)
    return SOME_FAILED if failed else 0


def _require_one_drawable(path: str, pictures: Sequence[str | Path]) -> None:
    if len(pictures) != 1:
        raise BadSettings(f"--explain draws one picture, found {len(pictures)}; name the one to explain")
    require_drawable(path, pictures)


def _captions(
    captioner: AnyCaptioner, paths: Sequence[Path], options: argparse.Namespace
) -> Iterator[Caption]:
    if not options.explain:
        yield from captioner.caption(iter(paths), batch_size=options.batch_size)
        return
    try:
        explanation = captioner.explain(paths[0])
    except BadImage as error:
        yield Caption("", error=error)
        return
    explanation.save(options.explain)
    yield explanation.caption


def _with_options(captioner: AnyCaptioner, options: argparse.Namespace) -> Any:
    """The captioner's decoding with the options of the call.

    Raises:
        BadSettings: an option that the decoding does not have, or a value out of range.
    """
    decoding: Any = captioner.decoding
    if options.decoding is not None:
        if type(decoding) not in DECODINGS.values():
            raise BadSettings(
                f"--decoding: {options.preset} is a supervised captioner, which has one of its own"
            )
        decoding = DECODINGS[options.decoding]()
    names = [*_SEARCH_OPTIONS, *_WORD_OPTIONS, _CONDITION]
    changes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = {field.name for field in fields(decoding)}
    if unknown := [_option(name) for name in changes if name not in settings]:
        accepted = ", ".join(_option(name) for name in names if name in settings)
        raise BadSettings(
            f"{', '.join(unknown)}: this captioner's decoding is {type(decoding).__name__}, which has "
            f"{accepted}; leave the others out"
        )
    return replace(decoding, **changes)


def _write(
    path: Path, caption: Caption, *, as_json: bool, alone: bool, provenance: Provenance | None = None
) -> None:
    if caption.error is not None:
        print_line(f"magicap: {caption.error}", sys.stderr)
    if as_json:
        print_line(json.dumps(caption_row(str(path), caption, provenance)), sys.stdout)
    elif caption.error is None:
        words = " ".join(caption.split())  # one line a picture, whatever a model writes
        print_line(words if alone else f"{path}\t{words}", sys.stdout)
