"""From raw batches to `EventBatch`es, and the dead letters beside them.

Owns: one decoder a stream for all sources (archive files, Kafka messages) and formats, and how a bad event is singled
out while the rest of its batch goes on. Refuses: reading, event-time judgements (late, ahead).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors import decode_typed
from connectors.arrow_messages import READ_BYTES, one_row, unpack
from connectors.batches import NO_BROKER_TIME, BadInput, DeadLetter, DecodedBatch, RawBatch, Reason
from connectors.decode_json import JsonColumns
from connectors.decode_message import BadMessage, MessageDecoder, Target, Value, show, targets
from lookback.events import I64, EventBatch

if TYPE_CHECKING:
    from connectors.schema_registry import Schemas
    from lookback.definition.types import Stream

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Decoded:
    """The good rows of a batch as columns, and the bad ones.

    fields: one column a declared field (types as in `EventBatch`), good rows only.
    event_time_ms: int64[good]. good: int64[good] indices into the input; None where every row is good.
    bad: in index order.
    """

    fields: pa.RecordBatch
    event_time_ms: I64
    good: I64 | None
    bad: list[BadInput]


class Decoder:
    """Decode one stream's events, whole batches at once. schemas: where the stream's format needs them."""

    def __init__(self, stream: Stream, schemas: Schemas | None = None) -> None:
        self.stream = stream
        self._schemas = schemas
        self.targets = targets(stream)
        self.schema = pa.schema(
            [pa.field(t.name, decode_typed.FINAL_TYPES[t.kind]) for t in self.targets[:-1]]
        )
        self._messages = MessageDecoder(self.targets)
        self._columns = JsonColumns(self.targets)

    def columns(self) -> list[str]:
        """Return the source names a typed file is read for, each once."""
        return list(dict.fromkeys(target.source for target in self.targets))

    def ready(self, raw: RawBatch) -> bool:
        """Return whether a batch can be decoded now; if not, what it takes has been asked for, and ask again.

        Raises SourceError where that is not to be had.
        """
        if self._schemas is None or not self._is_avro(raw):
            return True
        from connectors.decode_avro import schema_ids

        ids = np.unique(schema_ids(raw.rows))
        return self._schemas.ready(ids[ids >= 0].tolist())

    @property
    def most_bytes(self) -> int | None:
        """How much may be decoded at once, where messages hold many rows."""
        return READ_BYTES if self.stream.format == "arrow" else None

    @property
    def waiting(self) -> str | None:
        """Why a batch is not ready, where that is more than the time that an answer takes."""
        return None if self._schemas is None else self._schemas.waiting

    def _is_avro(self, raw: RawBatch) -> bool:
        return self.stream.format == "avro" and not (raw.lines or isinstance(raw.rows, pa.Table))

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """Decode a batch as read, once it is `ready`; late and ahead events are not judged here.

        Raises SourceError where a typed file's columns can't feed the stream.
        """
        refused = {bad.index: bad for bad in raw.bad}
        if isinstance(raw.rows, pa.Table):
            decoded = self.decode_typed(raw.rows, raw.file)
        elif self.stream.format == "arrow" and not raw.lines:
            decoded = self._refuse_all(raw.bad)
        elif self._is_avro(raw):
            decoded = self.decode_avro(raw.rows)
        else:
            decoded = self.decode_json(raw.rows, refused)
        offset, broker = raw.offset, raw.broker_time_ms
        if decoded.good is not None:
            offset = offset[decoded.good]
            broker = None if broker is None else broker[decoded.good]
        events = EventBatch(
            self.stream.name, raw.topic, raw.partition, offset, decoded.event_time_ms, broker, decoded.fields
        )
        return DecodedBatch(events, [dead_letter(raw, bad) for bad in decoded.bad], decoded.good)

    def decode_json(
        self, messages: pa.BinaryArray | Sequence[bytes | None], refused: Mapping[int, BadInput] | None = None
    ) -> Decoded:
        """Decode JSON messages; `refused` are rows that are bad already, by index."""
        rows = messages if isinstance(messages, pa.Array) else pa.array(messages, pa.binary())
        columns, left = self._columns.decode(rows)
        for index in refused or {}:
            left[index] = True
        if not left.any():
            fields = pa.RecordBatch.from_arrays(columns[:-1], schema=self.schema)
            return Decoded(fields, decode_typed.millis(columns[-1]), None, [])
        return self._with_left_over(rows, columns, left, refused or {})

    def pieces(self, raw: RawBatch) -> Iterator[RawBatch]:
        """Yield a batch as rows that `decode` takes: itself, or where messages hold many rows, those."""
        if self.stream.format == "arrow":
            yield from unpack(raw, self.targets)
        else:
            yield raw

    def _refuse_all(self, bad: Sequence[BadInput]) -> Decoded:
        """Return that all of a batch is bad, as what `pieces` leaves of Arrow messages as messages is."""
        none = pa.RecordBatch.from_pylist([], schema=self.schema)
        return Decoded(none, np.empty(0, np.int64), np.empty(0, np.int64), list(bad))

    def decode_avro(self, messages: pa.BinaryArray) -> Decoded:
        """Decode Avro messages whose schemas are there."""
        from connectors.decode_avro import AvroColumns

        assert self._schemas is not None, f"stream {self.stream.name} is Avro and there is no registry"
        columns, bad = AvroColumns(self.targets, self._schemas.__getitem__).decode(messages)
        good = None
        if bad:
            good = np.delete(np.arange(len(messages)), [one.index for one in bad])
        fields = pa.RecordBatch.from_arrays(columns[:-1], schema=self.schema)
        return Decoded(fields, decode_typed.millis(columns[-1]), good, bad)

    def _with_left_over(
        self, rows: pa.BinaryArray, columns: list[pa.Array], left: Mask, refused: Mapping[int, BadInput]
    ) -> Decoded:
        """Rule on the messages that the kernels left over, and put the good ones in their place."""
        bad: list[BadInput] = []
        values: list[list[Value]] = []
        good = np.ones(len(rows), np.bool_)
        for index in np.flatnonzero(left).tolist():
            try:
                if index in refused:
                    raise BadMessage(refused[index].reason, refused[index].detail)
                values.append(self._messages.decode(rows[index].as_py()))
            except BadMessage as error:
                bad.append(BadInput(index, error.reason, str(error)))
                good[index] = False
        if values:
            mask = pa.array(left & good)
            columns = [
                pc.replace_with_mask(column, mask, pa.array(ruled, column.type))
                for column, ruled in zip(columns, zip(*values, strict=True), strict=True)
            ]
        kept = None
        if bad:
            kept = np.flatnonzero(good)
            columns = [column.take(pa.array(kept)) for column in columns]
        fields = pa.RecordBatch.from_arrays(columns[:-1], schema=self.schema)
        return Decoded(fields, decode_typed.millis(columns[-1]), kept, bad)

    def decode_typed(self, table: pa.Table, file: str = "") -> Decoded:
        """Decode columns named as the stream's fields (or their `from:`).

        Raises SourceError, naming `file`, where a required column is missing or of a wrong type.
        """
        arrays: list[pa.Array] = []
        mask: Mask | None = None
        for target in self.targets:
            array, fits = self._typed_column(table, target, file)
            arrays.append(array)
            if fits is not None:
                mask = fits if mask is None else mask & fits
        if mask is None or mask.all():
            good, bad = None, []
        else:
            good = np.flatnonzero(mask)
            bad = [self._typed_problem(table, int(index)) for index in np.flatnonzero(~mask)]
            arrays = [array.take(pa.array(good)) for array in arrays]
        fields = pa.RecordBatch.from_arrays(arrays[:-1], schema=self.schema)
        return Decoded(fields, decode_typed.millis(arrays[-1]), good, bad)

    def _typed_column(self, table: pa.Table, target: Target, file: str) -> tuple[pa.Array, Mask | None]:
        index = table.schema.get_field_index(target.source)
        if index < 0:
            decode_typed.check_schema(table.schema, self.targets, file or "the table")
            return pa.nulls(len(table), decode_typed.FINAL_TYPES[target.kind]), None
        try:
            array, fits = decode_typed.convert(whole(table.column(index)), target)
        except decode_typed.WrongType:
            decode_typed.check_schema(table.schema, self.targets, file or "the table")
            raise
        return array, decode_typed.present(array, fits, target.nullable)

    def _typed_problem(self, table: pa.Table, row: int) -> BadInput:
        """Say why a typed row is bad, naming the first column that is."""
        for target in self.targets:
            index = table.schema.get_field_index(target.source)
            if index < 0:
                continue
            cell = whole(table.column(index).slice(row, 1))
            _, fits = decode_typed.convert(cell, target)
            if cell.null_count and not target.nullable:
                return BadInput(row, Reason.SCHEMA, f"{target.label} is null")
            if fits is not None and not fits[0]:
                text = show(cell[0].as_py())
                return BadInput(row, Reason.SCHEMA, f"{target.label}: {text} is not {target.type_text}")
        raise AssertionError(f"row {row} was refused, but every value of it fits")


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without a copy where it is one."""
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks)
        if column.num_chunks
        else pa.array([], column.type)
    )


def dead_letter(raw: RawBatch, bad: BadInput) -> DeadLetter:
    """Return the dead letter of one bad row of a batch."""
    offset, where = raw.place(bad.index)
    return DeadLetter(
        raw.topic,
        raw.partition,
        offset,
        bad.reason,
        where + bad.detail,
        raw_bytes(raw, bad.index),
        broker_time_ms=broker_time(raw, bad.index),
        key=None if raw.key_of is None else raw.key_of(bad.index),
    )


def broker_time(raw: RawBatch, index: int) -> int | None:
    """Return one row's broker time; None where it has none."""
    if raw.broker_time_ms is None or raw.broker_time_ms[index] == NO_BROKER_TIME:
        return None
    return int(raw.broker_time_ms[index])


def raw_bytes(raw: RawBatch, index: int) -> bytes:
    """Return one row as it came: its message, or one of its own; a typed file's as compact JSON."""
    if isinstance(raw.rows, pa.Table):
        if raw.of_messages:
            return one_row(raw.rows, index)
        (row,) = raw.rows.slice(index, 1).to_pylist()
        return json.dumps(row, default=str, separators=(",", ":"), ensure_ascii=False).encode()
    message: bytes | None = raw.rows[index].as_py()
    if message is None:
        return b""
    return message.rstrip(b"\r\n") if raw.lines else message
