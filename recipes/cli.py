"""The command line of every recipe: options from a dataclass, one sentence on stderr for what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from magicap.errors import MagicapError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

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

    Args:
        main: of the recipe, from a ``config`` to what it does; raises :class:`MagicapError`.
        config: dataclass whose fields are the options.
        arguments: of the command line; None: the process's own.
    """
    recipe = Path(main.__code__.co_filename).stem
    try:
        main(parse(config, sys.argv[1:] if arguments is None else arguments, recipe))
    except MagicapError as error:
        sys.exit(f"{recipe}.py: {error}")
    except KeyboardInterrupt:
        print(f"{recipe}.py: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def parse(config: type, arguments: Sequence[str], recipe: str) -> Any:
    """The options of a recipe as its ``config``; unknown ones end the process with a usage line and code 2.

    Raises:
        BadSettings: options that contradict each other or lie outside their range.
    """
    parser = HfArgumentParser(config, prog=f"{recipe}.py", allow_abbrev=False)
    settings, unknown = parser.parse_args_into_dataclasses(
        [present_name(argument, recipe) for argument in arguments],
        return_remaining_strings=True,
        look_for_args_file=False,
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return settings


def present_name(argument: str, recipe: str) -> str:
    """An argument with an option's present name in place of a former one, which is noted on stderr."""
    option, equals, value = argument.partition("=")
    name = option.removeprefix("--").replace("-", "_")
    if not option.startswith("--") or name not in ALIASES.get(recipe, {}):
        return argument
    present = f"--{ALIASES[recipe][name]}"
    print(f"{recipe}.py: {option} is now {present}; the next release knows that name only", file=sys.stderr)
    return f"{present}{equals}{value}"
