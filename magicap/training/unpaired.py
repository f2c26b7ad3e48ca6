"""Pictures and sentences that do not belong together, as batches; and how well pictures are then captioned.

Shapes: N pictures, D embedding width, S sentences beside each picture.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magicap.metrics.cider import cider_d
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.training.batches import Batch, Epoch, shuffled
from magicap.training.rollouts import greedy, roll_out
from magicap.training.sentences import Sentences, evaluate_model

_SEEDS = 1 << 32  # a picture's numbers of one epoch and of the next


@dataclass(frozen=True)
class Unpaired:
    """Pictures as vectors, and sentences of other pictures."""

    images: Tensor
    """(N, D) unit vectors of the pictures."""

    projected: Tensor
    """(N, D) the same projected onto a memory."""

    sentences: Sentences
    """With their vectors and places in the memory."""

    per_image: int
    """S, how many sentences a batch holds for each of its pictures."""

    def epoch(self, batch_size: int, seed: int) -> Epoch:
        """All pictures once, in an order by the seed, each with sentences by the seed and its number.

        A batch holds ``images`` and ``projected`` (B, D), ``seeds`` (B,) for what is sampled of each picture,
        and B S sentences as :meth:`Sentences.batch` gives them.
        """
        order = random.Random(seed).sample(range(len(self.sentences)), len(self.sentences))

        def batch(numbers: Sequence[int]) -> Batch:
            places = [number * self.per_image + s for number in numbers for s in range(self.per_image)]
            pictures = list(numbers)
            return {
                "images": self.images[pictures],
                "projected": self.projected[pictures],
                "seeds": torch.tensor([seed * _SEEDS + number for number in pictures]),
                **self.sentences.batch([order[place % len(order)] for place in places]),
            }

        return Epoch(range(len(self.images)), shuffled(len(self.images), batch_size, seed), batch)


@dataclass(frozen=True)
class WatchedPictures:
    """Captioned pictures on which a language model is watched that learns without captions of pictures."""

    scorer: ImageTextScorer
    """The one that rewards."""

    second_scorer: ImageTextScorer
    """One that rewards nothing, so what pleases the first alone does not please it."""

    images: Tensor
    """(N, D) unit vectors by the first."""

    second_images: Tensor
    """(N, D') unit vectors by the second."""

    projected: Tensor
    """(N, D) those by the first projected onto a memory."""

    references: Sequence[Sequence[str]]
    """The pictures' captions."""

    @torch.no_grad()
    def evaluate(
        self, language_model: LanguageModel, start: LanguageModel, max_new_tokens: int
    ) -> dict[str, float]:
        """Figures of greedy captions behind soft prompts.

        Args:
            language_model: one with a soft prompt.
            start: the language model as it was, which says how likely the captions are as text.
            max_new_tokens: the longest caption, its end token included.

        Returns:
            ``cider_d`` in percent; ``fit`` and ``watched_fit`` by the two scorers, see
            :func:`fit_in_deviations`; ``bits_per_character`` of the captions under ``start``, unconditioned;
            ``words``, their mean length; ``ended``, the share that did; ``different``, the share of different
            ones.
        """
        prompt = language_model.soft_prompt
        assert prompt is not None
        device = language_model.device
        prompts = prompt(self.images.to(device), self.projected.to(device))
        written = roll_out(language_model, prompts, max_new_tokens, greedy)
        texts = written.texts(language_model)
        as_text = Sentences.of(start, texts, max_new_tokens + 1)
        return {
            "cider_d": 100 * cider_d(texts, self.references)["CIDEr-D"].value,
            "fit": fit_in_deviations(self.images, self.scorer.encode_texts(texts)),
            "watched_fit": fit_in_deviations(self.second_images, self.second_scorer.encode_texts(texts)),
            "bits_per_character": evaluate_model(start.model, as_text, 64)["bits_per_character"],
            "words": sum(len(text.split()) for text in texts) / len(texts),
            "ended": written.ended.float().mean().item(),
            "different": len(set(texts)) / len(texts),
        }


def fit_in_deviations(images: Tensor, texts: Tensor) -> float:
    """By how many standard deviations captions are nearer to their own pictures than to all pictures.

    Args:
        images: (N, D) unit vectors of pictures.
        texts: (N, D) of the caption of each.
    """
    cosines = texts.float().to(images.device) @ images.float().T
    return float((cosines.diagonal().mean() - cosines.mean()) / cosines.std())
