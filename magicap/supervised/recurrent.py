"""LSTM decoders: Show and Tell (Vinyals et al. 2015) and Show, Attend and Tell (Xu et al. 2015).

Shapes as in :mod:`magicap.supervised.decoder`; H is the width of the hidden state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from magicap.supervised.decoder import Decoder, DecoderConfig, Prediction, Tensors
from magicap.supervised.vocabulary import PAD


class ShowAndTell(Decoder):
    """No attention: the mean of the grid is the first thing the LSTM reads, and it never looks again."""

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.picture = nn.Linear(features, config.embedding)
        self.words = nn.Embedding(vocabulary, config.embedding, padding_idx=PAD)
        self.cell = nn.LSTMCell(config.embedding, config.width)
        self.output = nn.Linear(config.width, vocabulary)
        self.dropout = nn.Dropout(config.dropout)

    def look(self, grid: Tensor) -> Tensors:
        return (self.picture(self.dropout(grid.mean(dim=1))),)

    def start(self, memory: Tensors, captions: int) -> Tensors:
        h, c = self.cell(memory[0])
        return tuple(each[:, None].expand(-1, captions, -1) for each in (h, c))

    def step(self, memory: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        state = _advance(self.cell, self.dropout(self.words(ids)), state)
        return Prediction(self.output(self.dropout(state[0])), state)


class ShowAttendTell(Decoder):
    """At every word the LSTM looks at the grid: a weighted mean of its places (soft attention).

    A selector gate says how much the picture counts, and the word is told by state, context and the word
    before (deep output, Xu et al. 2015, eq. 7).
    """

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        H, E = config.width, config.embedding
        self.annotate = nn.Sequential(nn.Linear(features, H), nn.LayerNorm(H))
        self.initial = nn.Linear(H, 2 * H)
        self.words = nn.Embedding(vocabulary, E, padding_idx=PAD)
        self.place = nn.Linear(H, config.attention)
        self.query = nn.Linear(H, config.attention, bias=False)
        self.energy = nn.Linear(config.attention, 1, bias=False)
        self.selector = nn.Linear(H, 1)
        self.cell = nn.LSTMCell(E + H, H)
        self.told_by_state = nn.Linear(H, E)
        self.told_by_context = nn.Linear(H, E, bias=False)
        self.output = nn.Linear(E, vocabulary)
        self.dropout = nn.Dropout(config.dropout)

    def look(self, grid: Tensor) -> Tensors:
        places = self.annotate(self.dropout(grid))
        return places, self.place(places)

    def start(self, memory: Tensors, captions: int) -> Tensors:
        h, c = self.initial(memory[0].mean(dim=1)).tanh().chunk(2, dim=-1)
        return tuple(each[:, None].expand(-1, captions, -1) for each in (h, c))

    def step(self, memory: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        places, keys = memory
        h = state[0]
        meeting = (keys[:, None] + self.query(h)[:, :, None]).tanh()
        attention = self.energy(meeting).squeeze(-1).softmax(dim=-1)
        looked = self.weigh(attention)
        gate = self.selector(h).sigmoid()
        context = gate * (looked @ places)
        word = self.dropout(self.words(ids))
        state = _advance(self.cell, torch.cat([word, context], dim=-1), state)
        told = word + self.told_by_state(self.dropout(state[0])) + self.told_by_context(context)
        return Prediction(self.output(self.dropout(told)), state, attention, looked, gate.squeeze(-1))

    def weigh(self, attention: Tensor) -> Tensor:
        """How places (..., L) are weighed that matter so much: just so (Xu et al. 2015, eq. 13)."""
        return attention


class HardAttention(ShowAttendTell):
    """Looks at one place a word: drawn while learning, the likeliest otherwise (Xu et al. 2015, section 4.1).

    Half of the captions are weighed softly while learning, as the authors do to keep the variance down.
    """

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        super().__init__(config, features, vocabulary)
        # The moving average of the captions' log-likelihood; NaN before the first step.
        self.register_buffer("baseline", torch.tensor(torch.nan))
        self.baseline: Tensor

    def move_baseline(self, log_likelihood: Tensor) -> Tensor:
        """Take a batch's mean log-likelihood a word into the moving average (its weight is a tenth)."""
        begun = not self.baseline.isnan()
        self.baseline = torch.lerp(self.baseline, log_likelihood, 0.1) if begun else log_likelihood
        return self.baseline

    def weigh(self, attention: Tensor) -> Tensor:
        if not self.training:
            return _one_hot(attention.argmax(dim=-1), attention)
        flat = attention.detach().flatten(0, -2)
        drawn = _one_hot(torch.multinomial(flat, 1).view(attention.shape[:-1]), attention)
        soft = torch.rand(attention.shape[:-1], device=attention.device) < 0.5
        return torch.where(soft[..., None], attention, drawn)


def _one_hot(places: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter(-1, places[..., None], 1.0)


def _advance(cell: nn.LSTMCell, read: Tensor, state: Tensors) -> Tensors:
    """One step of the LSTM for all captions of all pictures."""
    captions = read.shape[:2]
    h, c = (each.reshape(-1, each.shape[-1]) for each in state)
    h, c = cell(read.flatten(0, 1), (h, c))
    return h.unflatten(0, captions), c.unflatten(0, captions)
