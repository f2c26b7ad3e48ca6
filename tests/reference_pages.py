"""docs/cli.md, docs/api.md, docs/magicap.1: commands' help, public names; ``make docs`` writes them."""

from __future__ import annotations

import ast
import io
import os
import re
from contextlib import redirect_stdout, suppress
from unittest import mock

from argparse_manpage.manpage import Manpage
from repository import DOCS, ROOT

from magicap.cli import main, make_parser
from magicap.version import __version__

COMMANDS = "caption story regions video ocr eval index search match serve doctor completion".split()
ABOUT = "captions for pictures"
WIDTH = "100"
"""Columns of a terminal."""

CLI_TOP = """# Command line

What each command does and every option of it, as `magicap COMMAND --help` prints it.
`make docs` writes this page.
"""
API_TOP = """# Python reference

The public names of `magicap`, from their docstrings; deeper paths may change without notice.
`make docs` writes this page.
"""
GROUPS = {
    "Captioning": (
        "caption load_captioner Captioner SupervisedCaptioner BatchCaptioner Caption Step Hypothesis HubCard "
        "Story StorySentence"
    ).split(),
    "Decodings": (
        "BeamMagicSearch MagicSearch Greedy ContrastiveSearch TopK Nucleus NearestCaption ConsensusCaption "
        "BeamSearch Sampling DecodingContext"
    ).split(),
    "Models and memories": "LanguageModel ImageTextScorer CaptionMemory".split(),
    "Search": "RetrievalIndex Item Match".split(),
    "Regions": "RegionCaptions RegionCaption Proposal YoloxNano".split(),
    "Matching": "match_pictures MatchSettings PictureMatches".split(),
    "Videos": "VideoScene SceneSettings".split(),
    "Text in pictures": "read_text OcrSettings caption_with_text TextLine".split(),
    "Errors": (
        "MagicapError BadImage BadVideo BadSettings BadModel BadData BadIndex ModelNotFound ImageNotFound "
        "MissingPackage MetricUnavailable"
    ).split(),
}


def help_of(command: str) -> str:
    """What a command prints with --help, on a terminal of fixed width."""
    shown = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS=WIDTH), redirect_stdout(shown), suppress(SystemExit):
        main([command, "--help"])
    return shown.getvalue()


def cli_page() -> str:
    return "\n".join([CLI_TOP, *(f"## {name}\n\n```text\n{help_of(name)}```\n" for name in COMMANDS)])


def public_names() -> dict[str, str]:
    """Public names with the modules that have them."""
    stub = ast.parse((ROOT / "magicap" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    return {alias.name: str(one.module) for one in imports for alias in one.names}


def api_page() -> str:
    modules, parts = public_names(), [API_TOP]
    for title, names in GROUPS.items():
        parts += [f"## {title}\n", *(f"::: {modules[name]}.{name}\n" for name in names)]
    parts += ["## Metrics\n", "::: magicap.metrics\n"]
    return "\n".join(parts)


def manual_page() -> str:
    """The manual page, in the format of man, from the help of all commands."""
    about = {"project_name": "magicap", "version": __version__, "date": "", "long_description": ""}
    with mock.patch.dict(os.environ, COLUMNS="80"):
        page = str(Manpage(make_parser(), _data=about, format="pretty"))
    page = page.replace(".SH NAME\nmagicap\n", f".SH NAME\nmagicap \\- {ABOUT}\n", 1)
    return re.sub(r"^\.(?=[a-z])", r"\\&.", page, flags=re.MULTILINE)  # text, since requests are in capitals


PAGES = {DOCS / "cli.md": cli_page, DOCS / "api.md": api_page, DOCS / "magicap.1": manual_page}

if __name__ == "__main__":
    for path, made in PAGES.items():
        path.write_text(made(), encoding="utf-8")
