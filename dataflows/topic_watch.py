"""Looking after the topics of a running job, from its parent: brokers that are gone, partitions that are new.

Never waits: it asks, and looks at the answer at a later tick. What the workers read does not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import TopicDescription

from connectors.kafka import KafkaSource, topic_id
from dataflows import board as b
from dataflows.board import Board
from dataflows.say import say
from dataflows.settings import Part
from dataflows.telemetry.observed import set_ends
from lookback.errors import RefusedError

ASK_SECONDS = 10.0  # between questions: so soon a new partition is seen
ENDS_SECONDS = 2.0  # between questions where partitions end: for lag alone, which is so old at most
SAY_SECONDS = 60.0  # between sentences about brokers that are gone


class TopicWatch:
    """Asks for the topics of `parts` again and again."""

    def __init__(self, source: KafkaSource, parts: Sequence[Part], board: Board) -> None:
        self._source = source
        self._parts = parts
        self._known = {(part.topic, part.partition) for part in parts}
        self._ids = {part.topic: part.topic_id for part in parts}
        self._asked: dict[str, Future[TopicDescription]] = {}
        self._ends: dict[TopicPartition, Future[Any]] = {}
        self._next_ends = 0.0
        self._next = time.monotonic() + ASK_SECONDS
        self._away_since: float | None = None
        self._said = 0.0
        self.grown = False
        self._board = board
        self._lost = [0] * len(parts)

    def tick(self) -> None:
        """Ask when it is time to; rule on what came. Raises RefusedError where a topic is not the one it was."""
        self._say_lost()
        now = time.monotonic()
        self._source.admin.poll(0)
        self._look_for_ends(now)
        if not self._asked and now >= self._next:
            self._asked = self._source.describe(ASK_SECONDS)
            self._next = now + ASK_SECONDS
        if self._asked and all(future.done() for future in self._asked.values()):
            asked, self._asked = self._asked, {}
            away = None
            for topic, future in asked.items():
                away = self._look(topic, future) or away
            self._say(away, now)

    def _look_for_ends(self, now: float) -> None:
        if not self._ends and now >= self._next_ends:
            self._ends = self._source.ask_ends(self._known, ASK_SECONDS)
            self._next_ends = now + ENDS_SECONDS
        if self._ends and all(future.done() for future in self._ends.values()):
            asked, self._ends = self._ends, {}
            rows = {(part.topic, part.partition): row for row, part in enumerate(self._parts)}
            set_ends(
                self._board,
                {
                    rows[place.topic, place.partition]: future.result().offset
                    for place, future in asked.items()
                    if future.exception() is None  # of brokers that are gone the other question tells
                },
            )

    def _look(self, topic: str, future: Future[TopicDescription]) -> str | None:
        """Compare a topic with what it was; return why it can't be read just now, if it can't."""
        try:
            found = future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise RefusedError(
                    f"the topic {topic} was deleted while the job ran: what was read of it stays counted; start the "
                    "job again on a fresh --state and a fresh --store once the topic is there"
                ) from None
            return f"does not answer ({self._source.settings.harmless(error.args[0].str())})"
        if topic_id(found) != self._ids[topic]:
            raise RefusedError(
                f"the topic {topic} was deleted and made again while the job ran: its offsets mean nothing in the new "
                "one; name a fresh --state and a fresh --store"
            )
        if any((topic, partition.id) not in self._known for partition in found.partitions):
            self.grown = True
        headless = [partition.id for partition in found.partitions if partition.leader is None]
        return f"has no leader for {topic}/{headless[0]}" if headless else None

    def _say_lost(self) -> None:
        """Say how many events were gone before they could be read, where a person has accepted that."""
        for index, part in enumerate(self._parts):
            lost = int(self._board.rows[index, b.LOST])
            if lost > self._lost[index]:
                gone = lost - self._lost[index]
                say(
                    f"{part.name}: up to {gone:,} events were gone and are not counted",
                    "warning",
                    topic=part.topic,
                    partition=part.partition,
                )
            self._lost[index] = lost

    def _say(self, away: str | None, now: float) -> None:
        """Tell the person, again every SAY_SECONDS, and the board that the brokers are gone; and that they are back."""
        if away is None:
            if self._away_since is not None:
                gone = now - self._away_since
                self._say_of_brokers(f"answers again after {gone:,.0f} s: the job goes on", "info")
            self._away_since = None
            self._board.away[0] = 0
        elif self._away_since is None or now - self._said >= SAY_SECONDS:
            if self._away_since is None:
                self._away_since = now
                self._board.away[0] = time.time_ns() // 1_000_000
            self._said = now
            self._say_of_brokers(f"{away}: the job waits and then goes on", "warning")

    def _say_of_brokers(self, what: str, level: str) -> None:
        say(f"kafka://{self._source.servers} {what}", level)
