"""Record what Prometheus would have scraped of a real job that breaks: `python -m tests.dataflows.telemetry.record`.

A job on a Kafka broker and a Valkey server; then the store stands still, then the broker, then the job is stopped.
Takes some eleven minutes and writes `recorded.json` beside this file, which `test_alerts.py` puts to promtool.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.error
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.integration.events import Live, payment, write_definition
from tests.services.endpoint import Endpoint
from tests.services.kafka import Broker, Sent, jars_or_skip
from tests.services.valkey import running

HERE = Path(__file__).resolve().parent
RULES = HERE.parents[2] / "examples" / "prometheus" / "alerts.yaml"
FILE = HERE / "recorded.json"
TOPIC, INTERVAL_SECONDS = "payments", 5
PHASES = (("well", 60), ("store stands still", 150), ("well again", 60), ("broker stands still", 150),
          ("well once more", 60), ("stopped", 100))  # fmt: skip


def produce(kafka: Broker, done: threading.Event) -> None:
    """Send some payments a second, one of fifty broken and one late."""
    number = 0
    while not done.wait(1.0):
        now = time.time_ns() // 1_000_000
        sent = [payment(n, now) for n in range(number, number + 50)]
        sent[7] = Sent(b"{", now)
        sent[9] = payment(number + 9, now - 3_600_000)
        number += 50
        try:
            kafka.produce(TOPIC, {0: sent})
        except Exception as error:
            print(f"not sent: {error}", file=sys.stderr)


class Recording:
    """Series by their names in Prometheus' notation, a value or None at each scrape."""

    def __init__(self) -> None:
        self.series: dict[str, list[float | None]] = {}
        self.scrapes = 0
        self._wanted = set(re.findall(r"lookback_\w+", RULES.read_text()))

    def scrape(self, endpoint: Endpoint) -> None:
        """Add what the endpoint tells now; `up` is 0 where it does not."""
        found: dict[str, float] = {}
        try:
            for name, labels, value in endpoint.samples():
                if name in self._wanted:
                    own = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
                    found[f"{name}{{{own}}}"] = round(value, 3)
        except (urllib.error.URLError, OSError):
            found = {}
        found['up{job="lookback"}'] = float(bool(found))
        for name in {*self.series, *found}:
            self.series.setdefault(name, [None] * self.scrapes).append(found.get(name))
        self.scrapes += 1


@contextmanager
def stopped(pid: int) -> Any:
    """Let a process stand still while the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def main() -> None:
    """Run it and write the file."""
    recording, phases = Recording(), {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka = Broker(folder / "broker", jars_or_skip())
        kafka.start()
        stack.callback(kafka.stop)
        kafka.create(TOPIC, 1)
        store = stack.enter_context(running(folder / "valkey"))
        job = Live(folder, write_definition(folder, TOPIC), f"kafka://{kafka.address}", server=store.uri)
        stack.callback(job.end)
        done = threading.Event()
        producer = threading.Thread(target=produce, args=(kafka, done), daemon=True)
        producer.start()
        stack.callback(done.set)
        job.start("--metrics", "127.0.0.1:0", "--quiet")
        endpoint = Endpoint.said_in(folder / "said")
        for phase, seconds in PHASES:
            phases[phase] = recording.scrapes
            print(phase, file=sys.stderr, flush=True)
            with ExitStack() as broken:
                if phase == "store stands still":
                    broken.enter_context(stopped(store.pid))
                elif phase == "broker stands still":
                    broken.enter_context(stopped(kafka.pid))
                elif phase == "stopped":
                    done.set()
                    job.stop()
                for _ in range(seconds // INTERVAL_SECONDS):
                    recording.scrape(endpoint)
                    time.sleep(INTERVAL_SECONDS)
    told = {
        "interval_seconds": INTERVAL_SECONDS,
        "phases": phases,
        "series": dict(sorted(recording.series.items())),
    }
    lines = json.dumps(told, indent=0, separators=(",", ":"))
    FILE.write_text(re.sub(r",\n(?=[\d-]|null)", ",", lines) + "\n")


if __name__ == "__main__":
    main()
