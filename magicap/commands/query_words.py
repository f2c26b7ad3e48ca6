"""How ``magicap search`` takes a query of several parts: words are arranged before argparse reads them.

argparse gives an option all values that follow, a sentence behind the pictures too, and takes ``-dog`` for an
option. Here an option of pictures takes its first value, whatever it is, and the pictures that follow it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from magicap.retrieval.items import names_picture

MINUS = "- "
"""What a sentence that is subtracted begins with: argparse takes no word with a space for an option."""


def arranged(
    words: Sequence[str], flags: Collection[str], valued: Collection[str], listed: Collection[str]
) -> list[str]:
    """The same arguments, sentences and pictures that stand alone before the options.

    Args:
        words: of the command; options with dashes.
        flags: options without a value.
        valued: options that take a value.
        listed: those of them that take pictures behind it too.
    """
    alone: list[str] = []
    options: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            alone += map(_part, left)
            break
        if word == "-h" or f"-{word}" in {*flags, *valued}:  # -top is a slip, not "top" subtracted
            options.append(word)
        elif not word.startswith("--"):
            alone.append(_part(word))
        else:
            name, equals, _ = word.partition("=")
            if name in valued and not equals and left and not left[0].startswith("--"):
                word = f"{name}={left.pop(0)}"
            options.append(word)
            while name in listed and left and not left[0].startswith("-") and names_picture(left[0]):
                options.append(f"{name}={left.pop(0)}")
    return [*alone, *options]


def _part(word: str) -> str:
    return MINUS + word[1:].lstrip() if len(word) > 1 and word.startswith("-") else word
