"""What a change log costs: catching up and freshness, with and without one, and what a transaction takes."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from benchmarks import data, topics
from benchmarks.kafka_catch_up import job_of
from benchmarks.kafka_freshness import at_rate
from benchmarks.measure import Figures, Usage, machine_cpus
from benchmarks.measure import run as run_command
from benchmarks.options import Options, row
from benchmarks.results import Section, table
from connectors.change_log import LogTopic
from connectors.kafka_settings import read_settings
from tests.services.kafka import Broker

NAME = "change_log"
FULL = 2_000_000
RATE, SECONDS = 5_000, 60
SIZES = (10, 1_000, 20_000)  # messages of a transaction
MESSAGE = b'{"id":"0123456789abcdef-1-1",' + b'"padding":"' + b"x" * 540 + b'"}'
TRIES = 20


def run(options: Options) -> Section:
    """Measure throughput and freshness in turns, then the transaction alone."""
    payments = data.Payments(rows=options.rows(FULL))
    seconds = max(10, int(SECONDS * options.scale))
    archive = data.lines(options.work, payments)
    tiny = data.lines(options.work, data.Payments(rows=1_000))
    section = Section(NAME, "The change log", options.command(NAME))
    section.intro = (
        f"{payments.rows:,} JSON messages wait on {topics.PARTITIONS} partitions (50,000 cards, one view of 15 "
        "features); one worker writes to LMDB, 32 shards, epochs of 1 s, and tells every update to a topic of 4 "
        f"partitions on the same broker, or doesn't. Medians of {options.repeat} runs, taken in turns. The job has one "
        "CPU, the broker the other."
    )
    with topics.broker(options) as server:
        topics.load(server, archive)
        topics.load(server, tiny, "tiny")
        start_up = _catch_up(options, server, None, "tiny")
        runs: dict[bool, list[Usage]] = {True: [], False: []}
        told = []
        for n in range(options.repeat):
            for on in (True, False):
                log = f"updates-{n}" if on else None
                runs[on].append(_catch_up(options, server, log))
                if log is not None:
                    told.append(_count(server, log))
        rows = []
        for on, name in ((False, "without"), (True, "with a change log")):
            rows.append(row(name, Figures(payments.rows, tuple(runs[on])), start_up))
        head = (
            "catching up",
            "events/s",
            "least–most",
            "CPU s/M",
            "peak MiB",
            "start-up CPU s",
            "CPU s/M beyond it",
        )
        section.tables.append(table(head, rows))
        section.notes.append(
            f"{statistics.median(told):,.0f} updates were told of {payments.rows:,} events: "
            "a large wave writes an entity once"
        )
        section.tables.append(_freshness(options, server, seconds))
        section.tables.append(_transactions(server))
    section.notes.append(
        "a transaction's time is what each epoch would pause for longer if it were committed within the epoch"
    )
    return section


def _catch_up(options: Options, server: Broker, log: str | None, topic: str | None = None) -> Usage:
    definition = topics.DEFINITION if topic is None else topics.definition_on(options, topic)
    words = job_of(server, f"lmdb:{options.fresh('log-store')}", options.fresh("log-job"), definition)
    if log is not None:
        server.create(log, 4)
        words += ["--change-log", f"kafka://{server.address}/{log}"]
    return run_command([sys.executable, "-m", "dataflows.cli", *words], machine_cpus(), {})


def _count(server: Broker, log: str) -> int:
    with _reader(server, log) as consumer:
        count, idle = 0, 0
        while idle < 5:
            found = len(consumer.consume(100_000, 1.0))
            count, idle = count + found, 0 if found else idle + 1
        return count


@contextmanager
def _reader(server: Broker, log: str) -> Iterator[Consumer]:
    consumer = Consumer(
        {"bootstrap.servers": server.address, "group.id": "bench", "isolation.level": "read_committed",
         "auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0}
    )  # fmt: skip
    consumer.assign([TopicPartition(log, number, 0) for number in range(4)])
    try:
        yield consumer
    finally:
        consumer.close()


def _freshness(options: Options, server: Broker, seconds: int) -> str:
    rows = []
    for n in range(max(1, options.repeat // 3)):
        for on in (False, True):
            log, more = f"fresh-{n}", []
            ages: list[float] = []
            stop = threading.Event()
            if on:
                server.create(log, 4)
                more = ["--change-log", f"kafka://{server.address}/{log}"]
            watcher = threading.Thread(target=_watch, args=(server, log, ages, stop))
            if on:
                watcher.start()
            try:
                found, cpu = at_rate(options, server, RATE, seconds, f"-{n}-{on}", more)
            finally:
                stop.set()
            if on:
                watcher.join()
            store = [f"{one:,.1f}" for one in np.percentile(found * 1e3, [50, 99])]
            told = (
                [f"{one:,.0f}" for one in np.percentile(np.array(ages) * 1e3, [50, 99])] if on else ["", ""]
            )
            rows.append(["with a change log" if on else "without", *store, *told, f"{cpu:.1f}"])
    what = f"{RATE:,} events/s for {seconds} s, to Valkey"
    head = (what, "store p50 ms", "p99 ms", "log p50 ms", "p99 ms", "job's CPU s/M")
    text = "The store: from the producer's acknowledgement; a read_committed consumer: from the event's time."
    return f"{text}\n\n" + table(head, rows)


def _watch(server: Broker, log: str, ages: list[float], stop: threading.Event) -> None:
    """Take the age of each update as it can be read."""
    with _reader(server, log) as consumer:
        while not stop.is_set():
            messages = consumer.consume(10_000, 0.05)
            now = time.time()
            ages += [
                now - json.loads(message.value() or b"{}")["event_time_ms"] / 1000 for message in messages
            ]


def _transactions(server: Broker) -> str:
    server.create("alone", 4)
    topic = LogTopic(read_settings(server.address, None), "alone", "bench", lambda _: None)
    topic.open()
    rows = []
    for size in SIZES:
        keys = [b"card_activity:0123456789ab:c%06d" % n for n in range(size)]
        took = []
        for _ in range(TRIES):
            began = time.perf_counter()
            topic.send(keys, [MESSAGE] * size, lambda _: None)
            took.append(1e3 * (time.perf_counter() - began))
        rows.append([f"{size:,}", f"{statistics.median(took):,.0f}", f"{max(took):,.0f}"])
    return table(("messages in a transaction", "median ms", "most ms"), rows)
