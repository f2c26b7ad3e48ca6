"""A scorer of the hub as one commit has it: its files are fetched first and then loaded as local ones."""

from __future__ import annotations

import os
import re
from typing import Any

from magicap.errors import BadSettings

HUB, LOCAL_DIR = "hf-hub:", "local-dir:"
"""How open_clip marks a repository of the hub, and a folder."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A repository of the hub, OWNER/NAME."""


def hub_file(name: str, trained: dict[str, Any]) -> tuple[str, str | None]:
    """The hub's repository of a scorer, and the file of its weights where the repository has several.

    Args:
        name: as open_clip knows it.
        trained: open_clip's configuration of its weights, where a tag names them.
    """
    repository, _, file = trained.get("hf_hub", "").rpartition("/")
    return repository or name.removeprefix(HUB), file or None


def at_commit(name: str, trained: dict[str, Any], revision: str) -> tuple[str, dict[str, Any]]:
    """What to load instead, and further arguments of ``create_model_from_pretrained``.

    Raises:
        BadSettings: the scorer does not come from the hub.
    """
    repository, file = hub_file(name, trained)
    if name.startswith(HUB):
        from huggingface_hub import snapshot_download

        return f"{LOCAL_DIR}{snapshot_download(repository, revision=revision)}", {}
    if not trained.get("hf_hub"):
        raise BadSettings(f"the scorer {name} is not of the hub, so it has no revision; leave that out")
    from open_clip.pretrained import download_pretrained_from_hf

    pictures = {f"image_{key}": trained[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    weights = download_pretrained_from_hf(repository, filename=file, revision=revision)
    return name, {"pretrained": os.fspath(weights), **pictures}
