"""``/v1/chat/completions`` and ``/v1/models`` as OpenAI's API has them, for programs that speak nothing else.

Words around the pictures are not read: every picture of the last message that has one is captioned.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from magicap.service import documents
from magicap.service.answers import best_captions
from magicap.service.errors import ServiceError
from magicap.service.fields import Fields
from magicap.service.limits import MOST_CAPTIONS
from magicap.service.middleware import request_id_of
from magicap.service.requests import checked, decoded, json_body, unless_left
from magicap.service.service import Service
from magicap.service.stream import UNBUFFERED


class ChatMessage(BaseModel):
    """A message; pictures are parts of its content of type ``image_url``."""

    model_config = ConfigDict(extra="ignore")

    role: str = Field("user", max_length=40)
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(BaseModel):
    """What is read of a request; other fields are accepted and make no difference."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(None, description="A preset; an unknown name is the default.")
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    n: int | None = Field(
        None, ge=1, le=MOST_CAPTIONS, description="How many captions of one picture; not read with several."
    )
    stream: bool | None = Field(False, description="Whether to answer as events.")
    stream_options: dict[str, Any] | None = Field(None, description="include_usage: end with the usage.")


def chat_routes(service: Service) -> APIRouter:
    """The routes of the OpenAI form."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/chat/completions", **documents.chat(ChatRequest))
    async def chat(request: Request) -> Response:
        """Caption the pictures of a chat's last message that has any, given as data: addresses."""
        service.require_room()
        async with service.time_limit():
            asked = checked(ChatRequest, await json_body(request), are_typed=False)
            images = _images(asked, service.limits.images)
            names = {offer.name for offer in service.presets.offers}
            preset = asked.model if asked.model in names else service.presets.default
            texts = await unless_left(request, _captions(service, images, preset, asked.n or 1))
        head = {
            "id": f"chatcmpl-{request_id_of(request)}",
            "created": int(time.time()),
            "model": preset,
        }
        if asked.stream:
            with_usage = bool((asked.stream_options or {}).get("include_usage"))
            chunks = _chunks(head, texts, with_usage=with_usage)
            return StreamingResponse(chunks, media_type="text/event-stream", headers=UNBUFFERED)
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
            for number, text in enumerate(texts)
        ]
        answer = {**head, "object": "chat.completion", "choices": choices, "usage": _usage(texts)}
        return JSONResponse(answer)

    @router.get("/models", **documents.PRESETS)
    async def models() -> dict[str, Any]:
        """The presets, as OpenAI's API lists models."""
        return {
            "object": "list",
            "data": [
                {"id": offer.name, "object": "model", "created": 0, "owned_by": "magicap"}
                for offer in service.presets.offers
            ],
        }

    return router


def _images(asked: ChatRequest, most: int) -> list[bytes]:
    """The pictures of the last message that has any.

    Raises:
        ServiceError: there are none, too many, or one is no data: address.
    """
    for message in reversed(asked.messages):
        parts = message.content if isinstance(message.content, list) else []
        urls = [part.get("image_url") for part in parts if part.get("type") == "image_url"]
        if len(urls) > most:
            raise ServiceError(422, "images", f"expected at most {most} pictures in a message, found more")
        if urls:
            return [decoded(url.get("url") if isinstance(url, dict) else url) for url in urls]
    raise ServiceError(422, "images", "expected a part of type image_url in a message, found none")


async def _captions(service: Service, images: list[bytes], preset: str, n: int) -> list[str]:
    """One text a choice: the n best captions of one picture, or a line a picture of several."""
    captioner = await service.captioner(preset)
    decoding = service.decoding(captioner, Fields(n=n if len(images) == 1 else None))
    captions = await service.captions(images, captioner, decoding, seed=0)
    for caption in captions:
        if caption.error is not None:
            raise ServiceError.of_image(caption.error)
    if len(captions) > 1:
        return ["\n".join(caption.text for caption in captions)]
    return best_captions(captions[0], n)


def _usage(texts: list[str]) -> dict[str, int]:
    """Words, which programs that count tokens are content with."""
    count = sum(len(text.split()) for text in texts)
    return {"prompt_tokens": 0, "completion_tokens": count, "total_tokens": count}


def _chunks(head: dict[str, Any], texts: list[str], *, with_usage: bool) -> Iterator[bytes]:
    """The answer as events of the OpenAI form."""
    for number, text in enumerate(texts):
        for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
            choice = {"index": number, "delta": delta, "finish_reason": reason}
            chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            yield f"data: {json.dumps(chunk)}\n\n".encode()
    if with_usage:
        last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(texts)}
        yield f"data: {json.dumps(last)}\n\n".encode()
    yield b"data: [DONE]\n\n"
