"""Load a topic at a steady rate, or send probes and wait for each to be readable: processes of `kafka_freshness`.

    python -m benchmarks.probe load SERVERS TOPIC RATE SECONDS
    python -m benchmarks.probe watch SERVERS TOPIC PER_SECOND SECONDS REDIS_PORT KEY_PREFIX OUT

A probe is an event like the others, of a card of its own kind; it is fresh when the card's stored count says so. Its
time runs from the producer's acknowledgement to the read that saw it; a read that came first counts as 0.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import redis
from confluent_kafka import KafkaError, Message, Producer

from benchmarks.topics import PARTITIONS, partition_of

CARDS = 50_000
PROBE_CARDS = 500
TICK_SECONDS = 0.002  # of the load
LOOK_SECONDS = 0.002  # between reads of what is awaited: it is on a core that broker and store need too
LEFT_SECONDS = 30.0  # to wait for the last probes
FIELD = "tx_count_30d"


def event(number: int, card: str, cents: int) -> bytes:
    """Return a payment of now, 120 to 130 bytes."""
    return (
        f'{{"tx_id":{number},"ts":{time.time_ns() // 1_000_000},"card":"{card}","merchant":"m{number % 5000:05d}",'
        f'"country":"DE","amount":{cents // 100}.{cents % 100:02d},"declined":false}}'
    ).encode()


def sender(servers: str, linger_ms: int) -> Producer:
    """Return a producer whose acknowledgements are of all in-sync replicas."""
    return Producer({"bootstrap.servers": servers, "acks": "all", "linger.ms": linger_ms})


def load(servers: str, topic: str, rate: float, seconds: float) -> None:
    """Send `rate` events a second, a twentieth of them of 50 cards."""
    out, rng = sender(servers, 2), np.random.default_rng(11)
    cards = np.where(
        rng.random(1 << 16) < 0.05, rng.integers(0, 50, 1 << 16), rng.integers(50, CARDS, 1 << 16)
    )
    cents = rng.integers(100, 20_000, 1 << 16).tolist()
    names = [f"c{card:07d}" for card in cards.tolist()]
    begin, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - begin) < seconds:
        while sent < now * rate:
            card = names[sent & 0xFFFF]
            value = event(sent, card, cents[sent & 0xFFFF])
            try:
                out.produce(topic, value, partition=partition_of(card.encode()))
            except BufferError:  # the broker can't keep up: it gets what it can take
                out.poll(0.01)
                continue
            sent += 1
        out.poll(0)
        time.sleep(TICK_SECONDS)
    out.flush(30)
    print(sent)


@dataclass
class Probe:
    """One event on its way. acknowledged, seen: perf_counter seconds, 0 until then."""

    card: str
    count: int
    acknowledged: float = 0.0
    seen: float = 0.0


class Watch:
    """Sends probes in one thread, takes acknowledgements in another, reads in this one."""

    def __init__(self, servers: str, topic: str, per_second: float, seconds: float) -> None:
        self._out = sender(servers, 0)
        self._topic, self._per_second, self._seconds = topic, per_second, seconds
        self._awaited: deque[Probe] = deque()
        self.probes: list[Probe] = []
        self._sent = threading.Event()

    def _send(self) -> None:
        begin, number = time.perf_counter(), 0
        while number < self._per_second * self._seconds:
            time.sleep(max(0.0, begin + number / self._per_second - time.perf_counter()))
            probe = Probe(f"p{number % PROBE_CARDS:07d}", number // PROBE_CARDS + 1)

            def acknowledged(error: KafkaError | None, _: Message, probe: Probe = probe) -> None:
                if error is None:
                    probe.acknowledged = time.perf_counter()

            self._awaited.append(probe)
            self.probes.append(probe)
            value = event(1_000_000_000 + number, probe.card, 100)
            self._out.produce(
                self._topic, value, partition=number % PROBE_CARDS % PARTITIONS, on_delivery=acknowledged
            )
            number += 1
        self._sent.set()

    def _poll(self) -> None:
        while not self._sent.is_set() or len(self._out):
            self._out.poll(0.05)  # calls back as soon as an acknowledgement is there

    def run(self, port: int, prefix: str) -> None:
        """Send, and read until all were seen."""
        threads = [threading.Thread(target=one, daemon=True) for one in (self._send, self._poll)]
        for thread in threads:
            thread.start()
        client, last = redis.Redis(port=port), time.perf_counter()
        while not self._sent.is_set() or self._awaited:
            waiting = [self._awaited.popleft() for _ in range(len(self._awaited))]
            if waiting:
                pipe = client.pipeline(transaction=False)
                for probe in waiting:
                    pipe.hget(f"{prefix}{{{probe.card}}}", FIELD)
                found, now = pipe.execute(), time.perf_counter()
                for probe, count in zip(waiting, found, strict=True):
                    if int(count or 0) >= probe.count:
                        probe.seen = last = now
                    else:
                        self._awaited.append(probe)
            if self._sent.is_set() and time.perf_counter() - last > LEFT_SECONDS:
                raise SystemExit(f"{len(self._awaited)} probes were never seen")
            time.sleep(LOOK_SECONDS)
        for thread in threads:
            thread.join()


def watch(
    servers: str, topic: str, per_second: float, seconds: float, port: int, prefix: str, out: str
) -> None:
    """Write each probe's seconds from acknowledgement to sight, in the order they were sent."""
    one = Watch(servers, topic, per_second, seconds)
    one.run(port, prefix)
    lost = sum(probe.acknowledged == 0.0 for probe in one.probes)
    if lost:
        raise SystemExit(f"{lost} probes were never acknowledged")
    np.save(out, np.array([max(0.0, probe.seen - probe.acknowledged) for probe in one.probes]))


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
    else:
        servers, topic, per_second, seconds, port, prefix, out = sys.argv[2:]
        watch(servers, topic, float(per_second), float(seconds), int(port), prefix, out)
