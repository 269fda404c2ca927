"""One JSON value at a time, read as a stream declares it: request events, defaults, key parts.

Owns: what a value of each type may look like in a request, and how it is stored (decimals unscaled,
timestamps in ms). Refuses: columns of messages (connectors decode those in bulk, by the same rules).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from lookback.errors import UsageError

if TYPE_CHECKING:
    from lookback.definition.types import FieldType, Stream

Stored = int | float | bool | str | None

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EXACT_FLOAT = 2**53
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MS = datetime.timedelta(milliseconds=1)


def parse_value(kind: FieldType, value: Any) -> Stored:
    """Return a JSON value as rows store it: None, bool, float, text, or int (unscaled, or ms).

    Raises ValueError with what the value should be.
    """
    if value is None:
        return None
    if kind.kind == "bool":
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if kind.kind == "string":
        if not isinstance(value, str):
            raise ValueError("must be a text")
        return value
    if isinstance(value, bool):
        raise ValueError(f"must be {kind}, not true or false")
    if kind.kind == "int64":
        return parse_int(value)
    if kind.kind == "float64":
        return parse_float(value)
    if kind.kind == "decimal":
        return parse_decimal(value, kind.precision, kind.scale)
    return parse_iso(value) if isinstance(value, str) else _instant(value, Decimal(1))


def parse_int(value: Any) -> int:
    """Return an int64; a float counts where it is whole and exact."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_FLOAT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("does not fit int64")
    return value


def parse_float(value: Any) -> float:
    """Return a finite float64, -0.0 as 0.0."""
    if not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("does not fit float64") from None
    if not math.isfinite(number):
        raise ValueError("must be finite: no NaN, no infinity")
    return number + 0.0


def parse_decimal(value: Any, precision: int, scale: int) -> int:
    """Return value * 10**scale, exact.

    value: int, Decimal, text, or a float, which counts as its shortest decimal form and only below 2**53
    once scaled (above that its digits are a guess).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"must be a number with at most {scale} decimals")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise ValueError(f"must be a number with at most {scale} decimals") from None
    if not number.is_finite():
        raise ValueError("must be finite: no NaN, no infinity")
    if number and not -40 < number.adjusted() < 40:
        raise ValueError(f"does not fit decimal({precision},{scale})")
    sign, digits, exponent = number.as_tuple()
    shift = int(exponent) + scale
    unscaled = int("".join(map(str, digits)) or "0")
    whole, rest = divmod(unscaled * 10 ** max(shift, 0), 10 ** max(-shift, 0))
    if rest:
        raise ValueError(f"has more than {scale} decimals")
    if whole >= 10**precision:
        raise ValueError(f"does not fit decimal({precision},{scale})")
    if isinstance(value, float) and whole > EXACT_FLOAT:
        raise ValueError("is too large for an exact JSON number; send it as a text")
    return -whole if sign else whole


def parse_iso(text: str) -> int:
    """Return an ISO 8601 instant as UTC ms, rounded down; UTC where it names no zone."""
    try:
        instant = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("must be an ISO instant such as 2024-01-31T12:00:00Z, or whole ms") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=datetime.UTC)
    return (instant - _EPOCH) // _MS


def _instant(value: Any, ms_a_unit: Decimal) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise ValueError("must be a number") from None
    if not number.is_finite() or (number and not -40 < number.adjusted() < 40):
        raise ValueError("is out of range for a time")
    time_ms = math.floor(number * ms_a_unit)
    if abs(time_ms) > 2**62:
        raise ValueError("is out of range for a time")
    return time_ms


_UNITS = {"ms": Decimal(1), "s": Decimal(1000), "us": Decimal("0.001")}


def parse_event_time(stream: Stream, event: Mapping[str, Any]) -> int | None:
    """Return the event time of a request event in ms, None where it carries none."""
    value = event.get(stream.event_time.field)
    if value is None:
        return None
    try:
        if stream.event_time.unit == "iso":
            if not isinstance(value, str):
                raise ValueError("must be an ISO instant such as 2024-01-31T12:00:00Z")
            return parse_iso(value)
        return _instant(value, _UNITS[stream.event_time.unit])
    except ValueError as error:
        raise UsageError(f"event time `{stream.event_time.field}` {error}: {value!r}") from None
