"""A real job in its own processes, asked over HTTP while it runs, while its store stands still, and by OTLP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from dataflows.telemetry.export import telemetry
from dataflows.telemetry.metrics import METRICS, prometheus_name
from lookback.errors import UsageError
from tests.services.endpoint import Samples, until
from tests.services.pace import EVENTS, Job, start
from tests.services.valkey import Valkey, running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with running(tmp_path_factory.mktemp("valkey")) as server:
        yield server


class Collector:
    """What a job has sent by OTLP over HTTP."""

    def __init__(self) -> None:
        self.got: list[ExportMetricsServiceRequest] = []
        self.spans: list[Span] = []
        got, spans = self.got, self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/metrics":
                    got.append(ExportMetricsServiceRequest.FromString(body))
                else:
                    assert self.path == "/v1/traces"
                    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                        spans.extend(span for scope in resource.scope_spans for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    with made.server as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, store: Valkey, collector: Collector) -> Iterator[Job]:
    """Return a job that is caught up."""
    made = start(
        tmp_path_factory.mktemp("job"), store.uri, "--metrics", "127.0.0.1:0", "--workers", "2",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server.server_port}",
        OTEL_METRIC_EXPORT_INTERVAL="500", OTEL_BSP_SCHEDULE_DELAY="200",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
    )  # fmt: skip
    try:
        until(lambda: made.endpoint.probe("/readyz")[0] == 200)
        yield made
        assert made.stop() == 0, made.said
    finally:
        made.process.kill()
        made.process.wait()


def test_every_metric_of_the_table_is_scraped(job: Job) -> None:
    until(lambda: job.endpoint.scrape().get(("lookback_epoch_commits_total", ()), 0) > 3)
    families = {family.name for family in text_string_to_metric_families(job.endpoint.get("/metrics")[1])}
    wanted = {prometheus_name(metric).removesuffix("_total") for metric in METRICS}
    assert wanted <= families, wanted - families
    assert {name for name in families if name.startswith("lookback_")} == wanted


def test_what_is_scraped_is_what_happened(job: Job) -> None:
    place = ("tx", "0")

    def settled() -> Samples | None:
        found = job.endpoint.scrape()
        return found if found["lookback_partition_events_total", place] > 200 else None

    found = until(settled)
    events = found["lookback_partition_events_total", place]
    refused = {
        r: found["lookback_partition_quarantined_total", (r, *place)] for r in ("bad", "late", "repeat")
    }
    assert refused["bad"] == pytest.approx(events / 50, abs=2)
    assert refused["late"] == pytest.approx(events / 50, abs=2)
    assert refused["repeat"] == 0
    assert found["lookback_partition_lag_events", place] == EVENTS - events
    for name in ("lookback_partition_high_water_mark_seconds", "lookback_view_high_water_mark_seconds"):
        at = next(value for key, value in found.items() if key[0] == name)
        assert abs(at - time.time()) < 1200
    writes = found["lookback_view_feature_writes_total", ("cards",)]
    assert 0 < writes <= 2 * events + 2 * 40 and writes % 2 == 0  # two features an entity
    assert found["lookback_view_cache_misses_total", ("cards",)] == 40
    assert found["lookback_view_cache_hits_total", ("cards",)] > 0
    assert found["lookback_view_stale_writes_total", ("cards",)] == 0
    assert found["lookback_epoch_age_seconds", ()] < 10
    assert found["lookback_store_freshness_seconds_count", ()] > 0
    assert found["lookback_store_write_duration_seconds_sum", ()] > 0
    steps = {key[1][0] for key in found if key[0] == "lookback_commit_step_duration_seconds_count"}
    assert steps == {"1-apply", "2-emit", "3-commit-state", "4-commit-epoch", "5-publish"}
    assert found["lookback_job_generation", ()] > 0
    assert found["lookback_state_size_bytes", ()] > 0
    assert found["lookback_shard_catching_up", ()] == 0


def test_other_paths_are_none(job: Job) -> None:
    assert job.endpoint.get("/")[0] == 404


def test_a_store_that_stands_still(job: Job, store: Valkey) -> None:
    """The job is alive, since no new start would mend it, and not ready; and is again by itself."""
    assert job.endpoint.probe("/readyz") == (200, [])
    errors = job.endpoint.scrape()["lookback_store_errors_total", ()]
    with store.stalled():
        until(lambda: job.endpoint.probe("/readyz")[0] == 503)
        until(lambda: any("online store" in why for why in job.endpoint.probe("/readyz")[1]))
        status, why = job.endpoint.probe("/healthz")
        assert status == 200 and "the online store" in why[0]
        found = job.endpoint.scrape()
        assert found["lookback_worker_waits", ("store",)] > 0
        assert found["lookback_store_errors_total", ()] > errors
        assert found["lookback_epoch_age_seconds", ()] > 1
    until(lambda: job.endpoint.probe("/readyz")[0] == 200)
    assert job.endpoint.scrape()["lookback_worker_waits", ("store",)] == 0


def test_an_address_that_is_taken_is_refused(job: Job) -> None:
    host, port = job.endpoint.address.removeprefix("http://").split(":")
    with (
        pytest.raises(UsageError, match=f"--metrics {host}:{port}: nothing can listen there"),
        telemetry((host, int(port)), lambda _: None),
    ):
        raise AssertionError("it listens")


def test_metrics_go_out_by_otlp(job: Job, collector: Collector) -> None:
    """To whatever the environment names."""
    until(lambda: any("lookback.store.freshness" in names(one) for one in collector.got))
    assert names(collector.got[-1]) == {metric.name for metric in METRICS}
    resource = {
        one.key: one.value.string_value for one in collector.got[-1].resource_metrics[0].resource.attributes
    }
    assert resource["service.name"] == "lookback" and resource["deployment.environment"] == "test"


def test_a_batch_is_traced_from_fetch_to_store(job: Job, collector: Collector) -> None:
    """Through two workers: one reads it, both have shards of it."""

    def whole() -> list[Span]:
        """Return the spans of a trace that has all kinds, its fetch first."""
        for fetch in [span for span in collector.spans if span.name == "batch fetch"]:
            rest = [span for span in collector.spans if span.trace_id == fetch.trace_id and span is not fetch]
            if {span.name for span in rest} == {"shard apply", "shard emit", "store write"}:
                return [fetch, *rest]
        return []

    until(whole)
    fetch, *rest = whole()
    assert fetch.parent_span_id == b"" and fetch.start_time_unix_nano <= fetch.end_time_unix_nano
    assert {span.parent_span_id for span in rest} == {fetch.span_id}
    assert all(span.start_time_unix_nano >= fetch.start_time_unix_nano for span in rest)
    rows = {span.name: 0 for span in rest}
    for span in rest:
        rows[span.name] += span.attributes[0].value.int_value
    assert 0 < rows["shard apply"] <= fetch.attributes[0].value.int_value
    assert len({span.trace_id for span in collector.spans}) < 200, "few batches are traced"


def names(request: ExportMetricsServiceRequest) -> set[str]:
    """Return the names of all metrics of a request."""
    return {
        metric.name
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
