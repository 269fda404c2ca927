"""Kafka messages that hold many rows each: Arrow IPC streams.

Owns: a message to rows, and what a row's position is. Refuses: what values mean (a typed file's, `decode_typed`).

    row's offset := message's offset << ROW_BITS | number of the row in its message

so positions are unique and rise with the order in which rows were written, and all that is kept by position (applied
offsets, served marks, ties) works on rows as it does on messages. The source's own place is always a message's offset:
rows of one message are read together. See ADR-0007.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from connectors.batches import BadInput, RawBatch, Reason
from connectors.decode_message import Target
from connectors.decode_typed import misfit
from lookback.errors import RefusedError
from lookback.windows.plan import OFFSET_BITS

ROW_BITS: Final = 14
MAX_ROWS: Final = 1 << ROW_BITS  # of a message
MAX_MESSAGES: Final = 1 << OFFSET_BITS - ROW_BITS  # of a partition
READ_BYTES: Final = 4 << 20  # of messages at once: some 100,000 rows


class _BadMessage(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def unpack(raw: RawBatch, wanted: tuple[Target, ...]) -> Iterator[RawBatch]:
    """Yield the rows of a batch of messages, in order: those of neighbours with one schema together, as a table.

    A message that is none, or whose columns can't feed the stream, comes as a batch of its own that is bad. What a file
    has as rows stays as it is, each the first row of a message.

    Raises RefusedError where an offset is too large for a position.
    """
    if len(raw) and raw.offset[-1] >= MAX_MESSAGES:
        raise RefusedError(
            f"{raw.topic}/{raw.partition} has reached offset {raw.offset[-1]}: a stream of Arrow messages is counted "
            f"up to {MAX_MESSAGES - 1}; go on with a new topic, a fresh --state and a fresh --store"
        )
    if raw.lines or isinstance(raw.rows, pa.Table):
        yield replace(raw, offset=raw.offset << ROW_BITS, row_bits=ROW_BITS)
        return
    tables: list[pa.Table] = []
    first = 0
    for index, message in enumerate(raw.rows):
        try:
            table = _table(message, wanted)
        except _BadMessage as error:
            yield from _rows(raw, first, tables)
            yield _refused(raw, index, error)
            tables, first = [], index + 1
            continue
        if tables and table.schema != tables[0].schema:
            yield from _rows(raw, first, tables)
            tables, first = [], index
        tables.append(table)
    yield from _rows(raw, first, tables)


def _table(message: pa.BinaryScalar, wanted: tuple[Target, ...]) -> pa.Table:
    """Return a message's rows, each value checked to lie where it says. Raises _BadMessage."""
    buffer = message.as_buffer()
    if buffer is None:
        raise _BadMessage(Reason.PARSE, "the message has no value")
    try:
        table = _stream(buffer)
        if found := misfit(table.schema, wanted):
            target, kind = found
            text = "is missing" if kind is None else f"is {kind}, no {target.type_text}"
            raise _BadMessage(Reason.SCHEMA, f"{target.label} {text} in the message's schema")
        return table.cast(pa.schema([_plain(field) for field in table.schema]))
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _BadMessage(Reason.PARSE, f"the message is no Arrow IPC stream: {why}") from None


def _stream(buffer: pa.Buffer) -> pa.Table:
    """Return what a buffer holds, whole; raise _BadMessage, or what Arrow raises, where it is not right."""
    source = pa.BufferReader(buffer)
    batches, rows = [], 0
    with pa.ipc.open_stream(source) as stream:
        schema = stream.schema
        for batch in stream:
            rows += len(batch)
            if rows > MAX_ROWS:
                raise _BadMessage(Reason.PARSE, f"the message has more than {MAX_ROWS:,} rows")
            batch.validate(full=True)
            batches.append(batch)
    if behind := buffer.size - source.tell():
        raise _BadMessage(Reason.PARSE, f"the message has {behind:,} bytes behind its Arrow IPC stream")
    return pa.Table.from_batches(batches, schema)


def _plain(field: pa.Field) -> pa.Field:
    """Return a field without a dictionary, which each message would have its own of, and without metadata."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind)


def _rows(raw: RawBatch, first: int, tables: list[pa.Table]) -> Iterator[RawBatch]:
    """Yield the rows of messages from `first` on as one batch, if there are any."""
    counts = np.array([len(table) for table in tables], np.int64)
    if not counts.sum():
        return
    message = first + np.repeat(np.arange(len(tables)), counts)
    number = np.arange(len(message)) - np.repeat(np.cumsum(counts) - counts, counts)
    whole = raw.key_of
    yield RawBatch(
        raw.topic,
        raw.partition,
        raw.offset[message] << ROW_BITS | number,
        None if raw.broker_time_ms is None else raw.broker_time_ms[message],
        pa.concat_tables(tables),
        file=raw.file,
        key_of=None if whole is None else lambda row: whole(int(message[row])),
        row_bits=ROW_BITS,
        of_messages=True,
    )


def _refused(raw: RawBatch, index: int, error: _BadMessage) -> RawBatch:
    whole = raw.key_of
    return RawBatch(
        raw.topic,
        raw.partition,
        raw.offset[index : index + 1] << ROW_BITS,
        None if raw.broker_time_ms is None else raw.broker_time_ms[index : index + 1],
        raw.rows.slice(index, 1),
        (BadInput(0, error.reason, str(error)),),
        raw.file,
        None if whole is None else lambda _: whole(index),
        row_bits=ROW_BITS,
    )


def one_row(table: pa.Table, row: int) -> bytes:
    """Return a row as a message of its own, which may be sent again."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.slice(row, 1).combine_chunks())
    found: bytes = sink.getvalue().to_pybytes()
    return found
