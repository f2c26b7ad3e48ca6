"""What a service counts and measures, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


class ServiceMetrics:
    """Counts of requests and pictures, times, and the queue's length."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "magicap_requests", "Requests answered", ["path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "magicap_request_seconds",
            "From a request's first byte to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.pictures = Counter(
            "magicap_pictures", "Pictures, by what became of them", ["outcome"], registry=self._registry
        )
        self.batches = Histogram(
            "magicap_batch_jobs",
            "Jobs that were done together",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self.batch_seconds = Histogram(
            "magicap_batch_seconds",
            "Time that a batch took",
            buckets=_SECONDS,
            registry=self._registry,
        )
        queue = Gauge("magicap_queue_jobs", "Jobs that wait for the models", registry=self._registry)
        queue.set_function(waiting)

    def on_batch(self, count: int, seconds: float) -> None:
        """A batch of jobs is done."""
        self.batches.observe(count)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
