"""What every captioner should beat: one caption for all, words without sight, and retrieval."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicap.arrays import FloatArray
from magicap.data import CaptionedImage, leave_out, normalise_caption, read_captions, read_sentences
from magicap.decoding.settings import ContrastiveSearch, MagicSearch
from magicap.errors import BadData
from magicap.metrics.cider import TfIdf
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB

if TYPE_CHECKING:
    from magicap.captioners.zero_shot import Captioner

NEIGHBOURS = 30
_FINALISTS = 50
_IMAGES_ASKED = 1000


def best_constant_caption(training: Sequence[CaptionedImage]) -> str:
    """The training caption that, said of every training image, scores best by CIDEr-D.

    Every caption is compared with the mean of all references first, which leaves out clipping and length
    penalty; 50 finalists are then scored in full on about 1,000 images, evenly spread.

    Raises:
        BadData: no captions.
    """
    texts = list(dict.fromkeys(normalise_caption(text) for row in training for text in row.captions))
    if not any(texts):
        raise BadData("the best constant caption needs training captions; found none")
    references = [row.captions for row in training]
    image = np.repeat(np.arange(len(references)), [len(each) for each in references])
    spoken = [words(PTB(text)) for text in chain(texts, chain.from_iterable(references))]
    vectors = TfIdf.of(spoken, document=np.concatenate([np.full(len(texts), -1), image]))

    promise = _mean_similarity(vectors, len(texts))
    finalists = np.argsort(-promise, kind="stable")[:_FINALISTS]
    asked = np.flatnonzero(image % max(1, len(references) // _IMAGES_ASKED) == 0) + len(texts)
    exact = vectors.similarity(np.repeat(finalists, len(asked)), np.tile(asked, len(finalists)))
    return texts[int(finalists[exact.reshape(len(finalists), -1).mean(axis=1).argmax()])]


def _mean_similarity(vectors: TfIdf, candidates: int) -> FloatArray:
    """(N,) pairwise_cider_d of the first N captions to the mean of all others, over all orders of n-grams."""
    total = np.zeros(candidates)
    for table, weight, norm in zip(vectors.tables, vectors.weights, vectors.norms, strict=True):
        captions = np.arange(len(table.starts) - 1)
        _, caption = table.entries(captions)
        unit = np.divide(weight, norm[caption], out=np.zeros_like(weight), where=norm[caption] > 0)
        heard = caption >= candidates
        mean = np.bincount(table.gram[heard], weights=unit[heard], minlength=table.size)
        spoken = ~heard
        total += np.bincount(
            caption[spoken], weights=unit[spoken] * mean[table.gram[spoken]], minlength=candidates
        )
    return total


def training_captions(path: str | Path, images: Collection[str]) -> list[CaptionedImage]:
    """The train split of a data set, less every picture on which captioners are compared; or a text file.

    Rows that say they stand in Flickr8k's dev or test split are left out too.

    Raises:
        BadData: nothing is left.
    """
    compared = set(images)
    if Path(path).suffix == ".txt":
        return [
            CaptionedImage(f"{path}:{number}", "train", (text,))
            for number, text in enumerate(read_sentences(path), start=1)
        ]
    rows = [
        row for row in leave_out(read_captions(path, "train"), ("dev", "test")) if row.image not in compared
    ]
    if not rows:
        raise BadData(f"{path} has no train split beside the compared images; name another data set")
    return rows


def floor_decodings(captioner: Captioner, training: Sequence[CaptionedImage]) -> dict[str, Any]:
    """The floors that a captioner's own models give, by their names in tables.

    Contrastive search has the captioner's magic search settings without the picture; retrieval looks in the
    training captions.
    """
    from magicap.decoding.retrieved import ConsensusCaption, NearestCaption
    from magicap.retrieval.caption_memory import CaptionMemory

    own = captioner.decoding if isinstance(captioner.decoding, MagicSearch) else MagicSearch()
    texts = [normalise_caption(text) for row in training for text in row.captions]
    memory = CaptionMemory.from_texts(captioner.scorer, [text for text in texts if text])
    return {
        "contrastive search": ContrastiveSearch(own.top_k, own.alpha, own.max_new_tokens),
        "nearest caption": NearestCaption(memory),
        f"consensus of {NEIGHBOURS} nearest": ConsensusCaption(memory, NEIGHBOURS),
    }
