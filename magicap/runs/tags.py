"""Words that the best captions of a picture agree on, as tags: what most of them name, the surest first."""

from __future__ import annotations

import re
from collections import Counter

from magicap.results import Caption

HYPOTHESES = 20
"""Captions that are compared."""

MIN_SHARE = 0.4
"""Of them, how many must have a word for it to be a tag."""

_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")
# Words that say nothing of what a picture shows: articles, pronouns, prepositions, auxiliaries.
_FUNCTION_WORDS = frozenset(
    "a about above across after against all along also among an and another any are around as at away be "
    "been before behind being below beneath beside between by can close down during each few for from front "
    "has have having he her him his in inside into is it its itself large lot lots many more most near next "
    "no not of off on one onto open or other others out outside over past several she side small so some "
    "something that the their them there these they this those through to together top toward towards two "
    "under up upon very while who with within without".split()
)


def tags_of(caption: Caption) -> tuple[str, ...]:
    """The content words of at least :data:`MIN_SHARE` of a caption's hypotheses, by falling share.

    The caption's own words come first among equals. Without hypotheses they are the caption's own words.
    """
    texts = [hypothesis.text for hypothesis in caption.hypotheses] or [str(caption)]
    words = [list(dict.fromkeys(_WORD.findall(text.casefold()))) for text in texts]
    counts = Counter(word for text in words for word in text if word not in _FUNCTION_WORDS)
    least = MIN_SHARE * len(texts)
    order = {word: place for place, word in enumerate(dict.fromkeys(word for text in words for word in text))}
    tags = [word for word, count in counts.items() if count >= least]
    return tuple(sorted(tags, key=lambda word: (-counts[word], order[word])))
