"""What `drop_repeats` costs an event, as the ids in its horizon grow from ten thousand to a million."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.measure import Figures, Usage, interleaved
from benchmarks.options import DEFINITIONS, Options, live, measured
from benchmarks.results import Section, table

NAME = "repeats"
FULL = 2_000_000
SHARES = {"10,000": 0.005, "100,000": 0.05, "1,000,000": 0.5}  # of all events, in the horizon
SPAN_MS = 60 * data.DAY_MS


def run(options: Options) -> Section:
    """Measure a live job without the option and with each horizon."""
    rows = options.rows(FULL)
    archive = data.typed(options.work, data.Payments(rows=rows, span_ms=SPAN_MS))
    folder = options.work / "live"
    section = Section(NAME, "Dropping repeats", options.command(NAME))
    section.intro = (
        f"Live jobs over {rows:,} typed Parquet events of one partition to LMDB, one worker, on one CPU; integer ids, "
        f"none of them twice. Medians of {options.repeat}."
    )

    def one(definition: Path) -> Usage:
        return measured(options, live(definition, archive, folder, "--clock", "wall"), folder)

    definitions = {"off": _with(options, None)}
    definitions |= {name: _with(options, int(SPAN_MS * share)) for name, share in SHARES.items()}
    found = interleaved(
        rows, options.repeat, {name: partial(one, path) for name, path in definitions.items()}
    )
    off = found["off"].cpu_per_million
    cells = [[name, *_figures(one, off)] for name, one in found.items()]
    head = ("ids in the horizon (at full size)", "events/s", "CPU s/M", "over off", "peak MiB")
    section.tables.append(table(head, cells))
    return section


def _figures(one: Figures, off: float) -> list[str]:
    more = one.cpu_per_million - off
    return [f"{one.rate:,.0f}", f"{one.cpu_per_million:.2f}", f"{more:+.2f}", f"{one.peak_mib:,.0f}"]


def _with(options: Options, horizon_ms: int | None) -> Path:
    """Return the definition of one view, with a horizon."""
    path = options.fresh(f"repeats-{horizon_ms}.yaml")
    text, known = (DEFINITIONS / "one_view.yaml").read_text(), "    event_id: tx_id\n"
    assert known in text
    more = "" if horizon_ms is None else f"    drop_repeats: {horizon_ms}ms\n"
    path.write_text(text.replace(known, known + more))
    return path
