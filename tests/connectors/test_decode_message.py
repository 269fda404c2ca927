from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.batches import Reason
from connectors.decode_message import BadMessage, MessageDecoder, floored, iso_ms, scaled, targets
from tests.connectors.build import stream_of


def read(kind: str, text: str) -> object:
    """Return what a field of a type reads from JSON text; raise BadMessage where it is refused."""
    decoder = MessageDecoder(targets(stream_of({"x": kind})))
    return decoder.decode(f'{{"ts": 0, "x": {text}}}'.encode())[0]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int64", "7", 7),
        ("int64", "7.0", 7),
        ("int64", "7e2", 700),
        ("int64", "-0", 0),
        ("int64", "9223372036854775807", 2**63 - 1),
        ("int64", "-9223372036854775808", -(2**63)),
        ("int64?", "null", None),
        ("float64", "0.1", 0.1),
        ("float64", "1e400e", BadMessage),
        ("float64", "3", 3.0),
        ("decimal(12,2)", "0.1", 10),
        ("decimal(12,2)", '"0.1"', 10),
        ("decimal(12,2)", "0.100", 10),
        ("decimal(12,2)", "1e2", 10_000),
        ("decimal(12,2)", "-12.34", -1234),
        ("decimal(12,2)", '"+.5"', 50),
        ("decimal(18,2)", '"9999999999999999.99"', 10**18 - 1),
        ("decimal(18,2)", "90071992547409.91", 2**53 - 1),
        ("bool", "true", True),
        ("bool", "false", False),
        ("string", '"a\\u00e9\\n"', "aé\n"),
        ("string", '"\\ud83d\\ude00"', "😀"),
        ("timestamp", "1234.9", 1234),
        ("timestamp", '"1970-01-01T00:00:01.5Z"', 1500),
    ],
)
def test_reads(kind: str, text: str, value: object) -> None:
    if value is BadMessage:
        with pytest.raises(BadMessage):
            read(kind, text)
    else:
        assert read(kind, text) == value
        assert type(read(kind, text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int64", "7.5"),
        ("int64", '"7"'),
        ("int64", "true"),
        ("int64", "9223372036854775808"),
        ("int64", "1e999999999999"),
        ("int64", "null"),
        ("float64", "1e999"),
        ("float64", '"1.5"'),
        ("float64", "false"),
        ("decimal(12,2)", "0.123"),
        ("decimal(12,2)", "0.1000000000000000055511151231257827"),
        ("decimal(12,2)", '"0.123"'),
        ("decimal(12,2)", "10000000000.00"),
        ("decimal(18,2)", "90071992547409.92"),
        ("decimal(18,2)", '"NaN"'),
        ("decimal(18,2)", '" 1"'),
        ("decimal(18,2)", '"1_000"'),
        ("decimal(18,2)", '"١"'),
        ("decimal(18,2)", '""'),
        ("bool", "1"),
        ("bool", '"true"'),
        ("string", "7"),
        ("string", '{"a": 1}'),
        ("string", '"\\ud83d"'),
        ("timestamp", '"soon"'),
        ("timestamp", '"2023-02-29"'),
        ("timestamp", '"2024-01-01T24:00:00"'),
        ("timestamp", "1e30"),
    ],
)
def test_refuses_as_schema(kind: str, text: str) -> None:
    with pytest.raises(BadMessage) as caught:
        read(kind, text)
    assert caught.value.reason is Reason.SCHEMA
    assert "field x" in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        None, b"", b"{", b"null", b"[1]", b"7", b'{"x": 1} x', b'{"x": 1,}', b'{"x": NaN}',
        b'{"x": -Infinity}',
        b'{"x": 01}', b'{"x": "\xff"}', b'{"x": "\n"}', b'\xef\xbb\xbf{"x": 1}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_refuses_what_is_no_json_object(message: bytes | None) -> None:
    decoder = MessageDecoder(targets(stream_of({"x": "int64"})))
    with pytest.raises(BadMessage) as caught:
        decoder.decode(message)
    assert caught.value.reason is Reason.PARSE


def test_the_last_of_a_repeated_key_counts_and_extra_keys_do_not() -> None:
    decoder = MessageDecoder(targets(stream_of({"x": "int64"}, names={"x": "the x"})))
    assert decoder.decode(b'{"the x": "a", "ts": 1, "the x": 2, "x": "no", "more": [{}]}') == [2, 1]


@pytest.mark.parametrize(
    ("unit", "text", "ms"),
    [
        ("ms", "1700000000000", 1_700_000_000_000),
        ("ms", "-1.5", -2),
        ("s", "1700000000.1239", 1_700_000_000_123),
        ("s", "-0.0001", -1),
        ("us", "1999", 1),
        ("us", "-1", -1),
        ("iso", '"2024-02-29T12:00:00.123456789+05:30"', 1_709_188_200_123),
        ("iso", '"2024-02-29 12:00"', 1_709_208_000_000),
    ],
)
def test_event_times(unit: str, text: str, ms: int) -> None:
    decoder = MessageDecoder(targets(stream_of({}, unit=unit)))  # type: ignore[arg-type]
    assert decoder.decode(f'{{"ts": {text}}}'.encode()) == [ms]


@pytest.mark.parametrize(
    ("unit", "text"),
    [("ms", "null"), ("ms", '"1"'), ("ms", "true"), ("iso", "1"), ("s", "1e12"), ("us", "{}")],
)
def test_refused_event_times(unit: str, text: str) -> None:
    decoder = MessageDecoder(targets(stream_of({}, unit=unit)))  # type: ignore[arg-type]
    with pytest.raises(BadMessage, match="event time field ts") as caught:
        decoder.decode(f'{{"ts": {text}}}'.encode())
    assert caught.value.reason is Reason.SCHEMA
    with pytest.raises(BadMessage, match="ts is missing"):
        decoder.decode(b"{}")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6), st.integers(0, 12))
def test_scaled_is_exact(number: object, scale: int) -> None:
    from decimal import Decimal, localcontext

    assert isinstance(number, Decimal)
    with localcontext() as context:
        context.prec = 400
        product = number.scaleb(scale)
        exact = int(product) if product == product.to_integral_value() and abs(product) < 10**39 else None
        if exact is not None or abs(product) < 10**39:
            assert scaled(str(number), scale) == exact
        if abs(product) < 10**39:
            assert floored(str(number), scale) == int(product.to_integral_value(rounding="ROUND_FLOOR"))


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_iso_times_are_those_of_the_calendar(instant: datetime) -> None:
    whole = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    expected = (whole - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution * 1000)
    assert iso_ms(instant.isoformat()) == expected
    assert iso_ms(json.loads(json.dumps(instant.isoformat().replace("+00:00", "Z")))) == expected
