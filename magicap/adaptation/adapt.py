"""Parts of a captioner for a new domain from its sentences alone: no picture needs a caption.

The language model is tuned on the sentences, the memory is filled with them and with what the tuned model
samples besides, and how much of it is evidence is tuned. The scorer stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from magicap.adaptation.coverage import require_known
from magicap.adaptation.parts import Parts
from magicap.adaptation.tuning import expected_utilities, tune_decoding
from magicap.checks import require_int, require_number
from magicap.data.hf_datasets import is_dataset, texts_of
from magicap.data.text import normalise_caption
from magicap.decoding.searches import as_beam_magic
from magicap.errors import BadData
from magicap.models.language_model import LanguageModel
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.modality_gap import pseudo_images
from magicap.retrieval.sampled_captions import sample_captions
from magicap.training.averaging import BestWeights
from magicap.training.loop import fit
from magicap.training.objectives.base import Objective
from magicap.training.objectives.language import CrossEntropy
from magicap.training.objectives.soft_prompt import SoftPromptCrossEntropy
from magicap.training.options import LoopConfig, RunOptions
from magicap.training.parameter_groups import split_by_decay
from magicap.training.phases import digest, load_or_compute, load_or_write
from magicap.training.progress import progress
from magicap.training.sentences import Sentences, evaluate_model
from magicap.training.soft_prompts import conditioned_sentences, evaluate_conditioned_text

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
    """Number of sentences in a batch of one process."""

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
    run: RunOptions | None = None,
    folder: Path | None = None,
    on_message: OnMessage = lambda line: None,
) -> tuple[Parts, Adaptation]:
    """Move a captioner's parts to a new domain; the parts themselves are left as they are.

    Args:
        texts: sentences of the domain, a caption each; or a dataset of the library ``datasets`` with a column
            of them (:func:`magicap.data.hf_datasets.texts_of`).
        images: pictures of the domain without captions, which make the tuning of the decoding finer.
        settings: how much is done; None: the defaults.
        run: where and how the language model is tuned; None: where it is, as the defaults say.
        folder: where training is logged and every phase can resume; None: nothing is written.
        on_message: called with a line about what comes next.

    Raises:
        BadData: too few different sentences, the models know hardly a word of them, or a dataset has no
            column of texts.
        BadImage: a picture cannot be read.
        TrainingStopped: the time of ``run`` is up; the same call goes on from there.
    """
    settings = settings or AdaptationSettings()
    run = run or RunOptions(cpu=parts.language_model.device.type == "cpu")
    learned, apart = _split(texts_of(texts) if is_dataset(texts) else texts, settings)
    require_known(parts, learned)
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
    memory = _encoded(parts, learned[: settings.sentences], folder)
    on_message(f"tuning the language model on {len(learned)} sentences")
    language_model = _tuned(parts, memory, learned, held_out, run, folder)
    if settings.samples:
        on_message(f"sampling up to {settings.samples} captions from it, encoding them")
        memory = memory.with_texts(parts.scorer, _sampled(language_model, learned, settings, folder))
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


def _encoded(parts: Parts, texts: Sequence[str], folder: Path | None) -> CaptionMemory:
    """A memory of different sentences; their vectors are kept in the folder."""

    def encode() -> Tensor:
        with progress(len(texts), "encoding sentences", unit="sentence") as bar:
            return parts.scorer.encode_texts(texts, on_progress=bar.update).cpu()

    name = f"memory-{digest(parts.scorer.fingerprint, texts)}.pt"
    vectors = load_or_compute(None if folder is None else folder / name, encode)
    return CaptionMemory(texts, vectors.to(parts.scorer.device))


def _sampled(
    language_model: LanguageModel, learned: Sequence[str], settings: AdaptationSettings, folder: Path | None
) -> list[str]:
    """Captions of a tuned language model; they are kept in the folder."""

    def sample() -> list[str]:
        with progress(settings.samples, "sampling captions", unit="caption") as bar:
            return sample_captions(
                language_model, settings.samples, seed=settings.seed, on_progress=bar.update
            )

    name = f"samples-{digest(settings, learned)}.json"
    return load_or_write(None if folder is None else folder / name, sample)


def _tuned(
    parts: Parts,
    memory: CaptionMemory,
    learned: Sequence[str],
    held_out: _HeldOut,
    run: RunOptions,
    folder: Path | None,
) -> LanguageModel:
    """A language model tuned on sentences, each conditioned on its own vector where it has a soft prompt."""
    settings = held_out.settings
    language_model = parts.language_model.to_train()
    objective: Objective
    validate: Callable[[Any], dict[str, float]]
    vectors = f"vectors-{digest(parts.scorer.fingerprint, learned)}.pt"
    if language_model.soft_prompt is None:
        train = Sentences.of(language_model, learned, settings.max_tokens)
        objective, validate = CrossEntropy(language_model.model), held_out.validation
    else:
        train = conditioned_sentences(
            language_model,
            parts.scorer,
            memory,
            learned,
            settings.max_tokens,
            file=None if folder is None else folder / vectors,
        )
        objective, validate = SoftPromptCrossEntropy(language_model, memory), held_out.conditioned_validation
    best, step_rows = BestWeights(objective), run.step_rows(settings.batch_size)
    fit(
        objective,
        split_by_decay(objective.parameters(), settings.learning_rate, _WEIGHT_DECAY),
        epoch=lambda epoch: train.epoch(step_rows, shuffle=settings.seed + epoch),
        validate=validate,
        save_best=best.keep,
        config=LoopConfig(
            epochs=settings.epochs,
            validations_per_epoch=2,
            max_steps=settings.max_steps,
            description="tuning the language model",
            run=run,
        ),
        folder=folder,
        checkpointed=[best],
    )
    best.restore()
    return language_model.to_caption(parts.language_model.model.dtype)


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

    def validation(self, objective: CrossEntropy) -> dict[str, float]:
        """How well the sentences are predicted."""
        return evaluate_model(objective.model, self.sentences, self.settings.batch_size)

    def conditioned_validation(self, objective: SoftPromptCrossEntropy) -> dict[str, float]:
        """The same, each conditioned on its own vector; none of them is in the memory."""
        nowhere = torch.full((len(self.texts),), -1)
        sentences = replace(self.sentences, vectors=self.vectors.half().cpu(), memory_positions=nowhere)
        return evaluate_conditioned_text(objective, sentences, self.settings.batch_size, self.settings.seed)

    def figures(self, parts: Parts) -> dict[str, float]:
        """See :attr:`Adaptation.before`."""
        model = parts.language_model.model.eval()
        with torch.no_grad():
            text_figures = evaluate_model(model, self.sentences, self.settings.batch_size)
        figures = {"bits_per_character": text_figures["bits_per_character"]}
        if parts.memory is not None:
            decoding = as_beam_magic(parts.decoding)
            queries = pseudo_images(self.vectors, parts.memory, self.images, seed=self.settings.seed)
            utilities = expected_utilities(
                parts.memory, queries, self.texts, [decoding.neighbours], [decoding.temperature]
            )
            figures["utility"] = 10 * next(iter(utilities.values()))
        return figures
