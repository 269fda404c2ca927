"""What passes between a source and the graph before and beside `EventBatch`.

Owns: raw batches as read, and events that were refused. Refuses: reading, decoding, writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from lookback.events import I64, EventBatch


class Reason(str, Enum):
    """Why an event is a dead letter."""

    PARSE = "parse"  # the bytes are no JSON object (or no message at all)
    SCHEMA = "schema"  # it parses, but does not fit the declared fields
    LATE = "late"  # older than its partition's watermark by more than the stream's lateness
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


@dataclass(frozen=True)
class RawBatch:
    """Events of one partition as they were read, in offset order, not yet decoded.

    rows: a `pa.BinaryArray` of JSON messages, or a `pa.Table` of a typed file's columns.
    offset: int64[n], strictly increasing but for the rows of `bad`, which may repeat the one before.
    bad: rows that the source itself refuses (a line too long, a line without its position).
    file: where the rows come from, for messages; empty where the source has no files.
    """

    topic: str
    partition: int
    offset: I64
    broker_time_ms: I64 | None
    rows: pa.BinaryArray | pa.Table
    bad: tuple[BadInput, ...] = ()
    file: str = ""

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows as held in memory."""
        return int(self.rows.nbytes)


@dataclass(frozen=True)
class DecodedBatch:
    """What became of a `RawBatch`: events that fit, and dead letters in offset order.

    good: int64[events] the events' rows in the raw batch; None where all rows are good.
    """

    events: EventBatch
    dead: list[DeadLetter]
    good: I64 | None = None
