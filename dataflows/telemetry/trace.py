"""Traces of sampled batches: spans that workers leave in the meters, sent by OTLP from the parent.

A trace is one batch of a source partition: the root is its fetch (reading, decoding, judging, dealing to shards), and
its children are each shard's steps 1 and 2 of the commit and each write of the store that holds values of it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dataflows.telemetry import meters as m

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

# The endpoint of all signals, or of this one alone.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NAMES = {m.FETCH: "batch fetch", m.APPLY: "shard apply", m.EMIT: "shard emit", m.STORE_WRITE: "store write"}
ROWS = "lookback.rows"
Span = tuple[int, int, int, int, int]  # trace, kind, start (Unix ns), duration (ns), rows


def wanted() -> bool:
    """Return whether the environment names a place for traces."""
    return any(os.environ.get(name) for name in ENDPOINTS)


class Traces:
    """Sends spans; their ids come from what the workers chose, so that no process has to ask another."""

    def __init__(self, resource: Resource) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import IdGenerator
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        class Ids(IdGenerator):
            """The ids that the next span is to have."""

            trace = span = 1

            def generate_trace_id(self) -> int:
                return self.trace

            def generate_span_id(self) -> int:
                return self.span

        self._ids = Ids()
        # What was sampled by the workers is sent: part of a trace is none.
        self._provider = TracerProvider(ALWAYS_ON, resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("lookback")

    def tell(self, spans: Iterable[Span]) -> None:
        """Send these spans, soon."""
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        for trace, kind, start_ns, duration_ns, rows in spans:
            root = SpanContext(
                trace << 64 | trace, trace, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
            )
            context = Context()
            if kind != m.FETCH:
                context = set_span_in_context(NonRecordingSpan(root), context)
            self._ids.trace = root.trace_id
            self._ids.span = trace if kind == m.FETCH else random.getrandbits(63) | 1
            span = self._tracer.start_span(NAMES[kind], context, attributes={ROWS: rows}, start_time=start_ns)
            span.end(start_ns + duration_ns)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
