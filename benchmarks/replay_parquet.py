"""Typed Parquet to training Parquet: five exact windows of count, sum and max, beside DuckDB and polars.

Every contestant is a whole process on one CPU, and their values are compared. Events lie within 11 hours
(most windows hold all of a card's rows) and over 60 days (a card's rows come and go).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.compare import differing
from benchmarks.measure import Usage, interleaved
from benchmarks.options import DEFINITIONS, HEAD_START, Options, measured, peer, replay, row
from benchmarks.peers import TOOLS
from benchmarks.results import Section, table

NAME = "replay_parquet"
FULL = 2_000_000
SPANS = {"11 hours": 11 * data.HOUR_MS, "60 days": 60 * data.DAY_MS}


def run(options: Options) -> Section:
    """Measure both spans."""
    section = Section(NAME, "Training rows from typed Parquet", options.command(NAME))
    section.intro = (
        "One view, 15 features: count, sum and max over 1m, 1h, 1d, 7d and 30d. "
        f"{options.rows(FULL):,} events of 50,000 cards, of which 50 take 5 %. "
        f"Medians of {options.repeat} runs, taken in turns, one CPU each."
    )
    for title, span_ms in SPANS.items():
        payments = data.Payments(rows=options.rows(FULL), span_ms=span_ms)
        archive = data.typed(options.work, payments)
        tiny = data.typed(options.work, data.Payments(rows=1_000, span_ms=span_ms))
        contest(options, section, title, archive, tiny, "events.parquet", DEFINITIONS / "one_view.yaml")
    section.notes.append(
        "Start-up is the same command over 1,000 events; it counts in events/s and in CPU s/M."
    )
    return section


def contest(
    options: Options, section: Section, title: str, archive: Path, tiny: Path, name: str, definition: Path
) -> None:
    """Measure ours and the peers over one archive; note the table, the aims and how values compare."""
    out = options.work / "training"
    files = {tool: options.work / f"{tool}.parquet" for tool in TOOLS}

    def ours(source: Path) -> Usage:
        return measured(options, replay(definition, source, out), out)

    def other(tool: str, source: Path) -> Usage:
        return measured(options, peer(tool, source / "transactions" / name, files[tool]), files[tool])

    def in_turn(source: Path) -> dict[str, Callable[[], Usage]]:
        peers = {tool: partial(other, tool, source) for tool in TOOLS}
        return {"lookback": partial(ours, source), **peers}

    ours(tiny)  # compiles and caches what is not yet
    starts = {one: run_one() for one, run_one in in_turn(tiny).items()}
    events = options.rows(FULL)
    figures = interleaved(events, options.repeat, in_turn(archive))
    rows = [row(one, found, starts[one]) for one, found in figures.items()]
    section.tables.append(f"Events within {title}:\n\n" + table(HEAD_START, rows))
    for tool, file in files.items():
        values, wrong = differing(out, file, cents=name.endswith(".jsonl"))
        section.aim(f"{title}: {values:,} values equal those of {tool}, {wrong:,} differ", wrong == 0)
    for tool, factor in (("duckdb", 2.0), ("polars", 1.0)):
        ratio = figures["lookback"].rate / figures[tool].rate
        section.aim(f"{title}: {ratio:.2f}× the events/s of {tool} (aim: {factor:g}×)", ratio >= factor)
