"""Avro messages of a schema registry to columns, whole batches at once.

Owns: the frame around a message (0, the schema's id in four bytes, the record), grouping a batch by schema, and how a
writer's field becomes what the stream declares. What a value may be is `decode_typed`'s: a batch of one schema is read
as a typed file with these columns would be.

    writer's              read as
    null                  null
    boolean               bool
    int long              int64; as a time: timestamp-millis, -micros, -nanos and local-timestamp-… as they say, date
    float double          float32, float64
    string enum           string
    bytes fixed           a decimal, where they are one; else nothing can be read of them
    a union               whichever of its types a message has
    array map record      nothing
A field that the writer does not have is null; fields that the stream does not declare are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors import avro_schema as a
from connectors.avro_scan import HEAD, LEFT_OVER, MAX_DEPTH, read_decimals, scan
from connectors.avro_schema import MAX_DIGITS, Branch, WriterSchema, writer_schema
from connectors.batches import BadInput, Reason
from connectors.decode_json import buffers
from connectors.decode_message import Target, show
from connectors.decode_typed import FINAL_TYPES, WrongType, convert, present
from connectors.json_values import copy_texts
from lookback.events import I64

Mask = npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
TIMES = {
    "timestamp-millis": "ms", "timestamp-micros": "us", "timestamp-nanos": "ns",
    "local-timestamp-millis": "ms", "local-timestamp-micros": "us", "local-timestamp-nanos": "ns",
}  # fmt: skip
Find = Callable[[int], WriterSchema | str]


def schema_ids(messages: pa.BinaryArray) -> I64:
    """Return the id of each message's schema, -1 where it has none: int64[n]."""
    data, offsets = buffers(messages)
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    ids = np.full(len(messages), -1, np.int64)
    framed = np.flatnonzero(ends - starts >= HEAD)
    framed = framed[data[starts[framed]] == 0]
    if messages.null_count:
        framed = framed[np.asarray(messages.is_valid().to_numpy(zero_copy_only=False))[framed]]
    at = starts[framed]
    ids[framed] = 0
    for step in range(1, HEAD):
        ids[framed] = ids[framed] << 8 | data[at + step]
    return ids


@dataclass
class _Field:
    """One wanted field of the messages of one schema: what `scan` found, and the types that it may have."""

    data: U8
    words: I64
    sizes: I32
    branch: U8
    types: tuple[Branch, ...]


class AvroColumns:
    """Decode a stream's messages. find: gives the schema of an id, or why there is none."""

    def __init__(self, wanted: Sequence[Target], find: Find) -> None:
        self._targets = tuple(wanted)
        self._find = find

    def decode(self, messages: pa.BinaryArray) -> tuple[list[pa.Array], list[BadInput]]:
        """Return a column a target (types as in `FINAL_TYPES`) of the good rows, and the bad ones by index."""
        ids = schema_ids(messages)
        bad: dict[int, BadInput] = {}
        found: list[tuple[I64, list[pa.Array]]] = []
        for one in np.unique(ids).tolist():
            rows = np.flatnonzero(ids == one)
            schema = _UNFRAMED if one < 0 else self._find(one)
            if isinstance(schema, str):
                for row in rows.tolist():
                    text = "the message has no value" if one < 0 and not messages[row].is_valid else schema
                    bad[row] = BadInput(row, Reason.PARSE, text)
                continue
            columns = self._group(messages, rows, schema, one, bad)
            if bad:
                good = np.flatnonzero(~np.isin(rows, np.fromiter(bad, np.int64, len(bad))))
                rows, columns = rows[good], [column.take(pa.array(good)) for column in columns]
            found.append((rows, columns))
        return self._joined(found), [bad[row] for row in sorted(bad)]

    def _joined(self, found: list[tuple[I64, list[pa.Array]]]) -> list[pa.Array]:
        """Return the rows of all schemas in their order."""
        if not found:
            return [pa.array([], FINAL_TYPES[target.kind]) for target in self._targets]
        if len(found) == 1:
            return found[0][1]
        order = pa.array(np.argsort(np.concatenate([rows for rows, _ in found])))
        columns = zip(*(columns for _, columns in found), strict=True)
        return [pa.concat_arrays(list(pieces)).take(order) for pieces in columns]

    def _group(
        self,
        messages: pa.BinaryArray,
        rows: I64,
        schema: WriterSchema,
        schema_id: int,
        bad: dict[int, BadInput],
    ) -> list[pa.Array]:
        """Return the columns of the messages of one schema; the bad ones are added to `bad`, and undefined."""
        data, offsets = buffers(messages)
        sources = [s for s in dict.fromkeys(t.source for t in self._targets) if s in schema.fields]
        slots = np.full(len(schema.fields), -1, np.int64)
        slots[[schema.fields[source][0] for source in sources]] = np.arange(len(sources))
        shape = (max(1, len(sources)), len(rows))
        words, sizes, branch = np.zeros(shape, np.int64), np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
        faults, stack = np.zeros(len(rows), np.int32), np.zeros(2 * MAX_DEPTH, np.int64)
        scan(data, offsets, rows, schema.nodes, schema.kids, slots, stack, words, sizes, branch, faults)
        broken = faults != 0
        names = list(schema.fields)
        for row in np.flatnonzero(broken).tolist():
            at, fault = rows[row].item(), int(faults[row])
            where = "goes on behind the record" if fault == LEFT_OVER else f"breaks at {names[fault - 1]}"
            bad[at] = BadInput(at, Reason.PARSE, f"the message {where}, by its schema {schema_id}")
        columns = []
        for target in self._targets:
            if target.source in schema.fields:
                slot, types = sources.index(target.source), schema.fields[target.source][1]
                one = _Field(data, words[slot], sizes[slot], branch[slot], types)
                columns.append(_column(one, target, _Refusals(rows, schema_id, target, bad), broken))
                continue
            columns.append(pa.nulls(len(rows), FINAL_TYPES[target.kind]))
            if not target.nullable:
                every = np.ones(len(rows), np.bool_)
                _Refusals(rows, schema_id, target, bad).add(every, f" is missing in the schema {schema_id}")
        return columns


_UNFRAMED = (
    "the message does not begin as a schema registry's do: a byte 0, the schema's id in four, the record"
)


@dataclass
class _Refusals:
    """Where the bad values of one column go. rows: int64[n], the messages of the column's values."""

    rows: I64
    schema_id: int
    target: Target
    bad: dict[int, BadInput]

    def add(self, mask: Mask, why: str | Callable[[int], str]) -> None:
        """Refuse the masked rows that are not refused yet: the first thing wrong with an event is told."""
        for index in np.flatnonzero(mask).tolist():
            row = self.rows[index].item()
            if row not in self.bad:
                said = why if isinstance(why, str) else why(index)
                self.bad[row] = BadInput(row, Reason.SCHEMA, self.target.label + said)

    def add_type(self, mask: Mask, kind: Branch) -> None:
        """Refuse the masked rows for their type."""
        self.add(mask, f" is {kind.name} in the schema {self.schema_id}, no {self.target.type_text}")


def _column(field: _Field, target: Target, refused: _Refusals, broken: Mask) -> pa.Array:
    """Return a field as a target's column, nulls and bad rows as null; the latter are refused."""
    rows = len(field.words)
    column, fits, raw = None, np.ones(rows, np.bool_), {}
    wrong = np.zeros(rows, np.bool_)
    for number, kind in enumerate(field.types):
        mine = ~broken & (field.branch == number)
        if kind.kind == a.NULL or not mine.any():
            continue
        try:
            values, ok = _values(field, kind, target, mine)
            converted, right = convert(values, target)
        except WrongType:
            refused.add_type(mine, kind)
            wrong |= mine
            continue
        raw[number] = values
        fits &= ~mine | (ok if right is None else ok & right)
        column = converted if column is None else pc.if_else(pa.array(mine), converted, column)
    if column is None:
        column = pa.nulls(rows, FINAL_TYPES[target.kind])

    def why(index: int) -> str:
        values = raw.get(int(field.branch[index]))
        if values is None or not values[index].is_valid:
            return " is null"
        return f": {show(values[index].as_py())} is not {target.type_text}"

    good = present(column, fits, target.nullable)
    if good is not None:
        refused.add(~(good | broken | wrong), why)
    return column


def _values(field: _Field, kind: Branch, target: Target, mine: Mask) -> tuple[pa.Array, Mask]:
    """Return the values of one type as an Arrow array, null in other rows, and which of them could be read.

    Raises WrongType where nothing can be read of the type.
    """
    null = None if mine.all() else ~mine
    bitmap = None if null is None else pa.py_buffer(np.packbits(mine, bitorder="little"))
    right = np.ones(len(mine), np.bool_)
    words = field.words
    if kind.kind in (a.INT, a.LONG):
        whole = pa.array(words, mask=null)
        if target.kind in ("timestamp", "event_time"):
            if kind.logical in TIMES:
                return whole.view(pa.timestamp(TIMES[kind.logical])), right
            if kind.logical == "date":
                return whole.cast(pa.int32(), safe=False).view(pa.date32()), right
        return whole, right
    if kind.kind == a.FLOAT:
        return pa.array(words.astype(np.uint32).view(np.float32), mask=null), right
    if kind.kind == a.DOUBLE:
        return pa.array(words.view(np.float64), mask=null), right
    if kind.kind == a.BOOL:
        return pa.array(words != 0, mask=null), right
    if kind.kind == a.ENUM:
        return pa.array(kind.symbols, pa.string()).take(pa.array(words, mask=null)), right
    if kind.kind == a.STRING:
        return _texts(field, mine, bitmap)
    if kind.logical == "decimal":
        pairs, fit = np.zeros((len(words), 2), np.int64), np.zeros(len(words), np.uint8)
        sizes = np.where(mine, field.sizes, 0).astype(np.int32)
        read_decimals(field.data, words, sizes, pairs, fit)
        wide = pa.decimal128(MAX_DIGITS, kind.scale)
        return pa.Array.from_buffers(wide, len(words), [bitmap, pa.py_buffer(pairs)]), fit != 0
    raise WrongType


def _texts(field: _Field, mine: Mask, bitmap: pa.Buffer | None) -> tuple[pa.Array, Mask]:
    """Return strings; those that are no UTF-8 are empty, and could not be read."""
    right = np.ones(len(mine), np.bool_)
    offsets = np.zeros(len(mine) + 1, np.int32)
    np.cumsum(np.where(mine, field.sizes, 0), out=offsets[1:])
    texts = np.empty(offsets[-1], np.uint8)
    copy_texts(field.data, field.words.astype(np.int32), offsets, texts)
    buffers_ = [bitmap, pa.py_buffer(offsets), pa.py_buffer(texts)]
    found = pa.Array.from_buffers(pa.binary(), len(mine), buffers_)
    try:
        return found.cast(pa.string()), right
    except pa.ArrowInvalid:
        values: list[str | None] = []
        for index, value in enumerate(found.to_pylist()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                right[index] = False
                values.append(value.decode(errors="replace"))
        return pa.array(values, pa.string()), right


def warm() -> None:
    """Compile all kernels, or load them where they were compiled before."""
    schema = writer_schema('{"type": "record", "name": "r", "fields": [{"name": "a", "type": "string"}]}')
    target = Target("a", "a", "string")
    AvroColumns([target], lambda _: schema).decode(pa.array([b"\0\0\0\0\1\2x"], pa.binary()))
    one, none = np.zeros(1, np.int64), np.zeros(1, np.uint8)
    read_decimals(np.zeros(1, np.uint8), one, np.zeros(1, np.int32), np.zeros((1, 2), np.int64), none)
