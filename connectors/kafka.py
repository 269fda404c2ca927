"""Topics of a Kafka cluster as a source: their partitions, where to begin and end, what may go wrong with them.

Owns: asking the cluster. Reading a partition is `kafka_reader`'s. Offsets of the consumer group are written for lag
tools alone: where the job goes on is in its own recovery store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)

from connectors.batches import PartitionInfo
from connectors.kafka_reader import ASK_SECONDS, KafkaReader, consumer_properties
from connectors.kafka_settings import KafkaSettings
from lookback.errors import SourceError, UsageError

NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # sixteen zero bytes: a broker that knows no topic ids

METADATA_MS = 5000  # between the admin client's looks at who the brokers are

T = TypeVar("T")
Place = tuple[str, int]


class KafkaSource:
    """The topics of some streams, read from a cluster. Raises UsageError where a property is not to be had."""

    has_threads: ClassVar[bool] = True

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Iterable[str],
        group: str,
        ends: Mapping[Place, int],
        accept_loss: bool,
        readers: int,
    ) -> None:
        self.topics = sorted(set(topics))
        self.settings = settings
        self._group = settings.properties.get("group.id", group)
        self._ends = ends
        self._accept_loss = accept_loss
        self._readers = readers
        self._said = ""  # the client's last word on why it can't get in

    # --- asking ------------------------------------------------------------------------------------------

    @property
    def servers(self) -> str:
        """Return the brokers as the address named them."""
        return self.settings.properties["bootstrap.servers"]

    @cached_property
    def admin(self) -> AdminClient:
        """Return the client that asks the cluster."""
        # Without this, a broker that dies as the cluster's controller is asked until five minutes later.
        wanted = {"topic.metadata.refresh.interval.ms": METADATA_MS, **self.settings.no_consumer}
        return self._made(AdminClient, {**wanted, "log_level": 0, "error_cb": self._note})

    def _note(self, error: KafkaError) -> None:
        self._said = self.settings.harmless(error.str())

    def _made(self, kind: Callable[[dict[str, Any]], T], properties: Mapping[str, Any]) -> T:
        try:
            return kind(dict(properties))
        except (KafkaException, TypeError, ValueError) as error:
            said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise UsageError(f"the Kafka settings can't be used: {self.settings.harmless(said)}") from None

    def answer(self, future: Future[T], what: str) -> T:
        """Return what was asked for; raise SourceError, which says why, where there is no answer."""
        try:
            return self._result(future)
        except (KafkaException, TimeoutError) as error:
            said = self._said
            if isinstance(error, KafkaException):
                said = said or self.settings.harmless(error.args[0].str())
            raise SourceError(f"kafka://{self.servers} does not give {what}: {said or 'no answer'}") from None

    def _result(self, future: Future[T]) -> T:
        """Wait for an answer, serving the client meanwhile: it may have to get a token, or say why it can't get in."""
        deadline = time.monotonic() + ASK_SECONDS + 5
        while not future.done() and time.monotonic() < deadline:
            self.admin.poll(0.02)
        return future.result(0)

    def describe(self, seconds: float = ASK_SECONDS) -> dict[str, Future[TopicDescription]]:
        """Ask for the topics as they are now; the answers are to be had within `seconds`."""
        asked: dict[str, Future[TopicDescription]] = self.admin.describe_topics(
            TopicCollection(self.topics), request_timeout=seconds
        )
        return asked

    @property
    def identity(self) -> str:
        """Return the cluster by its own id."""
        try:
            return f"kafka cluster {self.admin.list_topics(timeout=ASK_SECONDS).cluster_id}"
        except KafkaException as error:
            said = self._said or self.settings.harmless(error.args[0].str())
            raise SourceError(f"kafka://{self.servers} does not answer: {said}") from None

    def partitions(self) -> list[PartitionInfo]:
        """Return all partitions as they are now, by topic and partition; ends are those of committed messages."""
        places: list[Place] = []
        ids = {}
        for topic, future in self.describe().items():
            found = self._described(topic, future)
            ids[topic] = topic_id(found)
            places += [(topic, partition.id) for partition in found.partitions]
        first = self._offsets(places, OffsetSpec.earliest())
        end = self._offsets(places, OffsetSpec.latest())
        oldest = self._offsets(places, OffsetSpec.for_timestamp(0))
        gone = {
            place: self._gone_before_ms(place[0])
            for place in places
            if oldest[place][0] < 0 < first[place][0]
        }
        return [
            PartitionInfo(
                topic=place[0],
                partition=place[1],
                first_offset=first[place][0],
                end_offset=end[place][0],
                rows=end[place][0] - first[place][0],
                file_bytes=0,
                first_broker_time_ms=gone.get(place) if oldest[place][0] < 0 else oldest[place][1],
                last_broker_time_ms=None,
                topic_id=ids[place[0]],
            )
            for place in sorted(places)
        ]

    def _gone_before_ms(self, topic: str) -> int:
        """Return the broker time before which the events of a partition lie that holds none any more."""
        config, now = self.config(topic), time.time_ns() // 1_000_000
        kept_ms = int(config.get("retention.ms", 0))
        return now - kept_ms if kept_ms > 0 and config.get("retention.bytes") == "-1" else now

    def _described(self, topic: str, future: Future[TopicDescription]) -> TopicDescription:
        try:
            return self._result(future)
        except (KafkaException, TimeoutError) as error:
            unknown = KafkaError.UNKNOWN_TOPIC_OR_PART
            if isinstance(error, KafkaException) and error.args[0].code() == unknown:
                raise SourceError(
                    f"kafka://{self.servers} has no topic {topic!r}: create it, or correct the stream's topic"
                ) from None
        return self.answer(future, f"topic {topic}")

    def _offsets(self, places: Iterable[Place], spec: OffsetSpec) -> dict[Place, tuple[int, int]]:
        """Return (offset, broker time) of each partition; offset -1 where it has none."""
        asked = self._ask_offsets(places, spec, ASK_SECONDS)
        found = {}
        for place, future in asked.items():
            answer = self.answer(future, f"offsets of {place.topic}/{place.partition}")
            found[place.topic, place.partition] = (answer.offset, answer.timestamp)
        return found

    def ask_ends(self, places: Iterable[Place], seconds: float) -> dict[TopicPartition, Future[Any]]:
        """Ask where partitions end now; the answers, each with an `offset`, are to be had within `seconds`."""
        return self._ask_offsets(places, OffsetSpec.latest(), seconds)

    def _ask_offsets(
        self, places: Iterable[Place], spec: OffsetSpec, seconds: float
    ) -> dict[TopicPartition, Future[Any]]:
        level = IsolationLevel.READ_COMMITTED
        if self.settings.isolation == "read_uncommitted":
            level = IsolationLevel.READ_UNCOMMITTED
        wanted = {TopicPartition(*place): spec for place in places}
        asked: dict[TopicPartition, Future[Any]] = self.admin.list_offsets(
            wanted, isolation_level=level, request_timeout=seconds
        )
        return asked

    def start_offset(self, topic: str, partition: int, broker_time_ms: int) -> int:
        """Return the first offset whose broker time is at or past a time; the end where there is none."""
        place = (topic, partition)
        offset, _ = self._offsets([place], OffsetSpec.for_timestamp(max(0, broker_time_ms)))[place]
        return offset if offset >= 0 else self._offsets([place], OffsetSpec.latest())[place][0]

    def config(self, topic: str) -> dict[str, str]:
        """Return a topic's settings; empty where the cluster does not tell."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            found = self.admin.describe_configs([resource], request_timeout=ASK_SECONDS)[resource].result(
                ASK_SECONDS
            )
        except (KafkaException, TimeoutError):
            return {}
        return {name: entry.value for name, entry in found.items() if entry.value is not None}

    def publish(self, offsets: Mapping[Place, int]) -> None:
        """Commit offsets to the consumer group and wait for it; raise SourceError where that fails."""
        places = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        if not places:
            return
        (future,) = self.admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self._group, places)], request_timeout=ASK_SECONDS
        ).values()
        self.answer(future, f"group {self._group} the offsets")

    # --- reading -----------------------------------------------------------------------------------------

    def open(
        self, topic: str, partition: int, next_offset: int | None = None, counted: int | None = None
    ) -> KafkaReader:
        """Return a reader of a partition from `next_offset` on (None: from its first event)."""
        place = (topic, partition)
        if next_offset is None:
            next_offset = self._offsets([place], OffsetSpec.earliest())[place][0]
        consumer = self._made(Consumer, consumer_properties(self.settings, self._group, self._readers))
        return KafkaReader(
            consumer,
            topic,
            partition,
            next_offset,
            self._ends.get(place),
            counted=counted,
            accept_loss=self._accept_loss,
        )


def topic_id(found: TopicDescription) -> str:
    """Return a topic's id, which one made again under the same name does not have; empty where there are none."""
    text = str(found.topic_id)
    return "" if text == NO_ID else text
