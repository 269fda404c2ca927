"""One JSON value at a time, read as a stream declares it: request events, defaults, key parts.

Owns: what a value of each type may look like in a request, and how it is stored (decimals unscaled,
timestamps in ms). Refuses: columns of messages (the connectors decode those in bulk, by the same rules:
what a message may hold, a request may hold, and it reads the same).
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from lookback.errors import UsageError

if TYPE_CHECKING:
    from lookback.definition.types import FieldType, Stream

Stored = int | float | bool | str | None

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EXACT_FLOAT = 2**53
MIN_TIME_MS, MAX_TIME_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999
MAX_MAGNITUDE = 40  # powers of ten beyond this fit no type; refused before any big arithmetic

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,9})?", re.ASCII)
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?",
    re.ASCII,
)
_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001  naive on both sides of a difference
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
        return parse_text(value)
    if kind.kind == "int64":
        return parse_int(value)
    if kind.kind == "float64":
        return parse_float(value)
    if kind.kind == "decimal":
        return parse_decimal(value, kind.precision, kind.scale)
    return parse_iso(value) if isinstance(value, str) else _scaled_floor(value, 0)


def parse_text(value: Any) -> str:
    """Return a text that is valid Unicode."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode, without half a surrogate pair") from None
    return value


def parse_int(value: Any) -> int:
    """Return an int64; a float or Decimal counts where it is whole (7.0 is 7)."""
    if type(value) is not int:
        number = _number(value, "must be a whole number")
        if number != number.to_integral_value():
            raise ValueError("must be a whole number")
        value = int(number)
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("does not fit int64")
    return int(value)


def parse_float(value: Any) -> float:
    """Return a finite float64, -0.0 as 0.0."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
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

    value: a number (a float counts as its shortest decimal form), Decimal, or a text holding a number. A
    JSON number must be below 2**53 once scaled: above, some writer's float may have rounded it.
    """
    wanted = f"must be a number with at most {scale} decimals"
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise ValueError(wanted)
        number = Decimal(value)
    else:
        number = _number(value, wanted)
    if number and not -MAX_MAGNITUDE < number.adjusted() < MAX_MAGNITUDE:
        raise ValueError(f"does not fit decimal({precision},{scale})")
    sign, digits, exponent = number.as_tuple()
    shift = int(exponent) + scale
    unscaled = int("".join(map(str, digits)) or "0")
    whole, rest = divmod(unscaled * _power(shift), _power(-shift))
    if rest:
        raise ValueError(f"has more than {scale} decimals")
    if whole >= 10**precision:
        raise ValueError(f"does not fit decimal({precision},{scale})")
    if isinstance(value, int | float) and whole >= EXACT_FLOAT:
        raise ValueError("is too large for an exact JSON number; send it as a text")
    return -whole if sign else whole


def _power(exponent: int) -> int:
    """Return 10**exponent as a whole number, 1 where the exponent is negative."""
    power: int = 10 ** max(exponent, 0)
    return power


def _number(value: Any, wanted: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(wanted)
    if isinstance(value, int) and value.bit_length() > 256:
        raise ValueError("is too large")
    try:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        raise ValueError(wanted) from None
    if not number.is_finite():
        raise ValueError("must be finite: no NaN, no infinity")
    if number and number.adjusted() > 300:
        raise ValueError("is too large")
    return number


def parse_iso(text: str) -> int:
    """Return an ISO 8601 date or instant as UTC ms, rounded down; UTC where it names no zone.

    >>> parse_iso("1970-01-01T01:00:00.0019+01:00")
    1
    """
    match = _ISO.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second, fraction, zone = match.groups()
        local = datetime.datetime(  # noqa: DTZ001  the offset is taken off below
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0)
        )
        time_ms = (local - _EPOCH) // _MS + int(((fraction or "") + "000")[:3])
        if zone and zone not in "Zz":
            hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
            if hours > 23 or minutes > 59:
                raise ValueError
            time_ms -= (hours * 60 + minutes) * (-60_000 if zone[0] == "-" else 60_000)
    except ValueError:
        raise ValueError("must be an ISO instant such as 2024-01-31T12:00:00Z, or whole ms") from None
    return time_ms


def _scaled_floor(value: Any, shift: int) -> int:
    """Return floor(value * 10**shift) as ms; ValueError for what is no number or no int64."""
    number = _number(value, "must be a number")
    if number and number.adjusted() > MAX_MAGNITUDE:
        raise ValueError("is out of range for a time")
    if number and number.adjusted() < -400:
        return -1 if number < 0 else 0
    sign, digits, exponent = number.as_tuple()
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1)
    power = int(exponent) + shift
    time_ms = unscaled * _power(power) // _power(-power)
    if not INT64_MIN <= time_ms <= INT64_MAX:
        raise ValueError("is out of range for a time")
    return time_ms


_UNITS = {"ms": 0, "s": 3, "us": -3}


def parse_event_time(stream: Stream, event: Mapping[str, Any]) -> int | None:
    """Return the event time of a request event in ms, None where it carries none."""
    source = stream.event_time_source
    value = event.get(source)
    if value is None:
        return None
    try:
        if stream.event_time.unit == "iso":
            time_ms = parse_iso(parse_text(value))
        else:
            time_ms = _scaled_floor(value, _UNITS[stream.event_time.unit])
        if not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:
            raise ValueError("is outside the years 1 to 9999")
    except ValueError as error:
        raise UsageError(f"event time `{source}` {error}: {value!r}") from None
    return time_ms
