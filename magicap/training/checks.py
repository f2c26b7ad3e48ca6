"""What a recipe checks before it trains; each error is one sentence."""

from __future__ import annotations

import json
from collections.abc import Collection, Sized
from pathlib import Path
from typing import Any

from magicap.errors import BadData, BadSettings
from magicap.training import processes
from magicap.training.options import RUN_MAY_CHANGE


def open_run_folder(folder: Path, settings: dict[str, Any], may_change: Collection[str]) -> None:
    """Write ``config.json``; a folder begun with other settings is refused, so that runs never mix.

    So is one begun by an earlier release under option names that are no longer known.

    Args:
        folder: the folder of the run; made if missing.
        settings: what ``config.json`` is to hold.
        may_change: the settings that may differ when a run resumes, beside :data:`RUN_MAY_CHANGE`.

    Raises:
        BadSettings: the folder is of another run.
    """
    file = folder / "config.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if former := [name for name in before if name not in settings]:
        raise BadSettings(
            f"{file}: expected a run of this release, found one begun with the former option {former[0]}; "
            "choose another --out"
        )
    for name, value in settings.items():
        if name not in (*may_change, *RUN_MAY_CHANGE) and before.get(name, value) != value:
            raise BadSettings(
                f"{file}: expected {name} to be {before[name]!r} as when this run began, found {value!r}; "
                "choose another --out"
            )
    processes.wait()  # until all have read it
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.new")
        new.write_text(json.dumps(settings, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        new.rename(file)


def require_rows(rows: Sized, path: str | Path, splits: Collection[str]) -> None:
    """Refuse a file that has no rows of these splits.

    Raises:
        BadData: it has none.
    """
    if not rows:
        raise BadData(
            f"{path}: expected captions of the split {' or '.join(splits)}, found none; "
            "give a file that has some"
        )
