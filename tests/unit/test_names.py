"""Words that are retired stand in no identifier, option or message: the field's terms took their place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

FILES = sorted(path for room in ("magicap", "recipes", "eval") for path in (ROOT / room).rglob("*.py"))

IDENTIFIERS = """
    PrefixTrie Node Work Fresh Contributions Position Written Choice _Beam _Option write_captions
    contenders Electorate electorate _elect agreement judged by_score likeness Rarity rarity _rarity
    WordPrior memory_weight fit_weight NARROWEST prompted told untold UNTOLD beginnings remembered
    Prompted prompted_loss prompted_surprise told_sentences crossed stand_ins surprise neural_nats
    draw_captions drawn memory_drawn dice chance rolled calibrated expected_gains gain _Lesson
    learner Said say_what teaching_loss paid_loss resting awake looked told_by_state told_by_context
    think Numbers Integers Flags Steps SETTINGS SUPERVISED_SETTINGS _HOMES _Home _Door Origin floor
    floors_of TextPrefixCache TextPrefix stacked taken spoken heard spelled caption_ids _unspoken
    CandidatesExplanation ElectionExplanation claim_folder found each near given rest trie roots
    weigh grow
""".split()
"""Names of classes, functions, variables, arguments, attributes and fields."""

FORMER = {"trie"}
"""Former public names that are kept as aliases where they are defined."""

PHRASES = [
    "told of", "eyes shut", "left alone", "at rest", "foretells", "have a say", "has a say", "say in which",
    "word prior", "electorate", "elected", "who wins", "slow judge",
]  # fmt: skip

OPTIONS = [
    "--prompted",
    "--memory_drawn",
    "--floors_of",
    "--judge",
    "--drawn",
    "--fit-weight",
    "--memory-weight",
]
ALIASES = {"magicap/commands/caption.py", "magicap/commands/evaluate.py", "eval/compare.py", "recipes/cli.py"}
"""Options of the release before, and the files that still take them, with a notice."""


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a syntax tree gives or uses, with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, line
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, line
            case ast.keyword(arg=str(name)) | ast.alias(asname=str(name)):
                yield name, line


def strings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every string of a syntax tree, docstrings and the parts of f-strings included, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_are_files_to_look_at():
    assert len(FILES) > 150


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_retired_identifier(path):
    retired = set(IDENTIFIERS) - FORMER
    assert [f"{name} in line {line}" for name, line in identifiers(parsed(path)) if name in retired] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_retired_phrase_or_option(path):
    words = PHRASES if str(path.relative_to(ROOT)) in ALIASES else [*PHRASES, *OPTIONS]
    retired = re.compile("|".join(rf"(?<![\w-]){re.escape(text)}(?![\w-])" for text in words), re.IGNORECASE)
    assert [
        f"{text!r:.90} in line {line}" for text, line in strings(parsed(path)) if retired.search(text)
    ] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_no_retired_word_on_a_page(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    code = [name for name in IDENTIFIERS if re.search(r"[A-Z_]", name)]  # others are ordinary English too
    retired = "|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in [*PHRASES, *OPTIONS, *code])
    assert re.findall(retired, text) == []
