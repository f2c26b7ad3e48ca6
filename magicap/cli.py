"""The command line: captions on stdout, progress and errors on stderr."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from magicap.commands import caption, evaluate, index, search
from magicap.commands.options import without_underscores
from magicap.commands.shared import INTERRUPTED, SOME_FAILED
from magicap.errors import MagicapError
from magicap.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 if all went well, 2 if the call was wrong or any picture failed, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(without_underscores(words))
    _quieten_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names need not be text: in UTF-8 their bytes pass as they are, elsewhere they are escaped.
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    try:
        code: int = options.run(options)
        return code
    except MagicapError as error:
        print(f"magicap: {error}", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        print("magicap: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left early, as `head` does; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """A parser, and its commands' parsers, that take no option by its beginning alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="magicap", description="Captions for pictures.")
    parser.add_argument("--version", action="version", version=f"magicap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for command in (caption, evaluate, index, search):
        command.add(commands)
    return parser


def _quieten_libraries() -> None:
    """Advice of the model libraries, and bars in a log file, are of no use to who wants a caption."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module=r"torch|transformers|open_clip|timm|huggingface_hub")
