"""One caption of the supervised baseline, tensor by tensor: what the decoder reads and gives at each word.

    python eval/walk_baseline.py --image docs/sample.jpg

Prints two Markdown tables: what is computed once of a picture, and what the decoder computes at each of the
first words of the caption that the captioner's own decoding finds. A vector is written as its shape, its norm
and its first three values; a location as row and column of the grid, from 0 at the top left. Only a decoder
with attention and an LSTM (``soft``, ``hard``) has these tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import HfArgumentParser

from magicap.captioners.presets import DEFAULT_SUPERVISED
from magicap.captioners.supervised import SupervisedCaptioner
from magicap.checks import require_int
from magicap.errors import BadSettings, MagicapError
from magicap.supervised.network import CaptionNetwork
from magicap.supervised.recurrent import ShowAttendTell
from magicap.supervised.search import log_probabilities
from magicap.supervised.vocabulary import START

BEST = 3
"""How many locations and words are shown."""


@dataclass(frozen=True)
class Config:
    image: str = field(metadata={"help": "the picture"})
    preset: str = field(default=DEFAULT_SUPERVISED, metadata={"help": "a preset or a captioner's folder"})
    words: int = field(default=3, metadata={"help": "how many words of the caption are shown"})

    def __post_init__(self) -> None:
        require_int("--words", self.words)


@dataclass(frozen=True)
class WordStep:
    """One step of the decoder for one caption; E width of a word, H of the state, V words."""

    read: str
    """The word that was read."""

    embedding: Tensor
    """(E,) of that word."""

    attention: Tensor
    """(h, w) over the grid, summing to 1."""

    gate: float
    """How much the picture counts, 0 to 1."""

    context: Tensor
    """(H,) mean of the projected locations, weighted by attention, times the gate."""

    h: Tensor
    """(H,) hidden state behind this word."""

    c: Tensor
    """(H,) cell state behind this word."""

    logits: Tensor
    """(V,) of the next word."""

    written: int
    """The next word of the caption."""


def main(config: Config) -> None:
    captioner = SupervisedCaptioner.from_pretrained(config.preset, device="cpu")
    network = captioner.network
    if not isinstance(network.decoder, ShowAttendTell):
        kind = network.decoder.config.kind
        raise BadSettings(f"{config.preset}: expected a decoder of kind soft or hard, found {kind!r}")
    caption = captioner.caption(config.image)
    with torch.no_grad():
        pixels = network.encoder.pixels(config.image)[None]
        grid = network(pixels)
        print(f"Caption: {caption}\n")
        print_start(network.decoder, pixels, grid)
        ids = [step.token_id for step in caption.steps][: config.words]
        print_words(list(word_steps(network, network.decoder, grid, ids)), network)


def word_steps(
    network: CaptionNetwork, decoder: ShowAttendTell, grid: Tensor, ids: list[int]
) -> Iterator[WordStep]:
    """The steps that read the start token, then all of ``ids`` but the last; each predicts one of ``ids``."""
    encoder_output = decoder.encode(grid)
    state = decoder.start(encoder_output, 1)
    for read, written in zip([START, *ids], ids, strict=False):
        prediction = decoder.step(encoder_output, state, torch.tensor([[read]]))
        attention, weights, gate = prediction.attention, prediction.context_weights, prediction.gate
        assert attention is not None  # which every ShowAttendTell gives, like the next two
        assert weights is not None
        assert gate is not None
        state = prediction.state
        yield WordStep(
            network.vocabulary.entries[read],
            decoder.words.weight[read],
            attention[0, 0].unflatten(0, network.encoder.extent),
            float(gate),
            (gate[..., None] * (weights @ encoder_output[0]))[0, 0],
            state[0][0, 0],
            state[1][0, 0],
            prediction.logits[0, 0],
            written,
        )


def print_start(decoder: ShowAttendTell, pixels: Tensor, grid: Tensor) -> None:
    """What is computed once of the picture."""
    locations, keys = decoder.encode(grid)
    h, c = decoder.start((locations, keys), 1)
    print("| once a picture | shape | norm | first three values |\n|---|---|--:|---|")
    print(f"| pixels, bytes | {shape(pixels)} | | {', '.join(str(int(v)) for v in pixels.flatten()[:3])} |")
    for name, tensor in {"grid": grid, "projected grid": locations, "keys": keys}.items():
        at_first = tensor[0, 0]
        print(
            f"| {name}; of its first location | {shape(tensor)} | {at_first.norm():.2f} | {first(at_first)} |"
        )
    for name, tensor in {"initial h": h, "initial c": c}.items():
        print(f"| {name} | {shape(tensor)} | {tensor.norm():.2f} | {first(tensor.flatten())} |")


def print_words(steps: list[WordStep], network: CaptionNetwork) -> None:
    """A column a word."""
    entries = network.vocabulary.entries
    rows = {
        "input word": [f"`{step.read}`" for step in steps],
        "its embedding": [vector(step.embedding) for step in steps],
        "attention": [attended(step.attention) for step in steps],
        "gate": [f"{step.gate:.3f}" for step in steps],
        "context vector": [vector(step.context) for step in steps],
        "h": [vector(step.h) for step in steps],
        "c": [vector(step.c) for step in steps],
        "logits": [f"{shape(step.logits)}; best {best_words(step.logits, entries)}" for step in steps],
        "output word": [f"`{entries[step.written]}`" for step in steps],
    }
    print("\n| | " + " | ".join(f"word {number + 1}" for number in range(len(steps))) + " |")
    print("|---" * (len(steps) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def best_words(logits: Tensor, entries: list[str]) -> str:
    """The likeliest words, each with its logit and its probability among those that a caption may have."""
    log_p, best = log_probabilities(logits).topk(BEST)
    return ", ".join(
        f"`{entries[word]}` {logits[word]:.2f} ({100 * p:.1f} %)"
        for word, p in zip(best.tolist(), log_p.exp().tolist(), strict=True)
    )


def attended(attention: Tensor) -> str:
    """Shape, and the largest weights with row and column."""
    weights, places = attention.flatten().topk(min(BEST, attention.numel()))
    width = attention.shape[1]
    largest = [
        f"{weight:.3f} at ({place // width}, {place % width})"
        for weight, place in zip(weights.tolist(), places.tolist(), strict=True)
    ]
    return f"{shape(attention)}; largest {', '.join(largest)}"


def vector(tensor: Tensor) -> str:
    return f"{shape(tensor)}; norm {tensor.norm():.2f}; {first(tensor)}"


def shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def first(tensor: Tensor) -> str:
    return ", ".join(f"{value:.3f}" for value in tensor[:3].tolist()) + ", …"


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"walk_baseline.py: {error}")
