"""What is true of a prefix whatever the picture: computed once for all pictures and calls of a captioner.

Neither the language model nor the scorer's text tower sees the picture. So the next tokens that compete
behind a prefix, how much each would repeat, and the vectors of the texts are functions of the prefix alone,
and every caption begins at the same prefix. A soft prompt belongs to the prefix: captions of a conditioned
model begin at a prefix for each picture, so those are not kept beyond the search that asked for them.

Shapes: B pictures, K candidates, D embedding width, W hidden width of the language model.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.errors import BadSettings
from magicap.models.incremental_text import EncodedText
from magicap.models.language_model import LanguageModel
from magicap.models.prefixes import Extension, Prefixes, TokenState
from magicap.models.topk import topk

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer

DEFAULT_CACHE_BYTES = 2**29
"""How much a captioner keeps of prefixes between calls."""

Key = tuple[int, ...]
"""The number of candidates, the soft prompt's number, how many tokens are not scored, then the token ids."""


@dataclass(eq=False)
class CachedPrefix:
    """A prefix, and its K candidates by falling probability."""

    ids: tuple[int, ...]
    """Token ids, the start token first."""

    states: tuple[TokenState, ...]
    """What the language model keeps of each token."""

    candidates: Tensor
    """(K,) token ids."""

    tokens: tuple[int, ...]
    """The same where asking for them waits for no device."""

    probabilities: Tensor
    """(K,) of the candidates."""

    repetition: Tensor
    """(K,) largest cosine of each candidate's hidden state with those of the prefix; NaN: not asked for."""

    text: EncodedText
    """What the scorer knows of the prefix, or of one before it until the vectors are asked for."""

    prompt: int = 0
    """Number of the soft prompt before it; 0: none."""

    unscored: int = 0
    """How many of its first tokens, behind the start token, the scorer does not read."""

    vectors: Tensor | None = None
    """(K, D) unit vectors of the prefix with each candidate; None: not asked for yet."""

    @property
    def key(self) -> Key:
        """What it is found by."""
        return len(self.candidates), self.prompt, self.unscored, *self.ids

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """Token ids of what the scorer reads of it."""
        return self.ids[1 + self.unscored :] if self.unscored else self.ids


@dataclass(frozen=True)
class CandidateStates:
    """Candidates that the language model has just run over, before any is chosen."""

    extension: Extension
    cells: Mapping[tuple[CachedPrefix, int], tuple[int, int]]
    """Row and column in the extension, by prefix and candidate."""

    def states(self, chosen: Sequence[tuple[CachedPrefix, int]]) -> list[TokenState]:
        """The states of some of them."""
        cells = [self.cells[candidate] for candidate in chosen]
        rows, columns = torch.tensor(cells, device=self.extension.raw_hidden.device).unbind(dim=1)
        return self.extension.states(rows, columns)


@dataclass
class CacheStats:
    """What has been computed, and what was there already."""

    language_tokens: int = 0
    """Tokens that the language model has run over."""

    text_tokens: int = 0
    """Tokens that the scorer's text tower has run over."""

    prefixes_made: int = 0
    """Prefixes whose candidates were computed."""

    prefixes_found: int = 0
    """Prefixes that were there when captions came to them, counted once a step."""

    prefixes_evicted: int = 0
    """Prefixes that were given up to keep to the budget."""

    @property
    def hit_rate(self) -> float:
        """Share of prefixes that were there already."""
        return self.prefixes_found / max(1, self.prefixes_found + self.prefixes_made)


class PrefixCache:
    """Two models, and prefixes of captions by their tokens; beyond a budget the least recently used go.

    Threads may share one: what two of them ask for at the same time may be computed twice, never wrongly.

    Attributes:
        language_model, scorer: the two models. Once their weights have changed, :meth:`clear` the cache.
        budget: bytes to keep; 0 keeps nothing beyond the search that asked for it.
        nbytes: bytes that are kept.
        stats: what has been computed since the cache was made.

    Raises:
        BadSettings: the budget is no whole number of at least 0.
    """

    def __init__(
        self, language_model: LanguageModel, scorer: ImageTextScorer, budget: int = DEFAULT_CACHE_BYTES
    ) -> None:
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
            raise BadSettings(f"cache_bytes must be a whole number of at least 0, found {budget!r}")
        self.language_model, self.scorer, self.budget = language_model, scorer, budget
        self.nbytes, self.stats = 0, CacheStats()
        self._prefixes: OrderedDict[Key, tuple[CachedPrefix, int]] = OrderedDict()
        self._lock = Lock()
        self._texts = scorer.incremental_text_encoder()

    def __len__(self) -> int:
        return len(self._prefixes)

    def __reduce__(self) -> tuple[type[PrefixCache], tuple[LanguageModel, ImageTextScorer, int]]:
        return PrefixCache, (self.language_model, self.scorer, self.budget)  # a copy begins empty

    def clear(self) -> None:
        """Forget all prefixes."""
        with self._lock:
            self._prefixes.clear()
            self.nbytes = 0

    def start(self, top_k: int) -> CachedPrefix:
        """Where every caption begins: the start token alone, with its ``top_k`` candidates."""
        return self.starts(top_k, None)[0]

    def starts(
        self, top_k: int, prompts: Tensor | None, ids: Sequence[int] = (), unscored: int = 0
    ) -> list[CachedPrefix]:
        """Where captions of a conditioned language model begin: one prefix a soft prompt.

        Args:
            prompts: (B, W) as :meth:`LanguageModel.start` takes them; None: one prefix without.
            ids: tokens that stand behind the start token.
            unscored: how many of these the scorer does not read.
        """
        count = min(top_k, self.language_model.vocabulary_size)
        numbers = [0] if prompts is None else [_number(prompt) for prompt in prompts]
        keys = [(count, number, unscored, self.language_model.start_id, *ids) for number in numbers]
        prefixes = {key: self._lookup(key) for key in keys}
        missing = {key: row for row, key in enumerate(keys) if prefixes[key] is None}
        if missing:
            new = None if prompts is None else prompts[list(missing.values())]
            states = self._states_from_start(new, ids)
            texts = [EncodedText()] * len(missing)
            made = self._made(list(missing), states, texts, new=1 + len(ids))
            prefixes.update(zip(missing, made, strict=True))
        return [prefix for key in keys if (prefix := prefixes[key]) is not None]

    def candidate_vectors(self, prefixes: Sequence[CachedPrefix]) -> Tensor:
        """(B, K, D) unit vectors of each prefix with each of its candidates."""
        missing = [prefix for prefix in dict.fromkeys(prefixes) if prefix.vectors is None]
        if missing:
            count = len(missing[0].candidates)
            ids = [prefix.scored_ids for prefix in missing]
            ids += [(*prefix.scored_ids, token) for prefix in missing for token in prefix.tokens]
            texts = self.language_model.texts(ids)
            captions, candidates = texts[: len(missing)], texts[len(missing) :]
            rows = [candidates[start : start + count] for start in range(0, len(candidates), count)]
            extension = self._texts.extend([prefix.text for prefix in missing], captions, rows)
            self._count(text_tokens=extension.tokens)
            for prefix, vectors, text, new in zip(
                missing, extension.vectors, extension.prefixes, extension.added, strict=True
            ):
                prefix.text, prefix.vectors = text, vectors.clone()
                self._enlarged(prefix, _bytes(prefix.vectors, *text.cache[len(text.cache) - new :]))
        return torch.stack([prefix.vectors for prefix in prefixes if prefix.vectors is not None])

    def degeneration(
        self, prefixes: Sequence[CachedPrefix], known: Tensor, wanted: Tensor
    ) -> tuple[Tensor, CandidateStates | None]:
        """How much candidates repeat their prefix.

        Args:
            known: (B, K) what the prefixes know of it.
            wanted: (B, K) true where it must be known.

        Returns:
            (B, K) largest cosines, NaN where unknown, and what the language model ran for them, if it did.
        """
        missing: dict[CachedPrefix, set[int]] = {}
        for row, column in (wanted & known.isnan()).nonzero().tolist():
            missing.setdefault(prefixes[row], set()).add(column)
        if not missing:
            return known, None
        width = _row_width(list(map(len, missing.values())))
        rows = [
            (prefix, row) for prefix, columns in missing.items() for row in _in_rows(sorted(columns), width)
        ]
        fresh = self._run(*zip(*rows, strict=True))
        cosines = max_cosine(fresh.extension.hidden, fresh.extension.prefixes.hidden)
        numbers = torch.tensor([row for _, row in rows], device=cosines.device)
        for (prefix, _), columns, values in zip(rows, numbers, cosines, strict=True):
            with self._lock:  # or another thread's cosines of other columns could be lost
                prefix.repetition = prefix.repetition.index_copy(0, columns, values)
        return torch.stack([prefix.repetition for prefix in prefixes]), fresh

    def extend(
        self, prefixes: Sequence[CachedPrefix], columns: Sequence[int], fresh: CandidateStates | None
    ) -> list[CachedPrefix]:
        """What each prefix becomes with one of its candidates.

        Args:
            fresh: what :meth:`degeneration` has just run, so that it need not be run again.
        """
        steps = list(zip(prefixes, columns, strict=True))
        keys = {step: (*step[0].key, step[0].tokens[step[1]]) for step in steps}
        extended = {step: self._lookup(key) for step, key in keys.items()}
        missing = [step for step, prefix in extended.items() if prefix is None]
        if missing:
            states = self._states(missing, fresh)
            made = self._made(
                [keys[step] for step in missing],
                [(*prefix.states, state) for (prefix, _), state in zip(missing, states, strict=True)],
                [prefix.text for prefix, _ in missing],
            )
            extended.update(zip(missing, made, strict=True))
        return [prefix for step in steps if (prefix := extended[step]) is not None]

    def _states_from_start(self, prompts: Tensor | None, ids: Sequence[int]) -> list[tuple[TokenState, ...]]:
        """The states of the start token and of those behind it: of one row, or of one a soft prompt."""
        prefixes = self.language_model.start(prompts)
        states: list[tuple[TokenState, ...]] = [(state,) for state in prefixes.last_states()]
        for token in ids:
            prefixes = self.language_model.append(prefixes, token)
            states = [(*row, state) for row, state in zip(states, prefixes.last_states(), strict=True)]
        self._count(language_tokens=len(states) * (1 + len(ids)))
        return states

    def _states(
        self, steps: Sequence[tuple[CachedPrefix, int]], fresh: CandidateStates | None
    ) -> list[TokenState]:
        """The language model's states of candidates; those that are not fresh are run again."""
        computed = {} if fresh is None else fresh.cells
        states: dict[tuple[CachedPrefix, int], TokenState] = {}
        if fresh is not None and (ready := [step for step in steps if step in computed]):
            states.update(zip(ready, fresh.states(ready), strict=True))
        if missing := [step for step in steps if step not in computed]:
            again = self._run([prefix for prefix, _ in missing], [[column] for _, column in missing])
            states.update(zip(missing, again.states(missing), strict=True))
        return [states[step] for step in steps]

    def _run(self, prefixes: Sequence[CachedPrefix], columns: Sequence[Sequence[int]]) -> CandidateStates:
        """Run candidates, as many of each prefix, side by side behind it."""
        batch = Prefixes.of([prefix.ids for prefix in prefixes], [prefix.states for prefix in prefixes])
        chosen = torch.tensor(columns, device=batch.ids.device)
        candidates = torch.stack([prefix.candidates for prefix in prefixes]).gather(1, chosen)
        self._count(language_tokens=candidates.numel())
        cells = {
            (prefix, column): (row, number)
            for row, (prefix, own_columns) in enumerate(zip(prefixes, columns, strict=True))
            for number, column in enumerate(own_columns)
        }
        return CandidateStates(self.language_model.extend(batch, candidates), cells)

    def _made(
        self,
        keys: Sequence[Key],
        states: Sequence[tuple[TokenState, ...]],
        texts: Sequence[EncodedText],
        new: int = 1,
    ) -> list[CachedPrefix]:
        """New prefixes, all with as many candidates; the output head runs for these alone.

        Args:
            new: of how many of its last tokens each has states that it does not share with shorter prefixes.
        """
        last = torch.stack([row[-1].last for row in states])
        values, columns = topk(self.language_model.probabilities(last), keys[0][0])
        unknown, ids_of_candidates = torch.full_like(values, torch.nan), columns.tolist()
        self._count(prefixes_made=len(keys))
        prefixes = []
        for row, (key, tokens, text) in enumerate(zip(keys, states, texts, strict=True)):
            _, prompt, unscored, *ids = key
            candidates, probabilities = columns[row].clone(), values[row].clone()
            repetition = unknown[row].clone()
            own = tuple(ids_of_candidates[row])
            prefix = CachedPrefix(
                tuple(ids), tokens, candidates, own, probabilities, repetition, text, prompt, unscored
            )
            prefixes.append(prefix)
            states_of_its_own = [
                tensor for token in tokens[-new:] for tensor in (token.hidden, token.last, token.cache)
            ]
            self._keep(prefix, _bytes(*states_of_its_own, candidates, probabilities, repetition))
        return prefixes

    def _lookup(self, key: Key) -> CachedPrefix | None:
        with self._lock:
            if key not in self._prefixes:
                return None
            self._prefixes.move_to_end(key)
            self.stats.prefixes_found += 1
            return self._prefixes[key][0]

    def _keep(self, prefix: CachedPrefix, size: int) -> None:
        if prefix.prompt:  # no other picture comes to it; kept, it would only push out what all share
            return
        with self._lock:
            _, before = self._prefixes.pop(prefix.key, (None, 0))  # another thread may have made it too
            self._prefixes[prefix.key] = prefix, size
            self.nbytes += size - before
            self._evict()

    def _enlarged(self, prefix: CachedPrefix, size: int) -> None:
        """A prefix that is still kept has become so many bytes larger."""
        with self._lock:
            kept, before = self._prefixes.get(prefix.key, (None, 0))
            if kept is prefix:
                self._prefixes[prefix.key] = prefix, before + size
                self.nbytes += size
                self._evict()

    def _evict(self) -> None:
        while self._prefixes and self.nbytes > self.budget:
            _, (_, size) = self._prefixes.popitem(last=False)
            self.nbytes -= size
            self.stats.prefixes_evicted += 1

    def _count(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                setattr(self.stats, name, getattr(self.stats, name) + count)


def max_cosine(candidates: Tensor, prefix: Tensor) -> Tensor:
    """(B, N) largest cosine of each candidate's hidden state with those of its prefix.

    Args:
        candidates: (B, N, D) unit vectors.
        prefix: (B, T, D) unit vectors of every position, the start token's included.
    """
    return (candidates @ prefix.transpose(1, 2)).max(dim=2).values


def _row_width(counts: Sequence[int]) -> int:
    """How many candidates to run in a row, so that least is run if some prefixes lack many and others few.

    A row costs its width, filled or not, and about one token more for the prefix that is copied for it.
    """

    def cost(width: int) -> int:
        return sum(-(-count // width) for count in counts) * (width + 1)

    return min(set(counts), key=cost)


def _in_rows(columns: Sequence[int], width: int) -> list[list[int]]:
    """Rows of equal width, the last filled up with what it begins with."""
    rows = [list(columns[start : start + width]) for start in range(0, len(columns), width)]
    rows[-1] += rows[-1][:1] * (width - len(rows[-1]))
    return rows


def _number(prompt: Tensor) -> int:
    """By which a prompt (W,) is known; never 0."""
    # Rounded: beside other pictures a picture's prompt differs in its last digits.
    digits = (prompt.float() * 1024).round().int().cpu().numpy()
    digest = hashlib.blake2b(digits.tobytes(), digest_size=7)
    return 1 + int.from_bytes(digest.digest(), "big")


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)
