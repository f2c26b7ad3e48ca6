"""Stories: sentences that go on from a title, each searched with a picture in view.

The second task of magic search (Su et al. 2022, arXiv 2205.02655, section 5), with its settings. A sentence
is searched on from the title and the sentences so far, and the scorer reads the sentence that is being
written. (The published code lets it read all sentences so far, their last 60 tokens; here every sentence may
have a picture of its own.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from magicap.checks import require_int
from magicap.decoding.context import DecodingContext
from magicap.decoding.magic import time_steps_from
from magicap.decoding.prefix_cache import CachedPrefix
from magicap.decoding.settings import ContrastiveSearch, Greedy, MagicSearch
from magicap.errors import BadSettings
from magicap.models.language_model import LanguageModel
from magicap.printable import without_surrogates
from magicap.results import Step

STORY_SEARCH = MagicSearch(top_k=5, alpha=0.6, beta=0.15, max_new_tokens=25)
"""As published for stories; ``max_new_tokens`` are those of a sentence."""

SENTENCES, MOST_SENTENCES = 5, 100
"""Sentences of a story with one picture, and the most of any."""

_END = re.compile(r"[.!?][\"'”’)]*$")
_ABBREVIATIONS = ("Mr.", "Mrs.", "Ms.", "Dr.", "St.")


@dataclass(frozen=True)
class StorySentence:
    """A sentence of a story."""

    text: str
    """The words."""

    picture: int
    """Position of its picture among those of the story."""

    cosine: float
    """Of picture and sentence in the scorer's space, -1 to 1."""

    steps: tuple[Step, ...]
    """A :class:`Step` a token; their ``text`` is all that the language model has read and written by then."""


class Story(str):
    """A story: a plain string, and how it came about.

    Attributes:
        heading: the title that it goes on from.
        sentences: its sentences, in order.
    """

    heading: str
    sentences: tuple[StorySentence, ...]

    def __new__(cls, title: str, sentences: Sequence[StorySentence]) -> Story:
        """The story that these sentences tell."""
        story = super().__new__(cls, " ".join(sentence.text for sentence in sentences))
        story.heading, story.sentences = title, tuple(sentences)
        return story

    def __getnewargs__(self) -> tuple[str, tuple[StorySentence, ...]]:  # type: ignore[override]
        return self.heading, self.sentences


def write_story(
    contexts: Sequence[DecodingContext], title: str, count: int, decoding: Any, title_end: str
) -> Story:
    """A story about pictures; arguments and errors are those of :meth:`Captioner.story`.

    Args:
        contexts: of one picture each.
        count: of sentences, as :func:`count_sentences` gives it.
    """
    search = _magic_search(decoding)
    for name, text in (("title", title), ("title_end", title_end)):
        if not isinstance(text, str) or without_surrogates(text) != text:
            raise BadSettings(f"{name} must be a text, found {text!r:.80}")
    writer = _Writer(contexts[0].language_model, search, title.strip(), title_end)
    story: list[StorySentence] = []
    for number in range(count):
        picture = number * len(contexts) // count
        sentence = writer.next_sentence(contexts[picture], picture, story)
        if sentence is None:
            break
        story.append(sentence)
    return Story(title.strip(), story)


def story_search(decoding: Any) -> MagicSearch:
    """The search of stories as published, with a soft prompt where a captioner's own decoding has one."""
    return replace(STORY_SEARCH, soft_prompt=getattr(decoding, "soft_prompt", False))


def ends_sentence(text: str) -> bool:
    """Whether a text ends with the punctuation of a sentence, not with an abbreviation."""
    return _END.search(text) is not None and not text.endswith(_ABBREVIATIONS)


@dataclass(frozen=True)
class _Opening:
    """What the language model reads before a sentence."""

    ids: Sequence[int]
    """Its tokens, behind the start token."""

    before: int
    """How many of them stand before the sentence; the others are its beginning."""


@dataclass(frozen=True)
class _Writer:
    """Writes sentences."""

    language_model: LanguageModel
    search: MagicSearch
    title: str
    title_end: str

    def next_sentence(
        self, context: DecodingContext, picture: int, story: Sequence[StorySentence]
    ) -> StorySentence | None:
        """The sentence that goes on a story; None where all that can be written stand in it already."""
        written = {_words(self.title), *(_words(sentence.text) for sentence in story)}
        for opening in self._openings([sentence.text for sentence in story]):
            before = self.language_model.partial_texts([opening.ids[: opening.before]])[0]
            (start,) = context.start_prefixes(
                self.search.top_k,
                soft_prompt=self.search.soft_prompt,
                ids=opening.ids,
                unscored=opening.before,
            )
            for steps in self._drafts(context, start):
                text = steps[-1].text.removeprefix(before).strip()
                if _words(text) and _words(text) not in written:
                    vector = context.scorer.encode_texts([text])[0]
                    return StorySentence(text, picture, float(context.image_vectors[0] @ vector), steps)
        return None

    def _openings(self, story: Sequence[str]) -> Iterator[_Opening]:
        """What may be read before the next sentence: the story, as far as there is room, then nothing."""
        goes_on = bool(self.title) and not self.title_end and not ends_sentence(self.title)
        if goes_on and not story:  # the title is the beginning of the first sentence
            yield _Opening(self.language_model.encode_prefix(self.title, self.search.max_new_tokens), 0)
        else:
            ids = self._latest(*("", "") if goes_on else (self.title, self.title_end), story)
            yield _Opening(ids, len(ids))
        yield _Opening((), 0)

    def _latest(self, title: str, end: str, story: Sequence[str]) -> list[int]:
        """Tokens of the title and the last sentences, as many as there is room for.

        Raises:
            BadSettings: there is no room for the title, or a special token is written in it.
        """
        room = self.language_model.max_new_tokens - self.search.max_new_tokens
        for first in range(len(story)):
            (ids,) = self.language_model.encode_captions([" ".join([title + end, *story[first:]]).strip()])
            if len(ids) - 2 <= room:
                return ids[1:-1]
        return self.language_model.encode_prefix(title, self.search.max_new_tokens, end)

    def _drafts(self, context: DecodingContext, start: CachedPrefix) -> Iterator[tuple[Step, ...]]:
        """Sentences by their first tokens, the best first; none where the text most probably ends there."""
        if start.tokens[0] == self.language_model.end_id and len(start.ids) > 1:
            return
        first = next(time_steps_from([start], context, self.search, top_n=self.search.top_k))
        (steps,) = first.best(self.language_model, self.search.top_k)
        for step in steps:
            if not step.last:
                (longer,) = context.cache.extend([start], [start.tokens.index(step.token_id)], None)
                yield (step, *self._until_end(context, longer, step))

    def _until_end(self, context: DecodingContext, prefix: CachedPrefix, step: Step) -> Iterator[Step]:
        """The steps behind a sentence's first."""
        time_steps = time_steps_from([prefix], context, self.search)
        for time_step in islice(time_steps, self.search.max_new_tokens - 1):
            if ends_sentence(step.text):
                return
            ((_, step),) = time_step.steps(self.language_model)
            yield step


def _words(text: str) -> str:
    """What two sentences are compared by."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _magic_search(decoding: Any) -> MagicSearch:
    search = decoding.magic if isinstance(decoding, ContrastiveSearch | Greedy) else decoding
    if not isinstance(search, MagicSearch):
        raise BadSettings(
            f"a story is written by MagicSearch, ContrastiveSearch or Greedy, found {type(decoding).__name__}"
        )
    if search.prefix:
        raise BadSettings("a story goes on from its title; leave the prefix out")
    return search


def count_sentences(sentences: int | None, pictures: int, name: str = "sentences") -> int:
    """How many sentences a story has.

    Args:
        sentences: how many are asked for; None: 5 with one picture, as many as there are with several.
        pictures: how many there are.
        name: what an error calls ``sentences``.

    Raises:
        BadSettings: no picture, more pictures than sentences, or no such number of sentences.
    """
    if not pictures:
        raise BadSettings("expected a picture, or several, for a story; found none")
    count = sentences or (SENTENCES if pictures == 1 else pictures)
    require_int(name, count if sentences is None else sentences, most=MOST_SENTENCES)
    if count < pictures:
        raise BadSettings(f"expected at most a picture a sentence, found {pictures} for {count}; give fewer")
    return count
