from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.avro_schema import BadSchema, writer_schema
from connectors.batches import RawBatch, Reason
from connectors.decode import Decoded, Decoder
from tests.connectors.avro import DECIMAL, MILLIS, Known, avro_decoder, encoded, framed, record
from tests.connectors.build import EVERY_TYPE, stream_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WRITER = record(
    before={"type": "map", "values": ["null", "string"]},
    ts=MILLIS,
    id="long",
    note=["null", "string"],
    price=DECIMAL,
    rate=["double", "null"],
    between={"type": "array", "items": record("inner", a="int", b={"type": "array", "items": "float"})},
    ok=["null", "boolean"],
    when=["null", {"type": "long", "logicalType": "timestamp-micros"}],
    count=["null", "long"],
    fine=["null", {"type": "fixed", "name": "f9", "size": 9, "logicalType": "decimal", "precision": 18, "scale": 6}],
    after="bytes",
)  # fmt: skip


def rows(found: Decoded) -> list[list[Any]]:
    """Return the good rows' values, the event time last."""
    columns = [column.to_pylist() for column in found.fields.columns]
    return [list(row) for row in zip(*columns, found.event_time_ms.tolist(), strict=True)]


def decode(schemas: dict[int, Any], messages: list[bytes | None], **fields: str) -> Decoded:
    return avro_decoder(stream_of(fields), schemas).decode_avro(pa.array(messages, pa.binary()))


MOMENTS = st.integers(-62_135_596_800_000, 253_402_300_799_000)
EVENTS = st.fixed_dictionaries(
    {
        "ts": MOMENTS,
        "id": st.integers(-(2**63), 2**63 - 1),
        "note": st.none() | st.text(max_size=9),
        "price": st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: Decimal(n).scaleb(-2)),
        "rate": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "ok": st.none() | st.booleans(),
        "when": st.none() | MOMENTS,
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "fine": st.none() | st.integers(-(10**18) + 1, 10**18 - 1).map(lambda n: Decimal(n).scaleb(-6)),
    }
)
PASSED_OVER = st.fixed_dictionaries(
    {
        "before": st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=3), max_size=3),
        "between": st.lists(
            st.fixed_dictionaries({"a": st.integers(-9, 9), "b": st.lists(st.just(0.5), max_size=3)}), max_size=3
        ),
        "after": st.binary(max_size=9),
    }
)  # fmt: skip


def as_json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, default=str).encode()


def as_avro(event: dict[str, Any], more: dict[str, Any]) -> bytes:
    times = {
        name: None if event[name] is None else EPOCH + timedelta(milliseconds=event[name])
        for name in ("ts", "when")
    }
    return framed(7, WRITER, {**event, **times, **more})


@settings(max_examples=150)
@given(st.lists(st.tuples(EVENTS, PASSED_OVER), max_size=5))
def test_events_in_avro_are_those_in_json_bit_for_bit(
    events: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    in_avro = decode({7: WRITER}, [as_avro(*event) for event in events], **EVERY_TYPE)
    in_json = Decoder(stream_of(EVERY_TYPE)).decode_json([as_json(event) for event, _ in events])
    assert in_avro.bad == in_json.bad == []
    assert in_avro.fields.equals(in_json.fields) and in_avro.fields.schema == in_json.fields.schema
    assert repr(rows(in_avro)) == repr(rows(in_json))


LEAVES = st.one_of(
    st.tuples(st.just("null"), st.none()),
    st.tuples(st.just("boolean"), st.booleans()),
    st.tuples(st.just("int"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("long"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("float"), st.just(0.5)),
    st.tuples(st.just("double"), st.floats(allow_nan=False)),
    st.tuples(st.just("bytes"), st.binary(max_size=200)),
    st.tuples(st.just("string"), st.text(max_size=5)),
)
KIND = st.recursive(
    LEAVES.map(lambda leaf: leaf[0]),
    lambda inner: st.one_of(
        inner.map(lambda kind: {"type": "array", "items": kind}),
        inner.map(lambda kind: {"type": "map", "values": kind}),
        inner.filter(lambda kind: kind != "null" and not isinstance(kind, list)).map(lambda kind: ["null", kind]),
    ),
    max_leaves=4,
)  # fmt: skip


def value_of(kind: Any, draw: st.DrawFn) -> Any:
    """Return a value of a type."""
    if isinstance(kind, list):
        return value_of(draw(st.sampled_from(kind)), draw)
    if isinstance(kind, dict):
        items = [
            value_of(kind.get("items", kind.get("values")), draw) for _ in range(draw(st.integers(0, 3)))
        ]
        return items if kind["type"] == "array" else {str(i): item for i, item in enumerate(items)}
    return (
        draw(LEAVES.filter(lambda leaf: leaf[0] == kind).map(lambda leaf: leaf[1]))
        if kind != "null"
        else None
    )


@st.composite
def nested(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    kinds = [draw(KIND) for _ in range(3)]
    schema = record(a=kinds[0], ts="long", b=kinds[1], id="long", c=kinds[2])
    value = {name: value_of(kind, draw) for name, kind in zip("abc", kinds, strict=True)}
    return schema, {**value, "ts": draw(st.integers(-(10**12), 10**12)), "id": draw(st.integers(0, 2**62))}


@settings(max_examples=150)
@given(nested())
def test_any_types_are_passed_over_as_fastavro_reads_them(case: tuple[Any, dict[str, Any]]) -> None:
    """Every part of a message, and one with a byte too many, is a dead letter: nothing breaks, nothing passes."""
    schema, value = case
    whole = framed(1, schema, value)
    cut = [whole[:length] for length in range(5, len(whole))]
    found = decode({1: schema}, [*cut, whole + b"\0", whole], id="int64")
    assert [row[0] for row in rows(found)][-1:] == [value["id"]]
    for message, bad in zip(cut, found.bad, strict=False):
        assert bad.reason == Reason.PARSE and len(message) < len(whole)
    assert found.good is not None and len(whole) - 4 in found.good
    assert [bad.detail for bad in found.bad][-1] == "the message goes on behind the record, by its schema 1"
    for index in found.good.tolist()[:-1]:  # a shorter message that is whole ends in types of no bytes
        assert whole[len(cut[index]) :].strip(b"\0") != b"" or encoded(schema, value) == cut[index][5:]


@settings(max_examples=100)
@given(st.binary(max_size=40))
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    found = decode({1: WRITER}, [b"\0\0\0\0\1" + body], **EVERY_TYPE)
    try:
        stream = io.BytesIO(body)
        fastavro.schemaless_reader(stream, fastavro.parse_schema(WRITER), None)
        whole = stream.read() == b""
    except Exception:
        whole = False
    assert whole or len(found.bad) == 1


# --- evolution --------------------------------------------------------------------------------------------

BASE = record(ts="long", id="int", note="string", rate="float")


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"ts": number, "id": number, "note": f"n{number}", "rate": number / 2, **more}


def test_schemas_of_a_batch_may_differ_message_by_message() -> None:
    schemas = {
        1: BASE,
        2: record(extra={"type": "array", "items": "long"}, **{f["name"]: f["type"] for f in BASE["fields"]}),  # added
        3: record(ts="long", id="int", rate="float"),  # removed
        4: record(rate="double", note=["null", "string"], id="long", ts=MILLIS),  # widened, in another order
    }  # fmt: skip
    at = EPOCH + timedelta(milliseconds=4)
    messages: list[bytes | None] = [
        framed(1, schemas[1], event(0)),
        framed(4, schemas[4], event(2**40, ts=at, rate=0.1)),
        framed(2, schemas[2], event(2, extra=[1, 2, 3])),
        framed(3, schemas[3], event(3)),
        framed(9, BASE, event(4)),
        framed(4, schemas[4], event(5, ts=at, note=None)),
        framed(1, schemas[1], event(6)),
    ]
    found = decode(schemas, messages, id="int64", note="string?", rate="float64")
    assert rows(found) == [
        [0, "n0", 0.0, 0],
        [2**40, "n1099511627776", 0.1, 4],
        [2, "n2", 1.0, 2],
        [3, None, 1.5, 3],
        [5, None, 2.5, 4],
        [6, "n6", 3.0, 6],
    ]
    ((bad),) = found.bad
    assert (bad.index, bad.reason) == (4, Reason.PARSE)
    assert bad.detail == "the schema registry does not know the schema id 9"


def test_a_field_that_is_required_and_gone_makes_dead_letters() -> None:
    lacks, holds = record(ts="long", id="int"), record(ts="long", id="int", note=["null", "string"])
    messages: list[bytes | None] = [
        framed(1, BASE, event(0)),
        framed(2, lacks, event(1)),
        framed(3, holds, event(2, note=None)),
        framed(3, holds, event(3)),
    ]
    found = decode({1: BASE, 2: lacks, 3: holds}, messages, id="int64", note="string")
    assert rows(found) == [[0, "n0", 0], [3, "n3", 3]]
    assert [(bad.index, bad.reason, bad.detail) for bad in found.bad] == [
        (1, Reason.SCHEMA, "field note is missing in the schema 2"),
        (2, Reason.SCHEMA, "field note is null"),
    ]


def read(kind: Any, declared: str, *values: Any) -> list[Any]:
    """Return what values of a writer's type are as a declared one; of a bad one what is said."""
    schema = record(ts="long", x=kind)
    messages: list[bytes | None] = [framed(1, schema, {"ts": 0, "x": value}) for value in values]
    found = decode({1: schema}, messages, x=declared)
    told: list[Any] = [bad.detail for bad in found.bad]
    good = iter(rows(found))
    refused = {bad.index for bad in found.bad}
    return [told.pop(0) if i in refused else next(good)[0] for i in range(len(values))]


@pytest.mark.parametrize(
    ("kind", "declared", "values", "expected"),
    [
        ("int", "float64", [7], [7.0]),
        ("long", "float64", [2**53 + 1, -7], [float(2**53), -7.0]),
        ("float", "float64", [0.5, float("inf")], [0.5, "field x: Infinity is not float64"]),
        ("double", "int64", [7.0, 7.5], [7, "field x: 7.5 is not int64"]),
        ("long", "decimal(4,2)", [99, 100], [9900, "field x: 100 is not decimal(4,2)"]),
        ("double", "decimal(4,2)", [0.1, 0.101], [10, "field x: 0.101 is not decimal(4,2)"]),
        ("string", "decimal(4,2)", ["1.50", "x"], [150, 'field x: "x" is not decimal(4,2)']),
        (DECIMAL, "float64", [Decimal("0.10"), Decimal(-1)], [0.1, -1.0]),
        (DECIMAL, "decimal(4,1)", [Decimal("0.10"), Decimal("0.11")], [1, 'field x: "0.11" is not decimal(4,1)']),
        ({**DECIMAL, "precision": 30}, "decimal(18,2)", [Decimal(10**15), Decimal(10**16)],
         [10**17, 'field x: "10000000000000000.00" is not decimal(18,2)']),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, "string", ["B", "A"], ["B", "A"]),
        ({"type": "string", "logicalType": "uuid"}, "string", ["7b7a8c1e-6a3c-4a9b-9d9d-0a5b7c1d2e3f"],
         ["7b7a8c1e-6a3c-4a9b-9d9d-0a5b7c1d2e3f"]),
        (MILLIS, "int64", [EPOCH + timedelta(milliseconds=7)], [7]),
        (MILLIS, "timestamp", [EPOCH - timedelta(milliseconds=7)], [-7]),
        ({"type": "long", "logicalType": "timestamp-micros"}, "timestamp", [EPOCH - timedelta(microseconds=1)], [-1]),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, "timestamp", [datetime(1970, 1, 2)], [86_400_000]),  # noqa: DTZ001
        ({"type": "int", "logicalType": "date"}, "timestamp", [datetime(1970, 1, 3, tzinfo=UTC).date()], [172_800_000]),
        ("long", "timestamp", [-3], [-3]),
        ("string", "timestamp", ["1970-01-01T00:00:01Z"], [1000]),
        (["null", "boolean"], "bool?", [None, True], [None, True]),
        (["null", "boolean"], "bool", [None, True], ["field x is null", True]),
        (["int", "string", "double"], "int64", [7, 8.0, "x"],
         [7, 8, "field x is string in the schema 1, no int64"]),
        (["null", "long", {"type": "array", "items": "int"}], "int64?", [None, 5, [1]],
         [None, 5, "field x is array in the schema 1, no int64"]),
        ("bytes", "string", [b"x"], ["field x is bytes in the schema 1, no string"]),
        ("string", "int64", ["7"], ["field x is string in the schema 1, no int64"]),
    ],
)  # fmt: skip
def test_what_a_writers_type_is_read_as(
    kind: Any, declared: str, values: list[Any], expected: list[Any]
) -> None:
    assert repr(read(kind, declared, *values)) == repr(expected)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 16, 17, 24])
def test_decimals_of_any_length_are_exact(size: int) -> None:
    """Bytes longer than they need to be are valid; what no declared decimal could hold is not."""
    schema = record(ts="long", x={**DECIMAL, "precision": 30})
    numbers = [n for n in (0, 1, -1, 127, -128, 10**12 - 1, -(10**12) + 1, 2**62, 2**120, -(2**127), 2**150)
               if n.bit_length() < 8 * size or n == -(1 << 8 * size >> 1)]  # fmt: skip
    bodies = [n.to_bytes(size, "big", signed=True) if size else b"" for n in numbers or [0]]
    messages: list[bytes | None] = [
        b"\0\0\0\0\1" + encoded("long", 0) + encoded("bytes", body) for body in bodies
    ]
    found = decode({1: schema}, messages, x="decimal(12,2)")
    assert [row[0] for row in rows(found)] == [n for n in numbers or [0] if abs(n) < 10**12]
    assert len(found.bad) == len(bodies) - len(rows(found))


def test_text_that_is_no_utf8_is_a_dead_letter_and_the_others_go_on() -> None:
    schema = record(ts="long", x="string")
    bodies = [b"a", b"\xff\xfe", "né".encode()]
    messages: list[bytes | None] = [b"\0\0\0\0\1\0" + encoded("bytes", body) for body in bodies]
    found = decode({1: schema}, messages, x="string")
    assert rows(found) == [["a", 0], ["né", 0]]
    assert [(bad.index, bad.reason) for bad in found.bad] == [(1, Reason.SCHEMA)]


@pytest.mark.parametrize("unit", ["ms", "s", "us", "iso"])
def test_event_times_have_the_unit_of_their_type_else_the_declared_one(unit: Any) -> None:
    moment = EPOCH + timedelta(seconds=1_700_000_000)
    schemas = {1: record(ts=MILLIS), 2: record(ts="string" if unit == "iso" else "long")}
    plain = moment.isoformat() if unit == "iso" else 1_700_000_000 * {"s": 1, "ms": 1000, "us": 10**6}[unit]
    messages = [framed(1, schemas[1], {"ts": moment}), framed(2, schemas[2], {"ts": plain})]
    found = avro_decoder(stream_of({}, unit=unit), schemas).decode_avro(pa.array(messages, pa.binary()))
    assert found.event_time_ms.tolist() == [1_700_000_000_000] * 2


# --- messages that are none -------------------------------------------------------------------------------


def test_messages_without_a_frame_or_a_usable_schema() -> None:
    good = framed(1, BASE, event(5))
    broken = good[:9] + b"\r\n"  # its bytes are kept to the last one
    rows_ = pa.array([None, b"", b'{"ts": 1}', b"\1" + good[1:], good[:4], good, broken], pa.binary())
    decoder = Decoder(
        avro_decoder(stream_of({"id": "int64"}), {}).stream,
        Known({1: writer_schema(json.dumps(BASE))}),  # type: ignore[arg-type]
    )
    found = decoder.decode(RawBatch("tx", 3, np.arange(10, 17), None, rows_))
    assert found.events.offset.tolist() == [15]
    assert [letter.offset for letter in found.dead] == [10, 11, 12, 13, 14, 16]
    assert {letter.reason for letter in found.dead} == {Reason.PARSE}
    assert found.dead[0].detail == "the message has no value"
    assert found.dead[2].detail.startswith("the message does not begin as a schema registry's do")
    assert found.dead[2].raw == b'{"ts": 1}'
    assert found.dead[5].raw == broken
    assert found.dead[5].detail == "the message breaks at rate, by its schema 1"


def test_json_lines_and_typed_files_of_an_archive_are_what_they_are() -> None:
    decoder = avro_decoder(stream_of({"id": "int64"}), {})
    lines = RawBatch("tx", 0, np.arange(1), None, pa.array([b'{"ts": 1, "id": 2}']), lines=True)
    assert decoder.ready(lines) and decoder.decode(lines).events.fields.to_pydict() == {"id": [2]}
    typed = RawBatch("tx", 0, np.arange(1), None, pa.table({"ts": [1], "id": [3]}))
    assert decoder.ready(typed) and decoder.decode(typed).events.fields.to_pydict() == {"id": [3]}


@pytest.mark.parametrize(
    "text", ['"long"', '[{"type": "record", "name": "a", "fields": []}]', "{", '{"type": "x"}', "7"]
)
def test_a_schema_that_is_not_of_a_record_says_so(text: str) -> None:
    with pytest.raises(BadSchema, match="is no Avro schema|is not that of a record"):
        writer_schema(text)


def test_recursive_types_and_those_of_other_schemas_are_followed() -> None:
    tree = record("tree", leaf="int", kids={"type": "array", "items": "tree"})
    whole = record("whole", tree="tree", again=["null", "tree"], ts="long")
    value = {"tree": {"leaf": 1, "kids": [{"leaf": 2, "kids": []}]}, "again": None, "ts": 9}
    named: dict[str, Any] = {}
    fastavro.parse_schema(tree, named)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(whole, named), value)
    known = Known({1: writer_schema(json.dumps(whole), [json.dumps(tree)])})
    decoder = Decoder(avro_decoder(stream_of({}), {}).stream, known)  # type: ignore[arg-type]
    found = decoder.decode_avro(pa.array([b"\0\0\0\0\1" + out.getvalue()]))
    assert found.event_time_ms.tolist() == [9]
