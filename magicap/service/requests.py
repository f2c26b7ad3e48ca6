"""Bodies of requests as fields and pictures: forms with files, or JSON with pictures in base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from magicap.service.errors import ServiceError
from magicap.service.fields import WORD_LISTS
from magicap.service.limits import ServiceLimits

T = TypeVar("T")
FieldsT = TypeVar("FieldsT", bound=BaseModel)

MOST_FIELDS, MOST_VALUES = 300, 100_000
"""Fields of a form; values of JSON."""

_FORM, _JSON = "multipart/form-data", "application/json"
_DATA_ADDRESS = re.compile(r"data:[^,]{0,500};base64,", re.ASCII | re.IGNORECASE)
_SHOWN = 40  # characters of a name that is quoted


@dataclass(frozen=True)
class Received(Generic[FieldsT]):
    """What a request asks for."""

    fields: FieldsT
    images: list[bytes]


async def unless_left(request: Request, work: Awaitable[T]) -> T:
    """Wait for work on a request whose body is read, and give it up when the client leaves.

    Raises:
        ServiceError: 499, which nobody reads.
    """

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, left = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServiceError(499, "left", "the client left before its answer")
        return task.result()
    finally:
        task.cancel()
        left.cancel()


async def read_request(
    request: Request, fields: type[FieldsT], limits: ServiceLimits, *, needs_image: bool = True
) -> Received[FieldsT]:
    """Read a request's body.

    Raises:
        ServiceError: 415 another type of body, 422 fields that are not as they should be, no picture or too
            many of them.
    """
    is_form = _kind(request) == _FORM
    if is_form:
        images, values = await _form(request, limits)
    else:
        values = await json_body(request)
        images = await run_in_threadpool(_json_images, values)
    if len(images) > limits.images:
        raise ServiceError(
            422,
            "images",
            f"expected at most {limits.images} pictures, found more; send them in several requests",
        )
    if needs_image and not images:
        raise ServiceError(
            422, "images", "expected a picture as the file 'image' of a form, or in JSON; found none"
        )
    return Received(checked(fields, values, are_typed=not is_form), images)


async def json_body(request: Request) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        ServiceError: it is none, or holds too many values.
    """
    if _kind(request) != _JSON:
        raise ServiceError(
            415, "body_type", f"expected a body of type {_JSON}, or {_FORM} where a form is read"
        )
    return await run_in_threadpool(_parsed, await request.body())


def _parsed(body: bytes) -> dict[str, Any]:
    # before they are made: every value is an object of Python's, which takes fifty times its text
    if sum(map(body.count, (b"[", b"{", b","))) > MOST_VALUES:
        raise ServiceError(422, "json", f"expected at most {MOST_VALUES} values in JSON, found more")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ServiceError(422, "json", "expected a JSON object, found text that is none") from error
    if not isinstance(value, dict):
        raise ServiceError(422, "json", "expected a JSON object, found another JSON value")
    return value


async def _form(request: Request, limits: ServiceLimits) -> tuple[list[bytes], dict[str, Any]]:
    """The pictures and the fields of a form.

    Raises:
        ServiceError: 400, it is damaged.
    """
    try:
        async with request.form(max_files=limits.images + 1, max_fields=MOST_FIELDS) as form:
            images = [await file.read() for file in form.getlist("image") if isinstance(file, UploadFile)]
            return images, _form_values(form)
    except (LookupError, ValueError) as error:  # an unknown character set, bytes that are not of it
        raise ServiceError(400, "body", "expected a form, found a damaged one") from error


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def checked(model: type[FieldsT], values: Mapping[str, Any], *, are_typed: bool = True) -> FieldsT:
    """Fields as they must be.

    Args:
        model: the pydantic model of the fields.
        values: what was sent.
        are_typed: whether they have types, as JSON has and forms have not.

    Raises:
        ServiceError: they are not; the message names fields, but not what they held.
    """
    try:
        return model.model_validate(values, strict=are_typed)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])[:_SHOWN] or "body"
        raise ServiceError(422, "fields", f"{name}: {first['msg']}") from error


def decoded(text: object) -> bytes:
    """A picture in base64, with or without the head of a data: address.

    Raises:
        ServiceError: it is none. Other addresses are never fetched.
    """
    if not isinstance(text, str):
        raise ServiceError(422, "base64", "expected a picture as text in base64, found another JSON value")
    head = _DATA_ADDRESS.match(text)
    if head is None and re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:", text):
        raise ServiceError(
            422, "url", "expected a data: address in base64; other addresses are never fetched"
        )
    try:
        encoded = "".join(text[head.end() if head else 0 :].split())  # as base64 tools break lines
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ServiceError(422, "base64", "expected a picture in base64, found text that is none") from error


def _json_images(values: dict[str, Any]) -> list[bytes]:
    """Take the pictures out of a JSON object."""
    texts = values.pop("images", None)
    one = values.pop("image", None)
    if texts is not None and not isinstance(texts, list):
        raise ServiceError(422, "images", "images: expected a list of pictures in base64")
    return [decoded(text) for text in [*([] if one is None else [one]), *(texts or [])]]


def _form_values(form: FormData) -> dict[str, Any]:
    """The fields of a form: of lists of words all, of others the last one."""
    values: dict[str, Any] = {}
    for name in form:
        sent = [value for value in form.getlist(name) if not isinstance(value, UploadFile)]
        if name == "image" and len(sent) < len(form.getlist(name)):
            continue
        if not sent:
            raise ServiceError(422, "fields", f"{name[:_SHOWN]}: expected a field of a form, found a file")
        values[name] = _words(sent) if name in WORD_LISTS else sent[-1]
    return {name: value for name, value in values.items() if value != ""}


def _words(sent: list[Any]) -> list[str]:
    """Words of repeated fields, or of one with commas."""
    return [word.strip() for text in sent for word in text.split(",") if word.strip()]
