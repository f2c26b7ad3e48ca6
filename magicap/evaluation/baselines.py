"""What every captioner should beat: one caption for all, search without the picture, and retrieval."""

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
from magicap.metrics.cider import DocumentFrequencies, TfIdf
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB

if TYPE_CHECKING:
    from magicap.captioners.zero_shot import Captioner

NEIGHBOURS = 30
_FINALISTS = 50
_FINAL_IMAGES = 1000


def best_constant_caption(training: Sequence[CaptionedImage]) -> str:
    """The training caption that, given to every training image, scores best by CIDEr-D.

    Every caption is compared with the mean of all references first, which leaves out clipping and length
    penalty; 50 finalists are then scored in full on about 1,000 images, evenly spread.

    Raises:
        BadData: no captions.
    """
    texts = list(dict.fromkeys(normalise_caption(text) for row in training for text in row.captions))
    if not any(texts):
        raise BadData("the best constant caption needs training captions; found none")
    candidate_tokens = [words(PTB(text)) for text in texts]
    reference_tokens = [[words(PTB(text)) for text in row.captions] for row in training if row.captions]
    vectors = TfIdf.of(
        [*candidate_tokens, *chain.from_iterable(reference_tokens)], DocumentFrequencies.of(reference_tokens)
    )

    approximate = _mean_similarity(vectors, len(texts))
    finalists = np.argsort(-approximate, kind="stable")[:_FINALISTS]
    image = np.repeat(np.arange(len(reference_tokens)), [len(captions) for captions in reference_tokens])
    stride = max(1, len(reference_tokens) // _FINAL_IMAGES)
    references = np.flatnonzero(image % stride == 0) + len(texts)
    exact = vectors.similarity(np.repeat(finalists, len(references)), np.tile(references, len(finalists)))
    return texts[int(finalists[exact.reshape(len(finalists), -1).mean(axis=1).argmax()])]


def _mean_similarity(vectors: TfIdf, candidates: int) -> FloatArray:
    """(N,) products of the first N captions' vectors with the mean of all others, summed over orders."""
    total = np.zeros(candidates)
    for table, weight, norm in zip(vectors.tables, vectors.weights, vectors.norms, strict=True):
        caption = table.captions
        unit = np.divide(weight, norm[caption], out=np.zeros_like(weight), where=norm[caption] > 0)
        is_reference = caption >= candidates
        mean = np.bincount(table.gram[is_reference], weights=unit[is_reference], minlength=table.size)
        own_gram, own_unit = table.gram[~is_reference], unit[~is_reference]
        total += np.bincount(caption[~is_reference], weights=own_unit * mean[own_gram], minlength=candidates)
    return total


def training_captions(path: str | Path, images: Collection[str]) -> list[CaptionedImage]:
    """The train split of a data set, less every picture on which captioners are compared; or a text file.

    Rows that name Flickr8k's dev or test split are left out too.

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


def baseline_decodings(captioner: Captioner, training: Sequence[CaptionedImage]) -> dict[str, Any]:
    """The baselines that a captioner's own models give, by their names in tables.

    Contrastive search has the captioner's magic search settings without the picture; retrieval looks in the
    training captions.
    """
    from magicap.decoding.retrieved import ConsensusCaption, NearestCaption
    from magicap.retrieval.caption_memory import CaptionMemory

    magic = captioner.decoding if isinstance(captioner.decoding, MagicSearch) else MagicSearch()
    texts = [normalise_caption(text) for row in training for text in row.captions]
    memory = CaptionMemory.from_texts(captioner.scorer, [text for text in texts if text])
    return {
        "contrastive search": ContrastiveSearch(magic.top_k, magic.alpha, magic.max_new_tokens),
        "nearest caption": NearestCaption(memory),
        f"consensus of {NEIGHBOURS} nearest": ConsensusCaption(memory, NEIGHBOURS),
    }
