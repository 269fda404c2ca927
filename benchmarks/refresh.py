"""What it costs to refresh values as rows leave windows: a job of each size by the event clock against one without.

All events lie within the shortest window but the last one, a month behind them: with it all rows of all entities
leave, so the job that refreshes writes each entity once more than the one by the wall clock, which never refreshes
on an archive. The rest is alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.measure import Figures, Usage, interleaved
from benchmarks.options import DEFINITIONS, Options, live, measured
from benchmarks.results import Section, table
from dataflows.refresh import BEHIND_PER_SECOND, KEEPING_UP_PER_SECOND
from lookback.definition import load
from lookback.stores.base import Lookup, open_store

NAME = "refresh"
ENTITIES = (10_000, 100_000, 1_000_000)
LAST_MS = 31 * data.DAY_MS
READ_KEYS = 10_000


def run(options: Options) -> Section:
    """Measure the cost of a refresh, and what refreshing takes from events."""
    section = Section(NAME, "Refreshing values as rows leave windows", options.command(NAME))
    section.intro = "Live jobs over typed Parquet to LMDB, one worker, on one CPU."
    _cost(options, section)
    _throughput(options, section)
    return section


def _cost(options: Options, section: Section) -> None:
    lines, costs = [], []
    for full in ENTITIES:
        entities = options.rows(full)
        found, count = _both(
            options, entities, options.repeat if full < 1_000_000 else min(options.repeat, 3)
        )
        without, with_ = _cpu(found["wall"]), _cpu(found["event"])
        costs.append((with_ - without) / count * 1e6)
        share = costs[-1] / 1e6 * KEEPING_UP_PER_SECOND
        figures = (f"{without:.2f}", f"{with_:.2f}", f"{costs[-1]:.1f}", f"{share:.0%}")
        lines.append([f"{entities:,}", f"{count:,}", *figures])
    head = [
        "entities", "refreshes", "CPU s without", "CPU s with", "CPU s a million refreshes",
        f"share of a core at {KEEPING_UP_PER_SECOND:,}/s",
    ]  # fmt: skip
    section.tables.append("A refresh of 12 features, all rows leaving:\n\n" + table(head, lines))
    ratio = costs[-1] / costs[-2]
    section.aim(f"a refresh with 1 M entities costs {ratio:.2f}× that with 100 k (aim: 1.5×)", ratio <= 1.5)


def _both(options: Options, entities: int, repeat: int) -> tuple[dict[str, Figures], int]:
    """Return what a job took by each clock, and how many records the one by the event clock refreshed."""
    definition = DEFINITIONS / "leaving.yaml"
    archive = _archive(options, entities)
    folder = options.work / "live"
    refreshed = [0]

    def one(clock: str) -> Usage:
        usage = measured(options, live(definition, archive, folder, "--clock", clock), folder)
        if clock == "event":
            refreshed[0] = _refreshed(folder, definition, entities)
        return usage

    runs: dict[str, Callable[[], Usage]] = {clock: partial(one, clock) for clock in ("wall", "event")}
    return interleaved(entities, repeat, runs), refreshed[0]


def _throughput(options: Options, section: Section) -> None:
    rows = options.rows(2_000_000)
    archive = data.lines(options.work, data.Payments(rows=rows))
    folder = options.work / "live"

    def one(clock: str) -> Usage:
        command = live(DEFINITIONS / "one_view.yaml", archive, folder, "--clock", clock)
        return measured(options, command, folder)

    found = interleaved(rows, options.repeat, {clock: partial(one, clock) for clock in ("wall", "event")})
    names = {"wall": "no refreshes", "event": "refreshes behind the events, all that is due at the end"}
    section.tables.append(
        f"{rows:,} JSON events of 60 days, 50,000 cards, medians of {options.repeat}:\n\n"
        + table(
            ["", "events/s", "CPU s/M"],
            [
                [names[clock], f"{one.rate:,.0f}", f"{one.cpu_per_million:.2f}"]
                for clock, one in found.items()
            ],
        )
    )
    section.notes.append(
        f"A worker refreshes at most {KEEPING_UP_PER_SECOND:,} entities a second while it keeps up with its clock "
        f"and {BEHIND_PER_SECOND:,} while it catches up; looking for what is due reads 8 bytes an entity in memory, "
        "at most twice a second."
    )


def _cpu(figures: Figures) -> float:
    return figures.median(lambda usage: usage.cpu_seconds)


def _archive(options: Options, entities: int) -> Path:
    """Return an archive of an event a card on average, within an hour, and one event a month later."""
    span_ms = 3 * entities
    payments = data.Payments(entities, entities, span_ms, hot=0)
    source = data.typed(options.work, payments) / "transactions" / "events.parquet"
    topic = options.work / "data" / f"leaving-{entities}" / "transactions"
    if not topic.exists():
        fresh = topic.with_name(f"transactions.{os.getpid()}")
        fresh.mkdir(parents=True)
        os.link(source, fresh / "events-0.parquet")
        last = pq.ParquetFile(source).read_row_group(0).slice(0, 1)
        later = pa.array([last["ts"][0].as_py() + span_ms + LAST_MS])
        last = last.set_column(last.schema.get_field_index("ts"), "ts", later)
        pq.write_table(last, fresh / "events-1.parquet")
        fresh.rename(topic)
    return topic.parent


def _refreshed(folder: Path, definition: Path, entities: int) -> int:
    """Return how many records are of a later instant than their last event."""
    view = load(definition).views["cards"]
    store = open_store(f"lmdb:{folder / 'store'}")
    count = 0
    for start in range(0, entities, READ_KEYS):
        keys = [f"c{n:07d}" for n in range(start, min(entities, start + READ_KEYS))]
        records = store.read([Lookup(view.fingerprint, key, view.plan) for key in keys])
        count += sum(one is not None and one.as_of_ms > one.event_time_ms for one in records)
    store.close()
    return count
