"""Whether captions come to an end, and whether their last or repeated words show that a sentence broke."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from magicap.errors import BadSettings, MetricUnavailable
from magicap.metrics.score import Score, Tokenizer, sign
from magicap.metrics.tokenizer import PTB

_DETERMINERS = frozenset("a an the his their its my your our this these every another".split())
# Words behind which an English sentence goes on; particles ("looks on", "jumps in") are not among them.
_DANGLING = frozenset(
    "a an the his their its my your our every and or but nor with of at from into onto to for than as while "
    "is are was were be has have who which whose and/or".split()
)
_MAY_REPEAT = frozenset("very really that had no so bye ha go boo big old long little".split())


def unfinished(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]] = (),
    *,
    finished: Sequence[bool] | None = None,
) -> dict[str, Score]:
    """Share of captions whose search was cut off before the sentence came to its end.

    The text alone does not show it: many captions are written without full stops, or with other scripts'.

    Args:
        candidates: N captions, at least one.
        references: not used.
        finished: N times, whether the search came to an end, as ``magicap caption --json`` says it.

    Raises:
        BadSettings: no captions, or not as many of ``finished``.
        MetricUnavailable: it is not known which are finished.
    """
    require_captions(candidates, "unfinished")
    if finished is None:
        raise MetricUnavailable(
            "captions do not say whether they are 'finished', as magicap caption --json does"
        )
    if len(finished) != len(candidates):
        raise BadSettings(f"unfinished: expected {len(candidates)} of finished, found {len(finished)}")
    per_image = 1.0 - np.array(finished, dtype=np.float64)
    return {"unfinished": Score.mean("unfinished", per_image, sign("unfinished", candidates, references))}


def broken(
    candidates: Sequence[str], references: Sequence[Sequence[str]] = (), *, tokenizer: Tokenizer = PTB
) -> dict[str, Score]:
    """Share of captions that no one would write, as far as closed lists of words can tell.

    A caption is broken if it has no words, ends on a word behind which a sentence goes on ("a dog with
    the."), has a word twice in a row ("a dog dog runs"), or puts one determiner behind another ("on the a
    beach"). That finds cut and stuttering sentences, not every mistake of grammar: a lower bound. Of
    people's own captions in Flickr8k, Flickr30k and COCO it finds 1 to 4 in 1,000 broken.

    Args:
        candidates: N captions, at least one.
        references: not used.
        tokenizer: splits captions into words; signatures name it.

    Raises:
        BadSettings: no captions.
    """
    require_captions(candidates, "broken")
    per_image = np.array([_is_broken(tokenizer(text)) for text in candidates], dtype=np.float64)
    signature = sign("broken", candidates, references, tok=tokenizer.name)
    return {"broken": Score.mean("broken", per_image, signature)}


def require_captions(candidates: Sequence[str], metric: str) -> None:
    """Refuse what is no list of captions: metrics without references need them all the same.

    Raises:
        BadSettings: it is refused.
    """
    if isinstance(candidates, str) or not len(candidates):
        raise BadSettings(f"{metric}: expected a list of captions, found {candidates!r:.60}")


def _is_broken(words: Sequence[str]) -> bool:
    if not words or words[-1] in _DANGLING:
        return True
    return any(
        (first == second and first not in _MAY_REPEAT) or {first, second} <= _DETERMINERS
        for first, second in pairwise(words)
    )
