"""``magicap index``: pictures or sentences in, an index to search them by out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.commands.shared import SOME_FAILED, load_scorer, progress, say
from magicap.errors import BadImage, BadSettings
from magicap.images.folders import find_images, is_picture
from magicap.images.reader import describe_source
from magicap.retrieval.header import INDEX_FILE, Header, index_folder, refuse_foreign
from magicap.retrieval.items import IMAGE, PLURAL, TEXT, OnError

if TYPE_CHECKING:
    from magicap.retrieval.index import RetrievalIndex


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "index",
        help="make pictures or sentences searchable",
        description="Encode pictures, or sentences, with a captioner's scorer, for 'magicap search'. Run\n"
        "again, it encodes only what is new or changed, and drops what is gone. Exit code 2 if any\n"
        "picture failed; the others are indexed all the same.",
        epilog="Unless --out says otherwise, the index of one folder is kept inside it as .magicap-index,\n"
        "that of one file F beside it as F.magicap-index, that of several in .magicap-index here.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="pictures, and folders searched for them; or sentences: a text file, one a line, or a data set",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="where to keep the index")
    parser.add_argument(
        "--preset",
        metavar="NAME|FOLDER",
        help=f"whose scorer encodes: {', '.join(PRESETS)}, or a captioner's folder "
        f"(default: the one that made the index, {DEFAULT} for a new one)",
    )
    parser.add_argument(
        "--sentences", action="store_true", help="read folders too as data sets of sentences, not of pictures"
    )
    parser.add_argument("--split", metavar="NAME", help="of data sets, take this split alone (all)")
    parser.add_argument("--rebuild", action="store_true", help="encode everything, whatever index is there")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="pictures at a time (%(default)s)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)")


def run(options: argparse.Namespace) -> int:
    """Refuse what cannot be written and list what is to be encoded before a model is loaded."""
    from magicap.retrieval.parquet import need_pyarrow

    out = Path(options.out) if options.out else _usual_place(options.sources)
    refuse_foreign(out)
    need_pyarrow()
    header = Header.read(out) if (out / INDEX_FILE).exists() and not options.rebuild else None
    complaints: list[BadImage] = []

    def complain(error: BadImage) -> None:
        complaints.append(error)
        say(f"magicap: {error}", sys.stderr)

    kind, found = _listed(options, complain)
    if not found:
        say(f"magicap: no {PLURAL[kind]} found in {', '.join(options.sources)}", sys.stderr)
        return SOME_FAILED
    index = _opened(out, header, options)
    before = list(index.items)
    try:
        if kind == TEXT:
            changes = index.update_texts(found, progress=partial(progress, unit="sentence"))
        else:
            changes = index.update_images(
                found, batch_size=options.batch_size, on_error=complain, progress=progress
            )
    finally:  # also after Ctrl-C: the next run goes on from what is encoded
        if index.items != before or options.rebuild:
            _save(index, out)
    if not index.items:
        say(f"magicap: none of the {len(found)} pictures can be read, so no index is written", sys.stderr)
        return SOME_FAILED
    told = f"{changes.added} new, {changes.kept} unchanged, {changes.dropped} dropped"
    things = PLURAL[kind] if len(index) > 1 else PLURAL[kind].removesuffix("s")
    say(f"{out}: {len(index)} {things} ({told})", sys.stdout)
    return SOME_FAILED if complaints else 0


def _usual_place(sources: Sequence[str]) -> Path:
    return index_folder(sources[0] if len(sources) == 1 else ".")


def _listed(options: argparse.Namespace, on_error: OnError) -> tuple[str, list[str]]:
    """What to index, pictures' paths or sentences, and which of the two it is."""
    there = [source for source in options.sources if os.path.exists(source)]
    for source in set(options.sources) - set(there):
        missing = "expected a file or folder, found none; check the path"
        on_error(BadImage("missing", missing, source=describe_source(source)))
    holds_text = [options.sentences if os.path.isdir(path) else not is_picture(path) for path in there]
    if not any(holds_text):
        return IMAGE, list(map(str, find_images(there, on_error=on_error)))
    if not all(holds_text):
        raise BadSettings(
            f"expected pictures or sentences, found sentences in {there[holds_text.index(True)]} and "
            f"pictures in {there[holds_text.index(False)]}; index one after the other, into two folders"
        )
    from magicap.data import read_sentences

    return TEXT, [text for path in there for text in read_sentences(path, options.split, held_out=())]


def _opened(out: Path, header: Header | None, options: argparse.Namespace) -> RetrievalIndex:
    """The index that is there, if its scorer is the one asked for, or a new one."""
    preset = options.preset or (header and header.preset) or DEFAULT
    scorer = load_scorer(preset, options.device)
    from magicap.retrieval.index import RetrievalIndex

    if header is not None:
        return RetrievalIndex.load(out, scorer)
    return RetrievalIndex(scorer, preset=preset if preset in PRESETS else os.path.abspath(preset))


def _save(index: RetrievalIndex, out: Path) -> None:
    if index.items:  # an index of nothing would only hide why
        index.save(out)
