"""``/v1``: captions, captions with their progress, explanations, presets, search."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from magicap.captioners.folder import ZERO_SHOT
from magicap.captioners.supervised import SupervisedCaptioner
from magicap.captioners.zero_shot import Captioner
from magicap.decoding.settings import DECODINGS
from magicap.errors import BadImage
from magicap.images.transform import PreparedImage
from magicap.results import Caption
from magicap.service import documents
from magicap.service.answers import (
    AlignmentAnswer,
    CaptionsAnswer,
    ExplanationAnswer,
    PresetAnswer,
    PresetsAnswer,
    StartAnswer,
    TokenAnswer,
    alignment_answer,
    attention_answer,
    caption_answer,
    progress_answer,
)
from magicap.service.batching import Job
from magicap.service.errors import ServiceError, timed_out, unexpected
from magicap.service.fields import Fields, ProgressFields
from magicap.service.middleware import request_id_of
from magicap.service.presets import decoding_settings
from magicap.service.requests import read_request, unless_left
from magicap.service.service import Service
from magicap.service.stream import UNBUFFERED, JobEvents, error_event, event
from magicap.service.tasks import AlignTask, AttentionTask, CaptionTask

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner


@dataclass(frozen=True)
class _CaptionRequest:
    """One picture, and how it is to be captioned."""

    request_id: str
    preset: str
    captioner: AnyCaptioner
    decoding: Any
    image: PreparedImage
    fields: Any

    @property
    def task(self) -> CaptionTask:
        return CaptionTask(self.captioner, self.decoding, max(1, self.fields.candidates))

    @property
    def start(self) -> StartAnswer:
        return StartAnswer(
            request_id=self.request_id, preset=self.preset, decoding=decoding_settings(self.decoding)
        )


def routes(service: Service) -> APIRouter:
    """The routes of a service."""
    router, limits = APIRouter(prefix="/v1", tags=["captions"]), service.limits

    @router.post("/caption", **documents.CAPTION)
    async def caption(request: Request) -> CaptionsAnswer:
        """Caption one picture, or several at once.

        One picture that cannot be read is an error of the request; of several it is an error in its result.
        """
        service.require_room()
        async with service.time_limit():
            received = await read_request(request, Fields, limits)
            asked, images = received.fields, received.images
            captioner = await service.captioner(asked.preset)
            decoding = service.decoding(captioner, asked)
            work = service.captions(images, captioner, decoding, asked.seed)
            captions = await unless_left(request, work)
        if len(captions) == 1 and captions[0].error is not None:
            raise ServiceError.of_image(captions[0].error)
        return CaptionsAnswer(
            request_id=request_id_of(request),
            preset=asked.preset or service.presets.default,
            decoding=decoding_settings(decoding),
            results=[caption_answer(caption, asked.n or 1) for caption in captions],
        )

    @router.post("/captions/stream", **documents.STREAM)
    async def stream(request: Request) -> StreamingResponse:
        """Caption one picture, and report each token at once, or the beam after each token."""
        deadline = asyncio.get_running_loop().time() + limits.timeout
        async with service.time_limit():
            asked = await _one_picture(service, request)
        reports = JobEvents()
        job = Job(asked.task, asked.image, asked.fields.seed, reports.report)
        service.queue.submit([job])
        parts = _events(service, asked, job, reports, deadline)
        return StreamingResponse(parts, media_type="text/event-stream", headers=UNBUFFERED)

    @router.post("/explain", **documents.EXPLAIN)
    async def explain(request: Request) -> ExplanationAnswer:
        """Caption one picture, and show what competed, or where a supervised decoder looked."""
        async with service.time_limit():
            asked = await _one_picture(service, request)
            work = _explanation(service, asked)
            return await unless_left(request, work)

    @router.get("/presets", **documents.PRESETS)
    async def presets() -> PresetsAnswer:
        """The captioners that requests may name."""
        served = service.presets
        offers = [
            PresetAnswer(
                **asdict(offer),
                loaded=served.is_loaded(offer.name),
                default=offer.name == served.default,
                decodings=list(DECODINGS) if offer.kind == ZERO_SHOT else [],
            )
            for offer in served.offers
        ]
        return PresetsAnswer(presets=offers, index=service.index.index.kind if service.index else None)

    return router


async def _one_picture(service: Service, request: Request) -> _CaptionRequest:
    """What a request that has one picture asks for.

    Raises:
        ServiceError: it is not as it should be, or the picture cannot be read.
    """
    service.require_room()
    received = await read_request(request, ProgressFields, service.limits)
    fields = received.fields
    if len(received.images) != 1:
        raise ServiceError(422, "images", "expected one picture, found several; ask for each by itself")
    captioner = await service.captioner(fields.preset)
    decoding = service.decoding(captioner, fields)
    reading = service.read(received.images, captioner.transform)
    (image,) = await unless_left(request, reading)
    if isinstance(image, BadImage):
        service.count(Caption("", error=image))
        raise ServiceError.of_image(image)
    preset = fields.preset or service.presets.default
    return _CaptionRequest(request_id_of(request), preset, captioner, decoding, image, fields)


async def _events(
    service: Service, asked: _CaptionRequest, job: Job, reports: JobEvents, deadline: float
) -> AsyncIterator[bytes]:
    """The events of a stream; its slot is free again once it ends or the client leaves."""
    try:
        async with asyncio.timeout_at(deadline):
            yield event("start", asked.start)
            async for position, competitors in reports.of(job):
                answer = progress_answer(position, competitors, asked.fields.candidates)
                yield event("token" if isinstance(answer, TokenAnswer) else "hypotheses", answer)
            (caption,) = await service.results([job])
            service.count(caption)
            yield event("caption", caption_answer(caption, asked.fields.n or 1))
            if asked.fields.alignment and (aligned := await _alignment(service, asked, caption)) is not None:
                yield event("alignment", aligned)
    except TimeoutError:
        yield error_event(timed_out(service.limits.timeout), asked.request_id)
    except ServiceError as error:
        yield error_event(error, asked.request_id)
    except Exception as error:
        yield error_event(unexpected(error, asked.request_id), asked.request_id)
    finally:
        service.queue.withdraw([job])


async def _explanation(service: Service, asked: _CaptionRequest) -> ExplanationAnswer:
    start = asked.start
    if isinstance(asked.captioner, SupervisedCaptioner):
        task = AttentionTask(asked.captioner, asked.decoding)
        shown = await service.one(task, asked.image, asked.fields.seed)
        service.count(shown.caption)
        return ExplanationAnswer(
            **start.model_dump(),
            kind="attention",
            caption=caption_answer(shown.caption, asked.fields.n or 1),
            attention=attention_answer(shown),
        )
    reported: list[tuple[int, Any]] = []
    (caption,) = await service.done([Job(asked.task, asked.image, asked.fields.seed, reported.append)])
    service.count(caption)
    steps = [progress_answer(*one, asked.fields.candidates) for one in reported]
    answer = caption_answer(caption, asked.fields.n or 1)
    return ExplanationAnswer(
        **start.model_dump(),
        kind="tokens" if caption.steps else "hypotheses",
        caption=answer,
        tokens=[step for step in steps if isinstance(step, TokenAnswer)],
        hypotheses=answer.hypotheses,
        alignment=await _alignment(service, asked, caption) if asked.fields.alignment else None,
    )


async def _alignment(service: Service, asked: _CaptionRequest, caption: Caption) -> AlignmentAnswer | None:
    """Where the caption's words sit in the picture; None where that cannot be said."""
    if not isinstance(asked.captioner, Captioner) or not caption.strip():
        return None
    aligned = await service.one(AlignTask(asked.captioner, caption.text), asked.image)
    return None if aligned is None else alignment_answer(aligned)
