"""How long a captioner takes to build, and how much disk: estimates, by counting weights and words.

Operations: 6 a weight and token in training, 2 in a forward pass (Kaplan et al. 2020, arXiv 2001.08361), at
an assumed rate of the device. Bytes: of weights, of Adam's two moments, and of vectors, as they are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import open_clip
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from magicap.decoding.settings import BeamMagicSearch
from magicap.evaluation.tables import aligned
from magicap.models.loading import explain_loading_errors

if TYPE_CHECKING:
    from build_strong import Config

TRAINING, FORWARD = 6, 2
"""Operations a weight and token."""

CHECKPOINTED = 4 * (1 + 2) * 2 + 4
"""Bytes a weight of a run that trains: weights and two moments, twice while a checkpoint is replaced, and the
best weights."""

STORED = 2
"""Bytes a weight in a captioner's folder."""

FETCHED = 4
"""Bytes a weight in the hub's cache; some repositories hold fewer."""


@dataclass(frozen=True)
class Shape:
    """The size of a language model and a scorer; all but the last three are numbers of weights."""

    language_model: int

    scorer: int
    """Of both towers."""

    text_tower: int
    """Without the embeddings of tokens and positions, which a token does not pass through."""

    image_tower: int

    patches: int
    """Tokens of a picture."""

    context: int
    """The most tokens of a text."""

    width: int
    """Numbers of a vector."""


@dataclass(frozen=True)
class Text:
    """How much text there is of one kind."""

    sentences: int
    tokens: int
    characters: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Text:
        """Tokens are guessed: words, and two a sentence for its beginning and its end."""
        words = sum(len(text.split()) for text in texts)
        return cls(len(texts), words + 2 * len(texts), sum(map(len, texts)))


@dataclass(frozen=True)
class Cost:
    """What a stage takes."""

    stage: str

    operations: float

    bytes: float
    """On disk, while it runs."""


def shape_of(language_model: str, scorer: str) -> Shape:
    """The shape of two models by their configurations; no weights are fetched.

    Args:
        language_model: a folder or hub id.
        scorer: a name of open_clip, ``hf-hub:`` id or folder.

    Raises:
        ModelNotFound, BadModel: there is no such configuration, or it describes no model.
    """
    with explain_loading_errors("language model", language_model), torch.device("meta"):
        words = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(language_model))
    name = f"local-dir:{scorer}" if Path(scorer).is_dir() else scorer
    with explain_loading_errors("scorer", scorer), torch.device("meta"), _without_warnings():
        towers = open_clip.create_model(name, load_weights=False, device="meta")
        width = open_clip.get_model_config(name)["embed_dim"]
    of_pictures = dict(towers.visual.named_parameters())
    of_text = {name: weights for name, weights in towers.named_parameters() if not name.startswith("visual.")}
    positions = [
        of_pictures[name] for name in of_pictures if name.endswith(("positional_embedding", "pos_embed"))
    ]
    return Shape(
        language_model=_count(words.parameters()),
        scorer=_count(towers.parameters()),
        text_tower=_count(weights for name, weights in of_text.items() if "embedding" not in name),
        image_tower=_count(of_pictures.values()),
        patches=max((weights.shape[-2] for weights in positions), default=1),
        context=towers.context_length,
        width=width,
    )


def costs(config: Config, shape: Shape, text: Text, held_out: Text, test_pictures: int) -> list[Cost]:
    """What each stage takes.

    Args:
        text: of the train split, and whatever is read with it.
        held_out: of the dev split.
        test_pictures: how many are captioned in the end; 0 without pictures.
    """
    S, P = shape, min(config.memory_size or text.sentences, text.sentences)
    memory = P + config.memory_samples
    stored = STORED * (S.language_model + S.scorer) + memory * S.width * config.memory_bits / 8
    stored += text.characters * memory / text.sentences
    encode = FORWARD * S.text_tower * S.context
    a_caption = FORWARD * S.language_model * BeamMagicSearch.beam_size * config.max_new_tokens
    a_picture = a_caption + FORWARD * S.image_tower * S.patches
    tried = sum(map(len, config.rounds())) * config.dev_pictures if config.images else 0

    def training(epochs: int) -> float:
        tokens: float = epochs * text.tokens
        if config.max_steps is not None:
            tokens = min(tokens, config.max_steps * config.tuning_batch_size * text.tokens / text.sentences)
        return TRAINING * S.language_model * tokens

    sampled = FORWARD * S.language_model * config.max_new_tokens * config.memory_samples
    fetched = [
        FETCHED * weights
        for weights, source in ((S.language_model, config.language_model), (S.scorer, config.scorer))
        if not Path(source).is_dir()
    ]
    return [
        Cost("downloads", 0, sum(fetched)),
        Cost("language_model", training(config.language_epochs), CHECKPOINTED * S.language_model),
        Cost("memory", encode * memory + sampled, stored + memory * S.width * 4),
        Cost(
            "soft_prompt",
            training(config.prompt_epochs) + encode * held_out.sentences,
            CHECKPOINTED * S.language_model + stored + held_out.sentences * S.width * 2,
        ),
        Cost("captioner", a_picture * tried, stored),
        Cost("evaluation", a_picture * test_pictures, 0),
    ]


def table(costs: Sequence[Cost], teraflops: float) -> str:
    """Costs as aligned rows, with their sum."""
    total = Cost("together", sum(cost.operations for cost in costs), sum(cost.bytes for cost in costs))
    rows = [
        [cost.stage, _hours(cost.operations / (teraflops * 1e12)), f"{cost.bytes / 1e9:.1f} GB"]
        for cost in (*costs, total)
    ]
    return aligned(["stage", "time", "disk"], rows)


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(weights.numel() for weights in parameters)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without what open_clip says of random weights: nothing is computed with them."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
