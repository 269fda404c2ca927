"""Reading as of now through the client: `benchmarks/get.py` as a section."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT
from benchmarks.options import Options
from benchmarks.results import Section, table

NAME = "get_speed"
ENTITIES, READS = 2_000, 20_000
AIM_P99_US = 100.0
KEYS = ("p50_us", "p99_us", "cpu_p50_us", "cpu_p99_us", "many_keys_a_cpu_s")


def run(options: Options) -> Section:
    """Run it as often as asked and take medians."""
    reads, repeat = options.rows(READS), options.repeat
    script = Path(__file__).with_name("get.py")
    command = [sys.executable, str(script), "--entities", str(ENTITIES), "--reads", str(reads)]
    shapes: dict[str, list[dict[str, float]]] = {}
    for _ in range(repeat):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            found = json.loads(line)
            shapes.setdefault(found["get"], []).append(found)
    section = Section(NAME, "Reading as of now, in process, from LMDB", options.command(NAME))
    section.intro = (
        f"`Client.get` of random entities, {ENTITIES:,} with 40 rows each, the store's pages in memory; "
        f"{reads:,} reads, medians of {repeat} runs, microseconds; CPU: of the reading thread."
    )
    if all(one["undisturbed"] for found in shapes.values() for one in found):
        section.intro += (
            " The reading process runs at real-time priority, so the tail is that of reading, not of other "
            "processes on the same cores."
        )
    rows = []
    for name, found in shapes.items():
        p50, p99, cpu_p50, cpu_p99, many = (median(one[key] for one in found) for key in KEYS)
        worst = max(one["p99_us"] for one in found)
        times = [f"{us:.1f}" for us in (p50, p99, worst, cpu_p50, cpu_p99)]
        rows.append([name, f"{found[0]['features']:.0f}", *times, f"{many / 1000:.1f}k"])
        section.aim(f"{name}: p99 {p99:.0f} µs (aim: under {AIM_P99_US:.0f})", p99 < AIM_P99_US)
    heads = ["features of", "features", "p50", "p99", "highest p99", "CPU p50", "CPU p99"]
    section.tables.append(table([*heads, "`get_many`, entities a CPU second"], rows))
    return section
