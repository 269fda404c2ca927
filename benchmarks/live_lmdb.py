"""The live job to LMDB: JSON lines in, epochs of one second, exactly once; then where its time goes."""

from __future__ import annotations

import json
import statistics
import sys
from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.measure import Usage, interleaved
from benchmarks.options import DEFINITIONS, FRAUD, HEAD_START, Options, live, measured, row
from benchmarks.results import Section, table

NAME = "live_lmdb"
FULL = 1_000_000
AIM = 100_000
CASES = {
    "one view, 15 features": DEFINITIONS / "one_view_json.yaml",
    "three views, 31 features (features/fraud.yaml)": FRAUD,
}


def run(options: Options) -> Section:
    """Measure both definitions, then trace each once."""
    payments = data.Payments(rows=options.rows(FULL))
    archive = data.lines(options.work, payments)
    tiny = data.lines(options.work, data.Payments(rows=1_000))
    folder = options.work / "live"
    section = Section(NAME, "The live job to LMDB", options.command(NAME))
    section.intro = (
        f"{payments.rows:,} JSON events over 60 days, 50,000 cards of which 50 take 5 %; 32 shards, epochs "
        f"of 1 s, each a synced commit. Medians of {options.repeat} runs, taken in turns, one CPU each."
    )
    starts = {}
    for name, definition in CASES.items():
        for _ in range(2):  # the first compiles and caches what is not yet
            starts[name] = _live(options, definition, tiny, folder)
    runs = {name: partial(_live, options, definition, archive, folder) for name, definition in CASES.items()}
    figures = interleaved(payments.rows, options.repeat, runs)
    section.tables.append(table(HEAD_START, [row(name, one, starts[name]) for name, one in figures.items()]))
    traced = {name: _traced(options, definition, archive, folder) for name, definition in CASES.items()}
    section.tables.append(_breakdown(traced, payments.rows))
    section.tables.append(_commits(traced, payments.rows))
    for name, one in figures.items():
        section.aim(f"{name}: {one.rate:,.0f} events/s (aim: {AIM:,})", one.rate >= AIM)
    return section


def _live(options: Options, definition: Path, archive: Path, folder: Path) -> Usage:
    return measured(options, live(definition, archive, folder), folder)


def _traced(
    options: Options, definition: Path, archive: Path, folder: Path
) -> dict[str, float | dict[str, float]]:
    report = options.fresh("trace.json")
    job = live(definition, archive, folder)[3:]
    measured(options, [sys.executable, "-m", "benchmarks.traced", str(report), *job], folder)
    found = json.loads(report.read_text())
    pauses = found.pop("pauses") or [0.0]
    found["commits"] = len(pauses)
    found["pause"], found["longest"] = statistics.median(pauses), max(pauses)
    for part in ("store", "state"):
        found[part] = _bytes(folder / part)
    return dict(found)


def _bytes(folder: Path) -> int:
    """Return the bytes that a folder's files take on disk."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def _breakdown(traced: dict[str, dict[str, float | dict[str, float]]], events: int) -> str:
    parts: dict[str, list[str]] = {}
    for found in traced.values():
        shares = found["parts"]
        assert isinstance(shares, dict)
        for part in shares:
            parts.setdefault(part, [])
    for part, cells in parts.items():
        for found in traced.values():
            shares = found["parts"]
            assert isinstance(shares, dict)
            cells.append(f"{shares.get(part, 0.0) / events * 1e6:.2f}")
    rows = [[part, *cells] for part, cells in parts.items()]
    return "Where a traced run's CPU goes, seconds a million events:\n\n" + table(["", *traced], rows)


def _commits(traced: dict[str, dict[str, float | dict[str, float]]], events: int) -> str:
    lines = (
        ("commits", "commits", 1.0, ",.0f"),
        ("commit, median ms", "pause", 1e3, ",.0f"),
        ("commit, longest ms", "longest", 1e3, ",.0f"),
        ("store on disk, bytes an event", "store", 1 / events, ",.0f"),
        ("state on disk, bytes an event", "state", 1 / events, ",.0f"),
    )
    rows = []
    for title, key, factor, form in lines:
        cells = []
        for found in traced.values():
            value = found[key]
            assert isinstance(value, int | float)
            cells.append(format(value * factor, form))
        rows.append([title, *cells])
    return "Epochs of the traced run; a commit is timed from its first shard to its last sync:\n\n" + table(
        ["", *traced], rows
    )
