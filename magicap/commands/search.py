"""``magicap search``: the pictures or sentences of an index that fit sentences and pictures best."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from magicap.commands.options import About, add_options, flag, options_of, with_options
from magicap.commands.output import complain, print_json, print_line
from magicap.commands.query_words import MINUS, arranged
from magicap.commands.shared import item_fields, item_name, load_scorer, path_inside, scorer_of_index
from magicap.errors import BadSettings
from magicap.files import only_writer, require_writable, write_whole
from magicap.images.folders import is_picture
from magicap.images.formats import is_video
from magicap.images.reader import open_image
from magicap.retrieval.header import Header, index_folder
from magicap.retrieval.items import Item, Match, names_picture

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Options:
    """What ``magicap search`` is to do."""

    query: Annotated[tuple[str, ...], About("QUERY", positional=True)] = ()
    """A sentence in quotes, or a picture's file; of several the sum, less those with a minus in front."""

    like: Annotated[list[str] | None, About("LIKED")] = None
    """What matches are to be like, too: a picture's file with others behind it, or a sentence."""

    unlike: Annotated[list[str] | None, About("NOT_LIKED")] = None
    """What they are not to be like, in the same way."""

    text: Annotated[bool, About(exclusive="reading")] = False
    """Read QUERY as a sentence, whatever file there is."""

    image: Annotated[bool, About(exclusive="reading")] = False
    """Read QUERY as a picture's file."""

    index: Annotated[str, About("INDEX")] = "."
    """The index, or the folder or file that was indexed."""

    top: Annotated[int, About("K")] = 10
    """How many matches to show."""

    diversity: Annotated[float, About("X")] = 0.0
    """How much matches are to differ from each other, 0 to 1: maximal marginal relevance."""

    min_similarity: Annotated[float | None, About("X")] = None
    """Least cosine of a match, -1 to 1; default: any."""

    json: bool = False
    """Print a JSON object a line."""

    html: Annotated[str | None, About("FILE")] = None
    """Write a page with the matches into this file, too."""

    preset: Annotated[str | None, About("NAME|FOLDER", exclusive="scorer")] = None
    """Preset or captioner's folder whose scorer reads the query; default: the one that made the index."""

    scorer: Annotated[str | None, About("NAME:TAG|ID|FOLDER", exclusive="scorer")] = None
    """Read the query with this scorer instead; it must be the one that made the index."""

    revision: Annotated[list[str] | None, About("OWNER/NAME@COMMIT")] = None
    """Load this commit of a repository of the hub that the scorer comes from; default: the preset's own."""

    device: Annotated[str | None, About("NAME")] = None
    """Where the models run: cpu, cuda, ...; default: a GPU if there is one."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "search",
        usage="magicap search [QUERY ...] [--like LIKED ...] [--unlike NOT_LIKED ...] [options]",
        help="find what sentences and pictures are most like",
        description="Search an index that 'magicap index' made. QUERY is a sentence, or a picture's file,\n"
        "which finds pictures like it, or the sentences that fit it. Every item is compared.\n"
        "Several are added up and subtracted; items that stand in such a query are left out:\n"
        '  magicap search --like a.jpg b.jpg --unlike c.jpg "on a beach" "-dog"',
        epilog="A word of a query is a picture if there is such a file, or if it ends as pictures do.\n"
        "--like and --unlike take a word, and the pictures behind it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    parser.set_defaults(run=with_options(run, Options))


def arranged_words(words: Sequence[str]) -> list[str]:
    """The arguments of the command as argparse is to have them (:mod:`magicap.commands.query_words`)."""
    options = [option for option in options_of(Options) if not option.about.positional]
    flags = [flag(option.name) for option in options if option.kind is bool]
    valued = [flag(option.name) for option in options if option.kind is not bool]
    return arranged(words, flags, valued, listed=("--like", "--unlike"))


def run(options: Options) -> int:
    """Check all that can be checked before a model is loaded, then print the matches, the best first."""
    _check(options)
    liked = _parts(options.query, options, is_liked=True) + _parts(options.like)
    unliked = _parts(options.query, options, is_liked=False) + _parts(options.unlike)
    if not liked:
        raise BadSettings("expected a sentence or a picture's file to look for; give a QUERY or --like")
    files = [part.word for part in (*liked, *unliked) if part.picture is not None]
    header = Header.read(index_folder(options.index))
    if options.html:
        require_writable(options.html, files)
    with only_writer(options.html):
        matches = _matches(header, liked, unliked, options)
        _print(header, matches, liked, unliked, options)
        if options.html:
            from magicap.retrieval.sheet import contact_sheet

            picture = liked[0].picture if _is_one(liked, unliked) else None
            words = [part.word if picture else part.name for part in liked]
            title = " ".join([" + ".join(words), *(f"− {part.name}" for part in unliked)])
            names = [
                (path_inside(match, header.folder) or str(match.item.path)) + match.item.fragment
                for match in matches
            ]
            page = contact_sheet(title, matches, names, picture=picture, header=header)
            write_whole(options.html, page)
    return 0


def _check(options: Options) -> None:
    if options.top < 1:
        raise BadSettings(f"--top: expected at least 1, found {options.top}")
    if not 0 <= options.diversity <= 1:
        raise BadSettings(f"--diversity: expected 0 to 1, found {options.diversity}")
    if options.min_similarity is not None and not -1 <= options.min_similarity <= 1:
        raise BadSettings(f"--min-similarity: expected -1 to 1, found {options.min_similarity}")


@dataclass(frozen=True)
class _Part:
    """A word of a query."""

    word: str

    picture: Image | None
    """None for a sentence."""

    @property
    def name(self) -> str:
        """A picture by its file's name alone, as pages are passed on."""
        return self.word if self.picture is None else Path(self.word).name

    @property
    def item(self) -> Item:
        return Item(text=self.word) if self.picture is None else Item(path=os.path.abspath(self.word))


def _parts(
    words: Sequence[str] | None, options: Options | None = None, *, is_liked: bool = True
) -> list[_Part]:
    """Those words that are liked, or those with a minus in front, read; ``options`` say how QUERY is read."""
    of_sign = [word for word in words or () if word.startswith(MINUS) != is_liked or options is None]
    return [_part(word.removeprefix(MINUS) if options else word, options) for word in of_sign]


def _part(word: str, options: Options | None) -> _Part:
    is_text, is_image = (options.text, options.image) if options else (False, False)
    if is_image or (not is_text and os.path.isfile(word) and is_picture(word)):
        return _Part(word, open_image(word))
    if not word.strip():
        raise BadSettings(
            "expected a sentence or a picture's file, found an empty query; give what to look for"
        )
    if not is_text and is_video(word.partition("#t=")[0]):
        raise BadSettings(
            f"expected a sentence or a picture's file, found the video {word}; save a frame of it as a "
            "picture and search by that, or add --text if these are words to look for"
        )
    if names_picture(word) and not is_text:
        raise BadSettings(
            f"no picture at {word}; check the path, or add --text if these are words to look for"
        )
    return _Part(word, None)


def _is_one(liked: Sequence[_Part], unliked: Sequence[_Part]) -> bool:
    """Whether a query is of one part."""
    return len(liked) == 1 and not unliked


def _matches(
    header: Header, liked: Sequence[_Part], unliked: Sequence[_Part], options: Options
) -> list[Match]:
    from magicap.retrieval.parquet import require_parquet

    require_parquet()
    preset, name = scorer_of_index(header, options.preset, options.scorer)
    scorer = load_scorer(preset, options.device, options.revision, scorer=name)
    from magicap.retrieval.index import RetrievalIndex

    index = RetrievalIndex.load(header.folder, scorer)
    is_plain = _is_one(liked, unliked) and not options.like
    # One picture as it was read: it may come from a pipe.
    like = [part.picture if is_plain and part.picture else part.item for part in liked]
    return index.recommend(
        like,
        [part.item for part in unliked],
        options.top,
        diversity=options.diversity,
        min_similarity=options.min_similarity,
        keep_given=is_plain,
    )


def _print(
    header: Header,
    matches: Sequence[Match],
    liked: Sequence[_Part],
    unliked: Sequence[_Part],
    options: Options,
) -> None:
    query: dict[str, Any] = {"query": liked[0].word}
    if not _is_one(liked, unliked):
        query = {"like": [part.word for part in liked], "unlike": [part.word for part in unliked]}
    missing = [match.item.path is not None and not os.path.exists(match.item.path) for match in matches]
    if not options.json:
        print_line(f"rank   cosine  {header.holds}")
    for match, is_missing in zip(matches, missing, strict=True):
        if options.json:
            row = {**query, "rank": match.rank, "cosine": round(match.cosine, 6)}
            row |= {**item_fields(match, header.folder), **({"missing": True} if is_missing else {})}
            print_json(row)
        else:
            print_line(f"{match.rank:>4}  {match.cosine:>7.4f}  {item_name(match, header.folder)}")
    if any(missing):
        advice = "run 'magicap index' again where they are now"
        complain(f"no longer there: {sum(missing)} of these pictures; {advice}")
