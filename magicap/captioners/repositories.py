"""Captioners as repositories of the Hugging Face hub: pushed and fetched whole, files checked by digests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from magicap.captioners.checksums import CHECKSUMS, damaged_files, write_checksums
from magicap.captioners.presets import PRESETS
from magicap.errors import BadModel, BadSettings
from magicap.models.loading import explain_loading_errors
from magicap.models.pinned import REPOSITORY


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
    name, commits = (
        str(source),
        {str(source): revision} if isinstance(revision, str) else dict(revision or {}),
    )
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
        BadModel: a file is not the one that was pushed.
    """
    with explain_loading_errors("captioner", repository):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(repository, revision=revision))
    if (folder / CHECKSUMS).is_file() and (wrong := damaged_files(folder)):
        name, fault = min(wrong.items())
        raise BadModel(
            f"{name} of the captioner {repository!r} is {fault}: its SHA-256 is not that of {CHECKSUMS}; "
            f"remove {folder} and load it anew, or name another revision"
        )
    return folder


def push(
    folder: Path,
    repository: str,
    card: str,
    *,
    private: bool | None,
    branch: str | None,
    message: str,
    token: str | None,
) -> str:
    """Make a captioner's folder, a card and checksums the content of a repository, which is made if need be.

    Args:
        folder: gets card and checksums too.
        private, message, token: as of :meth:`BaseCaptioner.push_to_hub`.
        branch: to push to; None: the main one.

    Returns:
        The commit.

    Raises:
        BadSettings: the name is none, or the hub refuses: no token, no right, no network.
    """
    if REPOSITORY.fullmatch(repository) is None:
        raise BadSettings(f"expected a repository OWNER/NAME of the hub, found {repository!r}")
    (folder / "README.md").write_text(card, encoding="utf-8")
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_checksums(folder, sorted(files))
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(token=token)
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if branch is not None:
            hub.create_branch(repository, branch=branch, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            revision=branch,
            delete_patterns="*",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        raise BadSettings(
            f"{repository} could not be pushed ({reason}); 'hf auth login' stores a token that may write"
        ) from error
    return commit.oid
