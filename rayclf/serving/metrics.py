"""What is watched: Prometheus metrics of an endpoint, under the field's names, shown at ``/metrics`` and told to Ray.

``/metrics`` shows those of the process that answers; through Ray, under the same names after ``ray_``, the Prometheus
of a cluster has those of every replica. Labels of predictions and mean confidence show when what comes in is no longer
what was trained on (drift). Texts, keys and request ids are in no metric.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest

from rayclf.serving.answer import Answer

if TYPE_CHECKING:
    from rayclf.serving.batching import BatchReport, Counters
    from rayclf.serving.host import LoadCounters

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STARTS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_MOST_LABELS = 1000  # of prediction counts: more series than that, a Prometheus would not thank for

_RECORD = {"Counter": "inc", "Gauge": "set", "Histogram": "observe"}  # in prometheus_client and in Ray alike


@dataclass(frozen=True)
class Definition:
    """A metric: its kind, what it is of, the names of its labels, and the bounds of a histogram's buckets."""

    kind: Literal["Counter", "Gauge", "Histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


DEFINITIONS = {
    "http_requests": Definition("Counter", "HTTP requests, by their answers.", ("route", "method", "status")),
    "requests": Definition("Counter", "Requests for a classification that were answered.", ("model",)),
    "request_errors": Definition("Counter", "Requests for a classification that were not, by code.", ("code",)),
    "request_seconds": Definition("Histogram", "Time of a request, once its body is read.", ("model",), _SECONDS),
    "inputs": Definition("Counter", "Texts that were classified.", ("model",)),
    "tokens": Definition("Counter", "Tokens of those texts.", ("model",)),
    "predictions": Definition("Counter", "Texts by their most probable label.", ("model", "label")),
    "confidence": Definition("Counter", "Sum of the probabilities of those labels; by inputs, the mean.", ("model",)),
    "queue_seconds": Definition("Histogram", "Time until a request's first batch.", (), _SECONDS),
    "inference_seconds": Definition("Histogram", "Time of a batch.", (), _SECONDS),
    "batch_tokens": Definition("Histogram", "Tokens of a batch.", (), _TOKENS),
    "batch_size": Definition("Histogram", "Texts of a batch.", (), _ROWS),
    "queue_rows": Definition("Gauge", "Texts that wait."),
    "queue_tokens": Definition("Gauge", "Tokens that wait."),
    "requests_shed": Definition("Counter", "Requests refused since they would wait too long."),
    "requests_expired": Definition("Counter", "Requests whose deadline passed."),
    "requests_cancelled": Definition("Counter", "Requests whose client had gone."),
    "model_loads": Definition("Counter", "Models loaded."),
    "model_load_failures": Definition("Counter", "Models that could not be loaded."),
    "model_load_seconds": Definition("Counter", "Time that loading took."),
    "model_evictions": Definition("Counter", "Models let go for others."),
    "cold_start_seconds": Definition("Histogram", "Time until a new replica's first model was warm.", (), _STARTS),
}


class _Metric:
    """One metric, in this process's registry and, where there is one, in Ray."""

    def __init__(self, name: str, told: Definition, registry: CollectorRegistry, ray: ModuleType | None) -> None:
        name, self._record, self._labels = f"rayclf_{name}", _RECORD[told.kind], told.labels
        own = {"buckets": told.buckets} if told.buckets else {}
        self._own: Any = getattr(prometheus_client, told.kind)(name, told.text, told.labels, registry=registry, **own)
        self._ray: Any = None
        if ray is not None:
            bounds = {"boundaries": list(told.buckets)} if told.buckets else {}
            self._ray = getattr(ray, told.kind)(name, description=told.text, tag_keys=told.labels, **bounds)

    def record(self, value: float, *labels: str) -> None:
        """Add to a counter, set a gauge, or observe for a histogram."""
        getattr(self._own.labels(*labels) if labels else self._own, self._record)(value)
        if self._ray is not None and (value or self._record != "inc"):  # Ray's counters refuse to count nothing
            getattr(self._ray, self._record)(value, tags=dict(zip(self._labels, labels, strict=True)))


class Metrics:
    """The metrics of one process."""

    def __init__(self, ray: ModuleType | None = None) -> None:
        """In a replica, ``ray`` is ``ray.serve.metrics``, whose metrics carry deployment and replica as labels."""
        self.registry = CollectorRegistry()
        self._metrics = {name: _Metric(name, told, self.registry, ray) for name, told in DEFINITIONS.items()}
        self._began = time.monotonic()
        self._look: Callable[[], dict[str, float]] | None = None
        self._seen = defaultdict[str, float](float)

    def http(self, route: str, method: str, status: int) -> None:
        """Count an HTTP request; ``route`` is its template, since a path is as the client likes it."""
        self._metrics["http_requests"].record(1, route, method, str(status))

    def answered(self, answer: Answer, seconds: float) -> None:
        """Count a request that was answered."""
        model, best = answer.model, answer.best()
        self._metrics["requests"].record(1, model)
        self._metrics["request_seconds"].record(seconds, model)
        self._metrics["inputs"].record(len(answer.tokens), model)
        self._metrics["tokens"].record(sum(answer.tokens), model)
        self._metrics["confidence"].record(sum(score for _, score in best), model)
        many = len(answer.space) > _MOST_LABELS
        for label, count in Counter("" if many else label for label, _ in best).items():
            self._metrics["predictions"].record(count, model, label)

    def failed(self, code: str) -> None:
        """Count a request that was refused or failed."""
        self._metrics["request_errors"].record(1, code)

    def batch(self, report: BatchReport) -> None:
        """Count a batch."""
        for seconds in report.queue_seconds:
            self._metrics["queue_seconds"].record(seconds)
        self._metrics["inference_seconds"].record(report.compute_seconds)
        self._metrics["batch_tokens"].record(report.tokens)
        self._metrics["batch_size"].record(report.rows)
        self._refresh()

    def watch(self, queue: Callable[[], Counters], loads: LoadCounters) -> None:
        """From now on show what waits and what was loaded; to be called when the first model is warm."""

        def look() -> dict[str, float]:
            now = queue()
            return {
                "queue_rows": now.queue_rows,
                "queue_tokens": now.queue_tokens,
                "requests_shed": now.shed,
                "requests_expired": now.expired,
                "requests_cancelled": now.cancelled,
                "model_loads": loads.loads,
                "model_load_failures": loads.load_failures,
                "model_load_seconds": loads.load_seconds,
                "model_evictions": loads.evictions,
            }

        self._look = look
        self._metrics["cold_start_seconds"].record(time.monotonic() - self._began)
        self._refresh()

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        self._refresh()
        return generate_latest(self.registry)

    def _refresh(self) -> None:
        for name, value in (self._look() if self._look is not None else {}).items():
            counts = DEFINITIONS[name].kind == "Counter"
            self._metrics[name].record(value - self._seen[name] if counts else value)
            self._seen[name] = value
