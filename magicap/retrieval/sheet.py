"""A search's matches as one page that needs nothing else: pictures or sentences, ranks and cosines."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from magicap.errors import BadImage, MissingPackage
from magicap.images.reader import ImageSource
from magicap.pages import escaped, small_jpeg, why_unreadable
from magicap.retrieval.header import Header
from magicap.retrieval.items import PLURAL, Item, Match
from magicap.video.sampling import frame_at

_SIDE = 320  # of a picture, in pixels: twice the side on the page, for screens with two pixels to a point


def contact_sheet(
    query: str,
    matches: Sequence[Match],
    names: Sequence[str],
    *,
    header: Header,
    picture: ImageSource | None = None,
) -> str:
    """The matches of one query as an HTML page without scripts, which loads nothing.

    Pages are passed on, and an index may come from anywhere and name any file of this machine. So it shows
    pictures below the folder that holds the index, and others only as they were when they were indexed.

    Args:
        query: the sentence, or the picture's path.
        matches: K items, the best first.
        names: K names to show below pictures; those of sentences are not used.
        header: of the index that was searched.
        picture: the query, if it is a picture.
    """
    kind = PLURAL[header.holds]
    # A captioner's folder by its last name alone: pages are passed on.
    scorer = f"{Path(header.preset).name} {header.scorer}".strip()
    facts = {"shown": f"{len(matches):,}", f"{kind} searched": f"{header.count:,}", "scorer": scorer}
    title = query if picture is None else Path(query).name
    page = resources.files("magicap.retrieval").joinpath("sheet.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        query=escaped(title),
        picture="" if picture is None else f'<p class="query">{_image(picture, title)}</p>',
        facts="\n".join(
            f"<div><dt>{escaped(name)}</dt><dd><bdi>{escaped(value)}</bdi></dd></div>"
            for name, value in facts.items()
        ),
        kind=kind,
        matches="\n".join(
            _match(match, name, header.folder) for match, name in zip(matches, names, strict=True)
        ),
    )


def _match(match: Match, name: str, folder: Path) -> str:
    figures = f'<span class="rank">{match.rank}</span> <span class="cosine">{match.cosine:.4f}</span>'
    if match.item.text is not None:
        return f"<li>{figures}<p><bdi>{escaped(match.item.text)}</bdi></p></li>"
    shown = _missing("outside the indexed folder, or changed since")
    if _is_indexed(match.item, folder):
        shown = _picture(match.item, name)
    return f"<li>{shown}<p>{figures} <bdi>{escaped(name)}</bdi></p></li>"


def _is_indexed(item: Item, folder: Path) -> bool:
    """Whether a picture lies below the folder that holds the index, links followed, or is as it was."""
    path = Path(str(item.path))
    try:
        info = path.stat()
        return path.resolve().is_relative_to(folder.absolute().parent.resolve()) or (
            (info.st_size, info.st_mtime_ns) == (item.size, item.mtime_ns)
        )
    except (OSError, ValueError, RuntimeError):  # which the reader of pictures explains
        return True


def _missing(reason: str) -> str:
    return f'<span class="missing">{escaped(reason)}</span>'


def _picture(item: Item, name: str) -> str:
    """A picture, or the frame of a video at its moment."""
    if item.time is None:
        return _image(str(item.path), name)
    try:
        return _image(frame_at(str(item.path), item.time), name)
    except (BadImage, MissingPackage) as error:
        return _missing(why_unreadable(error))


def _image(source: ImageSource, name: str) -> str:
    try:
        jpeg, (width, height) = small_jpeg(source, _SIDE)
    except BadImage as error:
        return _missing(why_unreadable(error))
    size = f'width="{width}" height="{height}"'
    return f'<img src="data:image/jpeg;base64,{jpeg}" alt="{escaped(name)}" {size}>'
