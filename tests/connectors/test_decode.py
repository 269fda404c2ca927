from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import json_scan
from connectors.batches import RawBatch, Reason
from connectors.decode import Decoder
from connectors.decode_json import JsonColumns
from connectors.decode_message import BadMessage, MessageDecoder, targets
from lookback.definition.types import Stream
from lookback.errors import SourceError
from tests.connectors.build import EVERY_TYPE, stream_of


def by_rule(stream: Stream, messages: list[bytes | None]) -> tuple[list[list[Any]], list[tuple[int, str]]]:
    """Return the good rows' values and the bad rows, by the rules for one message."""
    decoder = MessageDecoder(targets(stream))
    good, bad = [], []
    for index, message in enumerate(messages):
        try:
            good.append(decoder.decode(message))
        except BadMessage as error:
            bad.append((index, str(error)))
    return good, bad


def check_agree(stream: Stream, messages: list[bytes | None]) -> None:
    """The batch decoder gives what the rules for one message give, bit for bit."""
    good, bad = by_rule(stream, messages)
    found = Decoder(stream).decode_json(messages)
    assert [(b.index, b.detail) for b in found.bad] == bad
    assert found.fields.schema.names == list(stream.fields)
    columns = [c.to_pylist() for c in found.fields.columns] + [found.event_time_ms.tolist()]
    rows = [list(row) for row in zip(*columns, strict=True)]
    assert repr(rows) == repr(good)
    refused = {index for index, _ in bad}
    kept = [index for index in range(len(messages)) if index not in refused]
    assert (list(range(len(messages))) if found.good is None else found.good.tolist()) == kept


NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(-(2**64), 2**64).map(str),
    st.integers(2**63 - 3, 2**63 + 3).map(str),
    st.integers(2**53 - 3, 2**53 + 3).map(lambda n: f"{n // 100}.{n % 100:02d}"),
    st.floats().map(repr),
    st.decimals(places=2, allow_nan=False, allow_infinity=False).map(str),
    st.from_regex(r"-?[0-9]{1,22}(\.[0-9]{0,22})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "00", "1.", ".5", "+1", "1e", "--1", "0e9999", "1E400", "5e-324", "0.10"]),
)
TIMES = st.one_of(
    st.datetimes().map(lambda d: json.dumps(d.isoformat())),
    st.from_regex(r'"20[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]'
                  r'(\.[0-9]{0,10})?(Z|z|[+-][0-2][0-9]:?[0-6][0-9])?"', fullmatch=True),
    st.sampled_from(['"2024-01-01"', '"2024-02-30T00:00:00Z"', '"0000-01-01T00:00:00Z"', '"2024-01-01T10Z"']),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.text(max_size=8).map(lambda t: json.dumps(t, ensure_ascii=False)),
    NUMBERS.map(lambda n: f'"{n}"'),
    st.sampled_from(['"\\ud800"', '"\\u12"', '"\\x"', '"a\tb"', '"', '"\\"', '"\\/\\b"', '"NaN"']),
)
VALUES = st.one_of(
    NUMBERS,
    TIMES,
    TEXTS,
    st.sampled_from(["true", "false", "null", "nul", "True", "NaN", "-Infinity", "", " 1 ", "1 2"]),
    st.recursive(
        st.one_of(NUMBERS, TEXTS),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
            st.dictionaries(TEXTS, inner, max_size=3).map(
                lambda d: "{" + ",".join(f"{k}:{v}" for k, v in d.items()) + "}"
            ),
        ),
        max_leaves=6,
    ),
)
KEYS = st.one_of(
    st.sampled_from([json.dumps(name) for name in (*EVERY_TYPE, "ts", "other", "i\\u0064", "")]), TEXTS
)
GOOD_VALUES = {
    "id": st.integers(-(2**63), 2**63 - 1).map(str),
    "note": st.one_of(st.just("null"), st.text(max_size=9).map(lambda t: json.dumps(t, ensure_ascii=False))),
    "price": st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: f"{n // 100}.{n % 100:02d}"),
    "rate": st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "ok": st.sampled_from(["true", "false", "null"]),
    "when": st.datetimes().map(lambda d: json.dumps(d.isoformat() + "Z")),
    "ts": st.integers(-(10**12), 10**13).map(str),
}


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Return a message: mostly a good one, with some parts replaced by odd ones, or some bytes spoilt."""
    parts = [[json.dumps(key), draw(values)] for key, values in GOOD_VALUES.items()]
    for _ in range(draw(st.integers(0, 3))):
        odd = [draw(KEYS), draw(VALUES)]
        if draw(st.booleans()):
            parts[draw(st.integers(0, len(parts) - 1))][1] = odd[1]
        else:
            parts.insert(draw(st.integers(0, len(parts))), odd)
    space = draw(st.sampled_from(["", " ", "\r\n", "\t"]))
    text = f"{space}{{{space}" + f",{space}".join(f"{k}{space}:{space}{v}" for k, v in parts) + f"}}{space}"
    message = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(message)))
        message = draw(
            st.sampled_from(
                [message[:at], message[:at] + b"\xff" + message[at:], message + message, message[at:]]
            )
        )
    return message


@settings(max_examples=400)
@given(st.lists(st.one_of(messages(), messages(), messages(), st.binary(max_size=6), st.none()), max_size=6))
def test_batches_and_single_messages_decode_alike(batch: list[bytes | None]) -> None:
    check_agree(stream_of(EVERY_TYPE), batch)


@given(TIMES | NUMBERS | TEXTS, st.sampled_from(["ms", "s", "us", "iso"]))
def test_event_times_decode_alike(value: str, unit: Any) -> None:
    stream = stream_of({"ts": "timestamp?"}, unit=unit)
    check_agree(stream, [f'{{"ts": {value}}}'.encode("utf-8", "surrogatepass")])


def test_plain_messages_are_not_left_to_the_slow_rules() -> None:
    """Else the agreement above would hold without the kernels having done anything."""
    columns = JsonColumns(targets(stream_of(EVERY_TYPE)))
    message = (
        '{"id": 9223372036854775799, "note": "né", "skip": {"a": [1, {"b": null}], "c": "\\n"}, '
        '"price": -12.5, "rate": 1.2345678901234567e-300, "ok": true, '
        '"when": "2024-02-29T12:34:56.789+01:00", "count": 1e3, "fine": "0.000001", '
        '"ts": 1700000000000.5}\r\n'
    )
    found, left = columns.decode(pa.array([message.encode()] * 3, pa.binary()))
    assert not left.any()
    when = 1_709_206_496_789
    assert [c[2].as_py() for c in found] == [
        9223372036854775799, "né", -1250, 1.2345678901234567e-300, True, when, 1000, 1, 1_700_000_000_000,
    ]  # fmt: skip


def test_nesting_beyond_the_kernels_depth_is_ruled_on_alike() -> None:
    deep = [f'{{"ts": 1, "x": {"[" * d}{"]" * d}, "id": 2}}'.encode() for d in (1, 59, 60, 61, 500)]
    check_agree(
        stream_of({"id": "int64"}), [*deep, b'{"ts": 1, "x": [[}], "id": 2}', b'{"ts":1,"x":[1,],"id":2}']
    )


def test_many_keys_and_changing_key_order() -> None:
    names = [f"k{i}" for i in range(300)]
    stream = stream_of({"k7": "int64", "k299": "int64?"})
    orders = [names, names[::-1], names[5:], []]
    check_agree(
        stream, [json.dumps({"ts": 1, **{n: i for i, n in enumerate(order)}}).encode() for order in orders]
    )


def test_slices_of_arrays_decode_as_their_own_rows() -> None:
    whole = pa.array([b'{"ts": %d, "id": %d}' % (i, i) for i in range(10)], pa.binary())
    found = Decoder(stream_of({"id": "int64"})).decode_json(whole.slice(3, 4))
    assert found.event_time_ms.tolist() == [3, 4, 5, 6]
    empty = Decoder(stream_of({"id": "int64"})).decode_json(whole.slice(3, 0))
    assert len(empty.fields) == 0 and empty.good is None and empty.bad == []


def test_every_class_of_byte_is_known_to_the_scanner() -> None:
    assert json_scan.CLASS[0x1F] == 3 and json_scan.CLASS[0x20] == 0 and json_scan.CLASS[0x80] == 4


def test_a_bad_event_becomes_a_dead_letter_and_the_others_go_on() -> None:
    rows = pa.array([b'{"ts": 1, "id": 1}', b'{"ts": 2, "id": "x"}\r\n', b"{broken\n", b'{"ts": 4, "id": 4}'])
    raw = RawBatch("tx", 3, np.array([10, 11, 15, 20]), np.array([1, 2, 3, 4]), rows, lines=True)
    found = Decoder(stream_of({"id": "int64"})).decode(raw)
    assert found.events.offset.tolist() == [10, 20] and found.events.event_time_ms.tolist() == [1, 4]
    assert found.events.broker_time_ms is not None and found.events.broker_time_ms.tolist() == [1, 4]
    assert found.good is not None and found.good.tolist() == [0, 3]
    first, second = found.dead
    assert (first.partition, first.offset, first.reason, first.raw) == (
        3,
        11,
        Reason.SCHEMA,
        b'{"ts": 2, "id": "x"}',
    )
    assert (second.offset, second.reason, second.raw, second.broker_time_ms) == (
        15,
        Reason.PARSE,
        b"{broken",
        3,
    )
    assert first.detail == 'field id: "x" is not int64'


def test_typed_rows_that_do_not_fit_are_dead_letters_as_json() -> None:
    table = pa.table({"ts": [1, 2, None, 4], "id": [1, None, 3, 4], "price": [0.1, 0.2, 0.3, 0.123]})
    raw = RawBatch("tx", 0, np.arange(4), None, table, file="a.parquet")
    found = Decoder(stream_of({"id": "int64", "price": "decimal(12,2)"})).decode(raw)
    assert found.events.fields.to_pydict() == {"id": [1], "price": [10]}
    assert [letter.detail for letter in found.dead] == [
        "field id is null",
        "event time field ts is null",
        "field price: 0.123 is not decimal(12,2)",
    ]
    assert json.loads(found.dead[0].raw) == {"ts": 2, "id": None, "price": 0.2}


def test_a_typed_table_without_a_required_column_is_refused_by_name() -> None:
    decoder = Decoder(stream_of({"id": "int64", "note": "string?"}))
    with pytest.raises(SourceError, match=r"a\.parquet has no column 'id'"):
        decoder.decode_typed(pa.table({"ts": [1]}), "a.parquet")
    with pytest.raises(SourceError, match="column 'id' is string, which can't be read as int64"):
        decoder.decode_typed(pa.table({"ts": [1], "id": ["x"]}), "a.parquet")
    assert decoder.decode_typed(pa.table({"ts": [1], "id": [2]})).fields.to_pydict() == {
        "id": [2],
        "note": [None],
    }
