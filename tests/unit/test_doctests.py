"""The examples in docstrings give what stands below them."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from repository import ROOT

EXAMPLE = re.compile(r"^\s*>>> ", re.MULTILINE)
FILES = [
    path
    for path in sorted((ROOT / "magicap").rglob("*.py"))
    if EXAMPLE.search(path.read_text(encoding="utf-8"))
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_examples_give_what_stands_below_them(path: Path) -> None:
    try:
        module = importlib.import_module(module_name(path))
    except ModuleNotFoundError as error:
        if (error.name or "magicap").partition(".")[0] == "magicap":
            raise
        pytest.skip(f"{module_name(path)} needs {error.name}, which is not installed")
    results = doctest.testmod(module)
    assert results.failed == 0, "what was found instead stands in the captured output"
    assert results.attempted == len(EXAMPLE.findall(path.read_text(encoding="utf-8")))  # none is overlooked


def test_there_are_examples() -> None:
    assert len(FILES) >= 4
