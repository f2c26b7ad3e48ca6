"""What the service answers, as models that OpenAPI describes."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from magicap.drawing import word
from magicap.results import Caption, Competitors, Hypothesis, Step
from magicap.service.errors import ServiceError

if TYPE_CHECKING:
    from magicap.explanations.attention import AttentionExplanation
    from magicap.models.fine_grained.scorer import Alignment

_DIGITS = 4
_WHOLE = (0.0, 0.0, 1.0, 1.0)  # attention is over the whole picture


class ErrorDetail(BaseModel):
    """Why there is no answer; ``type`` and ``param`` stand here for programs that expect OpenAI's form."""

    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    request_id: str = ""


class ErrorAnswer(BaseModel):
    """The one form of all errors."""

    error: ErrorDetail


class PictureError(BaseModel):
    """Why one picture of several has no caption."""

    code: str
    message: str


class HypothesisAnswer(BaseModel):
    """A caption that competed, whole or still being written."""

    text: str
    expected_utility: float | None
    cosine: float | None
    log_probability: float | None
    source: str
    finished: bool
    score: float


class CandidateAnswer(BaseModel):
    """A token that could have been chosen, with the three terms of its score."""

    token: str
    last: bool
    model_confidence: float
    degeneration_penalty: float
    image_score: float
    score: float


class TokenAnswer(CandidateAnswer):
    """A token that was chosen."""

    position: int
    text: str
    candidates: list[CandidateAnswer] = []


class BeamAnswer(BaseModel):
    """What a beam holds after a token."""

    position: int
    hypotheses: list[HypothesisAnswer]


class CaptionAnswer(BaseModel):
    """A picture's caption, or why it has none."""

    caption: str | None
    captions: list[str] = []
    confidence: float | None = None
    score: float | None = None
    finished: bool = False
    hypotheses: list[HypothesisAnswer] = []
    error: PictureError | None = None


class CaptionsAnswer(BaseModel):
    """Captions of a request's pictures, in their order."""

    request_id: str
    preset: str
    decoding: dict[str, Any]
    results: list[CaptionAnswer]


class AlignmentAnswer(BaseModel):
    """Word by word, cosines with the places of a grid, and the part of the picture that the grid covers."""

    words: list[str]
    maps: list[list[list[float]]]
    seen: tuple[float, float, float, float]


class AttentionAnswer(AlignmentAnswer):
    """Token by token, where a supervised decoder looked, and how much the picture counted."""

    gate: list[float] | None


class ExplanationAnswer(BaseModel):
    """A caption, and what competed or where a decoder looked."""

    request_id: str
    preset: str
    decoding: dict[str, Any]
    kind: str
    caption: CaptionAnswer
    tokens: list[TokenAnswer] = []
    hypotheses: list[HypothesisAnswer] = []
    attention: AttentionAnswer | None = None
    alignment: AlignmentAnswer | None = None


class PresetAnswer(BaseModel):
    """A captioner that the service offers."""

    name: str
    kind: str
    origin: str
    licence: str
    loaded: bool
    default: bool
    decoding: dict[str, Any]
    decodings: list[str]


class PresetsAnswer(BaseModel):
    """All of them, and whether there is an index to search."""

    presets: list[PresetAnswer]
    index: str | None


class MatchAnswer(BaseModel):
    """A sentence, or a path from the folder that was indexed, of a moment of a video with ``#t=12.5``."""

    rank: int
    cosine: float
    text: str | None
    image: str | None


class MatchesAnswer(BaseModel):
    """What is nearest to a query, the best first."""

    request_id: str
    matches: list[MatchAnswer]


class StartAnswer(BaseModel):
    """How a picture is going to be captioned."""

    request_id: str
    preset: str
    decoding: dict[str, Any]


class StateAnswer(BaseModel):
    """Whether the service runs."""

    status: str


def error_detail(error: ServiceError, request_id: str) -> ErrorDetail:
    """An error as answers show it; its type is ``server_error`` from status 500 on."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return ErrorDetail(code=error.code, message=error.message, type=kind, request_id=request_id)


def caption_answer(caption: Caption, count: int = 1) -> CaptionAnswer:
    """A caption with the best ``count`` of those that competed."""
    error = None
    if caption.error is not None:
        refused = ServiceError.of_image(caption.error)
        error = PictureError(code=refused.code, message=refused.message)
    if error is not None and not caption:
        return CaptionAnswer(caption=None, error=error)
    return CaptionAnswer(
        caption=caption.text,
        captions=best_captions(caption, count),
        confidence=_rounded(caption.confidence),
        score=_rounded(caption.score),
        finished=caption.finished,
        hypotheses=[hypothesis_answer(hypothesis) for hypothesis in caption.hypotheses],
        error=error,
    )


def best_captions(caption: Caption, count: int) -> list[str]:
    """The caption, and the best of those that competed with it: at most ``count`` in all."""
    return [caption.text, *(hypothesis.text for hypothesis in caption.hypotheses[1:count])]


def hypothesis_answer(hypothesis: Hypothesis) -> HypothesisAnswer:
    """A hypothesis with rounded figures; one that is not finite is null, a score 0."""
    return HypothesisAnswer(
        text=hypothesis.text,
        expected_utility=_rounded(hypothesis.expected_utility),
        cosine=_rounded(hypothesis.cosine),
        log_probability=_rounded(hypothesis.log_probability),
        source=hypothesis.source,
        finished=hypothesis.finished,
        score=_rounded(hypothesis.score) or 0.0,
    )


def progress_answer(position: int, competitors: Competitors, candidates: int) -> TokenAnswer | BeamAnswer:
    """What competed at a position: a token that was chosen with others, or the hypotheses of a beam."""
    first = competitors[0]
    if isinstance(first, Step):
        steps = [step for step in competitors if isinstance(step, Step)][:candidates]
        others = [CandidateAnswer(**_terms(step)) for step in steps]
        return TokenAnswer(**_terms(first), position=position, text=first.text, candidates=others)
    beam = [hypothesis_answer(one) for one in competitors if isinstance(one, Hypothesis)]
    return BeamAnswer(position=position, hypotheses=beam)


def alignment_answer(alignment: Alignment) -> AlignmentAnswer:
    """Maps (words, rows, columns) of cosines, rounded, and the part of the picture that they cover."""
    return AlignmentAnswer(
        words=list(alignment.words), maps=_maps(alignment.cosines.tolist()), seen=alignment.seen
    )


def attention_answer(explanation: AttentionExplanation) -> AttentionAnswer:
    """Maps (words, rows, columns) of attention and the gates, rounded; they cover the whole picture."""
    gate = explanation.gate
    return AttentionAnswer(
        words=[word(step) for step in explanation.caption.steps],
        maps=_maps(explanation.attention.tolist()),
        seen=_WHOLE,
        gate=None if gate is None else gate.round(_DIGITS).tolist(),
    )


def _terms(step: Step) -> dict[str, Any]:
    terms = ("model_confidence", "degeneration_penalty", "image_score", "score")
    values = {name: _rounded(getattr(step, name)) or 0.0 for name in terms}
    return {"token": step.token, "last": step.last, **values}


def _maps(maps: Sequence[Sequence[Sequence[float]]]) -> list[list[list[float]]]:
    return [[[round(value, _DIGITS) for value in row] for row in rows] for rows in maps]


def _rounded(value: float | None) -> float | None:
    """A number that JSON can hold."""
    return None if value is None or not isfinite(value) else round(value, _DIGITS)
