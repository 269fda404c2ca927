"""What more history and more entities cost.

History: one replay over a hundred days, 20,000 cards with ten events a day each and a window of 100 days,
so that an entity's log keeps growing. Its processes' CPU time is read against the rows done while it runs:
the cost per event with about 1, 10 and 100 days behind it, start-up left out.
Entities: the same number of events over 60 days, spread evenly over more cards.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from benchmarks import data
from benchmarks.measure import Figures, Usage, interleaved, machine_cpus
from benchmarks.measure import run as run_command
from benchmarks.options import DEFINITIONS, Options, measured, replay
from benchmarks.results import Section, table
from dataflows import board as b

NAME = "growth"
DAYS = 100
CARDS_OF_HISTORY = 20_000
EVENTS_A_DAY = 10
STRETCHES = {"1 day": (0.5, 3.0), "10 days": (8.0, 12.0), "100 days": (92.0, 100.0)}
ENTITIES = (10_000, 100_000, 1_000_000)


def run(options: Options) -> Section:
    """Measure both."""
    section = Section(NAME, "Growth: history, entities", options.command(NAME))
    section.intro = "One CPU each; replays from typed Parquet."
    _history(options, section)
    _entities(options, section)
    return section


class _Curve:
    """CPU seconds of a replay's processes against the rows it has read."""

    def __init__(self, out: Path) -> None:
        self._path = out / ".work" / "board"
        self._words: np.memmap[tuple[int], np.dtype[np.int64]] | None = None
        self.points: list[tuple[int, float]] = [(0, 0.0)]

    def look(self, processes: list[psutil.Process]) -> None:
        if self._words is None:
            if not self._path.exists() or self._path.stat().st_size == 0:
                return
            self._words = np.memmap(self._path, np.int64, "r")
        rows = int(self._words[b.HEADER + b.ROWS])
        seconds = 0.0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                seconds += times.user + times.system
        if rows > self.points[-1][0]:
            self.points.append((rows, seconds))

    def cost(self, first: float, last: float) -> float:
        """Return CPU seconds a million rows between two shares of the run."""
        rows, seconds = (np.array(values) for values in zip(*self.points[1:], strict=True))
        ends = np.interp([first * rows[-1], last * rows[-1]], rows, seconds)
        return float((ends[1] - ends[0]) / ((last - first) * rows[-1]) * 1e6)


def _history(options: Options, section: Section) -> None:
    cards = max(5_000, int(CARDS_OF_HISTORY * options.scale))
    rows = cards * EVENTS_A_DAY * DAYS
    archive = data.typed(options.work, data.Payments(rows, cards, DAYS * data.DAY_MS, hot=0))
    costs: dict[str, list[float]] = {title: [] for title in STRETCHES}
    repeat = min(options.repeat, 3)
    for _ in range(repeat):
        out = options.fresh("training")
        curve = _Curve(out)
        run_command(replay(DEFINITIONS / "history.yaml", archive, out), machine_cpus(), look=curve.look)
        for title, (first, last) in STRETCHES.items():
            costs[title].append(curve.cost(first / DAYS, last / DAYS))
    medians = {title: float(np.median(found)) for title, found in costs.items()}
    lines = [
        [f"{title} (days {first:g} to {last:g})", f"{medians[title]:.2f}", _spread(costs[title])]
        for title, (first, last) in STRETCHES.items()
    ]
    section.tables.append(
        f"History behind an event, windows 1h to 100d, {cards:,} cards × {EVENTS_A_DAY} events a day, "
        f"{rows:,} events, medians of {repeat} replays:\n\n" + table(["", "CPU s/M", "least–most"], lines)
    )
    ratio = max(medians.values()) / min(medians.values())
    section.aim(f"cost per event with 1, 10, 100 days: within {ratio - 1:.0%} (aim: 25 %)", ratio <= 1.25)


def _entities(options: Options, section: Section) -> None:
    out = options.work / "training"
    definition = DEFINITIONS / "one_view.yaml"
    events = options.rows(2_000_000)

    def one(archive: Path) -> Usage:
        return measured(options, replay(definition, archive, out), out)

    tiny = data.typed(options.work, data.Payments(1_000, 1_000, hot=0))
    start = min(one(tiny).cpu_seconds for _ in range(3))
    archives = {n: data.typed(options.work, data.Payments(events, n, hot=0)) for n in ENTITIES}
    runs = {f"{n:,}": partial(one, archive) for n, archive in archives.items()}
    figures = interleaved(events, options.repeat, runs)
    costs = {name: _beyond(found, start) for name, found in figures.items()}
    lines = [
        [name, f"{events / n:,.1f}"]
        + [f"{cost:.2f}" for cost in (costs[name], found.cpu_per_million)]
        + [f"{found.peak_mib:,.0f}"]
        for n, (name, found) in zip(ENTITIES, figures.items(), strict=True)
    ]
    head = ["entities", "events each", "CPU s/M beyond start-up", "CPU s/M", "peak MiB"]
    section.tables.append(
        f"Entities, {events:,} events over 60 days, medians of {options.repeat} replays:\n\n"
        + table(head, lines)
    )
    ratio = max(costs.values()) / min(costs.values())
    section.aim(f"cost per event with 10k, 100k, 1M entities: within {ratio:.2f}× (aim: 2×)", ratio <= 2)


def _beyond(figures: Figures, start_seconds: float) -> float:
    """Return CPU seconds a million events, start-up left out."""
    return (figures.median(lambda u: u.cpu_seconds) - start_seconds) / figures.events * 1e6


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f}–{max(values):.2f}"
