"""Where the tokens of candidate texts go, so that none is run twice: pure arithmetic, no model.

Shapes: B captions, M candidates of all captions, N of them distinct, at most E of one caption, Q tokens of
the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from magicap.arrays import BoolArray

FloatArray = NDArray[np.int64]

_TRUNK, _PADDING = -1, -2  # owners that are no candidates


@dataclass(frozen=True)
class Packing:
    """A row for each caption: its own tokens that are not cached yet, then what each candidate adds.

    Candidates of one caption that read alike are laid down once.
    """

    ids: FloatArray
    """(B, Q) token ids, 0 where there is none."""

    positions: FloatArray
    """(B, Q) where in its text each token stands."""

    owners: FloatArray
    """(B, Q) the candidate that a token belongs to, or one of the two owners that are none."""

    limits: FloatArray
    """(B, Q) how many of the caption's tokens each token may see."""

    cached: FloatArray
    """(B,) how many of the caption's tokens are cached."""

    trunks: FloatArray
    """(B,) how many of the caption's tokens are not, and come first in the row."""

    ends: FloatArray
    """(B, E) the columns of the last tokens of a row's distinct candidates, 0 where a row has fewer."""

    found: FloatArray
    """(M,) where in ``ends``, read row by row, each candidate is."""

    tokens: int
    """How many tokens there are, padding left out."""

    @classmethod
    def of(
        cls,
        cached: Sequence[int],
        captions: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[int]],
        counts: Sequence[int],
    ) -> Packing:
        """
        Args:
            cached: how many ids of each caption are cached.
            captions: ids of B captions.
            candidates: ids of M candidates, caption by caption, none empty. At least the last id of each is
                run, however much it shares with its caption.
            counts: how many of them each caption has.
        """
        known, trunk = np.array(cached), _padded(captions)
        texts = _padded(candidates)
        owner = np.repeat(np.arange(len(counts)), counts)
        keys, distinct = np.unique(np.column_stack([owner, texts]), axis=0, return_inverse=True)
        rows, texts = keys[:, 0], keys[:, 1:]
        lengths = (texts != _PADDING).sum(axis=1)
        shared = np.minimum(_common(texts, trunk[rows]), lengths - 1)
        own = (trunk != _PADDING).sum(axis=1) - known

        # Pieces of rows: a trunk a caption, then its tails. Candidates lie sorted by caption.
        order = np.argsort(np.concatenate([2 * np.arange(len(counts)), 2 * rows + 1]), kind="stable")
        caption = np.concatenate([np.arange(len(counts)), rows])[order]
        piece = np.concatenate([np.full(len(counts), _TRUNK), np.arange(len(rows))])[order]
        first = np.concatenate([known, shared])[order]
        size = np.concatenate([own, lengths - shared])[order]

        token = np.repeat(np.arange(len(size)), size)
        offset = np.arange(size.sum()) - np.repeat(size.cumsum() - size, size)
        row, owners, positions = caption[token], piece[token], first[token] + offset
        row_sizes = np.bincount(row, minlength=len(counts))
        column = np.arange(len(row)) - (row_sizes.cumsum() - row_sizes)[row]
        width = max(trunk.shape[1], texts.shape[1])
        source = np.concatenate([_widened(texts, width), _widened(trunk, width)])
        ids = source[np.where(owners == _TRUNK, len(texts) + row, owners), positions]
        limits = np.where(owners == _TRUNK, positions + 1, first[token])

        def laid(values: FloatArray, fill: int) -> FloatArray:
            table = np.full((len(counts), row_sizes.max()), fill)
            table[row, column] = values
            return table

        last = np.append(token[1:] != token[:-1], True) & (owners != _TRUNK)
        sizes = np.bincount(rows, minlength=len(counts))
        place = np.arange(len(rows)) - (sizes.cumsum() - sizes)[rows]
        ends = np.zeros((len(counts), sizes.max()), dtype=np.int64)
        ends[rows, place] = column[last]
        return cls(
            laid(ids, 0),
            laid(positions, 0),
            laid(owners, _PADDING),
            laid(limits, 0),
            known,
            own,
            ends,
            (rows * ends.shape[1] + place)[distinct.reshape(-1)],
            len(row),
        )

    def mask(self, width: int) -> BoolArray:
        """(B, Q, width + Q) what each token may look at: cached tokens, then those of the row.

        Args:
            width: places for cached tokens in a row, the longest caption's.
        """
        limits, positions, owners = self.limits, self.positions, self.owners
        cached = np.arange(width) < np.minimum(limits, self.cached[:, None])[:, :, None]
        trunk = (owners == _TRUNK)[:, None, :] & (positions[:, None, :] < limits[:, :, None])
        own = (owners[:, :, None] == owners[:, None, :]) & (positions[:, None, :] <= positions[:, :, None])
        return np.concatenate([cached, trunk | own], axis=2)


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two texts begin with in common."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _padded(texts: Sequence[Sequence[int]]) -> FloatArray:
    table = np.full((len(texts), max(map(len, texts))), _PADDING)
    for number, ids in enumerate(texts):
        table[number, : len(ids)] = ids
    return table


def _widened(table: FloatArray, width: int) -> FloatArray:
    return np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=_PADDING)


def _common(texts: FloatArray, captions: FloatArray) -> FloatArray:
    """(N,) how many ids each text has in common with its caption, from the first on."""
    width = min(texts.shape[1], captions.shape[1])
    same = texts[:, :width] == captions[:, :width]
    # Where both are padded the text is over; its last token is run anyway, so counting on does no harm.
    common: FloatArray = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    return common
