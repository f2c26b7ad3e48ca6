"""Where the tokens of candidate texts go, so that none is run twice: pure arithmetic, no model.

Shapes: B captions, M candidates of all captions, N of them distinct, at most E of one caption, Q tokens of
the longest row, S segments, L ids of the longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magicap.arrays import BoolArray, IntArray

_PREFIX, _PADDING = -1, -2  # owners that are no candidates


@dataclass(frozen=True)
class Packing:
    """A row for each caption: its own tokens that are not cached yet, then what each candidate adds."""

    ids: IntArray
    """(B, Q) token ids, 0 where there is none."""

    positions: IntArray
    """(B, Q) where in its text each token stands."""

    owners: IntArray
    """(B, Q) the distinct candidate, 0 to N - 1, that a token belongs to; -1 the caption, -2 padding."""

    limits: IntArray
    """(B, Q) how many of the caption's tokens each token may see."""

    cached: IntArray
    """(B,) how many of the caption's tokens are cached."""

    prefix_lengths: IntArray
    """(B,) how many of the caption's tokens are not, and come first in the row."""

    ends: IntArray
    """(B, E) the columns of the last tokens of a row's distinct candidates, 0 where a row has fewer."""

    slots: IntArray
    """(M,) where in ``ends``, read row by row, each candidate is."""

    num_tokens: int
    """How many tokens there are, padding left out."""

    def mask(self, width: int) -> BoolArray:
        """(B, Q, width + Q) what each token may look at: cached tokens, then those of the row.

        Args:
            width: columns for cached tokens in a row, the longest caption's.
        """
        limits, positions, owners = self.limits, self.positions, self.owners
        cached = np.arange(width) < np.minimum(limits, self.cached[:, None])[:, :, None]
        prefix = (owners == _PREFIX)[:, None, :] & (positions[:, None, :] < limits[:, :, None])
        same_owner = owners[:, :, None] == owners[:, None, :]
        earlier = same_owner & (positions[:, None, :] <= positions[:, :, None])
        return np.concatenate([cached, prefix | earlier], axis=2)


def pack_continuations(
    cached: Sequence[int],
    captions: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    counts: Sequence[int],
) -> Packing:
    """Lay the new tokens of each caption and of its candidates into one row.

    Candidates of one caption that read alike are laid down once. At least the last id of each is run, however
    much it shares with its caption.

    Three captions, 1 the start token and 9 the end token. Of the first one token is cached and two are not,
    and its candidates add 5 or 6; the second is cached, and its two candidates read alike; the third is new.

    >>> packing = pack_continuations(
    ...     cached=[1, 2, 0],
    ...     captions=[[1, 2, 3], [1, 4], [1]],
    ...     candidates=[[1, 2, 3, 5, 9], [1, 2, 3, 6, 9], [1, 4, 7, 9], [1, 4, 7, 9], [1, 8, 9]],
    ...     counts=[2, 2, 1],
    ... )
    >>> print(packing.ids)  # the first row: 2 3 of the caption, 5 9 and 6 9 of its candidates
    [[2 3 5 9 6 9]
     [7 9 0 0 0 0]
     [1 8 9 0 0 0]]
    >>> print(packing.positions)
    [[1 2 3 4 3 4]
     [2 3 0 0 0 0]
     [0 1 2 0 0 0]]
    >>> print(packing.owners)
    [[-1 -1  0  0  1  1]
     [ 2  2 -2 -2 -2 -2]
     [-1  3  3 -2 -2 -2]]
    >>> print(packing.limits)
    [[2 3 3 3 3 3]
     [2 2 0 0 0 0]
     [1 1 1 0 0 0]]
    >>> print(packing.prefix_lengths, packing.num_tokens)
    [2 0 1] 11
    >>> print(packing.ends.tolist(), packing.slots)  # the four distinct texts end at these columns
    [[3, 5], [1, 0], [2, 0]] [0 1 2 2 4]
    >>> print(packing.mask(width=2)[0].astype(int))  # two columns for cached tokens, of which row 0 has one
    [[1 0 1 0 0 0 0 0]
     [1 0 1 1 0 0 0 0]
     [1 0 1 1 1 0 0 0]
     [1 0 1 1 1 1 0 0]
     [1 0 1 1 0 0 1 0]
     [1 0 1 1 0 0 1 1]]

    Args:
        cached: how many ids of each caption are cached.
        captions: ids of B captions.
        candidates: ids of M candidates, caption by caption, none empty.
        counts: how many of them each caption has.
    """
    num_cached, prefixes = np.array(cached), _padded(captions)
    rows, texts, distinct = _distinct(candidates, counts)
    segments = _segments(num_cached, prefixes, rows, texts)
    table = _Table.of(segments, len(prefixes))
    in_prefix = segments.owners == _PREFIX

    # The id of every token: from its caption or, where a candidate adds it, from that candidate.
    positions = segments.starts[table.segments] + _ranges(segments.lengths)
    owners = segments.owners[table.segments]
    of_caption = owners == _PREFIX
    ids = np.empty_like(positions)
    ids[of_caption] = prefixes[table.rows[of_caption], positions[of_caption]]
    ids[~of_caption] = texts[owners[~of_caption], positions[~of_caption]]
    limits = np.where(of_caption, positions + 1, segments.starts[table.segments])

    # A candidate ends with its segment's last token.
    sizes = np.bincount(rows, minlength=len(prefixes))
    slots = _ranges(sizes)
    ends = np.zeros((len(prefixes), sizes.max()), dtype=np.int64)
    ends[rows, slots] = table.columns[(segments.lengths.cumsum() - 1)[~in_prefix]]
    return Packing(
        table.filled(ids, 0),
        table.filled(positions, 0),
        table.filled(owners, _PADDING),
        table.filled(limits, 0),
        num_cached,
        segments.lengths[in_prefix],
        ends,
        (rows * ends.shape[1] + slots)[distinct],
        len(positions),
    )


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two texts begin with in common."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


@dataclass(frozen=True)
class _Segments:
    """S runs of tokens, row by row: what is new of a caption, then the tails of its candidates."""

    rows: IntArray
    """(S,) the caption."""

    owners: IntArray
    """(S,) the distinct candidate, or that it is the caption's own."""

    starts: IntArray
    """(S,) where in its text the first token stands."""

    lengths: IntArray
    """(S,) how many tokens; 0 for a caption of which nothing is new."""


def _segments(num_cached: IntArray, prefixes: IntArray, rows: IntArray, texts: IntArray) -> _Segments:
    """The segments of B captions (B, L) and of N distinct candidates (N, L) in rows (N,)."""
    captions = np.arange(len(prefixes))
    lengths = (texts != _PADDING).sum(axis=1)
    shared = np.minimum(_common_lengths(texts, prefixes[rows]), lengths - 1)
    new = (prefixes != _PADDING).sum(axis=1) - num_cached
    order = np.argsort(np.concatenate([captions, rows]), kind="stable")
    return _Segments(
        np.concatenate([captions, rows])[order],
        np.concatenate([np.full(len(captions), _PREFIX), np.arange(len(rows))])[order],
        np.concatenate([num_cached, shared])[order],
        np.concatenate([new, lengths - shared])[order],
    )


@dataclass(frozen=True)
class _Table:
    """Where all tokens stand in a table of B rows, in the order of their segments."""

    segments: IntArray
    """(tokens,) the segment of each."""

    rows: IntArray
    """(tokens,)"""

    columns: IntArray
    """(tokens,)"""

    shape: tuple[int, int]
    """B and Q."""

    @classmethod
    def of(cls, segments: _Segments, count: int) -> _Table:
        """Tokens side by side, segment behind segment, in each of ``count`` rows."""
        numbers = np.repeat(np.arange(len(segments.lengths)), segments.lengths)
        rows = segments.rows[numbers]
        sizes = np.bincount(rows, minlength=count)
        return cls(numbers, rows, _ranges(sizes), (count, int(sizes.max())))

    def filled(self, values: IntArray, padding: int) -> IntArray:
        """(B, Q) values of all tokens, and what stands where there is none."""
        table = np.full(self.shape, padding)
        table[self.rows, self.columns] = values
        return table


def _distinct(
    candidates: Sequence[Sequence[int]], counts: Sequence[int]
) -> tuple[IntArray, IntArray, IntArray]:
    """The different texts of each caption: rows (N,), ids (N, L), and which each candidate is (M,)."""
    rows = np.repeat(np.arange(len(counts)), counts)
    keys, distinct = np.unique(np.column_stack([rows, _padded(candidates)]), axis=0, return_inverse=True)
    return keys[:, 0], keys[:, 1:], distinct.reshape(-1)


def _ranges(sizes: IntArray) -> IntArray:
    """Counting from 0 in each of several runs: [2, 3] gives [0, 1, 0, 1, 2]."""
    ranges: IntArray = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
    return ranges


def _padded(texts: Sequence[Sequence[int]]) -> IntArray:
    """(number of texts, L) ids, -2 behind the shorter."""
    table = np.full((len(texts), max(map(len, texts))), _PADDING)
    for row, ids in enumerate(texts):
        table[row, : len(ids)] = ids
    return table


def _common_lengths(texts: IntArray, captions: IntArray) -> IntArray:
    """(N,) how many ids each text has in common with its caption, from the first on."""
    width = min(texts.shape[1], captions.shape[1])
    same = texts[:, :width] == captions[:, :width]
    # Where both are padded the text is over; its last token is run anyway, so counting on does no harm.
    common: IntArray = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    return common
