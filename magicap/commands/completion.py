"""``magicap completion``: a script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Annotated, Any

from magicap.commands.options import About, add_options, from_namespace, options_of
from magicap.commands.output import print_text
from magicap.extras import require

SHELLS = ("bash", "zsh", "tcsh")


@dataclass(frozen=True)
class Options:
    """What ``magicap completion`` is to do."""

    shell: Annotated[str, About("SHELL", choices=SHELLS, positional=True)]
    """The shell that is to complete: bash, zsh or tcsh."""


def add(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Declare the command and its options.

    Args:
        parser: that of all commands, which the script is made of.
    """
    own = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description="Print a script that completes commands and options in a shell. For bash:\n"
        "  magicap completion bash > ~/.local/share/bash-completion/completions/magicap",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(own, options_of(Options))
    own.set_defaults(run=lambda namespace: run(from_namespace(namespace, Options), parser))


def run(options: Options, parser: argparse.ArgumentParser) -> int:
    """Print the script."""
    print_text(require("shtab").complete(parser, options.shell))
    return 0
