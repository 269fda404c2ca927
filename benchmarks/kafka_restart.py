"""How soon after SIGKILL a job with a million entities of state gives its first fresh value."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks import data, topics
from benchmarks.kafka_freshness import prefix, start
from benchmarks.measure import ROOT, machine_cpus
from benchmarks.options import Options
from benchmarks.probe import FIELD, event
from benchmarks.results import Section, table
from tests.services.kafka import Broker
from tests.services.valkey import Valkey, running

NAME = "kafka_restart"
FULL = 1_000_000
AIM_SECONDS = 10.0
LIMIT_SECONDS = 120.0
# How long after its first value the job is killed: from a steady state, or while what its last life had not yet proved
# durable (the keys of some seconds of catching up) is being written again.
STEADY_SECONDS, BUSY_SECONDS = 15.0, 3.0
SPAN_MS = 20 * data.DAY_MS  # so that all entities are in a window still


def run(options: Options) -> Section:
    """Fill a state, then kill the job and start it again, `repeat` times over."""
    cards = options.rows(FULL) * 5 // 4  # of which 1 - exp(-5 / 3) have an event
    section = Section(NAME, "Restart after SIGKILL", options.command(NAME))
    section.intro = (
        f"A job on Kafka and Valkey has counted {cards * 5 // 3:,} events of {cards:,} cards, drawn at random over the "
        "last 20 days (5 windows x 3 aggregates). It is killed by SIGKILL, all of its processes, while events "
        "come; an event is sent, the same command is given again, and the time runs until the event's "
        f"value is read from Valkey: interpreter start included. {options.repeat} times each: killed "
        f"{STEADY_SECONDS:g} s after its first value, and {BUSY_SECONDS:g} s after it, while it still writes again "
        "what was in doubt when the catch-up before was cut off (some 380,000 records at full size). One CPU for "
        "the job."
    )
    payments = data.Payments(rows=cards * 5 // 3, cards=cards, hot=0, hot_percent=0, span_ms=SPAN_MS)
    later_ms = time.time_ns() // 1_000_000 - data.START_MS - SPAN_MS
    found: list[float] = []
    with topics.broker(options) as server, running(options.fresh("valkey")) as store:
        topics.off_the_job(store.pid)
        topics.load(server, data.lines(options.work, payments), later_ms=later_ms)
        job = _job(server, store, options.fresh("restart"))
        subprocess.run([*job, "--until-end"], cwd=ROOT, check=True)
        with store.client() as client:
            entities = client.dbsize() // 2
        kills = [BUSY_SECONDS] * (options.repeat + 1) + [STEADY_SECONDS] * options.repeat
        for number, settle in enumerate(kills):
            process = start(job[1:], set(machine_cpus()))
            found.append(_fresh(server, store, f"p{number:07d}"))
            words = ["load", server.address, topics.TOPIC, "2000", f"{settle + 1:g}"]
            beside = start(["-m", "benchmarks.probe", *words], topics.others())
            time.sleep(settle)
            _kill(process)
            beside.wait()
        process = start(job[1:], set(machine_cpus()))
        found.append(_fresh(server, store, f"p{len(kills):07d}"))
        _kill(process)
    busy, steady = (
        found[1 : options.repeat + 2],
        found[options.repeat + 2 :],
    )  # the first start followed no kill
    cells = [
        [name, f"{statistics.median(times):.1f}", f"{min(times):.1f}–{max(times):.1f}"]
        for name, times in (("from a steady state", steady), ("while writing again", busy))
    ]
    section.tables.append(table((f"{entities:,} records", "median s", "least–most"), cells))
    middle = statistics.median(steady)
    section.aim(f"{middle:.1f} s from a steady state (aim: under {AIM_SECONDS:g})", middle < AIM_SECONDS)
    return section


def _job(server: Broker, store: Valkey, folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "dataflows.cli", "run", str(topics.DEFINITION), "--source", f"kafka://{server.address}",
        "--store", store.uri, "--state", str(folder / "state"), "--quiet",
    ]  # fmt: skip


def _fresh(server: Broker, store: Valkey, card: str) -> float:
    """Send an event of a card; return how many seconds it took until its value was there."""
    begin = time.perf_counter()
    sender = topics.producer(server)
    sender.produce(
        topics.TOPIC, event(2_000_000_000, card, 100), partition=topics.partition_of(card.encode())
    )
    sender.flush(30)
    key = f"{prefix(topics.DEFINITION)}{{{card}}}"
    with store.client() as client:
        while client.hget(key, FIELD) is None:
            if time.perf_counter() - begin > LIMIT_SECONDS:
                raise RuntimeError("the job that was started again gave no value")
            time.sleep(0.01)
    return time.perf_counter() - begin


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a job's processes, all at once."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        os.kill(one.pid, signal.SIGKILL)
    process.wait()
