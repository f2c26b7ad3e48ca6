"""Options of a command as a frozen dataclass: its types, defaults and docstrings are the command line's.

argparse reads them, not tyro as in the recipes: importing tyro takes longer than all else before a command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from magicap.commands.output import complain
from magicap.docstrings import field_docstrings

Settings = TypeVar("Settings")

# Not declared to argparse, which would take -1 for an option too once it knows one that looks like a number.
_SHORT = {"-0": "--null"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class About:
    """What neither the type of an option nor its docstring says; stands in ``Annotated``."""

    metavar: str | None = None
    """What stands for a value in the help; None: what suits the type."""

    choices: Sequence[str] | None = None
    """The values that are taken; None: all of the type."""

    positional: bool = False
    """Whether it is known by its place, not by its name."""

    exclusive: str | None = None
    """Options of the same word here do not go together."""

    former: str | None = None
    """Its name in the release before, taken with a notice."""


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    """As a field is called."""

    kind: Any
    """Type of its value: str, int, float or bool; a list or tuple of these; or any of them or None."""

    help: str
    default: Any = None
    about: About = About()


def flag(name: str) -> str:
    """An option as it is written on a command line."""
    return f"--{name.replace('_', '-')}"


def options_of(settings: type) -> list[Option]:
    """The fields of a dataclass as options."""
    texts, types = field_docstrings(settings), get_type_hints(settings, include_extras=True)
    options = []
    for known in fields(settings):
        kind, about = types[known.name], About()
        if get_origin(kind) is Annotated:
            kind, about = get_args(kind)
        default = None if known.default is MISSING else known.default
        options.append(Option(known.name, kind, texts.get(known.name, ""), default, about))
    return options


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Declare options to a parser."""
    groups: dict[str | None, Any] = {None: parser}
    for option in options:
        group = option.about.exclusive
        if group not in groups:
            groups[group] = parser.add_mutually_exclusive_group()
        how = _how(option)
        name = option.name if option.about.positional else flag(option.name)
        groups[group].add_argument(name, help=_shown(option), **how)
        if option.about.former is not None:
            _add_former(parser, option, how)


def from_namespace(namespace: argparse.Namespace, settings: type[Settings]) -> Settings:
    """What a command line gave, as the dataclass whose fields were its options."""
    return settings(**{option.name: getattr(namespace, option.name) for option in options_of(settings)})


def with_options(run: Callable[..., int], *settings: type) -> Callable[[argparse.Namespace], int]:
    """A command's function of what a command line gave, of one that takes dataclasses of options."""
    return lambda namespace: run(*(from_namespace(namespace, kind) for kind in settings))


def without_underscores(arguments: Sequence[str]) -> list[str]:
    """Arguments with the names of options in full, with dashes; what stands behind ``--`` is kept."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    before = (_SHORT.get(argument, argument).partition("=") for argument in arguments[:end])
    dashed = [
        (name.replace("_", "-") if name.startswith("--") else name) + equals + value
        for name, equals, value in before
    ]
    return [*dashed, *arguments[end:]]


class _FormerOption(argparse.Action):
    """An option under the name of an earlier release: hidden, taken, with a notice of its name now."""

    def __init__(self, option_strings: list[str], dest: str, *, now: str, **options: Any) -> None:
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **options)
        self.now = now

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        complain(f"{option} is now {self.now}; the old name goes with the next release")
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)


def _add_former(parser: argparse.ArgumentParser, option: Option, how: dict[str, Any]) -> None:
    former, now = flag(option.about.former or ""), flag(option.name)
    if how.get("action") is not argparse.BooleanOptionalAction:
        parser.add_argument(former, dest=option.name, action=_FormerOption, now=now, type=how["type"])
        return
    for prefix, value in (("--", True), ("--no-", False)):
        parser.add_argument(
            former.replace("--", prefix, 1),
            dest=option.name,
            action=_FormerOption,
            now=now.replace("--", prefix, 1),
            nargs=0,
            const=value,
        )


def _how(option: Option) -> dict[str, Any]:
    """What argparse is to do with an option."""
    kind, is_optional, is_many = _plain(option.kind)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction if is_optional else "store_true"}
    about = option.about
    how: dict[str, Any] = {"type": kind, "metavar": about.metavar or _METAVARS[kind]}
    if about.choices is not None:
        how |= {"choices": about.choices, "metavar": about.metavar}
    if about.positional:
        some = "+" if option.default is None else "*"
        return how | ({"nargs": some, "default": option.default} if is_many else {})
    return how | {"default": option.default} | ({"action": "append"} if is_many else {})


def _plain(kind: Any) -> tuple[type, bool, bool]:
    """The type of one value, whether it may be None, and whether there may be several."""
    if get_origin(kind) is UnionType:
        value, _, is_many = _plain(next(one for one in get_args(kind) if one is not NoneType))
        return value, True, is_many
    if get_origin(kind) in (list, tuple):
        return get_args(kind)[0], False, True
    return kind, False, False


def _shown(option: Option) -> str:
    """The help of an option, with what its docstring leaves to its type and default."""
    text = option.help.replace("``", "").replace("%", "%%")
    if _plain(option.kind)[2] and not option.about.positional:
        text += " May be repeated."
    return text if option.default in (None, False, (), "") else f"{text} (default: {option.default})"
