"""A text file on its way to be read: its first line and its JSON, by which its form is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from magicap.data.checks import RepeatedName, lines_of, load_json, parse_json, read_text


@dataclass(frozen=True)
class Source:
    """The text of a file."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """Of a file, as :func:`~magicap.data.checks.read_text` gives it."""
        return cls(path, read_text(path))

    @cached_property
    def head(self) -> str:
        """The first line that is not blank."""
        return re.search(r"\S.*", self.text)[0]  # type: ignore[index] # read_text refuses blank files

    @cached_property
    def _parsed(self) -> tuple[Any, str]:
        """A JSON value, and the part of the text that it is: the first line, else all of it."""
        if self.head.startswith(("{", "[")):
            for part in (self.head, self.text):
                try:
                    return load_json(part, self.path), part
                except RepeatedName:
                    raise
                except (ValueError, RecursionError):
                    continue
            if self.path.suffix == ".json":  # the name promises JSON: say where it is none
                return parse_json(self.text, self.path), self.text
        return None, ""

    @property
    def document(self) -> Any:
        """The JSON of the first line, else of the whole file; None if it is neither.

        Raises:
            BadData: it is neither, though the file's name ends in ``.json``.
        """
        return self._parsed[0]

    @property
    def is_lines(self) -> bool:
        """Whether the first line is JSON by itself, and others follow."""
        return self._parsed[1] == self.head and self.text.strip() != self.head.strip()

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The first JSON object; empty where there is none."""
        return self.document if isinstance(self.document, dict) else {}

    def lines(self) -> Iterator[tuple[str, str]]:
        """Lines that are not blank, each with its place."""
        return lines_of(self.path, self.text)
