"""What stands under the fields of a dataclass, as text that a command line can show."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise


def field_docstrings(settings: type) -> dict[str, str]:
    """Field to the docstring under it, on one line, those of base classes included.

    Fields without one are left out, and so are all of a class inside another or inside a function, or whose
    source is not at hand.
    """
    texts: dict[str, str] = {}
    for kind in reversed(settings.__mro__[:-1]):
        texts |= _texts(kind.__module__).get(kind.__name__, {})
    return texts


@cache  # one reading for all dataclasses of a file
def _texts(module: str) -> Mapping[str, dict[str, str]]:
    """Class to its fields' docstrings, of the classes at the top of a module."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError):
        return {}
    return {node.name: _texts_of(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts_of(definition: ast.ClassDef) -> dict[str, str]:
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
