"""Catching up on Kafka: millions of messages wait, one worker reads them, exactly once; then where its CPU goes."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import data, topics
from benchmarks.measure import Figures, Usage, machine_cpus
from benchmarks.measure import run as run_command
from benchmarks.options import Options, row
from benchmarks.results import Section, table
from tests.services.kafka import Broker
from tests.services.valkey import running

NAME = "kafka_catch_up"
FULL = 5_000_000
AIMS = {"LMDB": 150_000, "Valkey": 60_000}
AIM_CPU = 10.0
OFF = {"LOOKBACK_FAULT_OFF": "offset_dedupe,served_mark,log"}


@dataclass
class Case:
    """Runs of one store, exactly once or with the protections off; seconds of CPU of the servers beside them."""

    figures: list[Usage]
    broker: list[float]
    store: list[float]


def run(options: Options) -> Section:
    """Measure both stores with exactly-once on and off, and trace each once."""
    payments = data.Payments(rows=options.rows(FULL))
    archive = data.lines(options.work, payments)
    tiny = data.lines(options.work, data.Payments(rows=1_000))
    section = Section(NAME, "Catching up on Kafka", options.command(NAME))
    section.intro = (
        f"{payments.rows:,} JSON messages of 110 to 150 bytes wait on {topics.PARTITIONS} partitions (60 days, 50,000 "
        "cards); one worker, one view of 5 windows x 3 aggregates, 32 shards, epochs of 1 s. The job has one CPU, "
        f"broker and store share the other. Medians of {options.repeat} runs, taken in turns."
    )
    cases = {(store, once): Case([], [], []) for store in AIMS for once in (True, False)}
    with topics.broker(options) as server:
        topics.load(server, archive)
        topics.load(server, tiny, "tiny")
        few = topics.definition_on(options, "tiny")
        starts = {store: _one(options, server, store, few)[0] for store in [*AIMS, *AIMS]}
        for _ in range(options.repeat):
            for (store, once), case in cases.items():
                usage, broker, kv = _one(options, server, store, topics.DEFINITION, once)
                case.figures.append(usage)
                case.broker.append(broker)
                case.store.append(kv)
        traced = {store: _traced(options, server, store) for store in AIMS}
    head = ("", "events/s", "least–most", "CPU s/M", "peak MiB", "start-up CPU s", "CPU s/M beyond it")
    rows = []
    for (store, once), case in cases.items():
        found = Figures(payments.rows, tuple(case.figures))
        name = f"{store}, {'exactly once' if once else 'protections off'}"
        servers = [f"{statistics.median(s) / payments.rows * 1e6:.2f}" for s in (case.broker, case.store)]
        rows.append([*row(name, found, starts[store]), *servers])
        if once:
            section.aim(
                f"{store}: {found.rate:,.0f} events/s (aim: {AIMS[store]:,})", found.rate >= AIMS[store]
            )
            cpu = found.cpu_per_million
            section.aim(f"{store}: {cpu:.2f} CPU s a million events (aim: {AIM_CPU:g})", cpu <= AIM_CPU)
    section.tables.append(table((*head, "broker CPU s/M", "store CPU s/M"), rows))
    section.tables.append(_split(traced, payments.rows))
    section.notes.append(
        "protections off: offsets are not compared, no served mark is waited for, the state's batches are neither "
        "logged nor synced (what remains of a commit is the store's own sync and Bytewax's)"
    )
    section.notes.append("the broker's CPU holds its fetches; the store's is 0 for LMDB, which is a library")
    return section


def job_of(server: Broker, store: str, folder: Path, definition: Path = topics.DEFINITION) -> list[str]:
    """Return the arguments of a job that reads what is there."""
    return [
        "run", str(definition), "--source", f"kafka://{server.address}", "--store", store,
        "--state", str(folder / "state"), "--until-end", "--quiet",
    ]  # fmt: skip


def _one(
    options: Options, server: Broker, store: str, definition: Path, once: bool = True
) -> tuple[Usage, float, float]:
    """Return the job's usage, and the CPU seconds of broker and store meanwhile."""
    with _store(options, store) as (uri, pid):
        folder = options.fresh("catch-up")
        job = [sys.executable, "-m", "dataflows.cli", *job_of(server, uri, folder, definition)]
        before = topics.cpu_seconds(server.pid), topics.cpu_seconds(pid) if pid else 0.0
        usage = run_command(job, machine_cpus(), {} if once else OFF)
        after = topics.cpu_seconds(server.pid), topics.cpu_seconds(pid) if pid else 0.0
    return usage, after[0] - before[0], after[1] - before[1]


@contextmanager
def _store(options: Options, store: str) -> Iterator[tuple[str, int]]:
    """Give the URI of an empty store, and its server's process, 0 where there is none."""
    with ExitStack() as stack:
        if store == "LMDB":
            yield f"lmdb:{options.fresh('catch-up-store')}", 0
        else:
            server = stack.enter_context(running(options.fresh("valkey")))
            topics.off_the_job(server.pid)
            yield server.uri, server.pid


def _traced(options: Options, server: Broker, store: str) -> dict[str, float]:
    report = options.fresh("trace.json")
    with _store(options, store) as (uri, _):
        job = job_of(server, uri, options.fresh("catch-up"))
        run_command([sys.executable, "-m", "benchmarks.traced", str(report), *job], machine_cpus())
    found = json.loads(report.read_text())
    parts: dict[str, float] = found["parts"]
    parts["other threads"] = found["process"] - found["cpu"]
    return parts


def _split(traced: dict[str, dict[str, float]], events: int) -> str:
    names = list(dict.fromkeys(name for parts in traced.values() for name in parts))
    rows = [[name, *(f"{p.get(name, 0.0) / events * 1e6:.2f}" for p in traced.values())] for name in names]
    text = "Where a traced run's CPU goes, seconds a million events (other threads: librdkafka, the Redis writer):"
    return f"{text}\n\n" + table(["", *traced], rows)
