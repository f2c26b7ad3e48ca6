"""Preferred words written straight from their definition, on top of the slow reference of beam magic search.

What competes without them, and its expected utility, is :mod:`beam_magic_reference`'s. Captions that the
words bring, the bonus and who is re-ranked are worked out here, caption by caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from beam_magic_reference import (
    DocumentFrequencies,
    Hypothesis,
    Settings,
    begins_with,
    expected_utilities,
    facts_of,
    image_vector,
    nearest,
    reference_hypotheses,
    text_vectors,
    words_of,
)
from torch import Tensor

from magicap import BeamMagicSearch, Captioner, CaptionMemory

MOST_BROUGHT = 20


@torch.no_grad()
def steered_hypotheses(
    captioner: Captioner, picture: object, search: BeamMagicSearch, memory: CaptionMemory | None
) -> list[Hypothesis]:
    """The hypotheses that compete for a picture, the best first; ``rerank`` holds bonus and cosine."""
    image = image_vector(captioner.scorer, picture)
    plain = replace(search, prefer=(), rerank_weight=0.0)
    competing = reference_hypotheses(captioner, picture, plain, memory)  # too long ones last
    long = [one for one in competing if is_too_long(captioner, one, search)]
    short = [one for one in competing if one not in long]
    if memory is None:
        frequencies = DocumentFrequencies.of(words_of(one.text) for one in short)
    else:
        frequencies = facts_of(memory).frequencies
        known = {one.text for one in competing}
        brought = [
            one
            for one in brought_captions(search, image, memory, frequencies)
            if one.text not in known
            and not is_too_long(captioner, one, search)
            and begins_with(search.prefix, one.text)
        ]
        short = sorted([*short, *brought], key=lambda one: -round(one.score, 9))

    def steered(one: Hypothesis) -> Hypothesis:
        bonus = search.prefer_weight * share(one.text, search.prefer, frequencies)
        return one._replace(rerank=bonus)

    by_score = sorted(map(steered, short), key=lambda one: -round(one.score, 9))
    top = search.rerank_top
    contenders = {one.text for one in [*short[:top], *by_score[:top]]}
    first = [one for one in by_score if one.text in contenders]
    others = [one for one in by_score if one.text not in contenders] + list(map(steered, long))
    if search.rerank_weight:
        cosines = (text_vectors(captioner.scorer, [one.text for one in first]) @ image).tolist()
        first = [
            one._replace(rerank=one.rerank + search.rerank_weight * cosine)
            for one, cosine in zip(first, cosines, strict=True)
        ]
        first = sorted(first, key=lambda one: -one.score)
    return [*first, *others]


def brought_captions(
    search: BeamMagicSearch, image: Tensor, memory: CaptionMemory, frequencies: DocumentFrequencies
) -> list[Hypothesis]:
    """The memory's captions nearest to the picture that have a preferred word, but for its neighbours."""
    facts, settings = facts_of(memory), Settings.of(search, has_memory=True)
    everything = nearest(facts.vectors, image, len(memory), torch.arange(len(memory)).numpy())
    words = set(said_words(search.prefer, frequencies))
    others = everything.positions[search.neighbours :]
    places = [n for n in others if words.intersection(facts.words[n])][:MOST_BROUGHT]
    places = [n for n in places if settings.constraints.allow(facts.words[n])]
    allowed = [n for n, caption in enumerate(facts.words) if settings.constraints.allow(caption)]
    evidence = nearest(facts.vectors, image, search.neighbours, torch.tensor(allowed).numpy())
    texts = [facts.words[n] for n in [*evidence.positions, *places]]
    utilities = expected_utilities(texts, evidence.weights(search.temperature), frequencies)
    return [
        Hypothesis(memory.texts[n], utility, 0.0, "memory", finished=True)
        for n, utility in zip(places, utilities[len(evidence.positions) :].tolist(), strict=True)
    ]


def said_words(prefer: Sequence[str], frequencies: DocumentFrequencies) -> list[str]:
    """The preferred words that stand in at least two captions."""
    words = {word for text in prefer for word in words_of(text)}
    return sorted(word for word in words if frequencies.counts[(word,)] >= 2)


def share(text: str, prefer: Sequence[str], frequencies: DocumentFrequencies) -> float:
    """The sum of the inverse document frequencies of the words that a text has, over that of all of them."""
    idf = {word: frequencies.idf((word,)) for word in said_words(prefer, frequencies)}
    total = sum(idf.values())
    return sum(value for word, value in idf.items() if word in words_of(text)) / total if total else 0.0


def is_too_long(captioner: Captioner, one: Hypothesis, search: BeamMagicSearch) -> bool:
    """Whether a caption of the memory has more tokens behind the prefix than may be written."""
    tokenizer = captioner.language_model.tokenizer
    text, prefix = (tokenizer(t, add_special_tokens=False).input_ids for t in (one.text, search.prefix))
    return one.source == "memory" and len(text) - len(prefix) > search.max_new_tokens
