"""Memory under partition skew: one partition is 30 days ahead of the others, and one is slow.

Partition 0 holds days 30 to 60, partition 1 ("slow": most rows a day) and partition 2 hold days 0 to 60. Read at
one pace, a replay would have to keep all of partition 0 until the others get to day 30.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.measure import Usage
from benchmarks.measure import run as run_command
from benchmarks.options import DEFINITIONS, Options
from benchmarks.results import Section, table
from dataflows import board as b
from dataflows.source import AHEAD_ROWS

NAME = "skew"
FULL = 20_000_000
CACHE_BYTES = 1 << 30  # a replay's default: the logs of 30 days, which each release of rows touches, fit
CONSTANT_BYTES = (
    900 << 20
)  # interpreters, kernels, what is decoded and under way, a worker's share of rows ahead
SHARES = {0: 0.35, 1: 0.5, 2: 0.15}  # of the rows, by partition
START_MS = {0: 30 * data.DAY_MS, 1: 0, 2: 0}
END_MS = 60 * data.DAY_MS
CARDS = 50_000
PARTS = len(SHARES)
MIB = 1 << 20


class Ahead:
    """The most rows of partition 0 that were read while another partition was before its first event."""

    def __init__(self, board: Path) -> None:
        self._path = board
        self.most = 0

    def look(self, _: list[psutil.Process] | None = None) -> None:
        """Look at the board, where there is one."""
        words = np.fromfile(self._path, np.int64) if self._path.exists() else np.empty(0, np.int64)
        if len(words) == b.HEADER + PARTS * b.COLUMNS:
            rows = words[b.HEADER :].reshape(PARTS, b.COLUMNS)
            if rows[1:, b.WATERMARK].min() < data.START_MS + START_MS[0]:
                self.most = max(self.most, int(rows[0, b.ROWS]))


def run(options: Options) -> Section:
    """Measure a replay and a live run, once each."""
    rows = options.rows(FULL)
    archive = skewed(options.work, rows)
    section = Section(NAME, "Memory under partition skew", options.command(NAME))
    section.intro = (
        f"{rows:,} typed Parquet events of {CARDS:,} cards; one view of 15 features, one worker, "
        f"a cache of {CACHE_BYTES // MIB} MiB. Partition 0 is 30 days ahead of the others, partition 1 holds half of "
        "all rows and is the slowest. Anonymous memory of all processes, at its highest."
    )
    out, live = options.fresh("training"), options.fresh("skew-live")
    ahead = Ahead(out / ".work" / "board")
    replay = _measured(["replay", *_common(archive), "--from", "1970-01-01", "--out", str(out)], ahead.look)
    options.fresh("training")
    stores = ["--store", f"lmdb:{live / 'store'}", "--state", str(live / "state"), "--until-end"]
    job = _measured(["run", *_common(archive), *stores], None)
    options.fresh("skew-live")
    figures = {"replay": (replay, f"{ahead.most:,}"), "live, to LMDB": (job, "0: none wait")}
    section.tables.append(
        table(
            ("", "anonymous MiB", "rows ahead that wait", "events/s", "CPU s/M"),
            [
                [
                    name,
                    f"{usage.anonymous_bytes / MIB:,.0f}",
                    waiting,
                    f"{rows / usage.wall_seconds:,.0f}",
                    f"{usage.cpu_seconds / rows * 1e6:.2f}",
                ]
                for name, (usage, waiting) in figures.items()
            ],
        )
    )
    for name, (usage, _) in figures.items():
        bound = CACHE_BYTES + CONSTANT_BYTES
        section.aim(
            f"{name}: {usage.anonymous_bytes / MIB:,.0f} MiB (aim: the cache + {CONSTANT_BYTES // MIB} MiB)",
            usage.anonymous_bytes <= bound,
        )
    section.aim(
        f"a replay reads {ahead.most:,} rows ahead (aim: {AHEAD_ROWS:,} and two batches)",
        0 < ahead.most <= AHEAD_ROWS + (1 << 18),
    )
    return section


def _common(archive: Path) -> list[str]:
    return [
        str(DEFINITIONS / "one_view.yaml"), "--source", f"archive:{archive}", "--quiet",
        "--cache-bytes", str(CACHE_BYTES),
    ]  # fmt: skip


def _measured(arguments: list[str], look: Callable[[list[psutil.Process]], None] | None) -> Usage:
    """Run a command of ours on all CPUs."""
    every = sorted(psutil.Process().cpu_affinity() or [0])
    return run_command([sys.executable, "-m", "dataflows.cli", *arguments], every, look=look)


def skewed(work: Path, rows: int, group_rows: int = 1 << 17) -> Path:
    """Return an archive with a file a partition; made once."""
    archive = work / "data" / f"skewed-{rows}"
    topic = archive / "transactions"
    if not topic.exists():
        fresh = archive / "transactions.new"
        fresh.mkdir(parents=True, exist_ok=True)
        for partition, share in SHARES.items():
            _write(fresh / f"{partition}.parquet", partition, int(rows * share), group_rows)
        fresh.rename(topic)
    return archive


def _write(path: Path, partition: int, rows: int, group_rows: int) -> None:
    span_ms = END_MS - START_MS[partition]
    payments = data.Payments(rows, CARDS, span_ms, seed=partition)
    writer, offset = None, 0
    for batch in data.slices(payments):
        count = batch.num_rows
        times = pa.array(batch.column("ts").to_numpy() + START_MS[partition])
        columns = {
            **{name: batch.column(name) for name in ("tx_id", "card", "cents")},
            "ts": times,
            "_partition": pa.array(np.full(count, partition, np.int32)),
            "_offset": pa.array(np.arange(offset, offset + count)),
        }
        one = pa.record_batch(columns)
        writer = writer or pq.ParquetWriter(path, one.schema, compression="snappy")
        writer.write_batch(one, row_group_size=group_rows)
        offset += count
    assert writer is not None
    writer.close()
