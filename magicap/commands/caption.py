"""``magicap caption``: pictures in, a line each out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.commands.shared import SOME_FAILED, load_captioner, progress, say
from magicap.decoding.settings import DECODINGS
from magicap.drawing import FORMATS, refuse_undrawable
from magicap.errors import BadImage, BadSettings
from magicap.evaluation.rows import Provenance, caption_row
from magicap.images.folders import find_images
from magicap.results import Caption

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner


def add(commands: Any) -> None:
    """Declare the command and its options."""
    caption = commands.add_parser(
        "caption",
        help="caption pictures",
        description="Caption pictures. One picture prints its caption, several print PATH, a tab and\n"
        "the caption. Exit code 2 if any picture failed; the others are captioned all the same.",
        epilog="presets:\n"
        + "\n".join(f"  {name}: {p.origin}. Licence: {p.licence}." for name, p in PRESETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    caption.set_defaults(run=run)
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
        "--batch-size", type=int, metavar="N", help="pictures at a time (16; on a GPU what memory holds)"
    )
    caption.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)")
    caption.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (%(default)s)")
    caption.add_argument(
        "--explain", metavar="FILE",
        help=f"draw why: what competed, or was looked at ({', '.join(FORMATS)}; one picture)",
    )  # fmt: skip
    caption.add_argument(
        "--decoding",
        choices=sorted(DECODINGS),
        help="how to search, at that search's own defaults (default: the captioner's own)",
    )
    for name, (kind, about) in _SEARCH_OPTIONS.items():
        caption.add_argument(_option(name), type=kind, help=about)
    for name, about in _WORD_OPTIONS.items():
        caption.add_argument(_option(name), action="append", metavar="WORD", help=about)
    caption.add_argument(
        "--soft-prompt",
        action=argparse.BooleanOptionalAction,
        help="magic searches: condition the language model on the picture by its soft prompt, or do not",
    )
    for former, name in _FORMER_OPTIONS.items():
        caption.add_argument(_option(former), dest=name, action=_FormerOption, help=argparse.SUPPRESS)
    for former, value in (("--prompted", True), ("--no-prompted", False)):
        caption.add_argument(
            former, dest="soft_prompt", nargs=0, const=value, action=_FormerOption, help=argparse.SUPPRESS
        )


class _FormerOption(argparse.Action):
    """An option under the name of an earlier release: taken, with a notice of the new one."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name = _option(self.dest)
        if self.nargs == 0:
            name, values = (name if self.const else name.replace("--", "--no-", 1)), self.const
        else:
            values = _SEARCH_OPTIONS[self.dest][0](values)
        print(f"magicap: {option} is now {name}; the old name goes with the next release", file=sys.stderr)
        setattr(namespace, self.dest, values)


_FORMER_OPTIONS = {"memory_weight": "ngram_weight", "fit_weight": "rerank_weight"}
"""Options of an earlier release and their names now."""

_SEARCH_OPTIONS = {
    "top_k": (int, "magic searches: how many next tokens compete"),
    "alpha": (float, "magic search: weight of the degeneration penalty"),
    "beta": (float, "magic search: weight of the picture"),
    "beam_size": (int, "beam searches: how many partial captions are kept"),
    "num_finished": (int, "beam magic search: how many captions that ended of themselves compete"),
    "neighbours": (int, "beam magic search: how many remembered captions are the evidence"),
    "ngram_weight": (float, "beam magic search: weight of the retrieval n-gram model in a next token"),
    "image_weight": (float, "beam magic search: weight of the picture while captions are written"),
    "rerank_weight": (float, "beam magic search: weight of the picture when the caption is chosen"),
    "temperature": (float, "beam magic search, sampling: above 1 is more even, below 1 sharper"),
    "min_words": (int, "beam magic search: the fewest words of a caption"),
    "max_words": (int, "beam magic search: the most words of a caption"),
    "length_penalty": (float, "supervised captioners: above 1 prefers longer captions, below 1 shorter ones"),
    "max_new_tokens": (int, "the longest caption in tokens"),
}
"""Settings of decodings: each can be given where the captioner's decoding has it."""


_WORD_OPTIONS = {
    "include": "beam magic search: a word that the caption must have (again for another)",
    "exclude": "beam magic search: a word that it must not have (again for another)",
}


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
        _refuse_undrawable(options.explain, [*paths, *(error.source for error in unlisted)])

    captioner = load_captioner(options.preset, device=options.device, dtype=options.dtype)
    captioner.decoding = _with_options(captioner, options)
    origin = Provenance.of(captioner) if options.json else None
    alone = len(options.paths) == 1 and not Path(options.paths[0]).is_dir()
    captions = _captions(captioner, paths, options)
    failed = bool(unlisted)
    for path, caption in zip(progress(paths), captions, strict=True):
        failed |= caption.error is not None
        _write(path, caption, as_json=options.json, alone=alone, origin=origin)
    return SOME_FAILED if failed else 0


def _refuse_undrawable(path: str, pictures: Sequence[str | Path]) -> None:
    if len(pictures) != 1:
        raise BadSettings(f"--explain draws one picture, found {len(pictures)}; name the one to explain")
    refuse_undrawable(path, pictures)


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
    """The captioner's decoding with what was given.

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
    every = [*_SEARCH_OPTIONS, *_WORD_OPTIONS, "soft_prompt"]
    given = {name: getattr(options, name) for name in every if getattr(options, name) is not None}
    has = {field.name for field in fields(decoding)} & {*every}
    if stray := [_option(name) for name in given if name not in has]:
        known = ", ".join(_option(name) for name in every if name in has)
        raise BadSettings(
            f"{', '.join(stray)}: this captioner's decoding is {type(decoding).__name__}, which has {known}; "
            "leave the others out"
        )
    return replace(decoding, **given)


def _write(
    path: Path, caption: Caption, *, as_json: bool, alone: bool, origin: Provenance | None = None
) -> None:
    if caption.error is not None:
        say(f"magicap: {caption.error}", sys.stderr)
    if as_json:
        say(json.dumps(caption_row(str(path), caption, origin)), sys.stdout)
    elif caption.error is None:
        words = " ".join(caption.split())  # one line a picture, whatever a model says
        say(words if alone else f"{path}\t{words}", sys.stdout)
