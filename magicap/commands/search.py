"""``magicap search``: the pictures or sentences of an index that fit a sentence or a picture best."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.presets import DEFAULT
from magicap.commands.options import About, add_options, from_namespace, options_of
from magicap.commands.output import complain, print_json, print_line
from magicap.commands.shared import load_scorer
from magicap.errors import BadSettings
from magicap.files import only_writer, require_writable, write_whole
from magicap.images.folders import is_picture
from magicap.images.formats import SUFFIXES
from magicap.images.reader import open_image
from magicap.retrieval.header import Header, index_folder
from magicap.retrieval.items import Match

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Options:
    """What ``magicap search`` is to do."""

    query: Annotated[str, About("QUERY", positional=True)]
    """A sentence in quotes, or a picture's file."""

    text: Annotated[bool, About(exclusive="reading")] = False
    """Read QUERY as a sentence, whatever file there is."""

    image: Annotated[bool, About(exclusive="reading")] = False
    """Read QUERY as a picture's file."""

    index: Annotated[str, About("INDEX")] = "."
    """The index, or the folder or file that was indexed."""

    top: Annotated[int, About("K")] = 10
    """How many matches to show."""

    json: bool = False
    """Print a JSON object a line."""

    html: Annotated[str | None, About("FILE")] = None
    """Write a page with the matches into this file, too."""

    preset: Annotated[str | None, About("NAME|FOLDER")] = None
    """Preset or captioner's folder whose scorer reads the query; default: the one that made the index."""

    revision: Annotated[list[str] | None, About("OWNER/NAME@COMMIT")] = None
    """Load this commit of a repository of the hub that the preset is made of; default: the preset's own."""

    device: Annotated[str | None, About("NAME")] = None
    """Where the models run: cpu, cuda, ...; default: a GPU if there is one."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "search",
        help="find what a sentence or a picture is most like",
        description="Search an index that 'magicap index' made. QUERY is a sentence, or a picture's file,\n"
        "which finds pictures like it, or the sentences that fit it. Every item is compared.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    parser.set_defaults(run=lambda namespace: run(from_namespace(namespace, Options)))


def run(options: Options) -> int:
    """Check all that can be checked before a model is loaded, then print the matches, the best first."""
    if options.top < 1:
        raise BadSettings(f"--top: expected at least 1, found {options.top}")
    picture = _picture(options)
    header = Header.read(index_folder(options.index))
    if options.html:
        require_writable(options.html, [options.query] if picture else [])
    with only_writer(options.html):
        matches = _matches(header, picture, options)
        _print(header, matches, options)
        if options.html:
            from magicap.retrieval.sheet import contact_sheet

            names = [_inside(match, header) or str(match.item.path) for match in matches]
            page = contact_sheet(options.query, matches, names, picture=picture, header=header)
            write_whole(options.html, page)
    return 0


def _picture(options: Options) -> Image | None:
    """The query as a picture; None if it is a sentence."""
    query, has_suffix = options.query, Path(options.query).suffix.lower() in SUFFIXES
    if options.image or (not options.text and os.path.isfile(query) and is_picture(query)):
        return open_image(query)
    if not query.strip():
        raise BadSettings(
            "expected a sentence or a picture's file, found an empty query; give what to look for"
        )
    if has_suffix and not options.text:
        raise BadSettings(
            f"no picture at {query}; check the path, or add --text if these are words to look for"
        )
    return None


def _matches(header: Header, picture: Image | None, options: Options) -> list[Match]:
    from magicap.retrieval.parquet import require_parquet

    require_parquet()
    scorer = load_scorer(options.preset or header.preset or DEFAULT, options.device, options.revision)
    from magicap.data import normalise_caption
    from magicap.retrieval.index import RetrievalIndex

    index = RetrievalIndex.load(header.folder, scorer)
    if picture is not None:
        return index.search_images([picture], options.top)[0]
    # Written as the sentences of an index are: a stray space before the full stop costs recall.
    return index.search_texts([normalise_caption(options.query) or options.query], options.top)[0]


def _print(header: Header, matches: Sequence[Match], options: Options) -> None:
    names = [_path(match, header) if match.item.text is None else match.item.text for match in matches]
    missing = [match.item.path is not None and not os.path.exists(match.item.path) for match in matches]
    if not options.json:
        print_line(f"rank   cosine  {header.holds}")
    for match, name, is_missing in zip(matches, names, missing, strict=True):
        if options.json:
            row = {"query": options.query, "rank": match.rank, "cosine": round(match.cosine, 6)}
            row |= {header.holds: name, **({"missing": True} if is_missing else {})}
            print_json(row)
        else:
            print_line(f"{match.rank:>4}  {match.cosine:>7.4f}  {name}")
    if any(missing):
        advice = "run 'magicap index' again where they are now"
        complain(f"no longer there: {sum(missing)} of these pictures; {advice}")


def _path(match: Match, header: Header) -> str:
    """A picture's path as seen from here, if the index was named so."""
    inside = _inside(match, header)
    # Not the folder's parent: of "." that is "." again.
    return os.path.normpath(header.folder / os.pardir / inside) if inside else str(match.item.path)


def _inside(match: Match, header: Header) -> str:
    """A picture's path from the folder that holds the index; empty for one that is elsewhere."""
    path, parent = str(match.item.path), os.path.join(os.path.dirname(os.path.abspath(header.folder)), "")
    return path.removeprefix(parent) if path.startswith(parent) else ""
