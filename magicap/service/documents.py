"""What OpenAPI says of the routes: bodies, examples, and the errors that each may answer."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel

from magicap.service.answers import ErrorAnswer
from magicap.service.fields import Fields, ProgressFields, SearchFields

_PICTURE = (  # 4 x 4 pixels
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR42mO0qTjBAANMDEgANwcASrABhBlFiWgAAAAASUVORK5CYII="
)
_ERRORS = {
    400: "The form is damaged",
    401: "The token is missing or wrong",
    403: "A page of another site asks",
    404: "There is no such thing",
    413: "The body, or a picture, is too large",
    415: "A body or a picture of a kind that is not read",
    422: "Fields, settings or a picture are not as they should be",
    429: "The queue is full: see Retry-After",
    500: "Something failed here",
    503: "The service is being stopped",
    504: "No answer within the time limit",
}


def _errors(*left_out: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ErrorAnswer, "description": text}
        for status, text in _ERRORS.items()
        if status not in left_out
    }


def _body(
    fields: type[BaseModel], *, many: bool = False, needs_image: bool = True, **example: Any
) -> dict[str, Any]:
    """A request's body in both its forms."""
    schema = fields.model_json_schema()
    form, as_json = copy.deepcopy(schema), copy.deepcopy(schema)
    file = {"type": "string", "format": "binary"}
    encoded: dict[str, Any] = {
        "type": "string",
        "format": "byte",
        "description": "In base64, or a data: address.",
    }
    if not needs_image:
        encoded["type"] = ["string", "null"]
    form["properties"]["image"] = {"type": "array", "items": file, "maxItems": 16} if many else file
    as_json["properties"]["image"] = encoded
    if many:
        as_json["properties"]["images"] = {"type": "array", "items": encoded, "maxItems": 16}
    if needs_image:
        form["required"] = as_json["required"] = ["image"]
    if many:
        as_json.pop("required", None)
        as_json["anyOf"] = [{"required": ["image"]}, {"required": ["images"]}]
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": as_json, "example": example},
    }
    return {"requestBody": {"required": True, "content": content}}


_EVENTS = {
    "description": "Events: start, token or hypotheses, caption, alignment; error ends the stream.",
    "content": {
        "text/event-stream": {
            "example": 'event: token\ndata: {"position": 0, "text": "A", "token": "A"}\n\n',
        }
    },
}

CAPTION: dict[str, Any] = {
    "responses": _errors(404),
    "openapi_extra": _body(Fields, many=True, image=_PICTURE, n=3),
}
STREAM: dict[str, Any] = {
    "responses": {**_errors(404), 200: _EVENTS},
    "openapi_extra": _body(ProgressFields, image=_PICTURE, decoding="magic"),
}
EXPLAIN: dict[str, Any] = {
    "responses": _errors(404),
    "openapi_extra": _body(ProgressFields, image=_PICTURE, decoding="magic", candidates=3),
}
SEARCH: dict[str, Any] = {
    "responses": _errors(),
    "openapi_extra": _body(SearchFields, needs_image=False, text="a dog on the beach", top=3),
}
PRESETS: dict[str, Any] = {
    "responses": {status: error for status, error in _errors().items() if status == 401}
}
_CHAT_EXAMPLE = {
    "model": "embedded",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in this picture?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PICTURE}"}},
            ],
        }
    ],
}


def chat(fields: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of the route of the OpenAI form, whose body is JSON alone."""
    schema = fields.model_json_schema()
    schema["properties"]["messages"]["items"] = schema.pop("$defs")["ChatMessage"]
    body = {"schema": schema, "example": _CHAT_EXAMPLE}
    answers = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    return {
        "responses": {**_errors(404), 200: {"description": "As OpenAI's API answers", "content": answers}},
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": body}}},
    }
