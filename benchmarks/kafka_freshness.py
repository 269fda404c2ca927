"""Broker to servable: from the producer's acknowledgement to the value read back from Valkey, at steady rates."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks import topics
from benchmarks.measure import ROOT, machine_cpus
from benchmarks.options import Options
from benchmarks.results import Section, table
from lookback.definition import load
from tests.services.kafka import Broker
from tests.services.valkey import Valkey, running

NAME = "kafka_freshness"
RATES = (1_000, 5_000, 20_000)
SECONDS = 120
WARM_SECONDS = 60  # of the highest rate, unmeasured: a broker's JVM compiles what it runs for so long
AIMS_MS = {5_000: 50, 20_000: 150}  # of the 99th percentile
FRESH = ("--shards", "4", "--epoch", "200ms")  # what docs/commands.md advises for fresh values
WAYS: dict[str, Sequence[str]] = {" ".join(FRESH): FRESH, "as it comes": ()}
PROBES_A_SECOND = 100
SETTLE_SECONDS = 8.0  # from the job's start: kernels are loaded, stores open, caches warm


def run(options: Options) -> Section:
    """Measure each rate once, each way: a run's percentiles are over thousands of probes."""
    seconds = max(10, int(SECONDS * options.scale))
    warm = max(10, int(WARM_SECONDS * options.scale))
    section = Section(NAME, "Freshness on Kafka", options.command(NAME))
    section.intro = (
        f"{seconds} s at each rate, exactly once, one worker, one view of 5 windows x 3 aggregates over 50,000 cards; "
        f"events of now. {PROBES_A_SECOND} probes a second among them are looked for without pause. Job, broker, "
        f"Valkey, load and probes share the machine's cores; the broker was warmed for {warm} s. A probe's time runs "
        "from the producer's acknowledgement (acks=all) to the read that sees its value; one seen before counts as 0. "
        "As it comes a job has 32 shards and epochs of 1 s."
    )
    with topics.broker(options, apart=False) as server:
        at_rate(options, server, max(RATES), warm, "-warm", FRESH, apart=False)
        for name, more in WAYS.items():
            rows = []
            for number, rate in enumerate(RATES):
                suffix = f"-{len(section.tables)}-{number}"
                found, cpu = at_rate(options, server, rate, seconds, suffix, more, apart=False)
                ms = np.percentile(found * 1e3, [50, 99, 99.9, 100])
                rows.append(
                    [f"{rate:,} events/s", f"{len(found):,}", *(f"{one:,.1f}" for one in ms), f"{cpu:.1f}"]
                )
                if rate in AIMS_MS and more:
                    aim = AIMS_MS[rate]
                    section.aim(f"{rate:,} events/s: p99 {ms[1]:,.0f} ms (aim: under {aim})", ms[1] < aim)
            head = (name, "probes", "p50 ms", "p99 ms", "p99.9 ms", "most ms", "job's CPU s/M")
            section.tables.append(table(head, rows))
    return section


def at_rate(
    options: Options, server: Broker, rate: int, seconds: int, name: str = "", more: Sequence[str] = (), *,
    apart: bool = True,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Return the probes' seconds, and the job's CPU seconds a million events.

    name: of the run, where a rate is measured several times. more: options of the job. apart: the job has a CPU of
    its own, store, load and probes have the others.
    """
    every = os.sched_getaffinity(0)
    own, others = (set(machine_cpus()), topics.others()) if apart else (every, every)
    topic = f"transactions-{rate}{name}"
    server.create(topic, topics.PARTITIONS)
    definition = topics.definition_on(options, topic)
    folder, out = options.fresh("freshness"), options.fresh("probes.npy")
    with running(options.fresh("valkey")) as store:
        os.sched_setaffinity(store.pid, others)
        job = start(
            [
                "-m", "dataflows.cli", "run", str(definition), "--source", f"kafka://{server.address}",
                "--store", store.uri, "--state", str(folder / "state"), "--quiet", *more,
            ],
            own,
        )  # fmt: skip
        try:
            _warm(server, store, topic, others)
            time.sleep(SETTLE_SECONDS)
            before = _cpu(job.pid)
            beside = [
                start(["-m", "benchmarks.probe", *words], others)
                for words in (
                    ["load", server.address, topic, str(rate - PROBES_A_SECOND), str(seconds)],
                    ["watch", server.address, topic, str(PROBES_A_SECOND), str(seconds), str(store.port),
                     prefix(definition), str(out)],
                )
            ]  # fmt: skip
            failed = [one.wait() for one in beside]
            used = _cpu(job.pid) - before
        finally:
            job.send_signal(signal.SIGTERM)
            code = job.wait(60)
        if any(failed) or code:
            raise RuntimeError(
                f"freshness at {rate}: load and probes ended with {failed}, the job with {code}"
            )
    return np.load(out), used / (rate * seconds) * 1e6


def start(words: list[str], cpus: set[int]) -> subprocess.Popen[bytes]:
    """Start Python with these arguments on these CPUs."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)  # the child begins where this thread is
    try:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    finally:
        os.sched_setaffinity(0, mine)


def _warm(server: Broker, store: Valkey, topic: str, cpus: set[int]) -> None:
    """Send some seconds of load and wait until the store has records."""
    words = ["load", server.address, topic, "1000", "2"]
    start(["-m", "benchmarks.probe", *words], cpus).wait()
    deadline = time.monotonic() + 120
    with store.client() as client:
        while client.dbsize() < 100:
            if time.monotonic() > deadline:
                raise RuntimeError("the job wrote nothing")
            time.sleep(0.2)


def prefix(definition: Path) -> str:
    """Return what the keys of a definition's records begin with."""
    view = load(definition).views["card_activity"]
    return f"lookback:{view.name}:{view.fingerprint[:12]}:"


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and its children so far."""
    root = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in [root, *root.children(recursive=True)])
