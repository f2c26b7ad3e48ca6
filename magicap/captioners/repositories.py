"""Captioners as repositories of the Hugging Face hub: pushed and fetched whole, files checked by digests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from glob import escape
from pathlib import Path

from magicap.captioners.checksums import CHECKSUMS, damaged_files, unlisted_weights, write_checksums
from magicap.captioners.presets import PRESETS
from magicap.errors import BadModel, BadSettings, ModelNotFound
from magicap.models.loading import explain_loading_errors
from magicap.models.pinned import REPOSITORY

CARD = "README.md"


def is_repository(source: str | Path) -> bool:
    """Whether a captioner's name is neither a preset nor a folder, and may be a repository, OWNER/NAME."""
    return (
        isinstance(source, str)
        and source not in PRESETS
        and REPOSITORY.fullmatch(source) is not None
        and not Path(source).exists()
    )


def pinned(
    source: str | Path, revision: str | Mapping[str, str] | None
) -> tuple[str | Path, Mapping[str, str] | None]:
    """A captioner's source as what can be loaded, and the revisions that are still to be looked at.

    Args:
        source: a preset's name, a folder or a repository.
        revision: of a repository its commit, branch or tag, alone or by the repository's name; of a preset
            those of the repositories that it is made of, by their names.

    Raises:
        BadSettings: a revision that does not belong to the source.
        ModelNotFound, BadModel: as of :func:`fetched`.
    """
    if not is_repository(source):
        if isinstance(revision, str):
            raise BadSettings(
                f"a revision alone belongs to a repository of the hub, found {str(source)!r}; name the "
                "repository that is meant: {repository: revision}"
            )
        return source, revision
    name = str(source)
    commits = {name: revision} if isinstance(revision, str) else dict(revision or {})
    if unknown := sorted(commits.keys() - {name}):
        raise BadSettings(f"no revision of {unknown[0]} can be loaded: {name} is the one repository")
    return fetched(name, commits.get(name)), None


@lru_cache(maxsize=8)
def fetched(repository: str, revision: str | None = None) -> Path:
    """The folder of a captioner in the hub's cache; of what is there only what is new is fetched.

    Args:
        repository: OWNER/NAME.
        revision: commit, branch or tag; None: the newest.

    Raises:
        ModelNotFound: no such repository or revision, or it can be neither reached nor found in the cache.
        BadModel: a file is not the one that was pushed, or weights were not pushed with the others.
    """
    named = repository if revision is None else f"{repository} --revision {revision}"
    with explain_loading_errors("captioner", repository, named):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

        try:
            folder = Path(snapshot_download(repository, revision=revision))
        except (LocalEntryNotFoundError, RevisionNotFoundError) as error:
            if not any(isinstance(one, RevisionNotFoundError) for one in (error, error.__cause__)):
                raise
            raise ModelNotFound(
                f"the captioner {repository!r} has no revision {revision!r}: expected one of its commits, "
                "branches or tags"
            ) from error
    if (folder / CHECKSUMS).is_file():
        _require_whole(folder, repository)
    return folder


def _require_whole(folder: Path, repository: str) -> None:
    if wrong := damaged_files(folder):
        name, fault = min(wrong.items())
        cached = folder.parents[1]  # a snapshot alone is made anew from the same damaged files
        raise BadModel(
            f"{name} of the captioner {repository!r} is {fault}: its SHA-256 is not that of {CHECKSUMS}; "
            f"remove {cached} and load it anew, or name another revision"
        )
    if unlisted := unlisted_weights(folder):
        raise BadModel(
            f"{unlisted[0]} of the captioner {repository!r} is not in its {CHECKSUMS}, so it cannot be "
            "checked; name another revision, or have its owner push it anew"
        )


def push(
    folder: Path,
    repository: str,
    card: str,
    *,
    keeps_card: bool,
    private: bool | None,
    branch: str | None,
    message: str,
    token: str | None,
) -> str:
    """Make a captioner's folder, a card and checksums the content of a repository, which is made if need be.

    Args:
        folder: gets card and checksums too.
        keeps_card: whether a card that the repository has stays instead.
        private, message, token: as of :meth:`BaseCaptioner.push_to_hub`.
        branch: to push to; None: the main one.

    Returns:
        The commit.

    Raises:
        BadSettings: the name is none, or the hub refuses: no token, no right, no network.
    """
    if REPOSITORY.fullmatch(repository) is None:
        raise BadSettings(f"expected a repository OWNER/NAME of the hub, found {repository!r}")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(token=token)
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if branch is not None:
            hub.create_branch(repository, branch=branch, exist_ok=True)
        kept = keeps_card and hub.file_exists(repository, CARD, revision=branch)
        there = hub.list_repo_files(repository, revision=branch)
        if not kept:
            (folder / CARD).write_text(card, encoding="utf-8")
        files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_checksums(folder, sorted(files))
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            revision=branch,
            delete_patterns=[escape(name) for name in there if not (kept and name == CARD)],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            reason = "there is no token, or it may not write there"
        else:
            reason = next(iter(str(error).strip().splitlines()), repr(error))
        raise BadSettings(
            f"{repository} could not be pushed ({reason}); 'hf auth login' stores a token that may write"
        ) from error
    return commit.oid
