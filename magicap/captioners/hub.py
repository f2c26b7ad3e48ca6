"""Captioners whose parts are fetched from the hub: which commits of them, and how where they are not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from magicap.captioners.presets import PRESETS
from magicap.errors import BadSettings, ModelNotFound
from magicap.models.pinned import HUB, LOCAL_DIR, REPOSITORY, hub_file


class Revisions(NamedTuple):
    """Commits of a preset's repositories; None: the newest."""

    language_model: str | None = None
    scorer: str | None = None


def revisions_of(
    source: str | Path,
    revision: Mapping[str, str] | None,
    *,
    language_model: str | Path | None = None,
    scorer: str | Path | None = None,
) -> Revisions:
    """The commits to load of the repositories that a captioner is made of; a folder's parts have none.

    Args:
        revision: repository -> commit, in place of the preset's own.
        language_model, scorer: parts in place of the preset's.

    Raises:
        BadSettings: a repository that the captioner is not made of.
    """
    preset = PRESETS.get(str(source))
    own = preset.downloads if preset is not None and preset.downloads else (None, None)
    repositories = (
        own[0] if language_model is None else _repository(language_model),
        own[1] if scorer is None else (_scorer_repository(scorer) if revision else None),
    )
    known = [repository for repository in repositories if repository is not None]
    if unknown := sorted(set(revision or {}) - set(known)):
        made_of = ", ".join(known) or "no repository of the hub"
        raise BadSettings(f"no revision of {unknown[0]} can be loaded: the captioner is made of {made_of}")
    commits = {**(preset.revision if preset else {}), **(revision or {})}
    return Revisions(*(commits.get(repository or "") for repository in repositories))


def _repository(part: str | Path) -> str | None:
    """The repository of the hub that a part's name is; None: it is a folder, or no such name."""
    is_one = isinstance(part, str) and REPOSITORY.fullmatch(part) and not Path(part).exists()
    return str(part) if is_one else None


def _scorer_repository(scorer: str | Path) -> str | None:
    """The repository of the hub that a scorer is loaded from, also of open_clip's NAME:TAG; None: none."""
    name = str(scorer)
    if name.startswith(HUB):
        return name.removeprefix(HUB)
    model, _, tag = name.partition(":")
    if not tag or name.startswith(LOCAL_DIR):
        return _repository(scorer)
    from open_clip import get_pretrained_cfg

    trained = get_pretrained_cfg(model, tag) or {}
    return hub_file(model, trained)[0] if trained.get("hf_hub") else None


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
