"""magicap: captions for pictures, without training on captioned pictures.

from magicap import caption
caption("photo.jpg")
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

from magicap.version import __version__ as __version__

# The public names stand in __init__.pyi, where type checkers read them, and nowhere else. Each is imported on
# first use: importing magicap alone loads no torch.
_EXPORTS = {
    alias.name: str(statement.module)
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'magicap' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
