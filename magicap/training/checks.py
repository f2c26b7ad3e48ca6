"""What a recipe checks before it trains, each in one sentence."""

from __future__ import annotations

import json
from collections.abc import Collection, Sized
from pathlib import Path
from typing import Any

from magicap.errors import BadData, BadSettings


def open_run_folder(folder: Path, settings: dict[str, Any], may_change: Collection[str]) -> None:
    """Write ``config.json``; a folder begun with other settings is refused, so that runs never mix.

    Args:
        folder: the folder of the run; made if missing.
        settings: what ``config.json`` is to hold.
        may_change: the settings a resumed run may be given anew.

    Raises:
        BadSettings: the folder is of another run.
    """
    file = folder / "config.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name, value in settings.items():
        if name not in may_change and before.get(name, value) != value:
            raise BadSettings(
                f"{file}: expected {name} to be {before[name]!r} as when this run began, found {value!r}; "
                "choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def require_rows(rows: Sized, path: str | Path, splits: Collection[str]) -> None:
    """Stop where a file gave nothing to work on.

    Raises:
        BadData: it gave nothing.
    """
    if not rows:
        raise BadData(
            f"{path}: expected captions of the split {' or '.join(splits)}, found none; "
            "give a file that has some"
        )
