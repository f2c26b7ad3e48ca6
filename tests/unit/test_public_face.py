"""Tests use public names alone: ruff (SLF001) finds private attributes, this file the other ways."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))
EXCEPTIONS = {("unit/test_progress.py", "_progress")}
"""Names that a test replaces since nothing public stands for them."""


def is_private(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.endswith("__")


def private_names(tree: ast.AST) -> Iterator[str]:
    """Private names that a test imports, or replaces: ``monkeypatch.setattr(module, "_name", ...)``."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=names):
                yield from (alias.name for alias in names if is_private(alias.name))
            case ast.Call(func=ast.Attribute(attr="setattr" | "object" | "patch"), args=args):
                texts = (text.value for text in args[:2] if isinstance(text, ast.Constant))
                yield from (text for text in texts if isinstance(text, str) and is_private(text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_private_names_are_neither_imported_nor_replaced(path: Path) -> None:
    file = path.relative_to(ROOT / "tests").as_posix()
    names = private_names(ast.parse(path.read_text(encoding="utf-8")))
    assert [name for name in names if (file, name) not in EXCEPTIONS] == []
