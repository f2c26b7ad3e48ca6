"""A captioner's folder: what kind it is, its decoding and parts; the device and precision to load it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch

from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.captioners.repositories import fetched, is_repository
from magicap.errors import BadModel, BadSettings, ModelNotFound
from magicap.reading import read_text

FORMAT = 2
SETTINGS_FILE = "magicap.json"
ZERO_SHOT, SUPERVISED = "zero-shot", "supervised"
_FORMATS = (1, FORMAT)


@dataclass(frozen=True)
class Part:
    """A part of a captioner in its folder."""

    path: str
    """File or folder, relative to the captioner's."""

    fingerprint: str = ""
    """Twelve digits: of the weights as they load in float32, of the files of a memory (in folders of earlier
    versions of its captions) and of the fine-grained part; empty in folders of format 1."""


@dataclass(frozen=True)
class CaptionerSettings:
    """The content of :data:`SETTINGS_FILE`."""

    kind: str
    """:data:`ZERO_SHOT` or :data:`SUPERVISED`."""

    decoding: Any
    """As :func:`magicap.settings_io.to_dict` gives it; checked where it is read as settings."""

    parts: Mapping[str, Part] = field(default_factory=dict)
    """By name. Folders of format 1 name only those without which their models would load, but be others."""

    format: int = FORMAT

    def part(self, folder: Path, name: str) -> Path | None:
        """Where a part is; None where the captioner has none. In format 1 it is known by being there."""
        if name in self.parts:
            return folder / self.parts[name].path
        return folder / name if self.format == 1 and (folder / name).is_dir() else None

    def require_fingerprint(self, folder: Path, name: str, fingerprint: str) -> None:
        """Refuse a part that is another than the one that was written with the settings.

        Raises:
            BadModel: it has another fingerprint.
        """
        part = self.parts.get(name)
        if part is not None and part.fingerprint not in ("", fingerprint):
            raise BadModel(
                f"{folder / SETTINGS_FILE} names a {name} with the fingerprint {part.fingerprint}, "
                f"{folder / part.path} has another; copy the whole folder anew"
            )

    def required_part(self, folder: Path, name: str) -> Path:
        """Where a part is that no captioner can do without.

        Raises:
            BadModel: the settings do not name it.
        """
        if self.format > 1 and name not in self.parts:
            raise BadModel(f"{folder / SETTINGS_FILE} names no part {name}; copy the whole folder anew")
        return self.part(folder, name) or folder / name


def captioner_folder(source: str | Path) -> Path | None:
    """The folder of a preset or of a captioner, fetched where it is a repository of the hub.

    Returns:
        None for a preset whose parts lie elsewhere.

    Raises:
        ModelNotFound: no such preset, folder or repository.
        BadModel: a file of the repository is not the one that was pushed.
    """
    preset = PRESETS.get(str(source))
    if preset is not None:
        return preset.folder
    if is_repository(source):
        return fetched(str(source))
    if not Path(source).is_dir():
        raise ModelNotFound(
            f"no captioner {str(source)!r}: expected a preset ({', '.join(PRESETS)}), "
            f"a folder with {SETTINGS_FILE}, or a repository of the hub, OWNER/NAME"
        )
    return Path(source)


def kind_of(source: str | Path) -> str:
    """:data:`ZERO_SHOT` or :data:`SUPERVISED`.

    Raises:
        ModelNotFound: no such preset or folder.
        BadModel: the folder holds no captioner's settings.
    """
    folder = captioner_folder(source)
    return ZERO_SHOT if folder is None else read_settings(folder).kind


def read_settings(folder: Path) -> CaptionerSettings:
    """What :func:`write_settings` wrote, or a version of it before that.

    Raises:
        BadModel: missing, damaged, of a later format, or naming a part that is not there.
    """
    path = folder / SETTINGS_FILE
    try:
        values = json.loads(read_text(path))
        version = values["format"]
    except FileNotFoundError as error:
        raise BadModel(
            f"{folder} is no captioner: it has no {SETTINGS_FILE}; save_pretrained writes one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadModel(f"{path} is not a captioner's settings (format and decoding): {error!r}") from error
    if version not in _FORMATS:
        readable = " and ".join(map(str, _FORMATS))
        raise BadModel(f"{path} is of format {version!r}, this version reads {readable}; update magicap")
    try:
        parts = {name: _part(value) for name, value in values.get("parts", {}).items()}
        kind = str(values.get("kind", ZERO_SHOT))
        settings = CaptionerSettings(kind, values["decoding"], parts, version)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{path} is not a captioner's settings (decoding and parts): {error!r}") from error
    for name, part in settings.parts.items():
        if not (folder / part.path).exists():
            raise BadModel(
                f"{path} names a {name} in {part.path}, which is not there; copy the whole folder anew"
            )
    return settings


def write_settings(folder: Path, settings: CaptionerSettings) -> None:
    """Write a captioner's settings into its folder."""
    values = {
        "format": FORMAT,
        "kind": settings.kind,
        "decoding": settings.decoding,
        "parts": {name: asdict(part) for name, part in settings.parts.items()},
    }
    (folder / SETTINGS_FILE).write_text(
        json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )


def _part(value: Any) -> Part:
    """A part as format 2 describes it, or as format 1, by its path alone."""
    part = Part(value) if isinstance(value, str) else Part(value["path"], str(value["fingerprint"]))
    path = PurePath(part.path)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"expected a path inside the folder, found {part.path!r}")
    return part


def require_kind(source: str | Path, kind: str, loader: str) -> None:
    """Refuse a captioner of the other kind, and name what loads it.

    Raises:
        BadModel: it is of the other kind.
    """
    if (actual := kind_of(source)) != kind:
        raise BadModel(
            f"expected a {kind} captioner, found {str(source)!r}, which is {actual}; "
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
        usable = torch.device(device)
        torch.zeros(1, device=usable).item()
    except Exception as error:  # each backend has an error of its own
        raise BadSettings(f"device {str(device)!r} cannot be used here ({error}); cpu always can") from error
    return usable


def as_dtype(dtype: str | torch.dtype, *, int8: bool = False) -> torch.dtype:
    """float32, bfloat16 or float16, by name or as such.

    Args:
        int8: whether that goes too.

    Raises:
        BadSettings: another.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if int8:
        dtypes["int8"] = torch.int8
    for name, value in dtypes.items():
        if dtype in (name, value):
            return value
    hint = "; int8 is for zero-shot captioners that caption" if dtype in ("int8", torch.int8) else ""
    raise BadSettings(f"dtype must be {', '.join(dtypes)}, found {dtype!r}{hint}")
