"""Options of a recipe from a YAML file: read as text, and typed by the fields of the recipe's dataclass."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from magicap.errors import BadSettings
from magicap.reading import read_text

NOTHING = ("", "~", "null", "none")
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
EXPECTED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_options(
    file: str, types: Mapping[str, Any], present_name: Callable[[str], str] = str
) -> dict[str, Any]:
    """The options that a YAML file gives; variables and ``~`` in text are expanded.

    Args:
        types: option to its type: str, int, float, bool, a Literal, a list of these, or any of them or None.
        present_name: from an option as the file has it to its name now.

    Raises:
        BadSettings: the file cannot be read, or has an unknown option, one twice or one of another type.
    """
    options: dict[str, Any] = {}
    for key, written in read_yaml(file).items():
        name = present_name(str(key)).replace("-", "_")
        if name not in types:
            similar = get_close_matches(name, types, 1)
            hint = f"; did you mean {similar[0]}?" if similar else f", some of {', '.join(types)}"
            raise BadSettings(f"{file}: expected options that --help lists, found {key!r}{hint}")
        if name in options:
            raise BadSettings(f"{file}: expected each option once, found {name} twice")
        try:
            options[name] = typed(written, types[name])
        except (ValueError, KeyError, TypeError):
            raise BadSettings(f"{file}: {key}: expected {expected(types[name])}, found {written!r}") from None
    return options


def typed(written: Any, kind: Any) -> Any:
    """What text, or a list of texts, means as a value of this type.

    Raises:
        ValueError, KeyError, TypeError: it is no value of this type.
    """
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        is_none = isinstance(written, str) and written.lower() in NOTHING
        return None if is_none else typed(written, *(one for one in inner if one is not NoneType))
    if get_origin(kind) is list:
        if not isinstance(written, list):
            raise TypeError
        return [typed(item, inner[0]) for item in written]
    if not isinstance(written, str):
        raise TypeError
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in inner}[written]
    if kind is bool:
        return BOOLEANS[written.lower()]
    if kind is str:
        return os.path.expanduser(os.path.expandvars(written))
    return kind(written)


def expected(kind: Any) -> str:
    """A type in words."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return f"{expected(next(one for one in inner if one is not NoneType))}, or null"
    if get_origin(kind) is list:
        return f"a list, each of it {expected(inner[0])}"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, inner))
    return EXPECTED[kind]


class _TextLoader(yaml.BaseLoader):  # type: ignore[misc]  # PyYAML ships no types
    """Reads all as text, and refuses a key that stands twice, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.YAMLError(f"{twice[0]} twice")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(file: str | Path) -> dict[Any, Any]:
    """The options of a YAML file as text and lists of text, variables not expanded.

    Raises:
        BadSettings: it cannot be read, or is no YAML of the form ``option: value``.
    """
    # Everything stays text: YAML itself takes "no" for false and "2e-5" for text.
    try:
        content = yaml.load(read_text(file), Loader=_TextLoader)
    except OSError as error:
        raise BadSettings(
            f"{file}: expected a YAML file with options, found {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise BadSettings(f"{file}: expected a YAML file in UTF-8, found other bytes") from error
    except yaml.YAMLError as error:
        raise BadSettings(f"{file}: expected YAML, found {' '.join(str(error).split())}") from error
    if content in (None, ""):
        return {}
    if not isinstance(content, dict):
        raise BadSettings(
            f"{file}: expected lines of the form option: value, found a {type(content).__name__}"
        )
    return content
