"""The command line of every recipe: options from a dataclass, one sentence on stderr for what goes wrong.

Types, defaults and help of the options stand in the recipe's ``Config`` alone; tyro reads a command line by
them, and configfile.py a YAML file.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import MISSING, Field, field, fields, make_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import tyro
from blame import user_error
from configfile import read_options

from magicap.docstrings import field_docstrings
from magicap.errors import MagicapError, TrainingStopped
from magicap.printable import printable
from magicap.training import processes

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

USAGE = 2
"""Exit code after a wrong command line."""

RULE = r"\n *-{4,} *\n"
"""What tyro draws between the parts of what it says."""

ALIASES = {
    "adapt_domain": {"drawn": "samples"},
    "assemble_captioner": {
        "memory_drawn": "memory_samples",
        "memory_temperature": "sampling_temperature",
        "memory_weight": "ngram_weight",
    },
    "train_cnn_lstm": {
        "start": "base",
        "teach_epochs": "xe_epochs",
        "teach_rate": "xe_rate",
        "tune_epochs": "finetune_epochs",
        "tune_rate": "finetune_rate",
        "resting": "frozen",
        "pay_epochs": "scst_epochs",
        "pay_rate": "scst_rate",
        "pay_samples": "scst_samples",
    },
    "train_scorer": {
        "align_epochs": "locked_epochs",
        "align_views": "locked_views",
        "align_batch_size": "locked_batch_size",
        "align_rate": "locked_rate",
        "tune_epochs": "finetune_epochs",
        "tune_validations": "finetune_validations",
        "tune_batch_size": "finetune_batch_size",
        "tune_rate": "finetune_rate",
    },
    "tune_prompted": {"remember": "memory_samples"},
}
"""Recipe to its options' names in the release before and now; the former are accepted for one release."""


def run(main: Callable[[Any], object], config: type, arguments: Sequence[str] | None = None) -> None:
    """Read a recipe's options and carry it out; the process ends with 1 after an error, 130 after Ctrl-C.

    Where training stopped because its time was up, the process ends with 0. Of several processes that stop
    together the first alone says so.

    Args:
        main: of the recipe, from a ``config`` to what it does; raises :class:`MagicapError`.
        config: dataclass whose fields are the options.
        arguments: of the command line; None: the process's own.
    """
    recipe = Path(main.__code__.co_filename).stem
    try:
        main(parse(config, sys.argv[1:] if arguments is None else arguments, recipe))
    except TrainingStopped as stopped:
        leave(f"{recipe}.py: {stopped}", stopped.exit_code)
    except MagicapError as error:
        sys.exit(printable(f"{recipe}.py: {' '.join(str(error).split())}"))
    except KeyboardInterrupt:
        leave(f"{recipe}.py: interrupted", INTERRUPTED)
    except Exception as error:
        if (sentence := user_error(error)) is None:
            raise
        sys.exit(printable(f"{recipe}.py: {sentence}"))
    finally:
        processes.end()


def leave(line: str, code: int) -> NoReturn:
    """End the process; of several that end for the same reason the first alone gives it."""
    if processes.is_first():
        print(printable(line), file=sys.stderr)
    sys.exit(code)


def parse(config: type, arguments: Sequence[str], recipe: str) -> Any:
    """The options of a recipe as its ``config``: those of the command line, then of --config, then defaults.

    The process ends with one line and code 2 after options that are unknown, missing or malformed, and with
    the help and code 0 after --help.

    Raises:
        BadSettings: options that contradict each other or lie outside their range, or a --config file that
            cannot be used.
    """
    arguments = [present_name(argument, recipe) for argument in arguments]
    chosen = read_by_tyro(config, arguments, recipe)
    values = {option.name: getattr(chosen, option.name) for option in fields(config)}
    for option in fields(config):
        if is_required(option) and values[option.name] == []:
            refuse(recipe, f"--{option.name} takes one value or more, found none")
    return config(**values)


def arguments_of(options: Mapping[str, Any]) -> list[str]:
    """Options as a recipe's command line has them; those that are None or an empty list are left out."""
    words: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            words += [f"--{name}" if value else f"--no_{name}"]
        elif value is not None and value != []:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def read_by_tyro(config: type, arguments: Sequence[str], recipe: str) -> Any:
    """The options of the command line and of --config, not yet checked together."""
    from_file = {}
    if (file := named_file(arguments)) is not None:
        renamed = partial(present_name, recipe=recipe)
        from_file = read_options(file, get_type_hints(config), lambda key: renamed(f"--{key}")[2:])
    options = as_tyro_reads(config, from_file)
    shown, complained = io.StringIO(), io.StringIO()
    try:
        # What tyro prints itself is framed and many lines long.
        with redirect_stdout(shown), redirect_stderr(complained):
            return tyro.cli(
                options, prog=f"{recipe}.py", description="", args=arguments, use_underscores=True
            )
    except SystemExit as leaving:
        if leaving.code:
            refuse(recipe, complaint(complained.getvalue()))
        print(help_page(config, recipe, shown.getvalue()))
        raise


def named_file(arguments: Sequence[str]) -> str | None:
    """The file that --config names on a command line, the last of them; None without."""
    file = None
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name == "--config":
            file = value if equals else following
    return file or None


def as_tyro_reads(config: type, from_file: Mapping[str, Any]) -> type:
    """A dataclass of the same options, and of --config.

    It has none of the recipe's checks, which are to see file and command line together, and says of a default
    only what a reader does not expect.

    Args:
        from_file: values that stand in for the defaults.
    """
    texts, types = field_docstrings(config), get_type_hints(config)
    about = tyro.conf.arg(
        help="YAML file with options; those of the command line win.", metavar="FILE", help_behavior_hint=""
    )
    options: list[tuple[str, Any, Any]] = [("config", Annotated[str, about], field(default=""))]
    for option in own_first(config):
        kind, default, hint = types[option.name], field(), None
        if option.name in from_file or not is_required(option):
            value = from_file.get(option.name, default_of(option))
            default, hint = field(default_factory=partial(deepcopy, value)), described(value)
        many = f"{get_args(kind)[0].__name__.upper()} ..." if get_origin(kind) is list else None
        about = tyro.conf.arg(help=texts.get(option.name), metavar=many, help_behavior_hint=hint)
        options.append((option.name, Annotated[kind, about, tyro.conf.DisallowNone], default))
    return make_dataclass(config.__name__, options, kw_only=True)


def own_first(config: type) -> list[Field[Any]]:
    """The options of a recipe itself, then those it inherits, class by class."""
    options = {option.name: option for option in fields(config)}
    names = [name for kind in config.__mro__ for name in vars(kind).get("__annotations__", {})]
    return [options[name] for name in dict.fromkeys(names) if name in options]


def is_required(option: Field[Any]) -> bool:
    """Whether a field has no default."""
    return option.default is MISSING and option.default_factory is MISSING


def default_of(option: Field[Any]) -> Any:
    """The default of a field; MISSING where it has none."""
    return option.default if option.default_factory is MISSING else option.default_factory()


def described(default: Any) -> str:
    """A default as the help shows it; nothing for one that is nothing."""
    if default is None or default is False or default == [] or default == "":
        return ""
    return f"(default: {shlex.join(map(str, default)) if isinstance(default, list) else default})"


def help_page(config: type, recipe: str, shown: str) -> str:
    """The docstring of a recipe, and its options as tyro lists them, without the frame around them.

    Args:
        shown: what tyro prints of the options alone.
    """
    about = (sys.modules[config.__module__].__doc__ or "").strip()
    options = re.split(RULE, shown, maxsplit=1)[-1]
    rows = "\n".join(line.rstrip() for line in options.splitlines() if line.strip())
    return f"{about}\n\nusage: {recipe}.py [-h] [OPTIONS]\n\noptions:\n{rows}"


def complaint(report: str) -> str:
    """What tyro reports about a wrong command line, without frame and help, as one sentence."""
    title, *parts = re.split(RULE, f"{report.strip()}\n\n")
    message, *others = parts or [title]
    if title.strip() == "Required options":
        message = "missing: " + ", ".join(re.findall(r"(?m)^ {6}(--\S+)", message))
    sentence = " ".join(message.split("\n\n")[0].split()).rstrip(".")
    for words in map(str.split, others):
        if words[:2] == ["Unrecognized", "options:"]:
            sentence += f"; unrecognized options: {', '.join(words[2:])}"
        if words[:3] == ["Perhaps", "you", "meant:"]:
            sentence += f"; perhaps you meant {words[3]}"
    return sentence[:1].lower() + sentence[1:]


def refuse(recipe: str, sentence: str) -> NoReturn:
    """End the process after a wrong command line, with code 2."""
    print(printable(f"{recipe}.py: {sentence}; see --help"), file=sys.stderr)
    sys.exit(USAGE)


def present_name(argument: str, recipe: str) -> str:
    """An argument with an option's present name in place of a former one, which is noted on stderr."""
    option, equals, value = argument.partition("=")
    name = option.removeprefix("--").replace("-", "_")
    if not option.startswith("--") or name not in ALIASES.get(recipe, {}):
        return argument
    present = f"--{ALIASES[recipe][name]}"
    print(f"{recipe}.py: {option} is now {present}; the next release knows that name only", file=sys.stderr)
    return f"{present}{equals}{value}"
