"""Lag, readiness and freshness of a job on a real broker: what the parent sees though its worker stands still."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.integration.events import Live, payment, write_definition
from tests.services.endpoint import Endpoint, until
from tests.services.kafka import Broker

TOPIC = "telemetry"


def test_lag_is_that_of_the_topic_whatever_the_worker_does(kafka: Broker, tmp_path: Path) -> None:
    kafka.create(TOPIC, 2)
    job = Live(tmp_path, write_definition(tmp_path, TOPIC), f"kafka://{kafka.address}")
    lag = ("lookback_partition_lag_events", (TOPIC, "0"))
    try:
        now = time.time_ns() // 1_000_000
        kafka.produce(TOPIC, {0: [payment(n, now) for n in range(70)]})
        job.start("--metrics", "127.0.0.1:0")
        endpoint = Endpoint.said_in(tmp_path / "said")
        until(lambda: endpoint.probe("/readyz")[0] == 200 and job.offsets().get(f"{TOPIC}/0") == 70)
        until(lambda: ("lookback_store_freshness_seconds_count", ()) in endpoint.scrape())
        found = endpoint.scrape()
        assert found["lookback_partition_events_total", (TOPIC, "0")] == 70
        assert found[lag] == found["lookback_view_lag_time_seconds", ("cards",)] == 0
        assert found["lookback_view_high_water_mark_seconds", ("cards",)] * 1000 == now
        assert 0 < found["lookback_store_freshness_seconds_sum", ()] < 300

        worker = int((job.state / "pids").read_text())
        os.kill(worker, signal.SIGSTOP)
        try:
            kafka.produce(TOPIC, {0: [payment(n, now) for n in range(70, 100)]})
            until(lambda: endpoint.scrape()[lag] == 30)
            assert endpoint.scrape()["lookback_view_lag_events", ("cards",)] == 30
            assert endpoint.scrape()["lookback_view_lag_time_seconds", ("cards",)] > 0
            until(lambda: endpoint.probe("/readyz")[0] == 503)
            assert endpoint.probe("/healthz") == (200, [])
        finally:
            os.kill(worker, signal.SIGCONT)
        until(lambda: endpoint.scrape()[lag] == 0 and endpoint.probe("/readyz")[0] == 200)
        job.stop()
    finally:
        job.end()
        kafka.delete(TOPIC)
