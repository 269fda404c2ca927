"""A real broker on this machine for the benchmarks, and topics full of payments.

Owns: where broker, load and stores run. The job has the last CPU; the broker, Valkey and whatever produces or reads
have the others, so that the job's CPU seconds are its own, though two cores still share their caches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from confluent_kafka import Producer

from benchmarks.measure import machine_cpus
from benchmarks.options import DEFINITIONS, Options
from tests.services.kafka import Broker, jars

TOPIC = "transactions"
PARTITIONS = 4
DEFINITION = DEFINITIONS / "one_view_json.yaml"  # over TOPIC


def others() -> set[int]:
    """Return the CPUs that the job doesn't have (all, where there is but one)."""
    return os.sched_getaffinity(0) - set(machine_cpus()) or os.sched_getaffinity(0)


@contextmanager
def broker(options: Options, *, apart: bool = True) -> Iterator[Broker]:
    """Give a broker that runs while the block lasts; apart: off the job's CPU."""
    libs = jars()
    if libs is None:
        raise RuntimeError(
            "no Kafka to measure on: install a JDK 17 and Maven, then run tests/services/kafka.sh"
        )
    one = Broker(options.fresh("kafka"), libs)
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, others() if apart else mine)  # the broker begins where this thread is
    try:
        one.start()
    finally:
        os.sched_setaffinity(0, mine)
    try:
        yield one
    finally:
        one.stop()


def off_the_job(pid: int) -> None:
    """Move a server off the job's CPU."""
    os.sched_setaffinity(pid, others())


def definition_on(options: Options, topic: str) -> Path:
    """Return the definition that the Kafka benchmarks share, over another topic."""
    path = options.fresh(f"{topic}.yaml")
    path.write_text(DEFINITION.read_text().replace(f"topic: {TOPIC}", f"topic: {topic}"))
    return path


def producer(server: Broker) -> Producer:
    """Return a producer that gathers for a while, for loading topics."""
    return Producer(
        {
            "bootstrap.servers": server.address, "linger.ms": 20, "acks": "all", "compression.type": "lz4",
            "enable.idempotence": True,  # a batch that is sent again must not change the order
            "queue.buffering.max.messages": 500_000, "batch.num.messages": 10_000,
        }
    )  # fmt: skip


def partition_of(card: bytes) -> int:
    """Return where a card's events go: all of one card to one partition."""
    return int(card[1:]) % PARTITIONS


def load(server: Broker, archive: Path, topic: str = TOPIC, later_ms: int = 0) -> int:
    """Put an archive's JSON lines into a new topic, each under its card; return how many they were.

    later_ms: by how much events are to be later than they are there.
    """
    server.create(topic, PARTITIONS)
    sender, count = producer(server), 0
    with (archive / TOPIC / "events.jsonl").open("rb") as lines:
        for line in lines:
            start = line.index(b'"card":"') + 8
            card = line[start : line.index(b'"', start)]
            if later_ms:
                at = line.index(b'"ts":') + 5
                line = b"%b%d%b" % (line[:at], int(line[at : at + 13]) + later_ms, line[at + 13 :])
            while True:
                try:
                    sender.produce(topic, line[:-1], key=card, partition=partition_of(card))
                    break
                except BufferError:
                    sender.poll(0.1)
            count += 1
            if count % 1000 == 0:
                sender.poll(0)
    if left := sender.flush(120):
        raise RuntimeError(f"{left} messages did not get to the broker")
    return count


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds a process has used so far, its ended children left out."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)
