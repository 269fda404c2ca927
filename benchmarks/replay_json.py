"""JSON lines to training Parquet: the one view beside DuckDB and polars, then three views."""

from __future__ import annotations

from functools import partial

from benchmarks import data
from benchmarks.measure import interleaved
from benchmarks.options import DEFINITIONS, FRAUD, HEAD_START, Options, measured, replay, row
from benchmarks.replay_parquet import FULL, contest
from benchmarks.results import Section, table
from lookback.definition import load

NAME = "replay_json"
AIM = 250_000
NAMES = {
    "counts, sums, means and extremes": DEFINITIONS / "three_views.yaml",
    "features/fraud.yaml: also distinct, top_k, mode, seen_before, decay, lifetime, on demand": FRAUD,
}


def run(options: Options) -> Section:
    """Measure one view beside the others, and three views alone."""
    payments = data.Payments(rows=options.rows(FULL))
    archive = data.lines(options.work, payments)
    tiny = data.lines(options.work, data.Payments(rows=1_000))
    size = (archive / "transactions" / "events.jsonl").stat().st_size / payments.rows
    section = Section(NAME, "Training rows from JSON lines", options.command(NAME))
    section.intro = (
        f"{payments.rows:,} events of {size:.0f} bytes over 60 days, 50,000 cards of which 50 take 5 %. "
        f"Medians of {options.repeat} runs, taken in turns, one CPU each."
    )
    definition = DEFINITIONS / "one_view_json.yaml"
    contest(options, section, "60 days, one view", archive, tiny, "events.jsonl", definition)
    out = options.work / "training"
    runs, starts, titles = {}, {}, {}
    for what, definition in NAMES.items():
        features = sum(len(view.features) for view in load(definition).views.values())
        titles[what] = f"{features} features: {what}"
        measured(options, replay(definition, tiny, out), out)
        starts[what] = measured(options, replay(definition, tiny, out), out)
        runs[what] = partial(measured, options, replay(definition, archive, out), out)
    figures = interleaved(payments.rows, options.repeat, runs)
    rows = [row(titles[what], found, starts[what]) for what, found in figures.items()]
    section.tables.append("Three views (card, merchant, card at merchant):\n\n" + table(HEAD_START, rows))
    for what, found in figures.items():
        met = found.rate >= AIM
        section.aim(f"three views, {titles[what]}: {found.rate:,.0f} events/s (aim: {AIM:,})", met)
    return section
