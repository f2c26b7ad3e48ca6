"""Captioners whose parts are fetched from the hub: which commits of them, and how where they are not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from magicap.captioners.presets import PRESETS
from magicap.errors import BadSettings, ModelNotFound


class Revisions(NamedTuple):
    """Commits of a preset's repositories; None: the newest."""

    language_model: str | None = None
    scorer: str | None = None


def revisions_of(source: str | Path, revision: Mapping[str, str] | None) -> Revisions:
    """The commits to load of a preset's repositories; of anything else there are none.

    Args:
        revision: repository -> commit, in place of the preset's own.

    Raises:
        BadSettings: a repository that the captioner is not made of.
    """
    preset = PRESETS.get(str(source))
    repositories = () if preset is None else preset.downloads
    if unknown := sorted(set(revision or {}) - set(repositories)):
        made_of = ", ".join(repositories) or "no repository of the hub"
        raise BadSettings(f"no revision of {unknown[0]} can be loaded: {source} is made of {made_of}")
    commits = {**(preset.revision if preset else {}), **(revision or {})}
    return Revisions(*map(commits.get, repositories))


@contextmanager
def naming_downloads(source: str | Path, commits: Revisions) -> Iterator[None]:
    """Say of a preset how its parts are to be had where they could not be."""
    preset = PRESETS.get(str(source))
    try:
        yield
    except ModelNotFound as error:
        if preset is None or not preset.downloads:
            raise
        commands = " && ".join(
            f"hf download {repository}" + (f" --revision {commit}" if commit else "")
            for repository, commit in zip(preset.downloads, commits, strict=True)
        )
        raise ModelNotFound(
            f"the preset {str(source)!r} is not on this machine and the hub cannot be reached; "
            f"where there is a network run '{commands}' once, or let this command fetch it"
        ) from error
