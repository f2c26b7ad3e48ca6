"""A captioner for a new domain from its sentences alone: no picture needs a caption.

The language model is tuned on the sentences, the memory is filled with them and with what the tuned model
says besides, and how many of its captions have a say is tune_decoding. The scorer stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.adaptation.tuning import expected_utilities, pseudo_images, tune_decoding
from magicap.captioners.zero_shot import Captioner
from magicap.data.text import normalise_caption
from magicap.decoding.settings import BeamMagicSearch, Decoding, MagicSearch, number, whole
from magicap.errors import BadData
from magicap.models.language_model import LanguageModel
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.sampled_captions import sample_captions
from magicap.training.loop import Batch, LoopConfig, fit
from magicap.training.losses import next_token_cross_entropy
from magicap.training.parameter_groups import split_by_decay
from magicap.training.sentences import Sentences, surprise, untold
from magicap.training.soft_prompts import (
    SoftPromptObjective,
    conditioned_sentences,
    evaluate_conditioned_text,
    soft_prompt_loss,
)

if TYPE_CHECKING:
    from magicap.images.reader import ImageSource

FEWEST = 20
"""Sentences without which a domain is not known."""

_MOST_HELD_OUT = 1000
_WEIGHT_DECAY = 0.05

Said = Callable[[str], object]


@dataclass(frozen=True)
class AdaptationSettings:
    """How much is done for a new domain."""

    epochs: int = 4
    """Passes of the language model over the sentences."""

    max_steps: int = 1500
    """The most steps of these, 64 sentences each."""

    learning_rate: float = 5e-4
    """Peak rate of the language model; 2e-5 suits a GPT-2 of full size."""

    batch_size: int = 64
    """Sentences a step."""

    max_tokens: int = 40
    """Longer sentences are cut here while the language model is tuned."""

    sentences: int = 80_000
    """The most of the domain's own sentences that are remembered, chosen at random."""

    drawn: int = 20_000
    """The most captions that are remembered of what the tuned language model says."""

    held_out: float = 0.05
    """Share of the sentences that are not learned nor remembered: they compare before and after."""

    seed: int = 1
    """Of what is held out, order and draws."""

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "batch_size", "max_tokens", "sentences"):
            whole(name, getattr(self, name))
        number("held_out", self.held_out, lambda share: 0 < share <= 0.5, "above 0 and at most 0.5")
        number("learning_rate", self.learning_rate, lambda rate: rate > 0, "above 0")
        number("drawn", self.drawn, lambda count: count >= 0, "at least 0")


@dataclass(frozen=True)
class Adaptation:
    """A captioner of the new domain, and what has changed on sentences that were held out."""

    captioner: Captioner
    learned: int
    """Sentences that were learned and could be remembered."""

    held_out: int
    """Sentences that were not."""

    before: dict[str, float]
    """``bits_per_character`` of the language model, told of nothing; ``gain``: CIDEr-D (0 to 100) of what the
    memory elects for vectors of held-out sentences with noise in place of pictures, absent without one."""

    after: dict[str, float]


def adapt(
    captioner: Captioner,
    texts: Iterable[str],
    images: Sequence[ImageSource] | None = None,
    *,
    folder: Path,
    settings: AdaptationSettings | None = None,
    say: Said = lambda line: None,
) -> Adaptation:
    """Move a captioner to a new domain; the captioner itself is left as it is.

    Args:
        texts: sentences of the domain, a caption each.
        images: pictures of the domain without captions, which make the calibration finer.
        folder: where training is logged and can resume.
        settings: how much is done; None: the defaults.
        say: told in a line what comes next.

    Raises:
        BadData: too few different sentences.
        BadImage: a picture cannot be read.
    """
    settings = settings or AdaptationSettings()
    learned, held_out = _split(texts, settings)
    vectors = None if images is None or not len(images) else captioner.scorer.encode_images(images)

    check = Sentences.of(captioner.language_model, held_out, settings.max_tokens)
    before = _judged(captioner, check, held_out, vectors, settings)
    say("encoding what is remembered")
    memory = CaptionMemory.from_texts(captioner.scorer, learned[: settings.sentences])
    say(f"tuning the language model on {len(learned)} sentences")
    if captioner.language_model.prompt is None:
        lesson = _lesson(captioner.language_model, learned, check, settings)
    else:
        lesson = _told_lesson(captioner, memory, learned, held_out, settings)
    language_model = _tuned(captioner.language_model, lesson, folder, settings)
    if settings.drawn:
        say(f"drawing up to {settings.drawn} captions from it, encoding them")
        drawn = sample_captions(language_model, settings.drawn, seed=settings.seed)
        memory = memory.with_texts(captioner.scorer, drawn)
    say(f"calibrating on {'captions alone' if vectors is None else f'{len(vectors)} pictures'}")
    own = captioner.decoding
    decoding = own if isinstance(own, BeamMagicSearch) else BeamMagicSearch(prompted=_is_prompted(own))
    decoding = tune_decoding(decoding, memory, vectors, seed=settings.seed)
    adapted = Captioner(language_model, captioner.scorer, decoding, memory)
    after = _judged(adapted, check, held_out, vectors, settings)
    return Adaptation(adapted, len(learned), len(held_out), before, after)


def _is_prompted(decoding: Decoding) -> bool:
    return isinstance(decoding, MagicSearch) and decoding.prompted


def _split(texts: Iterable[str], settings: AdaptationSettings) -> tuple[list[str], list[str]]:
    """Different sentences to learn from, and those held out."""
    if isinstance(texts, str):
        raise BadData("expected a list of sentences, found one text; split it into lines first")
    sentences = list(dict.fromkeys(text for each in texts if (text := normalise_caption(each))))
    if len(sentences) < FEWEST:
        raise BadData(
            f"expected at least {FEWEST} different sentences of the new domain, found {len(sentences)}; "
            "give a text file with a caption a line"
        )
    random.Random(settings.seed).shuffle(sentences)
    count = max(1, min(int(settings.held_out * len(sentences)), _MOST_HELD_OUT))
    return sentences[count:], sentences[:count]


@dataclass(frozen=True)
class _Lesson:
    """What a language model learns, and by what it is judged."""

    learner: LanguageModel
    module: torch.nn.Module
    """What is trained of it."""

    sentences: Sentences
    loss: Callable[[torch.nn.Module, Batch], Tensor]
    validate: Callable[[torch.nn.Module], dict[str, float]]


def _lesson(
    language_model: LanguageModel, learned: Sequence[str], check: Sentences, settings: AdaptationSettings
) -> _Lesson:
    def loss(model: torch.nn.Module, batch: Batch) -> Tensor:
        return next_token_cross_entropy(untold(model, batch), batch["ids"], batch["mask"])

    def validate(model: torch.nn.Module) -> dict[str, float]:
        return surprise(model, check, settings.batch_size)

    learner = language_model.to_train()
    sentences = Sentences.of(language_model, learned, settings.max_tokens)
    return _Lesson(learner, learner.model, sentences, loss, validate)


def _told_lesson(
    captioner: Captioner,
    memory: CaptionMemory,
    learned: Sequence[str],
    held_out: Sequence[str],
    settings: AdaptationSettings,
) -> _Lesson:
    """Of a language model that is told of pictures: each sentence is told by its own vector."""
    sentences, check = (
        conditioned_sentences(captioner, memory, texts, settings.max_tokens) for texts in (learned, held_out)
    )

    def validate(model: torch.nn.Module) -> dict[str, float]:
        return evaluate_conditioned_text(model, check, settings.batch_size, settings.seed)

    learner = captioner.language_model.to_train()
    return _Lesson(learner, SoftPromptObjective(learner, memory), sentences, soft_prompt_loss, validate)


def _tuned(
    language_model: LanguageModel, lesson: _Lesson, folder: Path, settings: AdaptationSettings
) -> LanguageModel:
    """A language model that has learned its lesson; the state that foretells held-out sentences best."""
    fit(
        lesson.module,
        split_by_decay(lesson.module.parameters(), settings.learning_rate, _WEIGHT_DECAY),
        loader=lambda epoch: lesson.sentences.batches(settings.batch_size, shuffle=settings.seed + epoch),
        loss=lesson.loss,
        validate=lesson.validate,
        save_best=lambda _: lesson.learner.save_pretrained(folder / "best"),
        folder=folder,
        config=LoopConfig(
            epochs=settings.epochs,
            validations_per_epoch=2,
            max_steps=settings.max_steps,
            cpu=language_model.device.type == "cpu",
        ),
    )
    return LanguageModel.from_pretrained(
        folder / "best", device=language_model.device, dtype=language_model.model.dtype
    )


def _judged(
    captioner: Captioner,
    check: Sentences,
    held_out: Sequence[str],
    images: Tensor | None,
    settings: AdaptationSettings,
) -> dict[str, float]:
    model = captioner.language_model.model.eval()
    with torch.no_grad():
        figures = {"bits_per_character": surprise(model, check, settings.batch_size)["bits_per_character"]}
    search, memory = captioner.decoding, captioner.memory
    if memory is not None and isinstance(search, BeamMagicSearch):
        vectors = captioner.scorer.encode_texts(held_out)
        queries = pseudo_images(vectors, memory, images, seed=settings.seed)
        gains = expected_utilities(memory, queries, held_out, [search.neighbours], [search.temperature])
        figures["gain"] = 10 * next(iter(gains.values()))
    return figures
