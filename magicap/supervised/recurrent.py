"""LSTM decoders: Show and Tell (Vinyals et al. 2015) and Show, Attend and Tell (Xu et al. 2015).

Shapes as in :mod:`magicap.supervised.decoder`; H is the width of the hidden state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from magicap.models.weight_names import keep_weight_names
from magicap.supervised.decoder import Decoder, DecoderConfig, Prediction, Tensors
from magicap.supervised.vocabulary import PAD


class ShowAndTell(Decoder):
    """No attention: the mean of the grid is the LSTM's first input, and all it sees of the picture."""

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.image_projection = nn.Linear(features, config.embedding)
        self.words = nn.Embedding(vocabulary, config.embedding, padding_idx=PAD)
        self.cell = nn.LSTMCell(config.embedding, config.width)
        self.output = nn.Linear(config.width, vocabulary)
        self.dropout = nn.Dropout(config.dropout)
        keep_weight_names(self, {"image_projection": "picture"})

    def encode(self, grid: Tensor) -> Tensors:
        """(B, E) the projected mean of the grid."""
        return (self.image_projection(self.dropout(grid.mean(dim=1))),)

    def start(self, encoder_output: Tensors, captions: int) -> Tensors:
        """Hidden and cell state (B, C, H) after the picture as the first input."""
        h, c = self.cell(encoder_output[0])
        return h[:, None].expand(-1, captions, -1), c[:, None].expand(-1, captions, -1)

    def step(self, encoder_output: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        """As of :class:`magicap.supervised.decoder.Decoder`; the prediction has no attention."""
        state = _advance(self.cell, self.dropout(self.words(ids)), state)
        return Prediction(self.output(self.dropout(state[0])), state)


class ShowAttendTell(Decoder):
    """At every word the LSTM attends to the grid: a weighted mean of its locations (soft attention).

    A selector gate says how much the picture counts, and the word is predicted from state, context and the
    word before (deep output, Xu et al. 2015, eq. 7).
    """

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        H, E = config.width, config.embedding
        self.project = nn.Sequential(nn.Linear(features, H), nn.LayerNorm(H))
        self.initial = nn.Linear(H, 2 * H)
        self.words = nn.Embedding(vocabulary, E, padding_idx=PAD)
        self.key = nn.Linear(H, config.attention)
        self.query = nn.Linear(H, config.attention, bias=False)
        self.energy = nn.Linear(config.attention, 1, bias=False)
        self.selector = nn.Linear(H, 1)
        self.cell = nn.LSTMCell(E + H, H)
        self.state_to_output = nn.Linear(H, E)
        self.context_to_output = nn.Linear(H, E, bias=False)
        self.output = nn.Linear(E, vocabulary)
        self.dropout = nn.Dropout(config.dropout)
        keep_weight_names(
            self,
            {
                "project": "annotate",
                "key": "place",
                "state_to_output": "told_by_state",
                "context_to_output": "told_by_context",
            },
        )

    def encode(self, grid: Tensor) -> Tensors:
        """Projected locations (B, L, H) and their attention keys (B, L, A)."""
        locations = self.project(self.dropout(grid))
        return locations, self.key(locations)

    def start(self, encoder_output: Tensors, captions: int) -> Tensors:
        """Hidden and cell state (B, C, H), computed from the mean location."""
        h, c = self.initial(encoder_output[0].mean(dim=1)).tanh().chunk(2, dim=-1)
        return h[:, None].expand(-1, captions, -1), c[:, None].expand(-1, captions, -1)

    def step(self, encoder_output: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        """As of :class:`magicap.supervised.decoder.Decoder`; attention uses the state before the word."""
        locations, keys = encoder_output
        h = state[0]
        scores = self.energy((keys[:, None] + self.query(h)[:, :, None]).tanh())
        attention = scores.squeeze(-1).softmax(dim=-1)
        context_weights = self.context_weights(attention)
        gate = self.selector(h).sigmoid()
        context = gate * (context_weights @ locations)
        word = self.dropout(self.words(ids))
        state = _advance(self.cell, torch.cat([word, context], dim=-1), state)
        hidden = word + self.state_to_output(self.dropout(state[0])) + self.context_to_output(context)
        logits = self.output(self.dropout(hidden))
        return Prediction(logits, state, attention, context_weights, gate.squeeze(-1))

    def context_weights(self, attention: Tensor) -> Tensor:
        """(..., L) weights of locations in the context: the attention (Xu et al. 2015, eq. 13)."""
        return attention


class HardAttention(ShowAttendTell):
    """Attends to one location a word: sampled while learning, else the likeliest (Xu et al. 2015, 4.1).

    Half of the words have soft attention while learning, as with the authors, to keep the variance down.
    """

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        super().__init__(config, features, vocabulary)
        # The moving average of the captions' log-likelihood; NaN before the first step.
        self.register_buffer("baseline", torch.tensor(torch.nan))
        self.baseline: Tensor

    def move_baseline(self, log_likelihood: Tensor) -> Tensor:
        """Take a batch's mean log-likelihood a word into the moving average (its weight is a tenth)."""
        has_begun = not self.baseline.isnan()
        self.baseline = torch.lerp(self.baseline, log_likelihood, 0.1) if has_begun else log_likelihood
        return self.baseline

    def context_weights(self, attention: Tensor) -> Tensor:
        """(..., L) a one at the likeliest location; while learning at a sampled one, or soft."""
        if not self.training:
            return _one_hot(attention.argmax(dim=-1), attention)
        flat = attention.detach().flatten(0, -2)
        sampled = _one_hot(torch.multinomial(flat, 1).view(attention.shape[:-1]), attention)
        soft = torch.rand(attention.shape[:-1], device=attention.device) < 0.5
        return torch.where(soft[..., None], attention, sampled)


def _one_hot(locations: Tensor, like: Tensor) -> Tensor:
    """(..., L) of location numbers (...), in the shape and type of ``like``."""
    return torch.zeros_like(like).scatter(-1, locations[..., None], 1.0)


def _advance(cell: nn.LSTMCell, inputs: Tensor, state: Tensors) -> Tensors:
    """One step of the LSTM for all captions (B, C, ...) of all pictures."""
    shape = inputs.shape[:2]
    h, c = (tensor.reshape(-1, tensor.shape[-1]) for tensor in state)
    h, c = cell(inputs.flatten(0, 1), (h, c))
    return h.unflatten(0, shape), c.unflatten(0, shape)
