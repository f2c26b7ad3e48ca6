"""What is true of a prefix whatever the picture: computed once for all pictures and calls of a captioner.

Neither the language model nor the scorer's text tower sees the picture. So the next tokens that compete
behind a prefix, how much each would repeat, and the vectors of the texts are functions of the prefix alone,
and every caption begins at the same node. What a language model is told of a picture belongs to the prefix:
captions of prompted models begin at a node for each prompt.

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
from magicap.models.language_model import Extension, LanguageModel, Prefixes, TokenState

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer

DEFAULT_CACHE_BYTES = 2**29
"""How much a captioner keeps of prefixes between calls."""

Key = tuple[int, ...]
"""The number of candidates, the prompt's number, then the prefix's token ids."""


@dataclass(eq=False)
class Node:
    """A prefix, and its K candidates by falling probability."""

    ids: tuple[int, ...]
    """Token ids, the start token first."""

    states: tuple[TokenState, ...]
    """What the language model keeps of each token."""

    candidates: Tensor
    """(K,) token ids."""

    probabilities: Tensor
    """(K,) of the candidates."""

    repetition: Tensor
    """(K,) largest cosine of each candidate's hidden state with those of the prefix; NaN: not asked for."""

    text: EncodedText
    """What the scorer knows of the prefix, or of one before it until the vectors are asked for."""

    prompt: int = 0
    """Number of what the language model was told; 0: nothing."""

    vectors: Tensor | None = None
    """(K, D) unit vectors of the prefix with each candidate; None: not asked for yet."""

    @property
    def key(self) -> Key:
        """What it is found by."""
        return len(self.candidates), self.prompt, *self.ids


@dataclass(frozen=True)
class CandidateStates:
    """Candidates that the language model has just run over, before any is chosen."""

    extension: Extension
    places: Mapping[tuple[Node, int], tuple[int, int]]
    """Row and column in the extension, by node and candidate."""

    def states(self, chosen: Sequence[tuple[Node, int]]) -> list[TokenState]:
        """The states of some of them."""
        places = torch.tensor([self.places[each] for each in chosen], device=self.extension.raw_hidden.device)
        return self.extension.states(*places.unbind(dim=1))


@dataclass
class Work:
    """What has been computed, and what was there already."""

    language_tokens: int = 0
    """Tokens that the language model has run over."""

    text_tokens: int = 0
    """Tokens that the scorer's text tower has run over."""

    nodes_made: int = 0
    """Prefixes whose candidates were computed."""

    nodes_found: int = 0
    """Prefixes that were there when captions came to them, counted once a step."""

    nodes_evicted: int = 0
    """Prefixes that were given up to keep to the budget."""

    @property
    def hit_rate(self) -> float:
        """Share of prefixes that were there already."""
        return self.nodes_found / max(1, self.nodes_found + self.nodes_made)


class PrefixCache:
    """Two models, and prefixes of captions by their tokens; beyond a budget the least recently used go.

    Threads may share one: what two of them ask for at the same time may be computed twice, never wrongly.

    Attributes:
        language_model, scorer: the two models. Once their weights have changed, :meth:`clear` the trie.
        budget: bytes to keep; 0 keeps nothing beyond the search that asked for it.
        nbytes: bytes that are kept.
        work: what has been computed since the trie was made.
    """

    def __init__(
        self, language_model: LanguageModel, scorer: ImageTextScorer, budget: int = DEFAULT_CACHE_BYTES
    ) -> None:
        """
        Raises:
            BadSettings: the budget is no whole number of at least 0.
        """
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
            raise BadSettings(f"cache_bytes must be a whole number of at least 0, found {budget!r}")
        self.language_model, self.scorer, self.budget = language_model, scorer, budget
        self.nbytes, self.work = 0, Work()
        self._nodes: OrderedDict[Key, tuple[Node, int]] = OrderedDict()
        self._lock = Lock()
        self._texts = scorer.incremental_text_encoder()

    def __len__(self) -> int:
        return len(self._nodes)

    def __reduce__(self) -> tuple[type[PrefixCache], tuple[LanguageModel, ImageTextScorer, int]]:
        return PrefixCache, (self.language_model, self.scorer, self.budget)  # a copy begins empty

    def clear(self) -> None:
        """Forget all prefixes."""
        with self._lock:
            self._nodes.clear()
            self.nbytes = 0

    def root(self, top_k: int) -> Node:
        """Where every caption begins: the start token alone, with its ``top_k`` candidates."""
        return self.roots(top_k, None)[0]

    def roots(self, top_k: int, prompts: Tensor | None) -> list[Node]:
        """Where captions begin whose language model is told something: one node a prompt.

        Args:
            prompts: (B, W) as :meth:`LanguageModel.start` takes them; None: one node that is told nothing.
        """
        count = min(top_k, self.language_model.vocabulary_size)
        numbers = [0] if prompts is None else [_number(prompt) for prompt in prompts]
        keys = [(count, number, self.language_model.start_id) for number in numbers]
        nodes = {key: self._found(key) for key in keys}
        missing = {key: row for row, key in enumerate(keys) if nodes[key] is None}
        if missing:
            told = None if prompts is None else prompts[list(missing.values())]
            states = [(state,) for state in self.language_model.start(told).last_states()]
            self._count(language_tokens=len(missing))
            nodes.update(
                zip(missing, self._made(list(missing), states, [EncodedText()] * len(missing)), strict=True)
            )
        return [node for key in keys if (node := nodes[key]) is not None]

    def look(self, nodes: Sequence[Node]) -> Tensor:
        """(B, K, D) unit vectors of each prefix with each of its candidates."""
        missing = [node for node in dict.fromkeys(nodes) if node.vectors is None]
        if missing:
            count = len(missing[0].candidates)
            ids = [node.ids for node in missing]
            ids += [(*node.ids, token) for node in missing for token in node.candidates.tolist()]
            texts = self.language_model.texts(ids)
            captions, candidates = texts[: len(missing)], texts[len(missing) :]
            rows = [candidates[start : start + count] for start in range(0, len(candidates), count)]
            extension = self._texts.extend([node.text for node in missing], captions, rows)
            self._count(text_tokens=extension.tokens)
            for node, vectors, text, new in zip(
                missing, extension.vectors, extension.prefixes, extension.added, strict=True
            ):
                node.text, node.vectors = text, vectors.clone()
                self._grown(node, _bytes(node.vectors, *text.cache[len(text.cache) - new :]))
        return torch.stack([node.vectors for node in nodes if node.vectors is not None])

    def weigh(
        self, nodes: Sequence[Node], known: Tensor, wanted: Tensor
    ) -> tuple[Tensor, CandidateStates | None]:
        """How much candidates repeat their prefix.

        Args:
            known: (B, K) what the nodes know of it.
            wanted: (B, K) true where it must be known.

        Returns:
            (B, K) largest cosines, NaN where unknown, and what the language model ran for them, if it did.
        """
        asked: dict[Node, set[int]] = {}
        for row, column in (wanted & known.isnan()).nonzero().tolist():
            asked.setdefault(nodes[row], set()).add(column)
        if not asked:
            return known, None
        width = _row_width(list(map(len, asked.values())))
        rows = [(node, row) for node, each in asked.items() for row in _in_rows(sorted(each), width)]
        fresh = self._run(*zip(*rows, strict=True))
        found = repetition(fresh.extension.hidden, fresh.extension.prefixes.hidden)
        for (node, row), values in zip(rows, found, strict=True):
            node.repetition = node.repetition.index_copy(0, torch.tensor(row, device=values.device), values)
        return torch.stack([node.repetition for node in nodes]), fresh

    def grow(
        self, nodes: Sequence[Node], columns: Sequence[int], fresh: CandidateStates | None
    ) -> list[Node]:
        """What each prefix becomes with one of its candidates.

        Args:
            fresh: what :meth:`weigh` has just run, so that it need not be run again.
        """
        steps = list(zip(nodes, columns, strict=True))
        keys = {step: (*step[0].key, int(step[0].candidates[step[1]])) for step in steps}
        grown = {step: self._found(key) for step, key in keys.items()}
        missing = [step for step, node in grown.items() if node is None]
        if missing:
            states = self._states(missing, fresh)
            made = self._made(
                [keys[step] for step in missing],
                [(*node.states, state) for (node, _), state in zip(missing, states, strict=True)],
                [node.text for node, _ in missing],
            )
            grown.update(zip(missing, made, strict=True))
        return [node for step in steps if (node := grown[step]) is not None]

    def _states(self, steps: Sequence[tuple[Node, int]], fresh: CandidateStates | None) -> list[TokenState]:
        """The language model's states of candidates; those that are not fresh are run again."""
        ready = {} if fresh is None else fresh.places
        states: dict[tuple[Node, int], TokenState] = {}
        if fresh is not None and (there := [step for step in steps if step in ready]):
            states.update(zip(there, fresh.states(there), strict=True))
        if stale := [step for step in steps if step not in ready]:
            again = self._run([node for node, _ in stale], [[column] for _, column in stale])
            states.update(zip(stale, again.states(stale), strict=True))
        return [states[step] for step in steps]

    def _run(self, nodes: Sequence[Node], columns: Sequence[Sequence[int]]) -> CandidateStates:
        """Run candidates, as many of each node, side by side behind it."""
        prefixes = Prefixes.of([node.ids for node in nodes], [node.states for node in nodes])
        chosen = torch.tensor(columns, device=prefixes.ids.device)
        candidates = torch.stack([node.candidates for node in nodes]).gather(1, chosen)
        self._count(language_tokens=candidates.numel())
        places = {
            (node, column): (row, place)
            for row, (node, each) in enumerate(zip(nodes, columns, strict=True))
            for place, column in enumerate(each)
        }
        return CandidateStates(self.language_model.extend(prefixes, candidates), places)

    def _made(
        self, keys: Sequence[Key], states: Sequence[tuple[TokenState, ...]], texts: Sequence[EncodedText]
    ) -> list[Node]:
        """New nodes, all with as many candidates; the output head runs for these alone."""
        last = torch.stack([row[-1].last for row in states])
        top = self.language_model.probabilities(last).topk(keys[0][0], dim=1)
        unknown = torch.full_like(top.values, torch.nan)
        self._count(nodes_made=len(keys))
        nodes = []
        for row, ((_, prompt, *ids), own, text) in enumerate(zip(keys, states, texts, strict=True)):
            candidates, probabilities = top.indices[row].clone(), top.values[row].clone()
            node = Node(tuple(ids), own, candidates, probabilities, unknown[row].clone(), text, prompt)
            nodes.append(node)
            token = own[-1]
            kept = token.hidden, token.last, token.cache, candidates, probabilities, node.repetition
            self._keep(node, _bytes(*kept))
        return nodes

    def _found(self, key: Key) -> Node | None:
        with self._lock:
            if key not in self._nodes:
                return None
            self._nodes.move_to_end(key)
            self.work.nodes_found += 1
            return self._nodes[key][0]

    def _keep(self, node: Node, size: int) -> None:
        with self._lock:
            _, before = self._nodes.pop(node.key, (None, 0))  # another thread may have made it too
            self._nodes[node.key] = node, size
            self.nbytes += size - before
            self._evict()

    def _grown(self, node: Node, size: int) -> None:
        """A node that is still kept has become so many bytes larger."""
        with self._lock:
            kept, before = self._nodes.get(node.key, (None, 0))
            if kept is node:
                self._nodes[node.key] = node, before + size
                self.nbytes += size
                self._evict()

    def _evict(self) -> None:
        while self._nodes and self.nbytes > self.budget:
            _, (_, size) = self._nodes.popitem(last=False)
            self.nbytes -= size
            self.work.nodes_evicted += 1

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                setattr(self.work, name, getattr(self.work, name) + count)


def repetition(candidates: Tensor, prefix: Tensor) -> Tensor:
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
