"""Many short texts kept as numbers of their words: a tenth of what strings take, and ready for arithmetic.

Whatever is a function of single words (a tokenizer that never looks across a space, n-grams of words) is then
worked out once for each different word, and gathered for any number of texts.

Shapes: N texts, V different words, T words of all texts, P chosen texts with E words, F numbers of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from threading import Lock
from typing import Any, overload

import numpy as np

from magicap.arrays import BoolArray, IntArray


class Vocabulary:
    """V different words, none with a space in it.

    Attributes:
        words: the words; a text ``"a  dog"`` has the words ``"a"``, ``""`` and ``"dog"``.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Of words that are different and without spaces."""
        self.words = list(words)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def where(self, holds: Callable[[str], bool]) -> BoolArray:
        """(V,) for which words a predicate holds."""
        return np.fromiter(map(holds, self.words), dtype=bool, count=len(self.words))


class PackedTexts(Sequence[str]):
    """N texts; reads like a list of strings, which are put together when asked for.

    Attributes:
        vocabulary: the words.
        numbers: (T,) the words of all texts, one text behind the other.
        starts: (N + 1,) where each text begins in ``numbers``.
    """

    def __init__(self, vocabulary: Vocabulary, numbers: IntArray, starts: IntArray) -> None:
        """Of arrays as the attributes say."""
        self.vocabulary, self.numbers, self.starts = vocabulary, numbers, starts

    @classmethod
    def of(cls, texts: Sequence[str]) -> PackedTexts:
        """Pack strings; the more frequent words get the smaller numbers."""
        if isinstance(texts, PackedTexts):
            return texts
        split = [text.split(" ") for text in texts]
        ids: dict[str, int] = {}
        flat = np.fromiter(
            (ids.setdefault(word, len(ids)) for words in split for word in words), dtype=np.int64
        )
        order = np.argsort(-np.bincount(flat, minlength=len(ids)), kind="stable")
        rank = np.empty(len(ids), dtype=np.int64)
        rank[order] = np.arange(len(ids))
        words = list(ids)
        lengths = np.array([len(words) for words in split], dtype=np.int64)
        vocabulary = Vocabulary([words[number] for number in order.tolist()])
        return cls(vocabulary, smallest(rank[flat], len(words)), _starts(lengths))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self.select(np.arange(len(self))[index]))
        number = range(len(self))[index]  # raises IndexError, and counts from the end
        words = self.vocabulary.words
        return " ".join([words[n] for n in self.numbers[self.starts[number] : self.starts[number + 1]]])

    def __iter__(self) -> Iterator[str]:
        words = self.vocabulary.words
        numbers, starts = self.numbers.tolist(), self.starts.tolist()
        for start, end in pairwise(starts):
            yield " ".join([words[number] for number in numbers[start:end]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"PackedTexts({len(self)} texts, {len(self.vocabulary)} words)"

    @property
    def lengths(self) -> IntArray:
        """(N,) words of each text."""
        return np.diff(self.starts)

    def positions_of(self, texts: Sequence[str]) -> list[int | None]:
        """Where other texts stand among these, the last of equals; None where they do not."""
        numbers, starts = self.numbers.tobytes(), (self.starts * self.numbers.itemsize).tolist()
        places = {numbers[start:end]: place for place, (start, end) in enumerate(pairwise(starts))}
        positions = []
        for text in texts:
            words = [self.vocabulary.numbers.get(word, -1) for word in text.split(" ")]
            key = b"" if -1 in words else np.array(words).astype(self.numbers.dtype).tobytes()
            positions.append(places.get(key))
        return positions

    def select(self, positions: Any) -> PackedTexts:
        """Some texts, (P,) positions, which may repeat."""
        lengths = self.lengths[positions]
        return PackedTexts(
            self.vocabulary,
            self.numbers[_ranges(self.starts[:-1][positions], lengths)],
            _starts(lengths),
        )

    @classmethod
    def concatenated(cls, parts: Sequence[PackedTexts]) -> PackedTexts:
        """Texts that share a vocabulary, one part behind the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        numbers = np.concatenate([part.numbers for part in parts])
        return cls(parts[0].vocabulary, numbers, _starts(lengths))

    def any_word(self, flags: BoolArray, *, but_last: bool = False) -> BoolArray:
        """(N,) which texts have a word that is flagged.

        Args:
            flags: (V,) of the words.
            but_last: whether a text's last word does not count.
        """
        flagged = flags[self.numbers]
        if but_last and len(self):
            flagged[self.starts[1:] - 1] = False
        before = np.concatenate([[0], np.cumsum(flagged)])
        return np.asarray(before[self.starts[1:]] > before[self.starts[:-1]])


class WordExpansion:
    """Runs of numbers that words stand for (tokens, hashes), worked out when first asked for, and kept."""

    def __init__(self, count: int, dtype: Any = np.int64) -> None:
        """Of ``count`` words; runs hold numbers of ``dtype``."""
        self._starts = np.full(count, -1, dtype=np.int64)
        self._lengths = np.zeros(count, dtype=np.int64)
        self._runs = np.zeros(0, dtype=dtype)
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[WordExpansion], tuple[int, Any]]:
        return WordExpansion, (len(self._starts), self._runs.dtype)  # a copy begins empty

    def expand(
        self, numbers: IntArray, work_out: Callable[[list[int]], Sequence[Sequence[int]]]
    ) -> tuple[Any, IntArray]:
        """The runs of E words, one behind the other.

        Args:
            numbers: (E,) of words.
            work_out: gives the runs of words that are new, by their numbers.

        Returns:
            Numbers (F,), and how many of them each word has (E,).
        """
        if (self._starts[numbers] < 0).any():
            with self._lock:
                self._add(np.unique(numbers[self._starts[numbers] < 0]), work_out)
        lengths = self._lengths[numbers]
        return self._runs[_ranges(self._starts[numbers], lengths)], lengths

    def expand_texts(
        self,
        texts: PackedTexts,
        work_out: Callable[[list[int]], Sequence[Sequence[int]]],
        wholes: Mapping[int, Any],
        numbers: IntArray | None = None,
    ) -> tuple[Any, IntArray]:
        """The runs of N texts: those of their words, one behind the other.

        Args:
            work_out: as of :meth:`expand`.
            wholes: the runs of texts that are more than their words', by the texts' positions.
            numbers: (T,) of all words, where these are not the texts' own.

        Returns:
            Numbers of all texts, one text behind the other, and how many each has (N,).
        """
        runs, counts = self.expand(texts.numbers if numbers is None else numbers, work_out)
        return _replace_runs(runs, _sums_of_runs(counts, texts.starts), wholes)

    def _add(self, new: IntArray, work_out: Callable[[list[int]], Sequence[Sequence[int]]]) -> None:
        runs = work_out(new.tolist())
        lengths = np.array([len(run) for run in runs], dtype=np.int64)
        added = np.array([number for run in runs for number in run], dtype=self._runs.dtype)
        starts = len(self._runs) + _starts(lengths)[:-1]
        self._runs = np.concatenate([self._runs, added])
        self._lengths[new], self._starts[new] = lengths, starts  # the starts last: others may read them now


def _sums_of_runs(values: IntArray, starts: IntArray) -> IntArray:
    """(N,) sums of runs that begin at ``starts`` (N + 1,) and may be empty."""
    before = np.concatenate([[0], np.cumsum(values)])
    return np.asarray(before[starts[1:]] - before[starts[:-1]])


def _replace_runs(values: Any, lengths: IntArray, new: Mapping[int, Any]) -> tuple[Any, IntArray]:
    """Some of N runs exchanged for others.

    Args:
        values: numbers of all runs, one behind the other.
        lengths: (N,) of the runs.
        new: numbers of the others, by the runs that they take the place of.

    Returns:
        Values and lengths of all runs.
    """
    if not new:
        return values, lengths
    ends, lengths, pieces, done = np.cumsum(lengths), lengths.copy(), [], 0
    for run in sorted(new):
        end = int(ends[run])
        pieces += [values[done : end - int(lengths[run])], np.asarray(new[run], dtype=values.dtype)]
        lengths[run], done = len(new[run]), end
    return np.concatenate([*pieces, values[done:]]), lengths


def smallest(numbers: IntArray, size: int) -> Any:
    """Numbers from 0 to ``size`` in two bytes each where these suffice, else in four."""
    return numbers.astype(np.uint16 if size < 2**16 else np.uint32)


def _starts(lengths: IntArray) -> IntArray:
    """(N + 1,) where runs of these lengths (N,) begin, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Counting on from each start, so many times: [7, 2] and [2, 1] give [7, 8, 2]."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
