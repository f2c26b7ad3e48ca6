"""``magicap story``: sentences that go on from a title, each with a picture in view."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.checks import require_int
from magicap.commands.model_options import ModelOptions
from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import print_json, print_line
from magicap.commands.shared import path_from_here
from magicap.errors import BadSettings
from magicap.retrieval.header import Header, index_folder

if TYPE_CHECKING:
    from magicap.captioners.stories import Story
    from magicap.captioners.zero_shot import Captioner


@dataclass(frozen=True)
class SearchOptions:
    """How ``magicap story`` searches a sentence."""

    top_k: int | None = None
    """How many most probable next tokens compete; default: 5."""

    alpha: float | None = None
    """Weight of the degeneration penalty, 0 to 1; default: 0.6."""

    beta: float | None = None
    """Weight of the picture, 0 without; default: 0.15."""

    max_new_tokens: int | None = None
    """A sentence is cut after this many tokens; default: 25."""

    soft_prompt: bool | None = None
    """Whether the language model is conditioned on the picture; default: where captions are."""


@dataclass(frozen=True)
class Options:
    """What ``magicap story`` is to do, but for the settings of its search."""

    pictures: Annotated[tuple[str, ...], About("PICTURE", positional=True)] = ()
    """A picture's file for the whole story, or several: each has its share of the sentences, in order."""

    title: str = ""
    """What the story goes on from."""

    title_end: str = ""
    """Put this behind the title, as the language model has read titles: ".", or " <|endoftext|>". Without it
    the title is the beginning of the first sentence."""

    sentences: int | None = None
    """How many sentences; default: 5 with one picture, a sentence a picture with several."""

    index: Annotated[str | None, About("INDEX")] = None
    """Find the pictures in this index of pictures, those that fit the title best; not moments of videos."""

    top: Annotated[int | None, About("K")] = None
    """How many pictures of the index; the best first; default: 1."""

    json: bool = False
    """Print a JSON object."""

    preset: Annotated[str, About("NAME|FOLDER")] = DEFAULT
    """Preset or captioner's folder, a zero-shot one."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "story",
        help="tell a story about pictures",
        description="Write a story that goes on from a title and shows in its pictures, by magic search.\n"
        "One picture prints the story on a line, several print PATH, a tab and a sentence.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    add_options(parser.add_argument_group("models"), options_of(ModelOptions))
    add_options(parser.add_argument_group("how to search"), options_of(SearchOptions))
    parser.set_defaults(run=with_options(run, Options, SearchOptions, ModelOptions))


def run(options: Options, search: SearchOptions, models: ModelOptions) -> int:
    """Check all that can be checked before a model is loaded, then write and print the story."""
    _check(options)
    header = None if options.index is None else Header.read(index_folder(options.index))
    captioner = _captioner(options.preset, models)
    pictures = {path: path for path in options.pictures}
    if header is not None:
        pictures = _pictures_of(header, captioner, options)
    from magicap.captioners.stories import story_search

    own = {one.name: getattr(search, one.name) for one in fields(search)}
    story = captioner.story(
        [pictures[path] for path in options.pictures or pictures],
        title=options.title,
        sentences=options.sentences,
        decoding=replace(
            story_search(captioner.decoding),
            **{name: value for name, value in own.items() if value is not None},
        ),
        title_end=options.title_end,
    )
    _print(story, options.pictures or [*pictures], options)
    return 0


def _check(options: Options) -> None:
    if options.top is not None:
        require_int("--top", options.top)
        if options.index is None:
            raise BadSettings(
                "--top: of pictures that are found in an index; give --index too, or leave it out"
            )
    if bool(options.pictures) == bool(options.index):
        raise BadSettings("expected pictures, or an index that they are searched in; give one of the two")
    if options.index and not options.title.strip():
        raise BadSettings("expected a title that pictures of the index are searched by; give --title")
    if options.title_end and not options.title.strip():
        raise BadSettings("--title-end stands behind a title; give --title")
    from magicap.captioners.stories import count_sentences

    count_sentences(options.sentences, len(options.pictures) or 1, "--sentences")


def _captioner(preset: str, models: ModelOptions) -> Captioner:
    # Stories are written without a memory: where one would have to be sampled first, none is.
    samples = models.scorer is not None or (preset in PRESETS and PRESETS[preset].samples_memory)
    captioner = models.load(preset, 0 if samples else None)
    from magicap.captioners.zero_shot import Captioner

    if not isinstance(captioner, Captioner):
        raise BadSettings(f"{preset} is supervised and writes no stories; give a zero-shot --preset")
    return captioner


def _pictures_of(header: Header, captioner: Captioner, options: Options) -> dict[str, str]:
    """Of the pictures of an index that fit the title best the paths as seen from here, and whole."""
    from magicap.retrieval.index import RetrievalIndex

    index = RetrievalIndex.load(header.folder, captioner.scorer)
    if index.kind != "image":
        raise BadSettings(f"{header.folder}: expected an index of pictures, found one of sentences")
    are_pictures = [number for number, item in enumerate(index.items) if item.time is None]
    if not are_pictures:
        raise BadSettings(f"{header.folder}: expected pictures, found moments of videos alone; name another")
    index.items, index.vectors = [index.items[number] for number in are_pictures], index.vectors[are_pictures]
    (matches,) = index.search_texts([options.title], options.top or 1)
    return {path_from_here(match, header.folder): str(match.item.path) for match in matches}


def _print(story: Story, paths: Sequence[str], options: Options) -> None:
    if options.json:
        sentences = [
            {"text": one.text, "image": paths[one.picture], "cosine": round(one.cosine, 4)}
            for one in story.sentences
        ]
        print_json({"title": story.heading, "story": str(story), "sentences": sentences})
    elif len(paths) == 1:
        print_line(" ".join(story.split()))
    else:
        for one in story.sentences:
            print_line(paths[one.picture], " ".join(one.text.split()))
