"""What passes between a source and the graph before and beside `EventBatch`.

Owns: raw batches as read, and events that were refused. Refuses: reading, decoding, writing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import pyarrow as pa

from lookback.events import I64, EventBatch

NO_BROKER_TIME = 1 << 62  # of a message without one: no event is ahead of it


@dataclass(frozen=True)
class PartitionInfo:
    """One partition of a topic as its source holds it; offsets in [first_offset, end_offset).

    rows: events in it (Kafka: offsets, some of which may hold none). file_bytes: its share of an archive's bytes, by
    rows. Broker times: an archive's least and greatest of the pieces that hold the partition, Kafka's of the first
    event (where none is left: of where those that are gone end); None where there are none. topic_id: tells a topic
    from one made again under its name; empty for files.
    """

    topic: str
    partition: int
    first_offset: int
    end_offset: int
    rows: int
    file_bytes: int
    first_broker_time_ms: int | None
    last_broker_time_ms: int | None
    topic_id: str = ""


class Reason(str, Enum):
    """Why an event is a dead letter."""

    PARSE = "parse"  # the bytes are no message of the stream's format (or there are none)
    SCHEMA = "schema"  # it parses, but does not fit the declared fields
    LATE = "late"  # older than its partition's watermark by more than the stream's lateness
    REPEAT = "repeat"  # its id was there before within the stream's drop_repeats
    AHEAD = "ahead"  # further ahead of its broker time than the stream's max_ahead


@dataclass(frozen=True)
class BadInput:
    """One event of a batch that was refused: its index in the batch, and why."""

    index: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class DeadLetter:
    """One refused event with its position and its raw bytes (a typed row: its compact JSON)."""

    topic: str
    partition: int
    offset: int
    reason: Reason
    detail: str
    raw: bytes
    event_time_ms: int | None = None  # None where it could not be read
    broker_time_ms: int | None = None
    key: bytes | None = None  # of its message, where the source has keys


@dataclass(frozen=True)
class RawBatch:
    """Events of one partition as they were read, in offset order, not yet decoded.

    rows: a `pa.BinaryArray` of messages in the stream's format (lines: in JSON, whatever that is), or a `pa.Table` of
    a typed file's columns.
    offset: int64[n], strictly increasing but for the rows of `bad`, which may repeat the one before.
    bad: rows that the source itself refuses (a line too long, a line without its position).
    file: where the rows come from, for messages; empty where the source has no files.
    key_of: gives a row's message key by index; None where the source keeps none.
    row_bits: how many of an offset's low bits number the rows of one message (see `arrow_messages`). of_messages:
    whether the rows of a table came in such messages.
    """

    topic: str
    partition: int
    offset: I64
    broker_time_ms: I64 | None
    rows: pa.BinaryArray | pa.Table
    bad: tuple[BadInput, ...] = ()
    file: str = ""
    key_of: Callable[[int], bytes | None] | None = None
    lines: bool = False
    row_bits: int = 0
    of_messages: bool = False

    def __len__(self) -> int:
        return len(self.offset)

    def place(self, index: int) -> tuple[int, str]:
        """Return a row's offset at its source, and what to say of where it lies there."""
        offset = int(self.offset[index])
        number = offset & ((1 << self.row_bits) - 1)
        where = f"row {number} of the message: " if self.of_messages else ""
        return offset >> self.row_bits, where

    @property
    def nbytes(self) -> int:
        """Bytes of the rows as held in memory."""
        return int(self.rows.nbytes)

    def cut(self, at: int) -> tuple[RawBatch, RawBatch]:
        """Return the rows before an index, and those from it on."""
        whole = self.key_of

        def key_of(index: int) -> bytes | None:
            return None if whole is None else whole(index + at)

        broker = self.broker_time_ms
        head = replace(
            self,
            offset=self.offset[:at],
            broker_time_ms=None if broker is None else broker[:at],
            rows=self.rows.slice(0, at),
            bad=tuple(bad for bad in self.bad if bad.index < at),
        )
        tail = replace(
            self,
            offset=self.offset[at:],
            broker_time_ms=None if broker is None else broker[at:],
            rows=self.rows.slice(at),
            bad=tuple(replace(bad, index=bad.index - at) for bad in self.bad if bad.index >= at),
            key_of=None if whole is None else key_of,
        )
        return head, tail


@dataclass(frozen=True)
class DecodedBatch:
    """What became of a `RawBatch`: events that fit, and dead letters in offset order.

    good: int64[events] the events' rows in the raw batch; None where all rows are good.
    """

    events: EventBatch
    dead: list[DeadLetter]
    good: I64 | None = None
