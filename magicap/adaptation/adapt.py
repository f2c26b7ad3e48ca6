"""Parts of a captioner for a new domain from its sentences alone: no picture needs a caption.

The language model is tuned on the sentences, the memory is filled with them and with what the tuned model
samples besides, and how much of it is evidence is tuned. The scorer stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.adaptation.parts import Parts
from magicap.adaptation.tuning import expected_utilities, tune_decoding
from magicap.checks import require_int, require_number
from magicap.data.text import normalise_caption
from magicap.decoding.searches import as_beam_magic
from magicap.errors import BadData
from magicap.models.language_model import LanguageModel
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.modality_gap import pseudo_images
from magicap.retrieval.sampled_captions import sample_captions
from magicap.training.averaging import BestWeights
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.parameter_groups import split_by_decay
from magicap.training.sentences import Sentences, evaluate_text, unconditioned_loss
from magicap.training.soft_prompts import (
    SoftPromptObjective,
    conditioned_sentences,
    evaluate_conditioned_text,
)

if TYPE_CHECKING:
    from magicap.images.reader import ImageSource

FEWEST = 20
"""Different sentences that a domain needs at least."""

_MOST_HELD_OUT = 1000
_WEIGHT_DECAY = 0.05

OnMessage = Callable[[str], object]


@dataclass(frozen=True)
class AdaptationSettings:
    """How much is done for a new domain."""

    epochs: int = 4
    """Passes of the language model over the sentences."""

    max_steps: int = 1500
    """The most steps of training, whatever the passes."""

    learning_rate: float = 5e-4
    """Peak learning rate of the language model; 2e-5 suits a GPT-2 of full size."""

    batch_size: int = 64
    """Number of sentences in a step."""

    max_tokens: int = 40
    """Longer sentences are cut here while the language model is tuned."""

    sentences: int = 80_000
    """The most of the domain's own sentences that go into the memory, chosen at random."""

    samples: int = 20_000
    """The most captions, sampled from the tuned language model, that go into the memory."""

    held_out: float = 0.05
    """Share of the sentences that are kept out of training and memory: they compare before and after."""

    seed: int = 1
    """Seed of what is held out, of the order of sentences, and of samples."""

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "batch_size", "max_tokens", "sentences"):
            require_int(name, getattr(self, name))
        require_int("samples", self.samples, least=0)
        require_number("held_out", self.held_out, lambda share: 0 < share <= 0.5, "above 0 and at most 0.5")
        require_number("learning_rate", self.learning_rate, lambda rate: rate > 0, "above 0")


@dataclass(frozen=True)
class Adaptation:
    """What has changed on sentences that were held out."""

    learned: int
    """Sentences for training and memory."""

    held_out: int
    """Sentences kept out of both."""

    before: dict[str, float]
    """``bits_per_character`` of the language model, unconditioned; ``utility``: CIDEr-D (0 to 100) of what is
    selected from the memory for held-out sentences in place of pictures, absent without a memory."""

    after: dict[str, float]


def adapt(
    parts: Parts,
    texts: Iterable[str],
    images: Sequence[ImageSource] | None = None,
    *,
    settings: AdaptationSettings | None = None,
    folder: Path | None = None,
    on_message: OnMessage = lambda line: None,
) -> tuple[Parts, Adaptation]:
    """Move a captioner's parts to a new domain; the parts themselves are left as they are.

    Args:
        texts: sentences of the domain, a caption each.
        images: pictures of the domain without captions, which make the tuning of the decoding finer.
        settings: how much is done; None: the defaults.
        folder: where training is logged and can resume; None: nothing is written.
        on_message: called with a line about what comes next.

    Raises:
        BadData: too few different sentences.
        BadImage: a picture cannot be read.
    """
    settings = settings or AdaptationSettings()
    learned, apart = _split(texts, settings)
    image_vectors = None if images is None or not len(images) else parts.scorer.encode_images(images)
    held_out = _HeldOut(
        apart,
        Sentences.of(parts.language_model, apart, settings.max_tokens),
        parts.scorer.encode_texts(apart),
        image_vectors,
        settings,
    )
    before = held_out.figures(parts)
    on_message("encoding the memory's captions")
    memory = CaptionMemory.from_texts(parts.scorer, learned[: settings.sentences])
    on_message(f"tuning the language model on {len(learned)} sentences")
    language_model = _tuned(parts, memory, learned, held_out, folder)
    if settings.samples:
        on_message(f"sampling up to {settings.samples} captions from it, encoding them")
        samples = sample_captions(language_model, settings.samples, seed=settings.seed)
        memory = memory.with_texts(parts.scorer, samples)
    source = "captions alone" if image_vectors is None else f"{len(image_vectors)} pictures"
    on_message(f"tuning the decoding on {source}")
    decoding = tune_decoding(as_beam_magic(parts.decoding), memory, image_vectors, seed=settings.seed)
    adapted = Parts(language_model, parts.scorer, decoding, memory)
    return adapted, Adaptation(len(learned), len(apart), before, held_out.figures(adapted))


def _split(texts: Iterable[str], settings: AdaptationSettings) -> tuple[list[str], list[str]]:
    """Different sentences to learn from, and those held out."""
    if isinstance(texts, str):
        raise BadData("expected a list of sentences, found one text; split it into lines first")
    normalised = (normalise_caption(text) for text in texts)
    sentences = list(dict.fromkeys(text for text in normalised if text))
    if len(sentences) < FEWEST:
        raise BadData(
            f"expected at least {FEWEST} different sentences of the new domain, found {len(sentences)}; "
            "give a text file with a caption a line"
        )
    random.Random(settings.seed).shuffle(sentences)
    count = max(1, min(int(settings.held_out * len(sentences)), _MOST_HELD_OUT))
    return sentences[count:], sentences[:count]


@dataclass(frozen=True)
class _Objective:
    """What is trained, on which sentences, by which loss, and how it is validated."""

    module: torch.nn.Module
    train: Sentences
    loss: Callable[[torch.nn.Module, Batch], Tensor]
    validate: Callable[[torch.nn.Module], dict[str, float]]


def _tuned(
    parts: Parts,
    memory: CaptionMemory,
    learned: Sequence[str],
    held_out: _HeldOut,
    folder: Path | None,
) -> LanguageModel:
    """A language model tuned on sentences, each conditioned on its own vector where it has a soft prompt."""
    settings = held_out.settings
    language_model = parts.language_model.to_train()
    if language_model.soft_prompt is None:
        objective = _unconditioned(language_model, learned, held_out)
    else:
        objective = _conditioned(language_model, parts, memory, learned, held_out)
    best = BestWeights(objective.module)
    fit(
        objective.module,
        split_by_decay(objective.module.parameters(), settings.learning_rate, _WEIGHT_DECAY),
        loader=lambda epoch: objective.train.batches(settings.batch_size, shuffle=settings.seed + epoch),
        loss=objective.loss,
        validate=objective.validate,
        save_best=best.keep,
        config=LoopConfig(
            epochs=settings.epochs,
            validations_per_epoch=2,
            max_steps=settings.max_steps,
            cpu=parts.language_model.device.type == "cpu",
        ),
        folder=folder,
        checkpointed=[best],
    )
    best.restore()
    return language_model.to_caption(parts.language_model.model.dtype)


def _unconditioned(language_model: LanguageModel, learned: Sequence[str], held_out: _HeldOut) -> _Objective:
    """Next-token cross entropy of the sentences alone."""
    settings = held_out.settings
    train = Sentences.of(language_model, learned, settings.max_tokens)

    def validate(model: torch.nn.Module) -> dict[str, float]:
        return evaluate_text(model, held_out.sentences, settings.batch_size)

    return _Objective(language_model.model, train, unconditioned_loss, validate)


def _conditioned(
    language_model: LanguageModel,
    parts: Parts,
    memory: CaptionMemory,
    learned: Sequence[str],
    held_out: _HeldOut,
) -> _Objective:
    """Next-token cross entropy behind the soft prompt of each sentence's own vector and its neighbours."""
    settings = held_out.settings
    train = conditioned_sentences(language_model, parts.scorer, memory, learned, settings.max_tokens)
    check = held_out.conditioned()

    def validate(model: torch.nn.Module) -> dict[str, float]:
        return evaluate_conditioned_text(model, check, settings.batch_size, settings.seed)

    return _Objective(SoftPromptObjective(language_model, memory), train, _forward_loss, validate)


def _forward_loss(module: torch.nn.Module, batch: Batch) -> Tensor:
    """The loss of a module that returns it."""
    loss: Tensor = module(batch)
    return loss


@dataclass(frozen=True)
class _HeldOut:
    """The S held-out sentences on which captioners before and after are compared."""

    texts: Sequence[str]
    sentences: Sentences
    vectors: Tensor
    """(S, D) unit vectors of the sentences."""

    images: Tensor | None
    """(P, D) unit vectors of pictures of the domain."""

    settings: AdaptationSettings

    def conditioned(self) -> Sentences:
        """The sentences with their own vectors to be conditioned on; none of them is in the memory."""
        nowhere = torch.full((len(self.texts),), -1)
        return replace(self.sentences, vectors=self.vectors.half().cpu(), memory_positions=nowhere)

    def figures(self, parts: Parts) -> dict[str, float]:
        """See :attr:`Adaptation.before`."""
        model = parts.language_model.model.eval()
        with torch.no_grad():
            text_figures = evaluate_text(model, self.sentences, self.settings.batch_size)
        figures = {"bits_per_character": text_figures["bits_per_character"]}
        if parts.memory is not None:
            decoding = as_beam_magic(parts.decoding)
            queries = pseudo_images(self.vectors, parts.memory, self.images, seed=self.settings.seed)
            utilities = expected_utilities(
                parts.memory, queries, self.texts, [decoding.neighbours], [decoding.temperature]
            )
            figures["utility"] = 10 * next(iter(utilities.values()))
        return figures
