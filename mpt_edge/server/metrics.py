"""Counts and times of a server, as Prometheus reads them."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

#: Upper bounds of times, in seconds: from a short text on a fast processor to a long generated text.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Watched(Protocol):
    """A service, as `Metrics.watch` reads it."""

    @property
    def waiting(self) -> int:
        """Number of texts that wait."""

    @property
    def streaming(self) -> int:
        """Number of texts that are streamed or wait for it."""

    @property
    def cached_tasks(self) -> int:
        """Number of tasks whose prompts are cached."""


class Metrics:
    """Metrics of one server. Counters are of this process and start at zero."""

    def __init__(self) -> None:
        """Make a registry of its own."""
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Histogram(
            "mpt_edge_request_seconds", "Time of a request, from its headers to its last byte.",
            ("route", "status"), registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._texts = Counter("mpt_edge_texts", "Texts that were answered.", ("task",), registry=registry)
        self._batches = Histogram(
            "mpt_edge_batch_texts", "Texts of a batch.", ("queue",), registry=registry, buckets=_SIZES
        )
        self._batch_seconds = Histogram(
            "mpt_edge_batch_seconds", "Time of a batch.", ("queue",), registry=registry, buckets=_SECONDS
        )
        self._waiting = Gauge("mpt_edge_queue_texts", "Texts that wait.", registry=registry)
        self._streaming = Gauge("mpt_edge_streams", "Texts that are streamed or wait for it.", registry=registry)
        self._cached = Gauge("mpt_edge_cached_tasks", "Tasks whose prompts are cached.", registry=registry)

    def watch(self, service: Watched) -> None:
        """Report a service's queue, streams and cached tasks from now on."""
        self._waiting.set_function(lambda: service.waiting)
        self._streaming.set_function(lambda: service.streaming)
        self._cached.set_function(lambda: service.cached_tasks)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, status).observe(seconds)

    def observe_batch(self, queue: str, texts: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.labels(queue).observe(texts)
        self._batch_seconds.labels(queue).observe(seconds)

    def count_texts(self, task: str, number: int) -> None:
        """Count answered texts of a task; the bare backbone has no name."""
        self._texts.labels(task).inc(number)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return bytes(generate_latest(self._registry))
