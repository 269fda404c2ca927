"""A request's values are read like a message's."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.decode_message import BadMessage, MessageDecoder, targets
from lookback.definition import FieldType, load, loads, parse_duration
from lookback.definition.types import parse_field_type
from lookback.definition.values import parse_iso, parse_value
from lookback.errors import UsageError
from tests.definition.samples import GOOD, ROOT

D = FieldType("decimal", 12, 2)
READ = [
    (D, 12.34, 1234),
    (D, "12.34", 1234),
    (D, "-0.10", -10),
    (D, 7, 700),
    (D, Decimal("1.5"), 150),
    (D, 0.1 + 0.2, None),
    (D, "1.001", None),
    (D, "12345678901.00", None),
    (D, "x", None),
    (D, "NaN", None),
    (D, "1e3", 100_000),
    (D, "1e-3", None),
    (D, True, None),
    (D, "1_000", None),
    (D, " 1", None),
    (FieldType("decimal", 18, 2), 90071992547409.92, None),
    (FieldType("decimal", 18, 2), 2**53, None),
    (FieldType("decimal", 18, 2), "90071992547409.92", 9007199254740992),
    (FieldType("decimal", 18, 2), "1e999999999", None),
    (FieldType("decimal", 18, 2), 1e300, None),
    (FieldType("int64"), 7.0, 7),
    (FieldType("int64"), 7.5, None),
    (FieldType("int64"), 2**63, None),
    (FieldType("int64"), "7", None),
    (FieldType("int64"), True, None),
    (FieldType("int64"), 10**1000, None),
    (FieldType("float64"), 3, 3.0),
    (FieldType("float64"), float("nan"), None),
    (FieldType("float64"), 10**400, None),
    (FieldType("bool"), True, True),
    (FieldType("bool"), 1, None),
    (FieldType("string"), "é", "é"),
    (FieldType("string"), "\ud800", None),
    (FieldType("string"), 5, None),
    (FieldType("timestamp"), 1500.9, 1500),
    (FieldType("timestamp"), -0.5, -1),
    (FieldType("timestamp"), "1970-01-01T00:00:01.5Z", 1500),
    (FieldType("timestamp"), "1970-01-02", 86_400_000),
    (FieldType("timestamp"), "1970-01-01T01:00:00+01:00", 0),
    (FieldType("timestamp"), "yesterday", None),
    (FieldType("timestamp"), "1970-02-30", None),
    (FieldType("timestamp"), 1e300, None),
]


@pytest.mark.parametrize(
    ("kind", "value", "expected"), READ, ids=[f"{case[0]} {case[1]!r}"[:50] for case in READ]
)
def test_values(kind: FieldType, value: Any, expected: Any) -> None:
    if expected is None:
        with pytest.raises(ValueError):
            parse_value(kind, value)
    else:
        found = parse_value(kind, value)
        assert found == expected and type(found) is type(expected)
    assert parse_value(kind, None) is None


STREAM = loads(GOOD.replace("decimal(12,2)", "decimal(17,3)")).streams["transactions"]
_json = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.integers(-(2**60), 2**60).map(lambda n: f"{n / 1000:.3f}")
    | st.integers(-(10**6), 10**6).map(lambda n: n / 1000)
    | st.sampled_from(
        [
            "1e2",
            "0.5",
            "-0.0",
            "1970-01-01",
            "2024-02-29T12:00:00.123456+05:30",
            "2024-01-01 00:00Z",
            -0.0,
            2**53,
            2**53 - 1,
            1e22,
        ]
    )
)


@settings(max_examples=400)
@given(st.sampled_from(sorted(STREAM.fields)), _json)
def test_what_a_message_may_hold_a_request_may_hold(name: str, value: Any) -> None:
    full = {"ts": 1, "tx_id": 1, "card": "c", "merchant": "m", "amount": 1, "declined": True} | {name: value}
    wanted = targets(STREAM)
    position = [target.name for target in wanted].index(name)
    field = STREAM.fields[name]
    if value is None:
        return
    try:
        message = json.dumps(full).encode()
        from_message = MessageDecoder(wanted).decode(message)[position]
    except BadMessage:
        with pytest.raises(ValueError):
            parse_value(field.type, value)
        return
    from_request = parse_value(field.type, value)
    assert from_request == from_message and type(from_request) is type(from_message)


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("ms", 1500, 1500),
        ("s", 1.5, 1500),
        ("us", 1_999, 1),
        ("us", -1, -1),
        ("iso", "1970-01-01T00:00:02Z", 2000),
    ],
)
def test_event_times(unit: str, value: Any, expected: int) -> None:
    stream = loads(GOOD.replace("unit: ms", f"unit: {unit}")).streams["transactions"]
    assert stream.request_time_ms({"ts": value}) == expected
    assert stream.request_time_ms({}) is None
    for bad in (True, "soon", 1e300, [1]):
        with pytest.raises(UsageError, match="event time `ts`"):
            stream.request_time_ms({"ts": bad})


def test_durations_and_types() -> None:
    assert [parse_duration(text) for text in ("5ms", "2s", "3m", "1h", "1d", "2w")] == [
        5,
        2_000,
        180_000,
        3_600_000,
        86_400_000,
        1_209_600_000,
    ]
    for text in ("", "1", "m", "1.5h", "-1h", "01h", "1 h", "1M", "1h30m", "١h"):
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration(text)
    for text in ("int64", "decimal(18,18)?", "string?", "timestamp"):
        assert str(parse_field_type(text)) == text
    assert parse_iso("2024-01-01") == 1_704_067_200_000


def test_the_shared_set_of_card_fraud_loads() -> None:
    assert load(ROOT / "features" / "fraud.yaml").streams["transactions"].event_id == "tx_id"
