"""Beam magic search written straight from its definition: whole strings, whole encodes, one picture, no trie.

The slow judge of ``magicap.decoding.beam`` and ``beam_magic``. Of ``magicap`` it uses the loaded models and
CIDEr-D's own pairs of captions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from reference import read

from magicap import BeamMagicSearch, Captioner, CaptionMemory
from magicap.metrics.cider import TfIdf
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB


def said_next(captions: list[list[int]], weights: list[float], prefix: list[int], token: int) -> float:
    """The word prior: longest context first, each backing off to the shorter with half a caption's trust."""
    probability = 0.0
    for length in range(min(3, len(prefix)) + 1):
        context = prefix[len(prefix) - length :]
        total = votes = 0.0
        for ids, weight in zip(captions, weights, strict=True):
            for place in range(max(1, length), len(ids)):
                if ids[place - length : place] == context:
                    total += weight
                    votes += weight * (ids[place] == token)
        if not total:
            break
        trust = 0.5 if length else 0.0
        probability = (votes + trust * probability) / (total + trust)
    return probability


@torch.no_grad()
def reference_written(
    captioner: Captioner,
    image: torch.Tensor,
    near: list[str],
    weights: list[float],
    unit: float,
    image_weight: float,
    settings: BeamMagicSearch,
    told: torch.Tensor | None = None,
) -> list[tuple[str, float]]:
    """Finished captions with their scores, the best first."""
    language_model, scorer = captioner.language_model, captioner.scorer
    start, end = language_model.start_id, language_model.end_id
    heard = [[start, *language_model.tokenizer(text).input_ids, end] for text in near]
    shares = [len(near) * weight for weight in weights]
    beams: list[tuple[float, list[int]]] = [(0.0, [language_model.start_id])]
    ended: list[tuple[float, list[int]]] = []
    going_on: list[tuple[float, float, list[int]]] = []
    for _ in range(settings.max_new_tokens):
        options = []
        for before, prefix in beams:
            probability = torch.softmax(read(language_model.model, [prefix], told).logits[0, -1], dim=0)
            of_beam = []
            for token in probability.topk(settings.top_k).indices.tolist():
                own = float(probability[token])
                if near:
                    prior = said_next(heard, shares, prefix, token)
                    own = (1 - settings.memory_weight) * own + settings.memory_weight * prior
                total = before + math.log(max(own, 1e-9))
                score = total
                if image_weight:
                    text = language_model.text([*prefix, token])
                    score += image_weight * float(scorer.encode_texts([text])[0] @ image) / unit
                of_beam.append((score, total, [*prefix, token]))
            options += sorted(of_beam, key=lambda each: -each[0])[: settings.beam_size + 1]
        options = sorted(options, key=lambda each: -each[0])[: 2 * settings.beam_size]
        ended += [(score, ids) for score, _, ids in options if ids[-1] == language_model.end_id]
        ended = sorted(ended, key=lambda each: -each[0])[: settings.finished]
        bar = ended[-1][0] if len(ended) == settings.finished else -math.inf
        going_on = [each for each in options if each[2][-1] != language_model.end_id and each[0] > bar]
        going_on = going_on[: settings.beam_size]
        if not going_on:
            break
        beams = [(total, ids) for _, total, ids in going_on]
    found = ended or [(score, ids) for score, _, ids in going_on]
    return [(language_model.text(ids).strip(), score) for score, ids in found]


def reference_election(
    memory: CaptionMemory, near: list[str], weights: list[float], more: list[str]
) -> dict[str, float]:
    """Expected CIDEr-D of each caption that competes, each of those nearby judged by the others."""
    corpus = [words(PTB(text)) for text in memory.texts]
    texts = [*near, *more]
    vectors = TfIdf.of(
        corpus + [words(PTB(text)) for text in texts],
        document=np.concatenate([np.arange(len(corpus)), np.full(len(texts), -1)]),
    )
    scores = {}
    for number, text in enumerate(texts):
        others = [other for other in range(len(near)) if other != number]
        left, right = np.full(len(others), len(corpus) + number), np.array(others) + len(corpus)
        alike = vectors.similarity(left, right)
        share = np.array([weights[other] for other in others])
        scores[text] = float(alike @ share / (share.sum() if number < len(near) else 1.0))
    return scores
