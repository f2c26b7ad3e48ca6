"""The command line: captions on stdout, progress and errors on stderr."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from magicap.commands import (
    caption,
    completion,
    doctor,
    evaluate,
    index,
    match,
    ocr,
    regions,
    search,
    serve,
    story,
    video,
)
from magicap.commands.options import without_underscores
from magicap.commands.output import ReaderLeft, complain, print_json, print_text, require_streams
from magicap.commands.shared import SOME_FAILED
from magicap.commands.signals import interruptible
from magicap.errors import BadModel, MagicapError
from magicap.printable import printable
from magicap.version import __version__, versions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 if all went well, 2 if the call was wrong, any picture failed or stdout could not be
        written, 130 after Ctrl-C, 143 after SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else arguments
    with interruptible() as interruption:
        try:
            return _run(words)
        except KeyboardInterrupt:
            return interruption.tell()
        except ReaderLeft:
            return 0
        except Exception as error:
            # Libraries that are interrupted while they are imported or load raise errors of their own.
            if interruption and isinstance(error, BadModel | ImportError | RuntimeError):
                return interruption.tell()
            if not isinstance(error, MagicapError):
                raise
            complain(str(error))
            return SOME_FAILED


def _run(words: Sequence[str]) -> int:
    require_streams()
    words = without_underscores(words)
    if sorted(words) == ["--json", "--version"]:
        print_json(versions())
        return 0
    if words[:1] == ["search"]:
        words = ["search", *search.arranged_words(words[1:])]
    options = make_parser().parse_args(words)
    _quieten_libraries()
    # Threads that wait for one another sleep: spinning, they take the cores that the others need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    code: int = options.run(options)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser, and its commands' parsers, that take no option by its beginning alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> Any:
        super().error(printable(message))  # which may quote what was given

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:  # argparse itself would not notice that help cannot be written
            print_text(message)
        else:
            super()._print_message(message, file)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all commands."""
    parser = _Parser(prog="magicap", description="Captions for pictures.")
    parser.add_argument(
        "--version",
        action="version",
        version=f"magicap {__version__}",
        help="print the version; with --json, those of Python and the model libraries too",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for command in (caption, story, regions, video, ocr, evaluate, index, search, match, serve, doctor):
        command.add(commands)
    completion.add(commands, parser)
    return parser


class _Complaints(logging.Handler):
    """What this package logs, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


def _quieten_libraries() -> None:
    """Advice of the model libraries, and bars in a log file, are of no use to who wants a caption."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "TORCH_CPP_LOG_LEVEL"):
        os.environ.setdefault(name, "ERROR" if name.startswith("TORCH") else "error")
    if not logging.root.handlers:  # else this is a part of a program that has its own
        logging.root.addHandler(logging.NullHandler())  # without one Python shows the warnings of any library
        logging.getLogger("magicap").addHandler(_Complaints(logging.WARNING))
    if not sys.warnoptions:  # as with -W and PYTHONWARNINGS, filters that are set already go first
        warnings.filterwarnings("ignore", append=True)
