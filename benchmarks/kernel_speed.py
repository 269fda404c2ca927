"""The window kernel alone: `benchmarks/kernel.py` as a section, hot entities against even ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT, machine_cpus
from benchmarks.options import Options
from benchmarks.results import Section, table

NAME = "kernel_speed"
FULL = 2_000_000
AIM = 0.5


def run(options: Options) -> Section:
    """Run it in a process of its own, on one CPU, up to three times."""
    script = Path(__file__).with_name("kernel.py")
    repeat = min(options.repeat, 3)
    command = [sys.executable, str(script), "--rows", str(options.rows(FULL)), "--json"]
    found = [_run(command) for _ in range(repeat)]
    figures = {case: median(one[case] for one in found) for case in found[0]}
    section = Section(NAME, "The window kernel alone", options.command(NAME))
    section.intro = (
        f"{options.rows(FULL):,} events over 60 days through `ViewLog.apply_evaluate`, each aggregate over "
        "1m, 1h, 1d, 7d and 30d. *Even*: 50,000 entities, 50 of which take 5 %. *Hot*: 50 entities share all. "
        f"Medians of {repeat}."
    )
    rows = []
    for case in figures:
        name, _, shape = case.rpartition(", ")
        if shape != "even":
            continue
        even, hot = figures[case], figures[f"{name}, hot"]
        rows.append([name, f"{even:,.0f}", f"{hot:,.0f}", f"{hot / even:.2f}"])
        if name == "count sum max":
            section.aim(f"{name}: hot at {hot / even:.2f} of even (aim: {AIM})", hot >= AIM * even)
    section.tables.append(table(["aggregates", "even, events/s", "hot, events/s", "hot / even"], rows))
    others = {case: value for case, value in figures.items() if not case.endswith((", even", ", hot"))}
    section.notes += [f"{case}: {value:,.1f}" for case, value in others.items()]
    return section


def _run(command: list[str]) -> dict[str, float]:
    cpus = machine_cpus()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cpus)), *command],
        cwd=ROOT, env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found
