"""``/v1/search``: an index beside the captioners, searched by sentences and pictures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from magicap.data import normalise_caption
from magicap.errors import BadImage
from magicap.service import documents
from magicap.service.answers import MatchAnswer, MatchesAnswer
from magicap.service.errors import ServiceError
from magicap.service.fields import SearchFields
from magicap.service.index import ServedIndex
from magicap.service.middleware import request_id_of
from magicap.service.requests import read_request, unless_left
from magicap.service.service import Service
from magicap.service.tasks import SearchTask


def search_routes(service: Service) -> APIRouter:
    """The route of a service's index."""
    router = APIRouter(prefix="/v1", tags=["search"])

    @router.post("/search", **documents.SEARCH)
    async def search(request: Request) -> MatchesAnswer:
        """What the service's index holds that is nearest to a sentence or to a picture."""
        service.require_room()
        if service.index is None:
            raise ServiceError(404, "no_index", "the service has no index; start it with --index INDEX")
        async with service.time_limit():
            received = await read_request(request, SearchFields, service.limits, needs_image=False)
            work = _matches(service, service.index, received.fields, received.images)
            matches = await unless_left(request, work)
        return MatchesAnswer(request_id=request_id_of(request), matches=matches)

    return router


async def _matches(
    service: Service, served: ServedIndex, asked: SearchFields, images: list[bytes]
) -> list[MatchAnswer]:
    if (asked.text is None) == (not images) or len(images) > 1:
        raise ServiceError(422, "query", "expected either a text or one picture to search with")
    image: Any = None
    text: str | None = None
    if asked.text is not None:
        # written as the sentences of an index are: a stray space before the full stop costs recall
        text = normalise_caption(asked.text) or asked.text
    else:
        (image,) = await service.read(images, served.index.scorer.transform)
        if isinstance(image, BadImage):
            raise ServiceError.of_image(image)
    matches = await service.one(SearchTask(served.index, asked.top, text), image)
    return [
        MatchAnswer(
            rank=match.rank,
            cosine=round(match.cosine, 6),
            text=match.item.text,
            image=None if match.item.path is None else served.name(match.item.path) + match.item.fragment,
        )
        for match in matches
    ]
