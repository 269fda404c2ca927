"""Memory behind a slow store: millions of messages wait on Kafka, and Valkey runs one hundredth of the time.

Two workers: each reads partitions whose rows the other one applies, and between processes nothing but the epoch's
byte budget bounds what is under way.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks import data, topics
from benchmarks.measure import ROOT
from benchmarks.options import DEFINITIONS, Options
from benchmarks.results import Section, table
from dataflows import board as b
from dataflows.recovery_store import source_places
from dataflows.settings import Settings
from tests.services.kafka import Broker
from tests.services.slowed import slowed
from tests.services.valkey import Valkey, running

NAME = "backpressure"
FULL = 5_000_000
SECONDS = 240.0  # behind the slow store
SHARE = 0.01  # of the time that the store's server runs
WORKERS = 2
SETTLED_SECONDS = 30.0
SHOWN_SECONDS = (0, 10, 30, 60, 120, 180)
MIB = 1 << 20


@dataclass
class Curve:
    """Samples of a job: seconds since the store was slowed, anonymous bytes, rows read, rows durable."""

    points: list[tuple[float, int, int, int]] = field(default_factory=list)

    def at(self, seconds: float) -> tuple[float, int, int, int]:
        """Return the sample nearest to a time."""
        return min(self.points, key=lambda point: abs(point[0] - seconds))

    def most_bytes(self, since: float = 0.0) -> int:
        """Return the most memory from a time on."""
        return max(point[1] for point in self.points if point[0] >= since)


def run(options: Options) -> Section:
    """Measure it once."""
    payments = data.Payments(rows=options.rows(FULL))
    archive = data.lines(options.work, payments)
    section = Section(NAME, "Memory behind a slow store", options.command(NAME))
    with topics.broker(options) as broker, running(options.fresh("valkey")) as store:
        topics.load(broker, archive)
        before, began = topics.cpu_seconds(store.pid), time.monotonic()
        curve = follow(options, broker, store, SECONDS * min(1.0, options.scale))
        used = (topics.cpu_seconds(store.pid) - before) / (time.monotonic() - began)
    end = curve.points[-1]
    section.intro = (
        f"{payments.rows:,} JSON messages of 110 to 150 bytes wait on {topics.PARTITIONS} partitions; a live job of "
        f"{WORKERS} workers, one view of 15 features, epochs of 1 s. Once it reads, Valkey's process runs {SHARE:.0%} "
        f"of the time (SIGSTOP, SIGCONT), for {end[0]:,.0f} s; it then used {used:.1%} of a CPU."
    )
    shown = [curve.at(seconds) for seconds in SHOWN_SECONDS if seconds < end[0] - 10] + [end]
    rows = [[f"{t:,.0f} s", f"{n / MIB:,.0f}", f"{read:,}", f"{kept:,}"] for t, n, read, kept in shown]
    head = ("after", "anonymous MiB, all processes", "rows read", "rows durable")
    section.tables.append(table(head, rows))
    settled = min(SETTLED_SECONDS, end[0] / 4)
    grown = curve.most_bytes(settled) - curve.at(settled)[1]
    budget = Settings.epoch_bytes
    section.aim(
        f"most memory {curve.most_bytes() / MIB:,.0f} MiB; after {settled:,.0f} s it grows by at most "
        f"{grown / MIB:,.0f} MiB (aim: an epoch's budget, {budget / MIB:,.0f} MiB)",
        grown <= budget,
    )
    section.notes.append(
        f"at the end {payments.rows - end[3]:,} rows wait: that is lag, and it lies on the broker"
    )
    return section


def follow(options: Options, broker: Broker, store: Valkey, seconds: float) -> Curve:
    """Run the job behind the slow store for a time, and then stop it."""
    folder = options.fresh("backpressure")
    folder.mkdir()
    state = folder / "state"
    command = [
        sys.executable, "-m", "dataflows.cli", "run", str(DEFINITIONS / "one_view_json.yaml"),
        "--source", f"kafka://{broker.address}", "--store", store.uri, "--state", str(state),
        "--workers", str(WORKERS), "--quiet",
    ]  # fmt: skip
    curve = Curve()
    with (folder / "said").open("wb") as said:
        job = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        try:
            while not rows_read(state):
                assert job.poll() is None, (folder / "said").read_text()
                time.sleep(0.05)
            with slowed(store.pid, SHARE):
                start = time.monotonic()
                while (passed := time.monotonic() - start) < seconds:
                    assert job.poll() is None, (folder / "said").read_text()
                    places = source_places(state).values()
                    durable = sum(place["counts"]["rows"] for place in places)
                    curve.points.append((passed, anonymous_bytes(job.pid), rows_read(state), durable))
                    time.sleep(0.5)
            job.send_signal(signal.SIGTERM)  # all is measured
            job.wait(120)
        finally:
            job.kill()
            job.wait()
    return curve


def rows_read(state: Path) -> int:
    """Return how many rows a running job's sources have read."""
    path = state / "board"
    words = np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64)
    return int(words[b.HEADER :].reshape(-1, b.COLUMNS)[:, b.ROWS].sum()) if len(words) > b.HEADER else 0


def anonymous_bytes(pid: int) -> int:
    """Return the memory of a process and its children that is no file's, pages they share counted each time."""
    total = 0
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        try:
            memory = one.memory_info()
        except psutil.Error:
            continue
        total += memory.rss - memory.shared
    return total
