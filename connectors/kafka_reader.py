"""Reading one partition of a Kafka topic: whole batches of messages to one buffer of bytes.

Owns: a consumer a partition, where the partition ends, and what to do about events that are gone. Refuses: decoding.

End: markers of transactions and aborted messages take up offsets that no message ever comes with, so a partition is
read to its end when the *position* is there, which the client tells by its end-of-partition event.
Memory: librdkafka fetches ahead into queues of `QUEUE_KBYTES` in all; a reader that isn't asked stops it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from connectors.batches import NO_BROKER_TIME, RawBatch
from connectors.kafka_settings import KafkaSettings
from lookback.errors import RefusedError, SourceError
from lookback.events import I64

QUEUE_KBYTES = 64 << 10  # of all a process's partitions together
FETCH_BYTES = 4 << 20  # of a partition at once; a larger message still comes
GATHER_SECONDS = 0.02  # how long a batch may grow while behind: larger ones cost less
BEHIND = 4096  # a reader whose last batch had this many messages is behind
ASK_SECONDS = 30.0

# Events at or after the position are not to be had: it lies before the first, or behind the last.
_GONE = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError._LOG_TRUNCATION,
}
# What no waiting mends; everything else the client tries again by itself.
_HOPELESS = {
    KafkaError._FATAL,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
    KafkaError._NOT_IMPLEMENTED,
}


def consumer_properties(settings: KafkaSettings, group: str, partitions: int) -> dict[str, str | int | bool]:
    """Return what a partition's consumer is made with, one of `partitions` in its process."""
    ahead_kbytes = max(1 << 10, QUEUE_KBYTES // max(1, partitions))
    return {
        "group.id": group,
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": ahead_kbytes,
        "fetch.message.max.bytes": min(FETCH_BYTES, ahead_kbytes << 9),
        "fetch.queue.backoff.ms": 10,
        "reconnect.backoff.max.ms": 2000,
        "log_level": 3,
        "log.connection.close": False,
        **settings.properties,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
    }


class KafkaReader:
    """Reads one partition from an offset on, to `end_offset` (None: for ever)."""

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        partition: int,
        next_offset: int,
        end_offset: int | None,
        *,
        counted: int | None = None,
        accept_loss: bool = False,
    ) -> None:
        self.topic, self.partition = topic, partition
        self.next_offset = next_offset
        self._counted = next_offset if counted is None else counted
        self.at_end = False  # whether the partition was last seen to have nothing more
        self.lost = 0  # events that were gone before they could be read, where that is accepted
        self._consumer = consumer
        self._end = end_offset
        self._accept_loss = accept_loss
        self._row_bytes = 4096.0  # of a message, on average; of the first ones nothing is known
        self._behind = False  # whether the last look found many messages
        self._assign()

    def _assign(self) -> None:
        self._consumer.assign([TopicPartition(self.topic, self.partition, self.next_offset)])

    def read(self, max_rows: int = 1 << 16, max_bytes: int = 16 << 20) -> RawBatch | None:
        """Return the messages that are there, none if there are none; None at the end.

        Raises RefusedError where the next events are gone, SourceError where waiting mends nothing.
        """
        count = max(1, min(max_rows, int(max_bytes / self._row_bytes)))
        messages = self.messages(count, GATHER_SECONDS if self._behind else 0)
        if messages is None:
            return None
        self._behind = len(messages) >= BEHIND
        raw = batch(self.topic, self.partition, messages)
        if messages:
            mean_bytes = max(1, raw.nbytes) / len(messages)
            self._row_bytes = max(mean_bytes, 0.5 * (mean_bytes + self._row_bytes))
        return raw

    def messages(self, count: int, seconds: float) -> list[Message] | None:
        """Return the messages that come within a time, `count` at most; None at the end. Raises as `read`."""
        if self._end is not None and self.next_offset >= self._end:
            if self.next_offset > self._end:
                self._gone()
            return None
        messages: list[Message] = self._consumer.consume(count, seconds)
        self.at_end &= not messages
        if any(map(Message.error, messages)):
            messages = self._without_errors(messages)
        if self._end is not None and messages and messages[-1].offset() >= self._end:
            messages = [m for m in messages if m.offset() < self._end]
            self.next_offset = self._end
        elif messages:
            self.next_offset = max(self.next_offset, messages[-1].offset() + 1)
        return messages

    def _without_errors(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages among what came; rule on the rest."""
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                self.at_end = False
                good.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                # Nothing before it is still to come: it lies behind markers and aborted messages too.
                position = message.offset() or 0
                if message.offset() is not None and position < self._counted:
                    self._shrunk(position)
                self.at_end = True
                self.next_offset = max(
                    self.next_offset, position if self._end is None else min(position, self._end)
                )
            elif error.code() in _GONE:
                self.next_offset = max(self.next_offset, good[-1].offset() + 1 if good else 0)
                self._gone()
            elif error.code() in _HOPELESS:
                raise SourceError(f"{self.topic}/{self.partition} can't be read: {error.str()}")
        return good

    def _gone(self) -> None:
        """Rule on a position that the partition does not have."""
        at = f"{self.topic}/{self.partition}"
        try:
            first, end = self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, self.partition), timeout=ASK_SECONDS
            )
        except KafkaException:
            self._assign()  # the broker is away: the same position again
            return
        if self.next_offset > end:
            self._shrunk(end)
        if self.next_offset < first:
            read = max(self.next_offset, self._counted)
            gone = max(0, first - read)
            if gone and not self._accept_loss:
                raise RefusedError(
                    f"{at} begins at offset {first} now, and the job has read to {read}: up to {gone:,} "
                    "events are gone before it counted them; go on without them with --accept-loss, or name a fresh "
                    "--state and a fresh --store"
                )
            self.lost += gone
            self.next_offset = first
        self._assign()

    def _shrunk(self, end: int) -> None:
        """Refuse a partition that ends before what was read of it."""
        raise RefusedError(
            f"{self.topic}/{self.partition} ends at offset {end}, and the job has read to "
            f"{max(self.next_offset, self._counted)}: the topic has lost events or was made again; restore it, or name "
            "a fresh --state and a fresh --store"
        )

    def publish(self, offset: int) -> None:
        """Commit an offset to the consumer group, for lag tools; a failure changes nothing."""
        place = TopicPartition(self.topic, self.partition, offset)
        try:
            self._consumer.commit(offsets=[place], asynchronous=True)
        except KafkaException:
            return

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


def batch(topic: str, partition: int, messages: Sequence[Message]) -> RawBatch:
    """Return messages as columns: their values joined to one buffer, null where a message has none."""
    offset: I64 = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
    stamps = chain.from_iterable(map(Message.timestamp, messages))
    kind, time_ms = np.fromiter(stamps, np.int64, 2 * len(messages)).reshape(-1, 2).T
    broker = np.where(kind == TIMESTAMP_NOT_AVAILABLE, NO_BROKER_TIME, time_ms)
    rows = pa.array(list(map(Message.value, messages)), pa.binary())

    def key_of(index: int) -> bytes | None:
        key: bytes | None = messages[index].key()
        return key

    return RawBatch(topic, partition, offset, broker, rows, key_of=key_of)
