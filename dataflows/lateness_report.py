"""What `lookback lateness` says: how far behind events come, and which lateness would keep how many of them.

Takes the counts from the state of a live job, as of its last durable epoch, or counts a source's events itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from connectors.batches import RawBatch
from connectors.sources import check_settings, open_schemas, open_source
from dataflows import board as b
from dataflows.board import Board
from dataflows.ingest import Ingest
from dataflows.lateness import BUCKETS, ROUNDING_PERCENT, SHARES, Histogram, Lateness, highest
from dataflows.live_job import parts_of
from dataflows.progress import Progress
from dataflows.recovery_store import source_places
from dataflows.show import duration
from dataflows.state_folder import part_name
from lookback.definition import Definition, Stream, View
from lookback.errors import UsageError

READY_SECONDS = 0.02  # between looks at whether a batch can be taken
READ_ROWS, READ_BYTES = 1 << 17, 16 << 20
EDGES_MS = (0, 1000, 10_000, 60_000, 600_000, 3_600_000, 6 * 3_600_000, 86_400_000, 7 * 86_400_000)
BAR = 30  # characters


@dataclass
class Found:
    """A stream's counts: all of them, and those of each partition and view."""

    stream: Stream
    all: Histogram = field(default_factory=Histogram)
    partitions: dict[str, Histogram] = field(default_factory=dict)
    views: dict[str, Histogram] = field(default_factory=dict)

    def add(self, partition: str, counted: Lateness) -> None:
        """Take one partition's counts in."""
        self.all.merge(counted.all)
        self.partitions[partition] = counted.all
        for name, view in counted.views.items():
            self.views.setdefault(name, Histogram()).merge(view)


def _views(definition: Definition, stream: Stream) -> list[View]:
    return [view for view in definition.views.values() if view.stream.name == stream.name]


def of_state(definition: Definition, state: Path) -> list[Found]:
    """Return what a live job has counted. Raises UsageError where the state is not this definition's."""
    path = state / "state.json"
    if not path.exists():
        raise UsageError(f"{state} is no state folder: give the --state of a job")
    known = json.loads(path.read_text())["views"]
    if known != {view.name: view.fingerprint for view in definition.views.values()}:
        raise UsageError(f"the state {state} is another definition's than {definition.path}: give its own")
    places = source_places(state)
    found = []
    for stream in definition.streams.values():
        one = Found(stream)
        for part in sorted(places):
            if part_name(part).rpartition("/")[0] == stream.topic:
                one.add(part_name(part), Lateness(_views(definition, stream), places[part].get("lateness")))
        found.append(one)
    return found


def of_source(definition: Definition, uri: str, settings: Path | None, *, quiet: bool) -> list[Found]:
    """Read a source once, to where it ends now; return what there is to count."""
    streams = definition.streams.values()
    check_settings(settings, streams, uri)
    schemas = open_schemas(streams, settings)
    infos = open_source(uri, streams, settings=settings).partitions()
    parts = parts_of(definition, infos, to_end=True)
    ends = {(part.topic, part.partition): part.end for part in parts if part.end is not None}
    source = open_source(uri, streams, settings=settings, ends=ends)
    found = {stream.name: Found(stream) for stream in streams}
    with tempfile.TemporaryDirectory() as folder:
        board = Board.reset(Path(folder) / "board", len(parts))
        with Progress("lateness", board, sum(info.rows for info in infos), quiet=quiet) as progress:
            for row, part in enumerate(parts):
                stream = definition.streams[part.stream]
                ingest = Ingest(stream, part.topic, (), 1, None, None, _views(definition, stream), schemas)
                reader = source.open(part.topic, part.partition)
                try:
                    while (raw := reader.read(READ_ROWS, READ_BYTES)) is not None:
                        if len(raw):
                            _wait(ingest, raw)
                            ingest.take(raw)
                        board.rows[row, b.ROWS] = ingest.counts.rows
                        progress.tick()
                finally:
                    reader.close()
                assert ingest.lateness is not None
                found[part.stream].add(part.name, ingest.lateness)
    return list(found.values())


def _wait(ingest: Ingest, raw: RawBatch) -> None:
    """Wait until a batch can be taken, and say so where that takes long."""
    said = False
    while not ingest.ready(raw):
        if ingest.waiting is not None and not said:
            said = True
            print(f"{ingest.waiting}; this waits for it", file=sys.stderr, flush=True)
        time.sleep(READY_SECONDS)


def as_json(found: list[Found]) -> dict[str, Any]:
    """Return the counts as JSON data. Times are upper bounds, at most `rounding_percent` above what is true."""
    return {
        "rounding_percent": ROUNDING_PERCENT,
        "streams": {
            one.stream.name: {
                "lateness_ms": one.stream.lateness_ms,
                **_facts(one.all),
                "partitions": {name: _facts(part) for name, part in one.partitions.items()},
                "views": {name: _facts(view) for name, view in one.views.items()},
            }
            for one in found
        },
    }


def _facts(counted: Histogram) -> dict[str, Any]:
    events = counted.events
    held = [int(i) for i in counted.counts.nonzero()[0]]
    tops = highest(np.arange(BUCKETS))
    return {
        "events": events,
        "out_of_order": events - int(counted.counts[0]),
        "late": counted.late,
        "keeps_ms": {share: counted.keeps(share) for share in SHARES},
        "behind_ms": [[int(tops[i]), int(counted.counts[i])] for i in held],
    }


def tables(found: list[Found]) -> Group:
    """Return the counts for a terminal: a table of lateness, and bars of how far behind events come."""
    blocks: list[Text | Table] = []
    for one in found:
        blocks += [*_stream_blocks(one), Text()]
    blocks.append(
        Text(f"a lateness read off here is at most {ROUNDING_PERCENT} % longer than needed", style="dim")
    )
    return Group(*blocks)


def _stream_blocks(one: Found) -> Iterator[Text | Table]:
    yield Text(f"stream {one.stream.name}: lateness {duration(one.stream.lateness_ms)}")
    if not one.all.events:
        yield Text("no events are counted")
        return
    table = Table(box=None)
    for name in ("", "events", "out of order", "late", *(f"keeps {share} %" for share in SHARES)):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    rows = {"all": one.all, **one.partitions, **{f"view {name}": view for name, view in one.views.items()}}
    for name, counted in rows.items():
        facts = _facts(counted)
        keeps = [ms if ms is None else duration(ms) for ms in facts["keeps_ms"].values()]
        counts = [f"{facts[c]:,}" for c in ("events", "out_of_order", "late")]
        table.add_row(Text(name), *counts, *(text or "" for text in keeps))
    yield table
    yield Text()
    yield _bars(one.all)


def _bars(counted: Histogram) -> Table:
    table = Table(box=None)
    for name in ("behind", "events", "%", ""):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    before, bars = 0, []
    for edge in (*EDGES_MS, 1 << 62):
        upto = counted.within(edge)
        name = "in order" if edge == 0 else f"to {duration(edge)}" if edge < 1 << 62 else "more"
        bars.append((name, upto - before))
        before = upto
    while not bars[-1][1]:
        bars.pop()
    most = max(count for _, count in bars)
    for name, count in bars:
        share = 100 * count / counted.events
        table.add_row(name, f"{count:,}", f"{share:.2f}", "█" * -(-BAR * count // most))
    return table
