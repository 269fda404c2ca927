"""What a plain reader sees as rows leave windows, by the wall clock: real Kafka, real Valkey, real time."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lookback.client import Client
from lookback.definition import load
from lookback.stores.redis_record import entity_part, key_prefix
from tests.integration.events import Live
from tests.services.kafka import Broker, Sent
from tests.services.valkey import Valkey

_numbers = itertools.count()
CARDS = [f"c{n}" for n in range(40)]
DEFINITION = """\
streams:
  payments:
    topic: {topic}
    event_time: {{field: ts, unit: ms}}
    lateness: 5m
    max_ahead: 10m
    fields: {{card: string, amount: "decimal(12,2)"}}
entities: {{card: string}}
views:
  cards:
    entity: card
    stream: payments
    features:
      n: {{agg: count, windows: [3s, 8s, 1h]}}
      paid: {{agg: sum, of: amount, windows: [3s, 8s]}}
      top: {{agg: max, of: amount, windows: [3s]}}
"""
SLACK_SECONDS = 1.0  # of windows under 100 s; then an epoch, a look and what a busy machine takes
PATIENCE_SECONDS = 60.0


@pytest.fixture
def job(kafka: Broker, valkey: Valkey, tmp_path: Path) -> Iterator[Live]:
    topic = f"refresh-{next(_numbers)}"
    kafka.create(topic, 2)
    path = tmp_path / f"{topic}.yaml"
    path.write_text(DEFINITION.format(topic=topic))
    job = Live(tmp_path, path, f"kafka://{kafka.address}", server=valkey.uri)
    yield job
    job.end()
    kafka.delete(topic)


def pay(kafka: Broker, job: Live, seconds_ago: float = 0.0) -> int:
    """Produce one payment a card, of some time ago; return when."""
    now = time.time_ns() // 1_000_000
    at = now - int(seconds_ago * 1000)
    sent = [Sent(json.dumps({"ts": at, "card": card, "amount": "2.50"}).encode(), now) for card in CARDS]
    kafka.produce(job.definition.stem, {0: sent[::2], 1: sent[1::2]})
    return at


def begin(job: Live, **environment: str) -> None:
    """Start it; return once it has committed a first epoch."""
    job.start(**environment)
    job.until(lambda: len(job.offsets()) == 2, "a first epoch")


class Reader:
    """Reads hashes as any client would; as_of and sequence must never fall."""

    def __init__(self, job: Live, valkey: Valkey) -> None:
        self.definition = load(job.definition)
        view = self.definition.views["cards"]
        self._prefix = key_prefix(view.name, view.fingerprint)
        self._client = valkey.client()
        self._last: dict[str, tuple[int, int]] = {}  # (sequence, as of)

    def hash(self, card: str) -> dict[str, str]:
        raw: dict[Any, Any] = self._client.hgetall(self._prefix + entity_part(card) + b"}")
        found = {name.decode(): value.decode() for name, value in raw.items()}
        if found:
            now = int(found["_sequence"]), int(found["_as_of_ms"])
            assert now >= self._last.get(card, now) and now[1] >= self._last.get(card, now)[1]
            self._last[card] = now
        return found

    def all(self, **values: str) -> bool:
        """Whether all cards have these values."""
        return all(self.hash(card).items() >= values.items() for card in CARDS)

    def wait(self, job: Live, **values: str) -> float:
        """Wait until all cards have these values; return when, s."""
        job.until(lambda: self.all(**values), f"{values}; it is {self.hash(CARDS[0])}")
        return time.time()


def test_values_fall_though_no_event_comes(job: Live, kafka: Broker, valkey: Valkey) -> None:
    """To what our client reads as of then; and once all has left nothing is written any more."""
    begin(job)
    at = pay(kafka, job)
    reader = Reader(job, valkey)
    reader.wait(job, n_3s="1", n_8s="1", paid_3s="2.50", top_3s="2.50")
    gone = reader.wait(job, n_3s="0", n_8s="1", paid_3s="0.00", top_3s="")
    with Client(reader.definition, job.uri) as client:
        for card in CARDS[:5]:
            stored = reader.hash(card)
            read = client.get({"card": card}, at=int(stored["_as_of_ms"])).values
            assert {name: "" if read[f"cards.{name}"] is None else str(read[f"cards.{name}"]) for name in (
                "n_3s", "n_8s", "n_1h", "paid_3s", "paid_8s", "top_3s")}.items() <= stored.items()  # fmt: skip
    assert 3.0 <= gone - at / 1000 < 3.0 + SLACK_SECONDS + 8.0
    reader.wait(job, n_3s="0", n_8s="0", paid_8s="0.00", n_1h="1")
    rested = {card: reader.hash(card) for card in CARDS}
    time.sleep(2.5)
    assert rested == {card: reader.hash(card) for card in CARDS}
    job.stop()


def test_killed_in_the_middle_of_a_refresh(job: Live, kafka: Broker, valkey: Valkey, tmp_path: Path) -> None:
    """What was under way goes out after the next start, and events of before the refresh still count."""
    note = tmp_path / "fault"
    begin(job, LOOKBACK_FAULT="2-refresh:10", LOOKBACK_FAULT_FILE=str(note))
    at = pay(kafka, job)
    assert job.process is not None and job.process.wait(PATIENCE_SECONDS) == 1
    assert note.read_text().startswith("2-refresh")
    reader = Reader(job, valkey)
    for card in CARDS:
        reader.hash(card)
    pay(
        kafka, job, (time.time() * 1000 - at) / 1000 - 2
    )  # two seconds after the first, of before the refresh
    job.start()
    reader.wait(job, n_3s="0", n_8s="0", n_1h="2")
    job.stop()


def test_a_store_that_came_back_empty_is_written_again_though_no_event_comes(
    job: Live, kafka: Broker, valkey: Valkey
) -> None:
    begin(job)
    pay(kafka, job)
    reader = Reader(job, valkey)
    reader.wait(job, n_8s="0", n_1h="1")
    job.until(lambda: sum(job.offsets().values()) == len(CARDS), "a commit")
    valkey.stop(9)
    valkey.start()
    reader = Reader(job, valkey)
    reader.wait(job, n_3s="0", n_8s="0", n_1h="1")
    assert "lost what it had acknowledged" in job.said()
    job.stop()
