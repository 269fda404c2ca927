"""Dead letters on a Kafka topic: refused events with their bytes as value, the rest in headers.

    value      the event's bytes, as they came
    key        its own key
    partition  that of the event, modulo the topic's: letters of one source partition keep their order
    headers    topic partition offset number reason detail [event-time-ms] [broker-time-ms] job    (text)

Guarantee: none is lost, since an epoch commits only once its letters are acknowledged by the brokers (idempotently, by
all in-sync replicas). After a crash those of an epoch that was not committed are sent again, *marked*: their (job,
topic, partition, offset, number) is the same each time, and a reader drops a letter whose mark it has had, as
`read_letters` does. `number` tells letters of one offset apart: 0 but for broken lines of an archive that share one. A
fresh state is another `job`: its letters come again.

The mark is made of the event's place alone. A counter in the sink's snapshot would not do: a crash within a commit may
leave a snapshot of an epoch that never was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.batches import DeadLetter, Reason
from connectors.dead_letters import part_name
from connectors.kafka import KafkaSource
from connectors.kafka_settings import KafkaSettings, parse_uri, producer_properties, read_settings
from lookback.errors import LookbackError, SourceError, StoreError

ASK_SECONDS = 30.0
DELIVERY_SECONDS = 300.0  # for how long a broker may be away


class DeadLetterTopicSink(FixedPartitionedSink[Sequence[DeadLetter], None]):
    """Send dead letters, keyed by `part_name`, each item a sequence of one partition's. See `DeadLetterSink`."""

    def __init__(
        self, settings: KafkaSettings, topic: str, parts: Sequence[tuple[str, int]], job: str
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._job = job
        self._names = sorted(part_name(*part) for part in parts)
        self._index = {name: index for index, name in enumerate(self._names)}

    @cached_property
    def _sender(self) -> _Sender:
        return _Sender(self._settings, self._topic)

    def list_parts(self) -> list[str]:
        """Return all parts: every worker reaches the topic."""
        return self._names

    def part_fn(self, item_key: str) -> int:
        """Return the index of a part among all, by name."""
        return self._index[item_key]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> DeadLetterTopicPart:
        """Open one part."""
        return DeadLetterTopicPart(self._sender, self._job)


class DeadLetterTopicPart(StatefulSinkPartition[Sequence[DeadLetter], None]):
    """One source partition's letters. Raises StoreError where the brokers don't take them."""

    def __init__(self, sender: _Sender, job: str) -> None:
        self._sender = sender
        self._job = job

    def write_batch(self, values: list[Sequence[DeadLetter]]) -> None:
        """Send letters; they are durable with the next snapshot."""
        for letters in values:
            before, number = -1, 0
            for letter in letters:  # those of one offset are never in two batches
                number = number + 1 if letter.offset == before else 0
                before = letter.offset
                self._sender.send(letter, self._job, number)

    def snapshot(self) -> None:
        """Wait until all letters are acknowledged."""
        self._sender.flush()

    def close(self) -> None:
        """Wait for what is on its way."""
        self._sender.flush()


class _Sender:
    """One worker's producer."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._where = f"kafka://{settings.properties['bootstrap.servers']}/{topic}"
        self._topic = topic
        self._settings = settings
        self._failed: KafkaError | None = None
        with self._brokers():
            self._producer = Producer(
                {
                    **producer_properties(settings),
                    "linger.ms": 20,
                    "message.timeout.ms": int(1000 * DELIVERY_SECONDS),
                }
            )
            found = self._producer.list_topics(topic, timeout=ASK_SECONDS).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            self._partitions = len(found.partitions)

    def send(self, letter: DeadLetter, job: str, number: int) -> None:
        """Hand a letter to the client, waiting while its queue is full."""
        self._check()
        headers = [(name, str(value).encode()) for name, value in to_headers(letter, job, number).items()]
        while True:
            try:
                with self._brokers():
                    self._producer.produce(
                        self._topic,
                        letter.raw,
                        key=letter.key,
                        partition=letter.partition % self._partitions,
                        headers=headers,
                        on_delivery=self._delivered,
                    )
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.5)
                self._check()

    def flush(self) -> None:
        """Wait until everything is acknowledged."""
        deadline = time.monotonic() + DELIVERY_SECONDS + 30
        while self._producer.flush(1.0) and time.monotonic() < deadline:
            self._check()
        self._check()

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._failed = self._failed or error

    def _check(self) -> None:
        if self._failed is not None:
            with self._brokers():
                raise KafkaException(self._failed)

    @contextmanager
    def _brokers(self) -> Iterator[None]:
        """Turn a failure into an error that says what to do."""
        try:
            yield
        except KafkaException as error:
            said = self._settings.harmless(error.args[0].str())
            raise StoreError(
                f"dead letters can't be written to {self._where}: {said}; see to it and start the job again"
            ) from None


def to_headers(letter: DeadLetter, job: str, number: int) -> dict[str, str | int]:
    """Return a letter's headers; those of unknown times are left out."""
    headers: dict[str, str | int | None] = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "number": number,
        "reason": letter.reason.value,
        "detail": letter.detail,
        "event-time-ms": letter.event_time_ms,
        "broker-time-ms": letter.broker_time_ms,
        "job": job,
    }
    return {name: value for name, value in headers.items() if value is not None}


def from_message(message: Message) -> tuple[DeadLetter, str, int]:
    """Return (letter, job, number) of a message; raise KeyError or ValueError where it is none."""
    found = {name: value.decode() for name, value in message.headers() or []}
    event_time, broker_time = found.get("event-time-ms"), found.get("broker-time-ms")
    letter = DeadLetter(
        found["topic"],
        int(found["partition"]),
        int(found["offset"]),
        Reason(found["reason"]),
        found["detail"],
        message.value() or b"",
        None if event_time is None else int(event_time),
        None if broker_time is None else int(broker_time),
        message.key(),
    )
    return letter, found["job"], int(found["number"])


def read_letters(settings: KafkaSettings, topic: str) -> Iterator[DeadLetter]:
    """Yield the letters that a topic holds now, partition by partition, none twice.

    Raises SourceError where there is no such topic, LookbackError where a message on it is no letter.
    """
    infos = KafkaSource(settings, [topic], "lookback.dead-letters", {}, False, 1).partitions()
    ends = {(info.topic, info.partition): info.end_offset for info in infos}
    source = KafkaSource(settings, [topic], "lookback.dead-letters", ends, False, len(infos))
    had: set[tuple[str, str, int, int, int]] = set()
    for info in infos:
        reader = source.open(topic, info.partition, info.first_offset)
        try:
            while (messages := reader.messages(10_000, 0.2)) is not None:
                for message in messages:
                    try:
                        letter, job, number = from_message(message)
                    except (KeyError, ValueError):
                        at = f"{topic}/{info.partition} @ {message.offset()}"
                        raise LookbackError(
                            f"{at} is no dead letter: give the topic of a job's letters"
                        ) from None
                    mark = (job, letter.topic, letter.partition, letter.offset, number)
                    if mark not in had:
                        had.add(mark)
                        yield letter
        finally:
            reader.close()


def letter_topic(uri: str, settings: Path | None) -> tuple[KafkaSettings, str]:
    """Return the cluster and the topic of `kafka://HOST:PORT/TOPIC`; raise UsageError where it is none."""
    servers, topic = parse_uri(uri, topic=True)
    return read_settings(servers, settings), topic


def check_topic(settings: KafkaSettings, topic: str, what: str) -> None:
    """Raise SourceError where there is no such topic, or no way in. what: "dead letters have", nowhere to go."""
    try:
        KafkaSource(settings, [topic], "lookback.dead-letters", {}, False, 1).partitions()
    except SourceError as error:
        raise SourceError(f"{what} nowhere to go: {error}") from None
