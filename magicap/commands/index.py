"""``magicap index``: pictures or sentences in, an index to search them by out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.presets import PRESETS
from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import complain, print_json, print_line, progress_bar
from magicap.commands.shared import SOME_FAILED, item_fields, item_name, load_scorer, scorer_of_index
from magicap.errors import BadImage, BadSettings, MissingPackage
from magicap.extras import require
from magicap.files import only_writer
from magicap.images.folders import find_images, is_picture
from magicap.images.formats import is_picture_file, is_video
from magicap.images.reader import describe_source
from magicap.retrieval.header import INDEX_FILE, Header, index_folder, require_index_folder
from magicap.retrieval.items import DUPLICATE, IMAGE, PLURAL, TEXT, OnError, items_of_files
from magicap.video.settings import EVERY, require_every

if TYPE_CHECKING:
    from magicap.retrieval.index import Changes, RetrievalIndex


@dataclass(frozen=True)
class Options:
    """What ``magicap index`` is to do."""

    sources: Annotated[list[str], About("SOURCE", positional=True)]
    """Pictures and videos, and folders searched for them; or sentences: a text file, one a line, or a data
    set."""

    out: Annotated[str | None, About("FOLDER")] = None
    """Where to keep the index; default: as said below."""

    preset: Annotated[str | None, About("NAME|FOLDER", exclusive="scorer")] = None
    """Preset (see ``magicap caption --help``) or captioner's folder whose scorer encodes; default: the one
    that made the index, embedded for a new one."""

    scorer: Annotated[str | None, About("NAME:TAG|ID|FOLDER", exclusive="scorer")] = None
    """Encode with this scorer instead: as of ``magicap caption``."""

    revision: Annotated[list[str] | None, About("OWNER/NAME@COMMIT")] = None
    """Load this commit of a repository of the hub that the scorer comes from; default: the preset's own."""

    sentences: bool = False
    """Read folders too as data sets of sentences, not of pictures."""

    split: Annotated[str | None, About("NAME")] = None
    """Take this split of data sets alone; default: all."""

    rebuild: bool = False
    """Encode everything, whatever index is there."""

    duplicates: bool = False
    """Then print groups of near-duplicates, from what the index holds."""

    threshold: Annotated[float, About("X")] = DUPLICATE
    """Least cosine that links two near-duplicates, -1 to 1."""

    json: bool = False
    """Print near-duplicates as a JSON object a line."""

    every: Annotated[float, About("SECONDS")] = EVERY
    """Seconds between the frames of a video, each of which can be found."""

    batch_size: int = 32
    """Pictures at a time."""

    device: Annotated[str | None, About("NAME")] = None
    """Where the models run: cpu, cuda, ...; default: a GPU if there is one."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "index",
        help="make pictures or sentences searchable",
        description="Encode pictures, or sentences, with a captioner's scorer, for 'magicap search'. Run\n"
        "again, it encodes only what is new or changed, and drops what is gone. Exit code 2 if any\n"
        "picture failed; the others are indexed all the same. With --duplicates near-duplicates\n"
        "follow in groups, each item with its cosine to the first of its group.",
        epilog="Without --out, the index of one folder is kept inside it as .magicap-index,\n"
        "that of one file F beside it as F.magicap-index, that of several in .magicap-index here.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    parser.set_defaults(run=with_options(run, Options))


def run(options: Options) -> int:
    """Refuse what cannot be written and list what is to be encoded before a model is loaded."""
    from magicap.retrieval.parquet import require_parquet

    require_every("--every", options.every)
    if not -1 <= options.threshold <= 1:
        raise BadSettings(f"--threshold: expected -1 to 1, found {options.threshold}")
    if options.json and not options.duplicates:
        raise BadSettings("--json: expected --duplicates with it, found none; add it, or leave --json out")
    out = Path(options.out) if options.out else _default_folder(options.sources)
    require_index_folder(out)
    require_parquet()
    with _made(out), only_writer(out):
        return _run(out, options)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder with those above it; what is made here goes again if nothing is written into it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in missing:
            if not os.listdir(path):
                path.rmdir()


def _run(out: Path, options: Options) -> int:
    header = Header.read(out) if (out / INDEX_FILE).exists() and not options.rebuild else None
    errors: list[BadImage] = []

    def report(error: BadImage) -> None:
        errors.append(error)
        complain(str(error))

    kind, sources = _listed(options, report)
    if not sources:
        complain(f"no {PLURAL[kind]} found in {', '.join(options.sources)}")
        return SOME_FAILED
    index = _opened(out, header, options)
    if kind == IMAGE:
        sources = _without_unreadable(index, sources, options.every, report)
    before = list(index.items)
    try:
        changes = _update(index, kind, sources, out, options, report)
    finally:  # also after Ctrl-C: the next run goes on from what is encoded
        if index.items != before or options.rebuild:
            _save(index, out)
    if not index.items:
        complain(f"none of the {len(sources)} pictures can be read, so no index is written")
        return SOME_FAILED
    counts = f"{changes.added} new, {changes.kept} unchanged, {changes.dropped} dropped"
    things = PLURAL[kind] if len(index) > 1 else PLURAL[kind].removesuffix("s")
    moments = sum(item.time is not None for item in index.items)
    of_videos = f", {moments} of them moments of videos" if moments else ""
    summary = f"{out}: {len(index)} {things}{of_videos} ({counts})"
    if options.duplicates:
        complain(summary)  # stdout is for the groups
        _print_duplicates(index, out, options)
    else:
        print_line(summary)
    return SOME_FAILED if errors else 0


def _print_duplicates(index: RetrievalIndex, out: Path, options: Options) -> None:
    groups = index.duplicates(options.threshold)
    if groups and not options.json:
        print_line(f"group   cosine  {index.kind}")
    for number, group in enumerate(groups, start=1):
        for match in group:
            if options.json:
                cosine = round(match.cosine, 6)
                print_json({"group": number, "cosine": cosine, **item_fields(match, out)})
            else:
                print_line(f"{number:>5}  {match.cosine:>7.4f}  {item_name(match, out)}")
    extra = sum(map(len, groups)) - len(groups)
    complain(
        f"{len(groups)} groups of near-duplicates at a cosine of {options.threshold:g}, {extra} to spare"
    )


def _update(
    index: RetrievalIndex, kind: str, sources: Sequence[str], out: Path, options: Options, on_error: OnError
) -> Changes:
    with progress_bar(len(sources), PLURAL[kind].removesuffix("s")) as on_progress:
        reports: Any = {"on_progress": on_progress, "on_checkpoint": partial(_save, index, out)}
        if kind == TEXT:
            return index.update_texts(sources, **reports)
        reports |= {"every": options.every, "batch_size": options.batch_size, "on_error": on_error}
        return index.update_images(sources, **reports)


def _default_folder(sources: Sequence[str]) -> Path:
    return index_folder(sources[0] if len(sources) == 1 else ".")


def _listed(options: Options, on_error: OnError) -> tuple[str, list[str]]:
    """What to index, pictures' paths or sentences, and which of the two it is."""
    paths = [source for source in options.sources if os.path.exists(source)]
    for source in set(options.sources) - set(paths):
        missing = "expected a file or folder, found none; check the path"
        on_error(BadImage("missing", missing, source=describe_source(source)))
    holds_text = [
        options.sentences if os.path.isdir(path) else not (is_video(path) or is_picture(path))
        for path in paths
    ]
    if not any(holds_text):
        return IMAGE, _pictures_and_videos(paths, on_error)
    if not all(holds_text):
        raise BadSettings(
            f"expected pictures or sentences, found sentences in {paths[holds_text.index(True)]} and "
            f"pictures in {paths[holds_text.index(False)]}; index one after the other, into two folders"
        )
    from magicap.data import read_sentences

    return TEXT, [text for path in paths for text in read_sentences(path, options.split, held_out=())]


def _pictures_and_videos(paths: Sequence[str], on_error: OnError) -> list[str]:
    """Files of pictures and videos.

    Raises:
        MissingPackage: videos cannot be read, and one was named.
    """

    def is_wanted(path: str) -> bool:
        return is_video(path) or is_picture_file(path)

    files = list(map(str, find_images(paths, on_error=on_error, is_wanted=is_wanted)))
    if any(map(is_video, paths)):
        require("av")
    return files


def _without_unreadable(
    index: RetrievalIndex, files: list[str], every: float, on_error: OnError
) -> list[str]:
    """The files but for those of videos, where these cannot be read and the index does not know them."""
    videos = [file for file in files if is_video(file)]
    if not videos:
        return files
    try:
        require("av")
    except MissingPackage as error:
        from magicap.retrieval.moments import known_moments

        moments = known_moments(index.items, every)
        known = {item.path for item in items_of_files(videos, on_error) if item in moments}
        passed_over = {file for file in videos if os.path.abspath(file) not in known}
        if passed_over:
            complain(f"videos are passed over, {len(passed_over)} in all: {error}")
        files = [file for file in files if file not in passed_over]
    return files


def _opened(out: Path, header: Header | None, options: Options) -> RetrievalIndex:
    """The index in ``out`` with the scorer of the call, or a new one."""
    preset, name = scorer_of_index(header, options.preset, options.scorer)
    scorer = load_scorer(preset, options.device, options.revision, scorer=name)
    from magicap.retrieval.index import RetrievalIndex

    if header is not None:
        return RetrievalIndex.load(out, scorer)
    if name is not None:
        return RetrievalIndex(scorer, scorer_name=os.path.abspath(name) if os.path.isdir(name) else name)
    from magicap.captioners.repositories import is_repository  # which brings torch

    is_name = preset in PRESETS or is_repository(preset)
    return RetrievalIndex(scorer, preset=preset if is_name else os.path.abspath(preset))


def _save(index: RetrievalIndex, out: Path) -> None:
    if index.items:  # an index of nothing would only hide why
        index.save(out)
