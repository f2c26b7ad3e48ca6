"""The service without its HTTP: pictures' bytes in, captions out, by readers and a queue, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magicap.captioners.batching import ON_CPU
from magicap.captioners.decodings import decoding_with, keeping_hypotheses
from magicap.decoding.settings import BeamMagicSearch
from magicap.errors import BadImage, BadSettings
from magicap.images.transform import ImageTransform, PreparedImage
from magicap.results import Caption
from magicap.runs.readers import ReaderPool
from magicap.runs.records import Record
from magicap.service.batching import BatchingQueue, Job, Task
from magicap.service.errors import ServiceError, stopping, timed_out
from magicap.service.fields import settings_of
from magicap.service.limits import MOST_SCORED, ServiceLimits
from magicap.service.presets import ServedPresets
from magicap.service.prometheus import ServiceMetrics
from magicap.service.tasks import CaptionTask

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner
    from magicap.service.index import ServedIndex

READERS = 2
"""Processes that read pictures: one may be busy with a picture that takes its whole time."""

_ON_GPU = 64


class Service:
    """Captioners, the processes that read pictures for them, and the queue before them.

    Args:
        presets: the captioners.
        limits: what requests may cost.
        index: what ``/v1/search`` searches.
        readers: processes that read pictures; 0: a thread of this process does, without a time limit.

    Attributes:
        is_stopping: whether new work is refused.
    """

    def __init__(
        self,
        presets: ServedPresets,
        limits: ServiceLimits,
        index: ServedIndex | None = None,
        readers: int = READERS,
    ) -> None:
        self.presets, self.limits, self.index = presets, limits, index
        self.is_stopping = False
        self.metrics = ServiceMetrics(lambda: len(self.queue))
        on_gpu = presets.get().device.type == "cuda"
        self.queue = BatchingQueue(limits.queue, _ON_GPU if on_gpu else ON_CPU, self.metrics.on_batch)
        self._readers = ReaderPool(readers, limits.image_timeout, limits.image)

    def close(self) -> None:
        """Give up what waits, and end threads and processes."""
        self.is_stopping = True
        self.queue.close()
        self._readers.close()

    def require_room(self) -> None:
        """Refuse a request before its body is read.

        Raises:
            ServiceError: the service is being stopped, or its queue is full.
        """
        if self.is_stopping:
            raise stopping()
        self.queue.require_room()

    def require_ready(self) -> None:
        """What ``/readyz`` asks.

        Raises:
            ServiceError: the service is being stopped, or the thread that runs the models has ended.
        """
        if self.is_stopping or not self.queue.is_alive:
            raise stopping()

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        """End what takes too long.

        Raises:
            ServiceError: 504.
        """
        try:
            async with asyncio.timeout(self.limits.timeout):
                yield
        except TimeoutError as error:
            raise timed_out(self.limits.timeout) from error

    async def captioner(self, name: str | None) -> AnyCaptioner:
        """An offered captioner, loaded where it is not yet."""
        return await asyncio.to_thread(self.presets.get, name)

    def decoding(self, captioner: AnyCaptioner, asked: Any) -> Any:
        """How a request wants to have its pictures captioned.

        Raises:
            ServiceError: 422, a setting that the decoding does not have, or out of its range.
        """
        preset = asked.preset or self.presets.default
        try:
            chosen = decoding_with(captioner, asked.decoding, settings_of(asked), preset=preset)
            chosen = keeping_hypotheses(chosen, asked.n or 1, option="n")
        except BadSettings as error:
            raise ServiceError(422, "settings", str(error)) from error
        _require_affordable(chosen, has_memory=getattr(captioner, "memory", None) is not None)
        return chosen

    async def read(
        self, images: Sequence[bytes], transform: ImageTransform
    ) -> list[PreparedImage | BadImage]:
        """Pictures as a captioner or scorer of this transform takes them, or why they cannot be read.

        They have places in the queue meanwhile; who stops waiting gives up those that are not begun.

        Raises:
            ServiceError: there is no room for them.
        """
        self.queue.reserve(len(images))
        uploads = [_Upload(data) for data in images]
        records = [Record(f"picture {number}", upload) for number, upload in enumerate(uploads, start=1)]
        futures = [self._readers.submit(record, transform) for record in records]
        try:
            results = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        finally:
            self.queue.release(len(images))
            for upload in uploads:
                upload.data = b""  # a reader may keep what was withdrawn for a while
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, BadImage):
                raise result
        return [result for result in results if isinstance(result, PreparedImage | BadImage)]

    async def captions(
        self, data: Sequence[bytes], captioner: AnyCaptioner, decoding: Any, seed: int
    ) -> list[Caption]:
        """Captions of encoded pictures; of those that cannot be read an empty one with the error."""
        images = await self.read(data, captioner.transform)
        task = CaptionTask(captioner, decoding)
        jobs = {
            number: Job(task, image, seed + number)
            for number, image in enumerate(images)
            if isinstance(image, PreparedImage)
        }
        done = dict(zip(jobs, await self.done(list(jobs.values())), strict=True))
        captions = [
            Caption("", error=image) if isinstance(image, BadImage) else done[number]
            for number, image in enumerate(images)
        ]
        for caption in captions:
            self.count(caption)
        return captions

    def count(self, caption: Caption) -> None:
        """Note what became of a picture."""
        self.metrics.pictures.labels("captioned" if caption.error is None else caption.error.code).inc()

    async def one(self, task: Task, image: PreparedImage | None = None, seed: int = 0) -> Any:
        """The result of one job."""
        (result,) = await self.done([Job(task, image, seed)])
        return result

    async def done(self, jobs: Sequence[Job]) -> list[Any]:
        """The results of jobs, once the models come to them; who stops waiting gives up their places.

        Raises:
            ServiceError: no room, or what a job was asked for does not fit the models.
        """
        self.queue.submit(jobs)
        return await self.results(jobs)

    async def results(self, jobs: Sequence[Job]) -> list[Any]:
        """The results of jobs that were submitted; errors as of :meth:`done`."""
        # shielded: a future of the queue must not be cancelled
        waiting = [asyncio.shield(asyncio.wrap_future(job.future)) for job in jobs]
        try:
            results = await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            self.queue.withdraw(jobs)
        for result in results:
            if isinstance(result, BadSettings):
                raise ServiceError(422, "settings", str(result)) from result
            if isinstance(result, BaseException):
                raise result
        return list(results)


def _require_affordable(decoding: Any, *, has_memory: bool) -> None:
    """Refuse a beam that would have the picture score too many partial captions.

    Raises:
        ServiceError: 422.
    """
    if not isinstance(decoding, BeamMagicSearch):
        return
    sees_picture = decoding.image_weight or (decoding.image_weight is None and not has_memory)
    scored = decoding.beam_size * decoding.top_k * decoding.max_new_tokens
    if sees_picture and scored > MOST_SCORED:
        expected = (
            f"beam_size * top_k * max_new_tokens of at most {MOST_SCORED} where the picture steers the beam"
        )
        raise ServiceError(422, "settings", f"expected {expected}, found {scored}; lower one of them")


@dataclass
class _Upload:
    """The bytes of a picture, for a reader."""

    data: bytes

    def __call__(self) -> bytes:
        return self.data
