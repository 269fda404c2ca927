"""What a consumer of the change log reads, and the judgement of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.error import KafkaError

READ_SECONDS = 60.0
Entity = tuple[str, str]  # the message's key, up to the entity; the entity's own key text


@dataclass(frozen=True)
class Update:
    """One message."""

    key: str
    partition: int
    value: Mapping[str, Any]

    @property
    def outbox(self) -> str:
        """Return whose update it is."""
        return str(self.value["id"]).split("-")[0]

    @property
    def place(self) -> tuple[int, int]:
        """Return (entry, number in it)."""
        _, entry, number = self.value["id"].split("-")
        return int(entry), int(number)


def read_log(address: str, topic: str, *, isolation: str = "read_committed") -> list[Update]:
    """Return all that a consumer of the topic gets now, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": address, "group.id": "test", "isolation.level": isolation,
            "enable.partition.eof": True, "enable.auto.commit": False, "auto.offset.reset": "earliest", "log_level": 0,
        }
    )  # fmt: skip
    found: list[Update] = []
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        left, deadline = set(partitions), time.monotonic() + READ_SECONDS
        while left:
            assert time.monotonic() < deadline, f"partitions {left} of {topic} are not read to their ends"
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    text = (message.key() or b"").decode()
                    found.append(Update(text, message.partition() or 0, json.loads(message.value() or b"")))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
    return found


def problems(updates: Iterable[Update]) -> list[str]:
    """Return what must never be in a change log: an update that is there twice or lacks, or one out of order."""
    updates = list(updates)
    found = [f"{id} is there {n} times" for id, n in Counter(u.value["id"] for u in updates).items() if n > 1]
    entries: dict[str, dict[int, set[int]]] = {}
    for update in updates:
        entry, number = update.place
        entries.setdefault(update.outbox, {}).setdefault(entry, set()).add(number)
    for outbox, own in entries.items():
        if sorted(own) != list(range(1, len(own) + 1)):
            found.append(
                f"outbox {outbox}: entries {sorted(set(range(1, max(own) + 1)) - set(own))[:9]} lack"
            )
        found += [f"{outbox}-{n}: holes" for n, numbers in own.items() if numbers != set(range(len(numbers)))]
    for key, versions in by_key(updates).items():
        if len({update.partition for update in versions}) > 1:
            found.append(f"{key} is on several partitions")
        places = [(u.value["sequence"], u.value["as_of_ms"], u.value["event_time_ms"]) for u in versions]
        for before, after in pairwise(places):
            if after == before or any(b > a for b, a in zip(before, after, strict=True)):
                found.append(f"{key}: (sequence, as of, event time) {before} and then {after}")
    return found


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's values as a message has them."""
    return dict(json.loads(json.dumps(values, default=str)))


def by_key(updates: Iterable[Update]) -> dict[str, list[Update]]:
    """Return each entity's updates, in order."""
    found: dict[str, list[Update]] = {}
    for update in updates:
        found.setdefault(update.key, []).append(update)
    return found
