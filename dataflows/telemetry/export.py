"""Metrics on their way out of the parent process: OpenTelemetry's provider and its readers.

Where nothing is to be told no library is loaded for it, and there is no thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dataflows.clock import WALL
from dataflows.telemetry import meters as m
from dataflows.telemetry.metrics import (
    COUNTER,
    FRESHNESS,
    HISTOGRAM,
    METRICS,
    STEP,
    STEP_DURATION,
    STORE_DURATION,
    Read,
)
from dataflows.telemetry.observed import Observed
from dataflows.telemetry.trace import Traces, wanted

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import CollectorRegistry

# The endpoint of all signals, or of this one alone.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
STEPS = {m.APPLY: "1-apply", m.EMIT: "2-emit", m.COMMIT_STATE: "3-commit-state", m.COMMIT_EPOCH: "4-commit-epoch",
         m.PUBLISH: "5-publish"}  # fmt: skip


class Telemetry:
    """What is told to the outside of one job, over all starts of its workers."""

    def __init__(self) -> None:
        self.observed: Observed | None = None
        self._heard: dict[int, int] = {}  # samples read so far, by worker
        self._heard_spans: dict[int, int] = {}
        self._record: dict[int, Callable[[float], None]] = {}  # by kind of sample
        self.traces: Traces | None = None

    def watch(self, observed: Observed) -> None:
        """Look at workers that are about to start, whose counts begin anew."""
        self.observed, self._heard, self._heard_spans = observed, {}, {}

    def leave(self) -> None:
        """Look at no workers: there are none until all pods are there."""
        self.observed = None

    def tick(self) -> None:
        """Take over the samples and spans that workers have left."""
        job = self.observed
        if job is None:
            return
        if self.traces is not None:
            self.traces.tell(job.spans(self._heard_spans))
        if not self._record:
            return
        for kind, value in job.samples(self._heard):
            if kind in self._record:
                self._record[kind](value)

    def instruments(self, provider: MeterProvider) -> None:
        """Make every metric of the table with a provider."""
        meter = provider.get_meter("lookback")
        for metric in METRICS:
            if metric.kind == HISTOGRAM:
                made = meter.create_histogram(
                    metric.name,
                    metric.unit,
                    metric.meaning,
                    explicit_bucket_boundaries_advisory=metric.bounds,
                )
                self._record |= _recorders(metric.name, made.record, self._on_wall_clock)
                continue
            assert metric.read is not None
            make = (
                meter.create_observable_counter if metric.kind == COUNTER else meter.create_observable_gauge
            )
            make(metric.name, [self._callback(metric.read)], metric.unit, metric.meaning)

    def _on_wall_clock(self) -> bool:
        return self.observed is not None and self.observed.settings.clock == WALL

    def _callback(self, read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            job = self.observed
            if job is not None:
                for value, attributes in read(job):
                    yield Observation(value, attributes)

        return observe


def _recorders(
    name: str, record: Callable[..., None], on_wall_clock: Callable[[], bool]
) -> dict[int, Callable[[float], None]]:
    """Return what takes each kind of sample that a histogram is made of."""
    if name == STEP_DURATION:
        return {kind: _of_step(record, step) for kind, step in STEPS.items()}
    if name == STORE_DURATION:
        return {m.STORE_WRITE: lambda ns: record(ns / 1e9)}
    assert name == FRESHNESS
    return {m.FRESHNESS: lambda ms: record(max(0.0, ms / 1e3)) if on_wall_clock() else None}


def _of_step(record: Callable[..., None], step: str) -> Callable[[float], None]:
    return lambda ns: record(ns / 1e9, {STEP: step})


@contextmanager
def telemetry(metrics: tuple[str, int] | None, say: Callable[[str], None]) -> Iterator[Telemetry]:
    """Give what tells of a job while the block lasts: over HTTP, by OTLP where the environment says so.

    Raises UsageError where nothing can listen there.
    """
    told = Telemetry()
    pushed = any(os.environ.get(name) for name in ENDPOINTS)
    if metrics is None and not pushed and not wanted():
        yield told  # no library is loaded for nothing
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from prometheus_client import CollectorRegistry

    readers: list[MetricReader] = []
    registry = CollectorRegistry()
    if metrics is not None:
        readers.append(_prometheus(registry))
    if pushed:
        readers.append(_otlp())
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "lookback"}
    resource = Resource.create(named)
    provider = MeterProvider(readers, resource, shutdown_on_exit=False)
    if wanted():
        told.traces = Traces(resource)
    told.instruments(provider)
    try:
        if metrics is None:
            yield told
        else:
            from dataflows.telemetry.endpoint import serving

            with serving(metrics, registry, told, say):
                yield told
    finally:
        told.tick()
        provider.shutdown()
        if told.traces is not None:
            told.traces.close()


def _prometheus(registry: CollectorRegistry) -> Any:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import PROCESS_COLLECTOR

    registry.register(PROCESS_COLLECTOR)
    return PrometheusMetricReader(scope_info_enabled=False, registry=registry)


def _otlp() -> Any:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return PeriodicExportingMetricReader(OTLPMetricExporter())
