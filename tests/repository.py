"""Where things lie in the repository, and its recipes and scripts as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPES, EVAL, DOCS = ROOT / "recipes", ROOT / "eval", ROOT / "docs"


def recipe(name: str) -> ModuleType:
    """A recipe as its file, which may import what lies beside it, as it does when it is run."""
    if str(RECIPES) not in sys.path:
        sys.path.insert(0, str(RECIPES))
    return _module(f"recipe_{name}", RECIPES / f"{name}.py")


def script(name: str) -> ModuleType:
    """A script of eval/ as its file, which may import what lies beside it, as it does when it is run."""
    if str(EVAL) not in sys.path:
        sys.path.append(str(EVAL))
    return _module(f"eval_{name}", EVAL / f"{name}.py")


def command_line() -> Any:
    """The command line that all recipes share."""
    recipe("train_tokenizer")  # puts recipes/ where Python looks for modules
    import cli

    return cli


def parse(config: type, arguments: list[str], name: str) -> Any:
    """A recipe's options from a command line."""
    return command_line().parse(config, arguments, name)


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
