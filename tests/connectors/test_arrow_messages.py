from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.arrow_messages import MAX_MESSAGES, MAX_ROWS, ROW_BITS
from connectors.batches import DeadLetter, RawBatch, Reason
from connectors.decode import Decoder
from lookback.definition.types import Stream
from lookback.errors import RefusedError
from tests.connectors.build import EVERY_TYPE, stream_of


def message(table: pa.Table, max_rows: int | None = None) -> bytes:
    """Return a table as one message."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_rows)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def arrow_stream(**fields: str) -> Stream:
    return replace(stream_of(fields), format="arrow")


def read(
    stream: Stream, messages: Sequence[bytes | None], first: int = 0
) -> tuple[list[tuple[int, list[Any]]], list[DeadLetter]]:
    """Return the good rows as (position, values) and the dead letters."""
    decoder = Decoder(stream)
    times = np.arange(100, 100 + len(messages))
    offsets = np.arange(first, first + len(messages)) * 2
    keys = [b"k%d" % n for n in range(len(messages))]
    raw = RawBatch("tx", 1, offsets, times, pa.array(messages, pa.binary()), key_of=keys.__getitem__)
    found: list[tuple[int, list[Any]]] = []
    dead: list[DeadLetter] = []
    for piece in decoder.pieces(raw):
        decoded = decoder.decode(piece)
        events = decoded.events
        assert events.broker_time_ms is not None
        assert (events.broker_time_ms == 100 + (events.offset >> ROW_BITS) // 2 - first).all()
        columns = [column.to_pylist() for column in events.fields.columns]
        values = zip(*columns, events.event_time_ms.tolist(), strict=True)
        found += zip(events.offset.tolist(), map(list, values), strict=True)
        dead += decoded.dead
    return found, dead


def test_rows_of_a_message_have_positions_of_their_own_in_the_order_written() -> None:
    tables = [pa.table({"ts": [5, 4, 3], "id": [1, 2, 3]}), pa.table({"ts": [2], "id": [4]})]
    tables += [tables[0].slice(0, 0), pa.table({"id": [5, 6], "ts": [1, 0]})]
    found, dead = read(arrow_stream(id="int64"), [message(table, 2) for table in tables], first=7)
    assert dead == []
    assert [(place >> ROW_BITS, place % MAX_ROWS, values) for place, values in found] == [
        (14, 0, [1, 5]), (14, 1, [2, 4]), (14, 2, [3, 3]), (16, 0, [4, 2]), (20, 0, [5, 1]), (20, 1, [6, 0]),
    ]  # fmt: skip
    places = [place for place, _ in found]
    assert places == sorted(set(places))


EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "ts": st.integers(-(10**12), 10**13),
            "id": st.integers(-(2**63), 2**63 - 1),
            "note": st.none() | st.text(max_size=5),
            "rate": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "ok": st.none() | st.booleans(),
        }
    ),
    max_size=8,
)
COLUMNS = {"id": "int64", "note": "string?", "rate": "float64?", "ok": "bool?"}
KINDS = {
    "ts": pa.timestamp("ms"),
    "id": pa.int64(),
    "note": pa.string(),
    "rate": pa.float64(),
    "ok": pa.bool_(),
}


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=4), st.booleans())
def test_events_in_arrow_are_those_in_json_bit_for_bit(
    batches: list[list[dict[str, Any]]], coded: bool
) -> None:
    kinds = {**KINDS, "note": pa.dictionary(pa.int8(), pa.string())} if coded else KINDS
    schema = pa.schema(list(kinds.items()))
    tables = [pa.Table.from_pylist(events, schema) for events in batches]
    found, dead = read(arrow_stream(**COLUMNS), [message(table) for table in tables])
    whole = [json.dumps(event).encode() for events in batches for event in events]
    in_json = Decoder(stream_of(COLUMNS)).decode_json(whole)
    columns = [column.to_pylist() for column in in_json.fields.columns]
    expected = [list(row) for row in zip(*columns, in_json.event_time_ms.tolist(), strict=True)]
    assert dead == [] and repr([values for _, values in found]) == repr(expected)


def test_a_row_that_does_not_fit_is_a_letter_that_is_a_message_itself() -> None:
    table = pa.table({"ts": [1, 2, None], "id": [1, None, 3], "more": [["a"], ["b"], ["c"]]})
    good = pa.table({"ts": [4], "id": [4]})
    found, dead = read(arrow_stream(id="int64"), [message(table), message(good)])
    assert [values for _, values in found] == [[1, 1], [4, 4]]
    assert [(letter.offset, letter.reason, letter.key) for letter in dead] == [(0, Reason.SCHEMA, b"k0")] * 2
    assert [letter.detail for letter in dead] == [
        "row 1 of the message: field id is null",
        "row 2 of the message: event time field ts is null",
    ]
    assert pa.ipc.open_stream(dead[0].raw).read_all().to_pylist() == [{"ts": 2, "id": None, "more": ["b"]}]


def test_schemas_may_change_from_message_to_message() -> None:
    messages = [
        message(pa.table({"ts": [1], "id": pa.array([1], pa.int8())})),
        message(pa.table({"id": [2.0], "note": ["two"], "ts": [2]})),
        message(pa.table({"ts": [3], "more": [0]})),
        message(pa.table({"ts": [4], "id": ["four"]})),
        message(
            pa.table({"ts": pa.array([5_000_000], pa.timestamp("ns")), "id": pa.array([5], pa.uint64())})
        ),
    ]
    found, dead = read(arrow_stream(id="int64", note="string?"), messages)
    assert [values for _, values in found] == [[1, None, 1], [2, "two", 2], [5, None, 5]]
    assert [(letter.offset, letter.reason, letter.detail) for letter in dead] == [
        (4, Reason.SCHEMA, "field id is missing in the message's schema"),
        (6, Reason.SCHEMA, "field id is string, no int64 in the message's schema"),
    ]
    assert dead[1].raw == messages[3]


def test_messages_that_are_no_arrow_stream_are_letters_and_the_others_go_on() -> None:
    good = message(pa.table({"ts": [1], "id": [1]}))
    torn = [good[:length] for length in (0, 3, 8, len(good) // 2)]
    whole = [None, *torn, good + b"x", good + good, b'{"ts": 1, "id": 1}', good, b"ARROW1\0\0"]
    found, dead = read(arrow_stream(id="int64"), whole)
    assert [place >> ROW_BITS for place, _ in found] == [2 * 8]
    assert [letter.offset for letter in dead] == [0, 2, 4, 6, 8, 10, 12, 14, 18]
    assert {letter.reason for letter in dead} == {Reason.PARSE}
    assert dead[0].detail == "the message has no value"
    assert dead[6].detail == f"the message has {len(good):,} bytes behind its Arrow IPC stream"
    assert [letter.raw for letter in dead[1:5]] == torn


def test_values_that_lie_outside_their_message_are_refused() -> None:
    """Arrow itself takes a message's word for where a string is."""
    whole = bytearray(message(pa.table({"ts": [1, 2], "id": [1, 2], "note": ["ab", "cd"]})))
    at = bytes(whole).index(np.array([0, 2, 4], np.int32).tobytes())
    whole[at + 8 : at + 12] = np.int32(1 << 30).tobytes()
    found, dead = read(arrow_stream(id="int64", note="string"), [bytes(whole)])
    assert found == [] and [letter.reason for letter in dead] == [Reason.PARSE]


@settings(max_examples=100)
@given(st.data())
def test_no_spoilt_message_breaks_the_decoder(data: st.DataObject) -> None:
    whole = bytearray(message(pa.table({"ts": [1, 2], "id": [1, 2], "note": ["ab", None]})))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found, dead = read(arrow_stream(id="int64", note="string?"), [bytes(whole)])
    assert len(found) + len(dead) <= MAX_ROWS


def test_a_message_with_more_rows_than_positions_is_refused() -> None:
    table = pa.table({"ts": np.zeros(MAX_ROWS + 1, np.int64), "id": np.arange(MAX_ROWS + 1)})
    found, dead = read(arrow_stream(id="int64"), [message(table), message(table.slice(1))])
    assert [letter.detail for letter in dead] == ["the message has more than 16,384 rows"]
    assert [values[0] for _, values in found] == list(range(1, MAX_ROWS + 1))
    assert found[-1][0] == (2 << ROW_BITS) + MAX_ROWS - 1


def test_an_offset_that_no_position_can_hold_is_refused() -> None:
    raw = RawBatch("tx", 1, np.array([MAX_MESSAGES]), None, pa.array([b""], pa.binary()))
    with pytest.raises(RefusedError, match="go on with a new topic"):
        list(Decoder(arrow_stream(id="int64")).pieces(raw))


def test_rows_of_files_are_rows_of_their_own_offsets() -> None:
    decoder = Decoder(arrow_stream(id="int64"))
    lines = RawBatch("tx", 0, np.array([3, 9]), None, pa.array([b'{"ts": 1, "id": 2}', b"{"]), lines=True)
    typed = RawBatch("tx", 0, np.array([3, 9]), None, pa.table({"ts": [1, 2], "id": [2, None]}))
    for raw in (lines, typed):
        (piece,) = decoder.pieces(raw)
        found = decoder.decode(piece)
        assert found.events.offset.tolist() == [3 << ROW_BITS]
        assert [letter.offset for letter in found.dead] == [9] and "row" not in found.dead[0].detail


def test_every_declared_type_can_be_fed() -> None:
    row = {"ts": 1, "id": 2, "price": "1.25", "when": "1970-01-01T00:00:01Z", "fine": 3}
    found, dead = read(arrow_stream(**EVERY_TYPE), [message(pa.Table.from_pylist([row]))])
    assert dead == [] and [values for _, values in found] == [
        [2, None, 125, None, None, 1000, None, 3_000_000, 1]
    ]
