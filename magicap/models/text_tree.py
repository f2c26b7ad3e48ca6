"""Texts that begin alike, encoded together: tokens that they share are run once (tree attention).

Shapes: N texts, Q tokens of a tree, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from magicap.arrays import BoolArray
from magicap.models.text_tower import CausalTextTower

_STEP = 16
_TEXTS = 16  # of a tree: every token has a row and a column in its mask
_TOKENS_TOGETHER = 320  # on a CPU
_CELLS_TOGETHER = 1 << 24  # of masks, on a GPU, where a launch costs more than padding


@dataclass(frozen=True)
class TokenTree:
    """The distinct prefixes of N texts, each a token behind that of the prefix before it.

    >>> tree = TokenTree.of([[1, 5, 7, 9], [1, 5, 9], [1, 6, 9]])
    >>> print(tree.ids, tree.positions, tree.ends)
    [1, 5, 7, 9, 9, 6, 9] [0, 1, 2, 3, 2, 1, 2] [3, 4, 6]
    >>> print(tree.visible.astype(int))
    [[1 0 0 0 0 0 0]
     [1 1 0 0 0 0 0]
     [1 1 1 0 0 0 0]
     [1 1 1 1 0 0 0]
     [1 1 0 0 1 0 0]
     [1 0 0 0 0 1 0]
     [1 0 0 0 0 1 1]]
    """

    ids: list[int]
    """Q token ids."""

    positions: list[int]
    """Where in its texts each token stands."""

    visible: BoolArray
    """(Q, Q) which tokens each may look at: those that it follows, and itself."""

    ends: list[int]
    """The last token of each text."""

    @property
    def width(self) -> int:
        """Columns for it, one of few numbers: every size of a product costs time once."""
        return -(-len(self.ids) // _STEP) * _STEP

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Self:
        """Of the ids of N texts, none empty."""
        numbers: dict[tuple[int, int], int] = {}
        ids: list[int] = []
        positions, parents, ends = [], [], []
        for text in texts:
            parent = -1
            for position, token in enumerate(text):
                number = numbers.setdefault((parent, token), len(ids))
                if number == len(ids):
                    ids.append(token)
                    positions.append(position)
                    parents.append(parent)
                parent = number
            ends.append(parent)
        visible = np.eye(len(ids), dtype=bool)
        for number, parent in enumerate(parents):
            if parent >= 0:
                visible[number] |= visible[parent]
        return cls(ids, positions, visible, ends)


def encode_groups(tower: CausalTextTower, groups: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
    """Unit vectors (N, D) of the texts of each group, by their token ids.

    Texts of a group that begin alike are neighbours in one tree; many texts become several trees.

    Args:
        groups: as :meth:`CausalTextTower.cut` returns each text; at least one text in all.
    """
    places = [(number, part) for number, rows in enumerate(groups) for part in _neighbours(rows)]
    trees = [(TokenTree.of([groups[number][text] for text in part]), number, part) for number, part in places]
    trees.sort(key=lambda tree: len(tree[0].ids), reverse=True)  # those of about equal size run together
    encoded: list[Tensor] = []
    while len(encoded) < len(trees):
        remaining = [tree for tree, _, _ in trees[len(encoded) :]]
        encoded += _encode(tower, remaining[: _num_together(remaining[0].width, tower.device)])
    vectors = [encoded[0].new_empty(len(rows), encoded[0].shape[1]) for rows in groups]
    for (_, number, part), own in zip(trees, encoded, strict=True):
        vectors[number][part] = own
    return vectors


def _neighbours(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of a group's texts, so many together as become a tree."""
    order = sorted(range(len(rows)), key=lambda number: tuple(rows[number]))
    return [order[start : start + _TEXTS] for start in range(0, len(order), _TEXTS)]


def _num_together(width: int, device: torch.device) -> int:
    """How many trees, none wider, run together."""
    return max(1, _TOKENS_TOGETHER // width if device.type == "cpu" else _CELLS_TOGETHER // width**2)


def _encode(tower: CausalTextTower, trees: Sequence[TokenTree]) -> list[Tensor]:
    """Unit vectors of the texts of each tree, (N, D) each, all run together."""
    B, Q = len(trees), max(tree.width for tree in trees)
    E = max(len(tree.ends) for tree in trees)
    tokens, ends = np.zeros((2, B, Q), dtype=np.int64), np.zeros((B, E), dtype=np.int64)
    visible = np.broadcast_to(np.eye(Q, dtype=bool), (B, Q, Q)).copy()  # padding looks at itself alone
    for row, tree in enumerate(trees):
        size = len(tree.ids)
        tokens[:, row, :size] = tree.ids, tree.positions
        visible[row, :size, :size] = tree.visible
        ends[row, : len(tree.ends)] = tree.ends
    (ids, positions), mask, columns = (
        torch.from_numpy(table).to(tower.device) for table in (tokens, visible, ends)
    )
    hidden, _ = tower.run(ids, positions, (), mask[:, None], columns)
    projected = tower.project(hidden)
    return [vectors[: len(tree.ends)] for vectors, tree in zip(projected, trees, strict=True)]
