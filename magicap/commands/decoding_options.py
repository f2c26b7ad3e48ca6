"""Options of ``magicap caption`` that set how it searches: fields of the decodings, and their docstrings."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, get_type_hints

from magicap.captioners.decodings import KNOWN_DECODINGS, SEARCH_SETTINGS
from magicap.commands.options import About, Option
from magicap.docstrings import field_docstrings
from magicap.settings_io import former_names


def decoding_options() -> list[Option]:
    """Every setting as an option that is None where it is not given."""
    return [_option(name) for name in SEARCH_SETTINGS]


def given_settings(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line gave, by name."""
    values = {name: getattr(namespace, name) for name in SEARCH_SETTINGS}
    return {name: value for name, value in values.items() if value is not None}


def _option(setting: str) -> Option:
    having = {
        name: kind
        for name, kind in KNOWN_DECODINGS.items()
        if any(known.name == setting for known in fields(kind))
    }
    first = next(iter(having.values()))
    former = {now: before for kind in having.values() for before, now in former_names(kind).items()}
    kind: Any = get_type_hints(first)[setting]
    return Option(
        setting,
        kind | None,
        _help(setting, having),
        about=About("WORD" if kind == tuple[str, ...] else None, former=former.get(setting)),
    )


def _help(setting: str, having: dict[str, type]) -> str:
    """What the decodings that have a setting say of it, each text once, behind their names."""
    texts: dict[str, list[str]] = {}
    for name, kind in having.items():
        texts.setdefault(field_docstrings(kind).get(setting, ""), []).append(name)
    if len(having) == len(KNOWN_DECODINGS) and len(texts) == 1:
        return next(iter(texts))
    return " ".join(f"{', '.join(names)}: {text}" for text, names in texts.items())
