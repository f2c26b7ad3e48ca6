"""What several commands need: exit codes, a scorer loaded quickly, the paths of matches."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicap.captioners.presets import DEFAULT
from magicap.errors import BadSettings

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer
    from magicap.retrieval.header import Header
    from magicap.retrieval.items import Match

SOME_FAILED = 2


def load_scorer(
    preset: str,
    device: str | None = None,
    revision: Sequence[str] | None = None,
    *,
    scorer: str | None = None,
) -> ImageTextScorer:
    """The scorer of a captioner alone, or another in its place."""
    commits = commits_of(revision)
    with no_garbage_collection():
        from magicap.captioners import load

        if scorer is None:
            return load.load_scorer(preset, device=device, revision=commits)
        from magicap.captioners.folder import as_device
        from magicap.captioners.hub import revisions_of
        from magicap.captioners.sources import scorer_source
        from magicap.models.scorer import ImageTextScorer

        return ImageTextScorer.from_pretrained(
            *scorer_source(scorer),
            device=as_device(device),
            revision=revisions_of(scorer, commits, scorer=scorer).scorer,
        )


def scorer_of_index(header: Header | None, preset: str | None, scorer: str | None) -> tuple[str, str | None]:
    """The preset, and the scorer in its place if any, of a call; where it names neither, the index's own."""
    if preset is None and scorer is None and header is not None:
        return header.preset or DEFAULT, header.scorer_name or None
    return preset or DEFAULT, scorer


def item_fields(match: Match, index: Path) -> dict[str, Any]:
    """What an item is in JSON: a ``text``, an ``image``, or a ``video`` and a ``time``; paths from here."""
    if match.item.text is not None:
        return {"text": match.item.text}
    path = path_from_here(match, index)
    return {"image": path} if match.item.time is None else {"video": path, "time": round(match.item.time, 3)}


def item_name(match: Match, index: Path) -> str:
    """What a line calls an item: a sentence, or a path from here, with the moment of a video behind it."""
    if match.item.text is not None:
        return match.item.text
    return path_from_here(match, index) + match.item.fragment


def path_from_here(match: Match, index: Path) -> str:
    """A picture's path as seen from here, if the index was named so."""
    inside = path_inside(match, index)
    # Not the folder's parent: of "." that is "." again.
    return os.path.normpath(index / os.pardir / inside) if inside else str(match.item.path)


def path_inside(match: Match, index: Path) -> str:
    """A picture's path from the folder that holds the index; empty for one that is elsewhere."""
    path, parent = str(match.item.path), os.path.join(os.path.dirname(os.path.abspath(index)), "")
    return path.removeprefix(parent) if path.startswith(parent) else ""


def commits_of(revision: Sequence[str] | None) -> dict[str, str]:
    """Repository -> commit of ``--revision OWNER/NAME@COMMIT``."""
    pairs = [text.partition("@")[::2] for text in revision or ()]
    if wrong := [text for text, pair in zip(revision or (), pairs, strict=True) if not all(pair)]:
        raise BadSettings(f"--revision: expected OWNER/NAME@COMMIT, found {wrong[0]!r}")
    commits = dict(pairs)
    if len(commits) < len(pairs):
        raise BadSettings(
            "--revision: expected one commit of each repository, found two of one; leave one out"
        )
    return commits


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Load models without looking for garbage.

    Importing the model libraries makes millions of objects that all stay: looking for garbage among them
    takes an eighth of a cold start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
