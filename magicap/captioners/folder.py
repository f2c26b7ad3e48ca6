"""Where a captioner is, what kind it is, and where and how finely it computes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.errors import BadModel, BadSettings, ModelNotFound

FORMAT = 1
SETTINGS_FILE = "magicap.json"
ZERO_SHOT, SUPERVISED = "zero-shot", "supervised"


def captioner_folder(source: str | Path) -> Path | None:
    """The folder of a preset or of a captioner; None for a preset whose parts lie elsewhere.

    Raises:
        ModelNotFound: no such preset or folder.
    """
    preset = PRESETS.get(str(source))
    if preset is not None:
        return preset.folder
    if not Path(source).is_dir():
        raise ModelNotFound(
            f"no captioner {str(source)!r}: expected a preset ({', '.join(PRESETS)}) "
            f"or a folder with {SETTINGS_FILE}"
        )
    return Path(source)


def kind_of(source: str | Path) -> str:
    """:data:`ZERO_SHOT` or :data:`SUPERVISED`.

    Raises:
        ModelNotFound: no such preset or folder.
        BadModel: the folder holds no captioner's settings.
    """
    folder = captioner_folder(source)
    return ZERO_SHOT if folder is None else str(read_settings(folder).get("kind", ZERO_SHOT))


def read_settings(folder: Path) -> dict[str, Any]:
    """What :func:`write_settings` wrote: ``format``, ``decoding``, and perhaps ``kind`` and ``parts``.

    Raises:
        BadModel: missing, damaged, or of another version.
    """
    path = folder / SETTINGS_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        found = settings["format"], settings["decoding"]
        parts = dict(settings.get("parts", {}))
    except FileNotFoundError as error:
        raise BadModel(
            f"{folder} is no captioner: it has no {SETTINGS_FILE}; save_pretrained writes one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{path} is not a captioner's settings (format and decoding): {error!r}") from error
    if found[0] != FORMAT:
        raise BadModel(f"{path} is of format {found[0]!r}, this version reads {FORMAT}; update magicap")
    for part, file in parts.items():
        if not (folder / str(file)).is_file():
            raise BadModel(f"{path} names a {part} in {file}, which is not there; copy the whole folder anew")
    return dict(settings)


def write_settings(
    folder: Path, kind: str, decoding: dict[str, Any], parts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write a captioner's settings into its folder.

    Args:
        parts: files without which its models would load, but be others: what each is, and where it lies.
    """
    settings: dict[str, Any] = {"format": FORMAT, "kind": kind, "decoding": decoding}
    if parts:
        settings["parts"] = dict(parts)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def require_kind(source: str | Path, kind: str, loader: str) -> None:
    """Refuse a captioner of the other kind, and name what loads it.

    Raises:
        BadModel: it is of the other kind.
    """
    if (found := kind_of(source)) != kind:
        raise BadModel(
            f"expected a {kind} captioner, found {str(source)!r}, which is {found}; "
            f"load it with {loader}.from_pretrained, or any kind with magicap.load_captioner"
        )


def require_part(source: str | Path, part: str) -> None:
    """Refuse a captioner that has no such part.

    Args:
        part: what only zero-shot captioners have: ``scorer`` or ``language model``.

    Raises:
        ModelNotFound: no such preset or folder.
        BadModel: it is a supervised captioner.
    """
    if kind_of(source) == SUPERVISED:
        raise BadModel(
            f"expected a captioner with a {part}, found {str(source)!r}, which is supervised and has none; "
            f"name a zero-shot captioner such as {DEFAULT}"
        )


def as_device(device: str | torch.device | None) -> torch.device:
    """A device that works; None takes a GPU if there is one.

    Raises:
        BadSettings: it cannot be used here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except Exception as error:  # each backend has its own way of saying that it is not there
        raise BadSettings(f"device {str(device)!r} cannot be used here ({error}); cpu always can") from error
    return place


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """float32, bfloat16 or float16, by name or as such.

    Raises:
        BadSettings: another.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    for name, value in known.items():
        if dtype in (name, value):
            return value
    raise BadSettings(f"dtype must be {', '.join(known)}, found {dtype!r}")
