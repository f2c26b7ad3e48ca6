"""What stands under the fields of a dataclass, as text that a command line can show."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from textwrap import dedent


def field_docstrings(settings: type) -> dict[str, str]:
    """Field to the docstring under it, on one line, those of base classes included.

    Fields without one are left out, and so are all where Python's source is not at hand.
    """
    texts: dict[str, str] = {}
    for kind in reversed(settings.__mro__[:-1]):
        try:
            source = ast.parse(dedent(inspect.getsource(kind)))
        except (OSError, TypeError):
            continue
        texts |= _texts(source.body[0])
    return texts


def _texts(definition: ast.AST) -> dict[str, str]:
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
