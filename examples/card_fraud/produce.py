"""Send card payments to Kafka at a pace, some of them late and some of them broken, until it is stopped.

    python -m examples.card_fraud.produce --brokers localhost:9092 --partitions 4 --rate 200 --late 0.01 --broken 0.005

Who pays where and how much is seeded; event times are those of the sending. A payment is late by 11 to 60 minutes,
which is more than `features/fraud.yaml` allows, so a job refuses the late and the broken ones and no other. What was
sent is printed as JSON at the end, which Ctrl-C, SIGTERM or --events brings about.

Owns: the pace, what is wrong with a payment, words for the terminal. Refuses: what a payment is (`payments`).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from examples.card_fraud.arrival import BREAKAGES, LATENESS_MS, Arrived
from examples.card_fraud.files import Texts, json_texts
from examples.card_fraud.payments import HOUR_MS, I64, MINUTE_MS, Payments, everyday, populate

AT_ONCE = 256  # payments are made so many at a time, whatever the pace: the seed alone decides what they are
TICK_SECONDS = 0.02
SAY_SECONDS = 10.0
ANSWER_SECONDS = 5.0


class ProduceError(Exception):
    """Payments can't be sent; says why and what to do."""


@dataclass
class Sent:
    """How many payments were sent, by what a job will make of them."""

    good: int = 0
    late: int = 0
    broken: int = 0
    seconds: float = 0.0

    @property
    def all(self) -> int:
        """Return how many there were."""
        return self.good + self.late + self.broken


@dataclass
class Payers:
    """Payments without end; the same seed gives the same ones."""

    seed: int
    late: float
    broken: float
    partitions: int
    cards: int = 500
    made: int = 0
    warm: set[int] = field(default_factory=set)  # partitions that hold a good payment: one can be late there

    def chunks(self) -> Iterator[tuple[Payments, I64, I64]]:
        """Yield payments, by how much each is late (0: not), and what is broken of each (as in `Arrived`)."""
        rng = np.random.default_rng(self.seed)
        people = populate(rng, self.cards, max(100, self.cards // 5))
        while True:
            payments = everyday(rng, people, AT_ONCE, 0, 28)
            fate = rng.random(AT_ONCE)
            behind = rng.integers(LATENESS_MS + MINUTE_MS, HOUR_MS, AT_ONCE)
            kind = rng.integers(1, len(BREAKAGES) + 1, AT_ONCE)
            broken = fate < self.broken
            late = ~broken & (fate < self.broken + self.late)
            yield payments, np.where(late, behind, 0), np.where(broken, kind, 0)

    def messages(self) -> Iterator[tuple[Payments, I64, I64]]:
        """Yield them one by one."""
        for payments, behind, broken in self.chunks():
            for i in range(len(payments)):
                one = np.array([i])
                yield payments.take(one), behind[one], broken[one]


def partition_of(card: int, partitions: int) -> int:
    """Return where a card's payments go: always the same partition, so that their order is kept."""
    return (card * 2_654_435_761 >> 7) % partitions


class Sender:
    """Sends payments to a topic and counts them."""

    def __init__(self, producer: Producer, topic: str, payers: Payers) -> None:
        self.sent = Sent()
        self._producer, self._topic, self._payers = producer, topic, payers
        self._messages = payers.messages()
        self._failed: list[str] = []

    def send(self, count: int) -> None:
        """Send so many more."""
        for _ in range(count):
            self._one(*next(self._messages))
        self._producer.poll(0)
        self._check()

    def _one(self, payment: Payments, behind: I64, broken: I64) -> None:
        now_ms = time.time_ns() // 1_000_000
        card = int(payment.card[0])
        partition = partition_of(card, self._payers.partitions)
        if broken[0]:
            self.sent.broken += 1
        elif behind[0] and partition in self._payers.warm:
            self.sent.late += 1
        else:
            behind = np.zeros(1, np.int64)  # nothing is late where nothing came before
            self._payers.warm.add(partition)
            self.sent.good += 1
        payment.ts = now_ms - behind
        tx_id = np.array([self.sent.all])
        arrived = Arrived(partition, payment, tx_id, np.array([now_ms]), broken, np.zeros(1, bool))
        texts = Texts.of(arrived)
        value = json_texts(arrived, texts)[0].as_py()
        self._put(value.encode(), texts.card[0].as_py().encode(), partition, now_ms)

    def _put(self, value: bytes, key: bytes, partition: int, now_ms: int) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, partition, timestamp=now_ms, on_delivery=self._delivered
                )
                return
            except BufferError:  # the brokers take less than is sent: wait for them
                self._producer.poll(0.1)
                self._check()

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed.append(error.str())

    def _check(self) -> None:
        if self._failed:
            raise ProduceError(f"{len(self._failed):,} payments could not be sent: {self._failed[0]}")

    def flush(self, seconds: float) -> None:
        """Wait until the brokers have all of them; raises ProduceError where they do not take them."""
        left = self._producer.flush(seconds)
        self._check()
        if left:
            raise ProduceError(
                f"{left:,} payments were not taken within {seconds:.0f} s: are the brokers there?"
            )


def ready(brokers: str, topic: str, partitions: int | None) -> int:
    """Return how many partitions a topic has; with `partitions` it is made where it is not there."""
    admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    try:
        found = admin.list_topics(timeout=ANSWER_SECONDS).topics.get(topic)
    except KafkaException as error:
        raise ProduceError(
            f"no broker answers at {brokers}: start Kafka, or name it with --brokers"
        ) from error
    if found is not None and found.error is None:
        return len(found.partitions)
    if partitions is None:
        raise ProduceError(f"there is no topic {topic}: make it, or have it made with --partitions 4")
    # Kept for as long as features look back, and no clock may run further ahead than the definition allows.
    config = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(HOUR_MS)}
    made = admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic]
    try:
        made.result(ANSWER_SECONDS)
    except KafkaException as error:
        raise ProduceError(f"topic {topic} could not be made: {error.args[0].str()}") from error
    return partitions


def say(text: str) -> None:
    """Tell people something: in one line that stays where it is on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def produce(sender: Sender, rate: float, events: int | None, stop: list[bool]) -> None:
    """Send `rate` payments a second until there were `events` of them (None: until stopped)."""
    started = said = time.monotonic()
    while not stop and sender.sent.all != events:
        now = time.monotonic()
        due = int((now - started) * rate) + 1
        if events is not None:
            due = min(due, events)
        sender.send(min(due - sender.sent.all, AT_ONCE))
        if now - said >= (1.0 if sys.stderr.isatty() else SAY_SECONDS):
            said, sent = now, sender.sent
            say(f"produce: {sent.all:,} sent, {sent.late:,} of them late, {sent.broken:,} broken")
        if sender.sent.all >= due:
            time.sleep(TICK_SECONDS)
    sender.sent.seconds = round(time.monotonic() - started, 3)


def share(text: str) -> float:
    """Return a share from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def positive(text: str) -> float:
    """Return a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="produce",
        description="Send card payments to Kafka until stopped.",
        epilog="Example:  python -m examples.card_fraud.produce --brokers localhost:9092 --partitions 4 --rate 200",
    )
    parser.add_argument("--brokers", default="localhost:9092", help="HOST:PORT[,HOST:PORT]")
    parser.add_argument("--topic", default="transactions")
    parser.add_argument("--partitions", type=int, help="make the topic with so many where it is not there")
    parser.add_argument("--rate", type=positive, default=100.0, help="payments a second")
    parser.add_argument("--events", type=int, help="stop after so many; 0 only makes the topic")
    parser.add_argument("--late", type=share, default=0.01, help="share that is late, 0 to 1")
    parser.add_argument("--broken", type=share, default=0.005, help="share that is broken, 0 to 1")
    parser.add_argument("--seed", type=int, default=7, help="decides who pays where and how much")
    args = parser.parse_args(argv)
    if args.late + args.broken > 1:
        parser.error("--late and --broken are more than 1 together")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = arguments(argv)
    stop: list[bool] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.append(True))
    try:
        partitions = ready(args.brokers, args.topic, args.partitions)
        producer = Producer({"bootstrap.servers": args.brokers, "linger.ms": 5, "log_level": 0})
        sender = Sender(producer, args.topic, Payers(args.seed, args.late, args.broken, partitions))
        if args.events != 0:
            produce(sender, args.rate, args.events, stop)
        sender.flush(30.0)
    except ProduceError as error:
        print(f"produce: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"sent": sender.sent.all, **asdict(sender.sent)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
