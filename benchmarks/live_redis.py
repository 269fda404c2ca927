"""The live job to Valkey: as `live_lmdb`, with a real server on this machine, its own CPU counted apart."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import psutil

from benchmarks import data
from benchmarks.measure import Usage, interleaved, machine_cpus
from benchmarks.options import DEFINITIONS, HEAD_START, Options, measured, row
from benchmarks.results import Section, table
from tests.services.valkey import Valkey, running

NAME = "live_redis"
FULL = 1_000_000
AIM = 60_000
VIEW = "one view, 15 features"
DEFINITION = DEFINITIONS / "one_view_json.yaml"


def run(options: Options) -> Section:
    """Measure the job and the server."""
    payments = data.Payments(rows=options.rows(FULL))
    archive = data.lines(options.work, payments)
    tiny = data.lines(options.work, data.Payments(rows=1_000))
    section = Section(NAME, "The live job to Valkey", options.command(NAME))
    section.intro = (
        f"{payments.rows:,} JSON events over 60 days, 50,000 cards of which 50 take 5 %; 32 shards, epochs of 1 s. "
        f"Medians of {options.repeat} runs; the job has one CPU, the server the others, nothing is persisted by it."
    )
    server_seconds: list[float] = []
    with running(options.fresh("valkey")) as server:
        _unpin(server)
        for _ in range(2):  # the first compiles and caches what is not yet
            start = _live(options, server, tiny, [])
        figures = interleaved(
            payments.rows, options.repeat, {VIEW: partial(_live, options, server, archive, server_seconds)}
        )
        with server.client() as client:
            stored = client.info("memory")["used_memory_dataset"]
            keys = client.dbsize()
    section.tables.append(table(HEAD_START, [row(name, one, start) for name, one in figures.items()]))
    server_seconds.sort()
    middle = server_seconds[len(server_seconds) // 2] / payments.rows * 1e6
    section.notes.append(f"the server's own CPU: {middle:.2f} s a million events")
    section.notes.append(f"it then holds {keys:,} keys in {stored / (1 << 20):,.0f} MiB")
    section.aim(f"{figures[VIEW].rate:,.0f} events/s (aim: {AIM:,})", figures[VIEW].rate >= AIM)
    return section


def _unpin(server: Valkey) -> None:
    """Keep the server off the CPU that the job has."""
    others = os.sched_getaffinity(0) - set(machine_cpus())
    if others:
        os.sched_setaffinity(server.pid, others)


def _live(options: Options, server: Valkey, archive: Path, server_seconds: list[float]) -> Usage:
    with server.client() as client:
        client.flushall()
    folder = options.work / "live-redis"
    command = [
        sys.executable, "-m", "dataflows.cli", "run", str(DEFINITION), "--source", f"archive:{archive}",
        "--store", server.uri, "--state", str(folder / "state"), "--until-end", "--quiet",
    ]  # fmt: skip
    process = psutil.Process(server.pid)
    before = sum(process.cpu_times()[:2])
    usage = measured(options, command, folder)
    server_seconds.append(sum(process.cpu_times()[:2]) - before)
    return usage
