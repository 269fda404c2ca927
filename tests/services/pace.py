"""A job over an archive whose events come a few at a time, so that it can be looked at while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.services.endpoint import LIMIT_SECONDS, Endpoint

LOOKBACK = Path(sys.executable).with_name("lookback")
EVENTS = 150_000  # at the pace set below they last for many minutes; the tests stop the job
DEFINITION = """
streams:
  tx: {topic: tx, event_time: {field: ts, unit: ms}, lateness: 1m, fields: {card: string, amount: int64}}
entities: {card: string}
views:
  cards: {entity: card, stream: tx, features: {n: {agg: count, windows: [1h, 1d]}}}
"""


@dataclass
class Job:
    """A job that runs."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def log(self) -> Path:
        """Return the file of its stderr."""
        return self.folder / "said"

    @property
    def said(self) -> str:
        """Return what it said so far."""
        return self.log.read_text()

    @property
    def endpoint(self) -> Endpoint:
        """Return where it serves its metrics."""
        return Endpoint.said_in(self.log)

    def stop(self) -> int:
        """Stop it as a person would; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_SECONDS)


def start(folder: Path, store: str, *options: str, **environment: str) -> Job:
    """Start a job over events of now that come a few at a time, some of them bad or late."""
    events, now = folder / "events" / "tx", time.time_ns() // 1_000_000
    events.mkdir(parents=True, exist_ok=True)
    with (events / "0.jsonl").open("w") as file:
        for n in range(EVENTS):
            ts = now - 600_000 if n % 50 == 49 else now + 20 * n
            row = {
                "ts": ts,
                "card": f"c{n % 40}",
                "amount": "?" if n % 50 == 7 else n,
                "_timestamp_ms": now + n,
            }
            file.write(json.dumps({**row, "_partition": 0, "_offset": n}) + "\n")
    (folder / "features.yaml").write_text(DEFINITION)
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
        [
            LOOKBACK, "run", folder / "features.yaml", "--source", f"archive:{folder / 'events'}", "--store", store,
            "--state", folder / "state", "--clock", "wall", "--epoch", "100ms", "--quiet", *options,
        ],
        env={**os.environ, "LOOKBACK_TEST_JITTER": "1:20", **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
      )  # fmt: skip
    return Job(process, folder)
