"""docs/recipes.md: what every recipe prints with --help; ``make docs`` writes it."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest import mock

from repository import RECIPES, recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
WIDTH = "100"
"""Columns of a terminal."""

NAMES = sorted(path.stem for path in RECIPES.glob("*_*.py"))
TOP = """# Recipes

What each recipe does and every option of it, as `python recipes/NAME.py --help` prints it.
`make docs` writes this page.
"""


def help_of(name: str) -> str:
    """What a recipe prints with --help, on a terminal of fixed width."""
    module = recipe(name)
    from cli import run  # lies beside the recipes

    shown = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS=WIDTH), redirect_stdout(shown), suppress(SystemExit):
        run(module.main, module.Config, ["--help"])
    return shown.getvalue()


def page() -> str:
    """The whole page."""
    return "\n".join([TOP, *(f"## {name}\n\n```text\n{help_of(name)}```\n" for name in NAMES)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
