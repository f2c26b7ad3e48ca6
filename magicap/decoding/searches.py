"""The table of searches: from the type of a decoding's settings to what carries it out.

The only place that asks what kind of decoding it has before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magicap.decoding.beam_magic import beam_magic_search, beam_magic_time_steps, needs_memory
from magicap.decoding.captions import (
    captions_from_competitions,
    captions_from_hypotheses,
    captions_from_steps,
)
from magicap.decoding.context import DecodingContext
from magicap.decoding.magic import magic_search, magic_time_steps
from magicap.decoding.minimum_bayes_risk import Competition
from magicap.decoding.sampling import nucleus_sampling, top_k_sampling
from magicap.decoding.settings import (
    BeamMagicSearch,
    ContrastiveSearch,
    Greedy,
    MagicSearch,
    Nucleus,
    TopK,
)
from magicap.errors import BadSettings
from magicap.explanations.hypotheses import HypothesisExplanation
from magicap.explanations.tokens import TokenExplanation
from magicap.generators import Returning
from magicap.results import Caption, CaptionProgress, Hypothesis, Step, StepBatches

if TYPE_CHECKING:
    from PIL.Image import Image

    from magicap.drawing import Explanation

KEPT_HYPOTHESES = 5
"""How many hypotheses of a decoding of one's own stay with a caption."""

Explain = Callable[[DecodingContext, Any, "Image", int], "Explanation"]
"""Of one picture, its settings, the picture itself, and how many competitors are shown."""


@dataclass(frozen=True)
class Search:
    """What carries out a decoding. One of ``stream``, ``search`` and ``compete`` is there."""

    stream: Callable[[DecodingContext, Any], StepBatches] | None = None
    """Writes captions token by token."""

    search: Callable[[DecodingContext, Any], list[list[Hypothesis]]] | None = None
    """Compares whole captions: for each picture the best first."""

    compete: Callable[[DecodingContext, Any], list[Competition]] | None = None
    """Compares whole captions, and tells what judged them."""

    progress: Callable[[DecodingContext, Any, int], CaptionProgress] | None = None
    """Captions pictures and reports after each token the best so many that compete."""

    explain: Explain | None = None
    """Captions one picture and shows what competed."""

    needs_memory: Callable[[Any], bool] = lambda settings: False
    """Whether it cannot do without a caption memory under these settings."""

    splits: bool = False
    """Whether pictures searched together share nothing, so that parts of them may run side by side."""

    sees_pictures: bool = True
    """Whether the scorer has a part in it."""

    kept: Callable[[Any], int] = lambda settings: KEPT_HYPOTHESES
    """How many hypotheses stay with a caption."""

    def captions(self, context: DecodingContext, settings: Any) -> list[Caption]:
        """Captions of the context's pictures.

        Raises:
            BadSettings: the decoding does not fit the models or their memory.
        """
        self.check(context, settings)
        if self.stream is not None:
            return captions_from_steps(context, self.stream(context, settings))
        kept = self.kept(settings)
        if self.compete is not None:
            return captions_from_competitions(context, self.compete(context, settings), kept)
        assert self.search is not None
        return captions_from_hypotheses(context, self.search(context, settings), kept)

    def captions_with_progress(self, context: DecodingContext, settings: Any, count: int) -> CaptionProgress:
        """:meth:`captions`, with the best ``count`` that compete after each token, where there are any."""
        if self.progress is None:
            return self.captions(context, settings)
        self.check(context, settings)
        return (yield from self.progress(context, settings, count))

    def check(self, context: DecodingContext, settings: Any) -> None:
        """Refuse to search without a memory where one is needed.

        Raises:
            BadSettings: it is refused.
        """
        if context.memory is None and self.needs_memory(settings):
            raise BadSettings(
                "include and min_words choose among remembered captions; this captioner has no memory"
            )


def magic_progress(context: DecodingContext, settings: MagicSearch, count: int) -> CaptionProgress:
    """Magic search, with the ``count`` best candidates of each step."""
    chosen: list[list[tuple[int, Step]]] = []
    for time_step in magic_time_steps(context, settings, top_n=max(1, count)):
        best = time_step.best(context.language_model, max(1, count))
        chosen.append([(row, steps[0]) for row, steps in zip(time_step.rows, best, strict=True)])
        yield [(row, tuple(steps)) for row, steps in zip(time_step.rows, best, strict=True)]
    return captions_from_steps(context, iter(chosen))


def beam_magic_progress(context: DecodingContext, settings: BeamMagicSearch, count: int) -> CaptionProgress:
    """Beam magic search, with the ``count`` best hypotheses after each token."""
    time_steps = Returning(beam_magic_time_steps(context, settings))
    for time_step in time_steps:
        yield [*time_step.best(count)] if count else []
    return captions_from_competitions(context, time_steps.value, settings.num_hypotheses)


def sampling_progress(
    sample: Callable[[DecodingContext, Any], StepBatches],
) -> Callable[[DecodingContext, Any, int], CaptionProgress]:
    """A search that samples, with the tokens that it sampled: nothing else competes."""

    def progress(context: DecodingContext, settings: Any, _: int) -> CaptionProgress:
        chosen = []
        for batch in sample(context, settings):
            chosen.append(batch)
            yield [(row, (step,)) for row, step in batch]
        return captions_from_steps(context, iter(chosen))

    return progress


def explain_tokens(
    context: DecodingContext, settings: MagicSearch, picture: Image, count: int
) -> TokenExplanation:
    """Magic search of one picture, with the ``count`` best candidates of each step."""
    candidates: list[tuple[Step, ...]] = []
    for time_step in magic_time_steps(context, settings, top_n=count):
        candidates.append(tuple(time_step.best(context.language_model, count)[0]))
    (caption,) = captions_from_steps(context, iter([[(0, steps[0])] for steps in candidates]))
    return TokenExplanation(picture, caption, tuple(candidates))


def explain_hypotheses(
    context: DecodingContext, settings: BeamMagicSearch, picture: Image, count: int
) -> HypothesisExplanation:
    """Beam magic search of one picture, with the ``count`` best hypotheses."""
    competitions = beam_magic_search(context, settings)
    (caption,) = captions_from_competitions(context, competitions, settings.num_hypotheses)
    return HypothesisExplanation(picture, caption, tuple(competitions[0].hypotheses[:count]))


SEARCHES: dict[type, Search] = {
    MagicSearch: Search(stream=magic_search, progress=magic_progress, explain=explain_tokens),
    BeamMagicSearch: Search(
        compete=beam_magic_search,
        splits=True,
        progress=beam_magic_progress,
        explain=explain_hypotheses,
        needs_memory=needs_memory,
        kept=lambda settings: settings.num_hypotheses,
    ),
    ContrastiveSearch: Search(
        stream=lambda context, settings: magic_search(context, settings.magic),
        progress=lambda context, settings, count: magic_progress(context, settings.magic, count),
        sees_pictures=False,
    ),
    Greedy: Search(
        stream=lambda context, settings: magic_search(context, settings.magic),
        progress=lambda context, settings, count: magic_progress(context, settings.magic, count),
        sees_pictures=False,
    ),
    TopK: Search(stream=top_k_sampling, progress=sampling_progress(top_k_sampling), sees_pictures=False),
    Nucleus: Search(
        stream=nucleus_sampling, progress=sampling_progress(nucleus_sampling), sees_pictures=False
    ),
}
"""Settings of :data:`magicap.decoding.settings.DECODINGS` to their searches."""


def search_of(decoding: Any) -> Search:
    """What carries out a decoding: a row of :data:`SEARCHES`, or the decoding's own ``search(context)``.

    Raises:
        BadSettings: it is neither.
    """
    row = SEARCHES.get(type(decoding))
    if row is not None:
        return row
    if callable(getattr(decoding, "search", None)):
        return Search(search=lambda context, settings: settings.search(context))
    raise BadSettings(
        f"expected a decoding such as MagicSearch, or an object with search(context), found {decoding!r}, "
        "which a zero-shot captioner cannot use"
    )


def as_beam_magic(decoding: Any) -> BeamMagicSearch:
    """A decoding's settings of beam magic search, or the defaults, with a soft prompt where it has one."""
    if isinstance(decoding, BeamMagicSearch):
        return decoding
    return BeamMagicSearch(soft_prompt=isinstance(decoding, MagicSearch) and decoding.soft_prompt)


def stream_steps(context: DecodingContext, decoding: Any) -> StepBatches:
    """The steps of a decoding that writes token by token.

    Raises:
        BadSettings: it compares whole captions, so it has no steps.
    """
    row = search_of(decoding)
    if row.stream is None:
        raise BadSettings(
            f"{type(decoding).__name__} compares whole captions and has no steps to stream; "
            "stream a search that writes token by token, such as MagicSearch"
        )
    return row.stream(context, decoding)


def explain(context: DecodingContext, decoding: Any, picture: Image, count: int) -> Explanation:
    """Caption one picture and show what competed.

    Raises:
        BadSettings: the decoding weighs nothing that can be shown.
    """
    row = search_of(decoding)
    if row.explain is None:
        raise BadSettings(
            f"only MagicSearch and BeamMagicSearch weigh candidates that can be shown, found {decoding!r}; "
            "explain with one of these"
        )
    row.check(context, decoding)
    return row.explain(context, decoding, picture, count)
