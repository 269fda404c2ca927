"""`lookback status --watch`: what the metrics tell, on a terminal, once a second until the job ends.

It looks at the same words from a process of its own, so it needs no `--metrics` and costs the job nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dataflows import board as b
from dataflows.progress import instant
from dataflows.show import answers, duration, is_running
from dataflows.telemetry import meters as m
from dataflows.telemetry.export import STEPS
from dataflows.telemetry.health import ready
from dataflows.telemetry.metrics import FRESHNESS, METRICS, STEP_DURATION, STORE_DURATION
from dataflows.telemetry.observed import REASONS, Observed, event_time_ms
from lookback.errors import UsageError

LOOK_SECONDS = 1.0
Spans = Mapping[int, list[int]]  # samples since the last look, by kind


def watch(state: Path, *, as_json: bool) -> None:
    """Show a running job until it ends, or the person ends this: tables that renew themselves, or JSON a line.

    Raises UsageError where no job runs.
    """
    looks = _looks(state)
    try:
        if as_json:
            for job, spans in looks:
                print(json.dumps(values(job, spans)), flush=True)
            return
        console = answers()
        if not console.is_terminal:
            for job, spans in looks:
                console.print(tables(job, spans))
            return
        with Live(console=console, auto_refresh=False, screen=False) as live:
            for job, spans in looks:
                live.update(tables(job, spans), refresh=True)
    except KeyboardInterrupt:
        return


def _looks(state: Path) -> Iterator[tuple[Observed, Spans]]:
    """Yield the job at each look, and what it sampled since the last one."""
    if not is_running(state):
        raise UsageError(f"no job runs on {state}: `lookback status --state {state}` tells of its last epoch")
    job, file, heard = None, 0, dict[int, int]()
    while is_running(state):
        try:
            now = (state / m.FILE).stat().st_ino
            if job is None or now != file:
                job, file, heard = Observed.at(state), now, {}
        except (OSError, UsageError):
            job = None  # its workers are about to start
        if job is not None:
            spans: dict[int, list[int]] = {}
            for kind, value in job.samples(heard):
                spans.setdefault(kind, []).append(value)
            yield job, spans
        time.sleep(LOOK_SECONDS)


def values(job: Observed, spans: Spans) -> dict[str, Any]:
    """Return all metrics by name: a number, or a list of numbers with their attributes.

    A histogram is given by what was sampled since the last look: `count`, `mean` and `max`.
    """
    found: dict[str, Any] = {}
    for metric in METRICS:
        if metric.read is None:
            continue
        got = [{"value": value, **attributes} for value, attributes in metric.read(job)]
        found[metric.name] = got if metric.attributes else got[0]["value"]
    found[STEP_DURATION] = {name: _summary(spans.get(kind, []), 1e9) for kind, name in STEPS.items()}
    found[STORE_DURATION] = _summary(spans.get(m.STORE_WRITE, []), 1e9)
    found[FRESHNESS] = _summary(spans.get(m.FRESHNESS, []), 1e3)
    return found


def _summary(samples: list[int], unit: float) -> dict[str, float]:
    if not samples:
        return {"count": 0}
    return {"count": len(samples), "mean": sum(samples) / len(samples) / unit, "max": max(samples) / unit}


def tables(job: Observed, spans: Spans) -> Group:
    """Return what a person looks at, within 80 columns where names are short."""
    health = ready(job)
    head = [
        f"{job.settings.folder}: {'caught up' if health.well else 'not caught up'}, {job.epochs:,} epochs, "
        f"the last {duration(job.epoch_age_ms)} ago, generation {job.settings.generation}, "
        f"{job.state_bytes / 1e6:,.1f} MB",
        *health.why,
    ]
    if job.store_errors:
        head.append(f"calls that the store could not take: {job.store_errors:,}")
    return Group(
        *(Text(line) for line in head), Text(), _partitions(job), Text(), _views(job), Text(), _times(spans)
    )


def _partitions(job: Observed) -> Table:
    table = _table("partition", "at", "events", "to read", "behind", *REASONS)
    for row, part in job.parts:
        at, behind = event_time_ms(job.board, row), job.lag_ms(row)
        table.add_row(
            part.name,
            "" if at is None else instant(at),
            f"{job.board.rows[row, b.ROWS]:,}",
            f"{job.lag_events(row):,}",
            "" if behind is None else duration(behind),
            *(f"{job.board.rows[row, column]:,}" for column in REASONS.values()),
        )
    return table


def _views(job: Observed) -> Table:
    table = _table("view", "committed to", "features written", "stale", "in memory", "hits")
    for view in job.views:
        at, lookups = job.view_newest_ms(view), job.view_sum(view, m.LOOKUPS)
        hits = 1 - job.view_sum(view, m.MISSES) / max(1, lookups)
        table.add_row(
            view,
            "" if at is None else instant(at),
            f"{job.view_writes(view, m.WRITES):,}",
            f"{job.view_writes(view, m.STALE):,}",
            f"{job.view_sum(view, m.CACHE) / 1e6:,.1f} MB",
            f"{100 * hits:.1f} %" if lookups else "",
        )
    return table


def _times(spans: Spans) -> Table:
    table = _table("in this second", "times", "mean ms", "most ms")
    named = {**{kind: f"step {name}" for kind, name in STEPS.items()}, m.STORE_WRITE: "write to the store"}
    for kind, name in named.items():
        found = _summary(spans.get(kind, []), 1e6)
        if found["count"]:
            table.add_row(name, f"{found['count']:,}", f"{found['mean']:,.1f}", f"{found['max']:,.1f}")
    found = _summary(spans.get(m.FRESHNESS, []), 1.0)
    if found["count"]:
        table.add_row(
            "event to servable", f"{found['count']:,}", f"{found['mean']:,.0f}", f"{found['max']:,.0f}"
        )
    return table


def _table(first: str, *more: str) -> Table:
    table = Table(box=None)
    table.add_column(first, no_wrap=True)
    for name in more:
        table.add_column(name, justify="right", no_wrap=True)
    return table
