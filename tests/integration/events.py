"""Payments on a topic, a copy of the topic as an archive, and jobs that run until they are told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.kafka import KafkaSource
from connectors.kafka_settings import read_settings
from dataflows.recovery_store import source_places
from dataflows.state_folder import part_name
from tests.recovery.job import ROOT, launch
from tests.services.kafka import Broker, Sent

T0 = 1_700_000_000_000
MINUTE = 60_000
PATIENCE_SECONDS = 120.0

DEFINITION = """\
streams:
  payments:
    topic: {topic}
    event_time: {{field: ts, unit: ms}}
    event_id: id
    lateness: 5m
    max_ahead: 10m
    fields: {{id: int64, card: string?, amount: "decimal(12,2)"}}
entities: {{card: string}}
views:
  cards:
    entity: card
    stream: payments
    features:
      n: {{agg: count, windows: [10m, 1h]}}
      paid: {{agg: sum, of: amount, windows: [1h]}}
      last: {{agg: last_k, of: amount, k: 3, windows: [1h]}}
"""

T = TypeVar("T")


def write_definition(folder: Path, topic: str) -> Path:
    """Write the definition over a topic; its file is named as the topic."""
    path = folder / f"{topic}.yaml"
    path.write_text(DEFINITION.format(topic=topic))
    return path


def payment(number: int, at_ms: int, **changes: object) -> Sent:
    """Return a payment of one of seven cards, made and published at a time."""
    card = f"c{number % 7}"
    event = {"id": number, "ts": at_ms, "card": card, "amount": f"{number % 1000}.25", **changes}
    return Sent(json.dumps(event).encode(), at_ms, key=card.encode())


def copy(kafka: Broker, topic: str, folder: Path) -> str:
    """Copy a topic, as it is now, to raw Parquet files; return the archive's URI."""
    settings = read_settings(kafka.address, None)
    found = KafkaSource(settings, [topic], "copy", {}, False, 1).partitions()
    ends = {(topic, info.partition): info.end_offset for info in found}
    (folder / topic).mkdir(parents=True)
    for info in found:
        reader = KafkaSource(settings, [topic], "copy", ends, False, 1).open(topic, info.partition)
        tables = []
        while (raw := reader.read()) is not None:
            columns = {
                "partition": pa.array([info.partition] * len(raw), pa.int32()),
                "offset": pa.array(raw.offset),
                "timestamp_ms": pa.array(raw.broker_time_ms),
                "key": pa.array([raw.key_of(i) for i in range(len(raw))] if raw.key_of else [], pa.binary()),
                "value": raw.rows,
            }
            tables.append(pa.table(columns))
        reader.close()
        if tables:  # an idle partition has no file
            pq.write_table(pa.concat_tables(tables), folder / topic / f"{info.partition:03d}.parquet")
    return f"archive:{folder}"


@dataclass
class Live:
    """A live job over a topic; each start goes on with the same state and store."""

    folder: Path
    definition: Path
    source: str
    options: Sequence[str] = ()
    server: str = ""  # URI of a store that is no folder
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Return the store's URI."""
        return self.server or f"lmdb:{self.store}"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self, *options: str, **environment: str) -> None:
        """Start it."""
        arguments = [
            "run", str(self.definition), "--source", self.source, "--store", self.uri,
            "--state", str(self.state), "--epoch", "100ms", *self.options, *options,
        ]  # fmt: skip
        self.process = launch(arguments, {**os.environ, **environment}, self.folder / "said")

    def said(self) -> str:
        """Return what it has said since its start, on one line."""
        return " ".join((self.folder / "said").read_text().split())

    def status(self) -> dict[str, Any]:
        """Return what `lookback status` tells."""
        words = [sys.executable, "-m", "dataflows.cli", "status", "--state", str(self.state), "--json"]
        told: dict[str, Any] = json.loads(subprocess.check_output(words, cwd=ROOT))
        return told

    def offsets(self) -> dict[str, int]:
        """Return the durable place in each partition."""
        places = source_places(self.state) if (self.state / "state.json").exists() else {}
        return {part_name(part): place["offset"] for part, place in places.items()}

    def until(self, found: Callable[[], T], what: str) -> T:
        """Wait until `found` gives something; the job must run till then."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := found()):
            assert self.process.poll() is None, f"it ended before {what}: {self.said()}"
            assert time.monotonic() < deadline, f"never {what}: {self.said()}"
            time.sleep(0.05)
        return value

    def stop(self) -> None:
        """Ask it to stop; it must, with exit code 0."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.wait() == 0, self.said()

    def wait(self) -> int:
        """Return its exit code, once it has ended by itself."""
        assert self.process is not None
        return self.process.wait(PATIENCE_SECONDS)

    def finish(self, *options: str) -> int:
        """Run it to the end of the topic as it is now; return its exit code."""
        self.start("--until-end", *options)
        return self.wait()

    def end(self) -> None:
        """Leave nothing of it behind, whatever a test came to."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
