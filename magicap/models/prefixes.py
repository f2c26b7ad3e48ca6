"""Prefixes that a language model has run: their hidden states, keys and values, and their continuations.

Shapes: B prefixes, K candidates, N of them chosen, T tokens of a prefix, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.models.token_cache import KeysAndValues, gather_states, stack_states


@dataclass(frozen=True)
class TokenState:
    """What the model keeps of one token behind those before it.

    A prefix is a tuple of these, and a longer one begins with the very same: nothing is copied to grow one.
    """

    hidden: Tensor
    """(D,) last hidden state as a unit vector."""

    last: Tensor
    """(D,) last hidden state as the output head reads it."""

    cache: Tensor
    """(layers, 2, heads, D / heads) its key and value in every layer."""


@dataclass(frozen=True)
class Prefixes:
    """B prefixes of equal length, run by the model."""

    ids: Tensor
    """(B, T) token ids, the start token first."""

    hidden: Tensor
    """(B, T, D) last hidden states as unit vectors."""

    last: Tensor
    """(B, D) last hidden states of the last tokens, as the output head reads them."""

    cache: tuple[KeysAndValues, ...]
    """Keys and values of every layer, each (B, heads, T, D / heads)."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], states: Sequence[Sequence[TokenState]]) -> Prefixes:
        """B prefixes of equal length from their tokens' ids and states."""
        hidden = torch.stack([token.hidden for row in states for token in row])
        return cls(
            torch.tensor(ids, device=hidden.device),
            hidden.unflatten(0, (len(states), -1)),
            torch.stack([row[-1].last for row in states]),
            stack_states([[token.cache for token in row] for row in states]),
        )

    def select(self, rows: Tensor) -> Prefixes:
        """The prefixes of the given rows, (N,) indices."""
        return Prefixes(
            self.ids[rows],
            self.hidden[rows],
            self.last[rows],
            tuple((keys[rows], values[rows]) for keys, values in self.cache),
        )

    def last_states(self) -> list[TokenState]:
        """The state of each row's last token."""
        rows = torch.arange(len(self.ids), device=self.ids.device)
        return _token_states(
            self.last, gather_states(self.cache, rows, torch.full_like(rows, self.ids.shape[1] - 1))
        )


@dataclass(frozen=True)
class Extension:
    """K one-token continuations of each of B prefixes, before one is chosen."""

    prefixes: Prefixes
    candidates: Tensor
    """(B, K) token ids."""

    raw_hidden: Tensor
    """(B, K, D) last hidden state at each candidate, as the output head reads it."""

    cache: tuple[KeysAndValues, ...]
    """As in :class:`Prefixes`, with the K candidates side by side behind the prefix."""

    @property
    def hidden(self) -> Tensor:
        """(B, K, D) unit vectors."""
        return F.normalize(self.raw_hidden.float(), dim=-1)

    def states(self, rows: Tensor, columns: Tensor) -> list[TokenState]:
        """The states of N candidates, given by (N,) rows and (N,) columns."""
        cache = gather_states(self.cache, rows, self.prefixes.ids.shape[1] + columns)
        return _token_states(self.raw_hidden[rows, columns], cache)


def _token_states(last: Tensor, cache: Sequence[Tensor]) -> list[TokenState]:
    """States of N tokens, none of which keeps the others' memory alive.

    Args:
        last: (N, D) last hidden states.
        cache: N keys and values.
    """
    hidden = F.normalize(last.float(), dim=-1)
    return [
        TokenState(unit.clone(), raw.clone(), keys_and_values)
        for unit, raw, keys_and_values in zip(hidden, last, cache, strict=True)
    ]
