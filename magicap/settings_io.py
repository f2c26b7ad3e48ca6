"""Settings as JSON and back: frozen dataclasses by their kind.

Renamed fields are read under either name. Fields that were added later are written only where they say
something, so that what is written of older settings stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, fields
from typing import Any

from magicap.errors import BadSettings

_FORMER_NAME, _IS_ADDED = "former_name", "is_added"


def renamed(former_name: str, default: Any) -> Any:
    """A dataclass field that files and command lines of an earlier release know by another name."""
    return field(default=default, metadata={_FORMER_NAME: former_name})


def added(default: Any) -> Any:
    """A dataclass field that earlier releases lack: it is not written where it has its default."""
    return field(default=default, metadata={_IS_ADDED: True})


def written_fields(settings: Any) -> list[str]:
    """Names of the fields of a dataclass, less those that were added and have their default."""
    return [
        known.name
        for known in fields(settings)
        if _IS_ADDED not in known.metadata or getattr(settings, known.name) != known.default
    ]


def former_names(settings: type) -> dict[str, str]:
    """Former name to name of the renamed fields of a dataclass."""
    return {
        known.metadata[_FORMER_NAME]: known.name
        for known in fields(settings)
        if _FORMER_NAME in known.metadata
    }


def to_dict(settings: object, table: Mapping[str, type]) -> dict[str, Any]:
    """``{"kind": name, ...}`` of settings that stand in a table.

    Raises:
        BadSettings: they do not (a decoding of one's own cannot be written as settings).
    """
    for kind, known in table.items():
        if type(settings) is known:
            values = asdict(settings)  # type: ignore[call-overload]
            return {"kind": kind, **{name: values[name] for name in written_fields(settings)}}
    raise BadSettings(f"{type(settings).__name__} cannot be saved; expected one of {', '.join(table)}")


def from_dict(values: dict[str, Any], table: Mapping[str, type]) -> Any:
    """The settings that :func:`to_dict` described, former names of fields included.

    Raises:
        BadSettings: an unknown kind or field, or a value out of range.
    """
    if not isinstance(values, dict):
        raise BadSettings(f"expected a decoding as an object with 'kind' and its settings, found {values!r}")
    values = dict(values)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in table:
        raise BadSettings(f"expected a decoding of kind {', '.join(table)}, found {kind!r}")
    aliases = former_names(table[kind])
    values = {aliases.get(name, name): value for name, value in values.items()}
    names = {known.name for known in fields(table[kind])}
    if unknown := sorted(set(values) - names):
        raise BadSettings(f"{kind} knows {', '.join(sorted(names))}; found {', '.join(unknown)} besides")
    return table[kind](**values)
