"""Others on the same topic: Quix Streams' exactly-once sliding windows, Bytewax's own with recovery, and ours."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import data, topics
from benchmarks.measure import Usage, machine_cpus
from benchmarks.measure import run as run_command
from benchmarks.options import Options
from benchmarks.results import Section, table
from tests.services.kafka import Broker

NAME = "kafka_peers"
FULL = 50_000
FEW = 2_000
OURS = 20  # times as many events for ours: what 50,000 cost is lost in the start-up
CARDS = 1_000
QUIX_LOCK = Path(__file__).with_name("quix.lock")

Run = Callable[[str, int], Usage]


def run(options: Options) -> Section:
    """Measure each on few events and on many: what is between them is the cost of events, without start-up."""
    rows = max(4 * FEW, int(FULL * options.scale))
    section = Section(NAME, "Peers on Kafka", options.command(NAME))
    section.intro = (
        f"{rows:,} JSON messages of {CARDS:,} cards over 60 days on {topics.PARTITIONS} partitions; five windows of 1 "
        "minute to 30 days, each count, sum and max by card. CPU seconds of a job alone, less those of a run over "
        f"{FEW:,} such messages: its start-up. Ours reads a topic of {OURS * rows:,} of them, as the cost of so few "
        f"is lost in its start-up. Medians of {options.repeat} runs, taken in turns, one CPU each."
    )
    python = _quix(options)
    with topics.broker(options) as server:
        for count, topic in ((FEW, "few"), (rows, "many"), (OURS * rows, "more")):
            payments = data.Payments(rows=count, cards=CARDS, hot=0, hot_percent=0)
            topics.load(server, data.lines(options.work, payments), topic)
        jobs: dict[str, tuple[Run, str, int]] = {
            "Lookback to LMDB, exactly once, exact": (_ours(options, server), "more", OURS * rows),
            "Bytewax sliding windows, recovery, 12 steps a window": (_bytewax(options, server), "many", rows),
            "Quix Streams sliding windows, exactly once": (
                _quix_job(options, server, python), "many", rows,
            ),
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(options.repeat):
            for name, (job, topic, events) in jobs.items():
                few, many = job("few", FEW), job(topic, events)
                seconds[name].append((many.cpu_seconds - few.cpu_seconds) / (events - FEW) * 1e6)
    found = {name: statistics.median(one) for name, one in seconds.items()}
    own = next(iter(found.values()))
    section.tables.append(
        table(
            ("", "CPU s/M", "least–most", "times ours"),
            [
                [
                    name,
                    f"{one:,.1f}",
                    f"{min(seconds[name]):,.1f}–{max(seconds[name]):,.1f}",
                    f"{one / own:,.0f}",
                ]
                for name, one in found.items()
            ],
        )
    )
    section.notes.append(
        "ours writes absolute values to an online store and evaluates as of each entity's newest event; Quix Streams "
        "writes a message an event and window to a topic; Bytewax emits a window when it closes, which goes nowhere"
    )
    return section


def _ours(options: Options, server: Broker) -> Run:
    def one(topic: str, _: int) -> Usage:
        definition = topics.definition_on(options, topic)
        folder = options.fresh("peers")
        command = [
            sys.executable, "-m", "dataflows.cli", "run", str(definition), "--source", f"kafka://{server.address}",
            "--store", f"lmdb:{folder / 'store'}", "--state", str(folder / "state"), "--until-end", "--quiet",
        ]  # fmt: skip
        return run_command(command, machine_cpus())

    return one


def _bytewax(options: Options, server: Broker) -> Run:
    def one(topic: str, _: int) -> Usage:
        state = options.fresh("peers-bytewax")
        command = [sys.executable, "-m", "benchmarks.peer_bytewax", server.address, topic, str(state)]
        return run_command(command, machine_cpus())

    return one


def _quix_job(options: Options, server: Broker, python: Path) -> Run:
    def one(topic: str, events: int) -> Usage:
        state = options.fresh("peers-quix")
        for name in server.admin().list_topics(timeout=10).topics:
            if "quix" in name:  # of the run before: its changelogs would be recovered
                server.delete(name)
        admin = server.admin()
        groups = [f"quix-{topic}"]
        for future in admin.delete_consumer_groups(groups).values():
            if future.exception() is not None and "not exist" not in str(future.exception()).lower():
                future.result()
        script = str(Path(__file__).with_name("peer_quix.py"))
        command = [str(python), script, server.address, topic, str(events), str(state)]
        return run_command(command, machine_cpus())

    return one


def _quix(options: Options) -> Path:
    """Return an interpreter that has Quix Streams, from its own lock file."""
    folder = options.work / "quix"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(QUIX_LOCK)]
        subprocess.run(install, check=True)
        (folder / "complete").touch()
    return python
