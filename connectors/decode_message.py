"""The rules for one JSON message: the reference that the fast decoder must agree with.

Owns: which message fits a stream and what its fields' values are, read digit by digit, never through a
float. Refuses: speed (see `json_scan`), files, positions.

    int64      a JSON number whose value is whole and fits: 7, 7.0, 7e2
    float64    a JSON number, to the nearest float64; one that would be infinite is refused; -0.0 is 0.0
    decimal    a JSON number or a string holding one; no digit beyond the scale but zeros; a JSON number
               of 2**53 or more once scaled is refused (some writer's float may have rounded it)
    bool       true or false
    string     a JSON string that is valid Unicode
    timestamp  a JSON number (ms) or an ISO 8601 string; finer than a millisecond is floored
    event time a JSON number of the declared unit, floored to ms, or an ISO 8601 string for `iso`;
               within the years 1 to 9999
Of a key given twice the last one counts. ISO without an offset is UTC. Extra keys are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from connectors.batches import Reason

if TYPE_CHECKING:
    from lookback.definition.types import Field, Stream

EXACT_LIMIT: Final = 1 << 53
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
MIN_EVENT_TIME_MS: Final = -62_135_596_800_000  # 0001-01-01
MAX_EVENT_TIME_MS: Final = 253_402_300_799_999  # 9999-12-31
UNIT_SHIFT: Final = {"s": 3, "ms": 0, "us": -3}  # powers of ten from the unit to ms
MAX_DIGITS: Final = 400

_NUMBER = re.compile(r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?[0-9]+))?")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)

Value = int | float | bool | str | None


class Number(str):
    """The text of a JSON number, kept so that no digit is lost."""

    __slots__ = ()


class BadMessage(Exception):
    """The message does not fit; `reason` and the text say why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def scaled(text: str, scale: int) -> int | None:
    """Return the number in `text` times 10**scale, exactly; None if it is no whole number or huge.

    >>> scaled("0.1", 2), scaled("0.123", 2), scaled("-1.50e1", 0), scaled("x", 0)
    (10, None, -15, None)
    """
    parts = _split(text)
    if parts is None:
        return None
    sign, digits, exponent = parts
    exponent += scale
    if not digits:
        return 0
    if exponent < 0 or len(digits) + exponent > 40:
        return None
    return sign * int(digits) * int(10**exponent)


def floored(text: str, shift: int) -> int | None:
    """Return floor(number * 10**shift); None if `text` holds no number, or a huge one."""
    parts = _split(text)
    if parts is None:
        return None
    sign, digits, exponent = parts
    exponent += shift
    if not digits:
        return 0
    if len(digits) > MAX_DIGITS or len(digits) + exponent > 40:
        return None
    if exponent >= 0:
        return sign * int(digits) * int(10**exponent)
    return sign * int(digits) // int(10 ** min(-exponent, MAX_DIGITS + 1))


def _split(text: str) -> tuple[int, str, int] | None:
    """Split a number into sign, digits without zeros at the ends, and power of ten."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, whole, fraction, bare, exponent = match.groups()
    fraction = bare if bare is not None else fraction or ""
    digits = (whole or "") + fraction
    if exponent is not None and len(exponent) > 10:
        return None if digits.strip("0") else (1, "", 0)
    power = int(exponent or 0) - len(fraction)
    short = digits.rstrip("0")
    return (-1 if sign == "-" else 1), short.lstrip("0"), power + len(digits) - len(short)


def iso_ms(text: str) -> int | None:
    """Return the epoch ms of an ISO 8601 date or instant, floored; None if it is none.

    >>> iso_ms("1970-01-02"), iso_ms("1970-01-01T01:00:00.0019+01:00"), iso_ms("1970-13-01")
    (86400000, 1, None)
    """
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - 719_163
    except ValueError:
        return None
    hours, minutes, seconds = int(hour or 0), int(minute or 0), int(second or 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    ms = ((days * 24 + hours) * 60 + minutes) * 60_000 + seconds * 1000 + int(((fraction or "") + "000")[:3])
    if zone and zone not in "Zz":
        zone_hours, zone_minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
        if zone_hours > 23 or zone_minutes > 59:
            return None
        away = (zone_hours * 60 + zone_minutes) * 60_000
        ms -= -away if zone[0] == "-" else away
    return ms


def show(value: Any) -> str:
    """Return a value for a message, cut to a line's length."""
    text = str(value) if isinstance(value, Number) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Target:
    """One value wanted of a message: a field, or the event time (`name` is then empty)."""

    name: str
    source: str  # key in the message, column in a typed file
    kind: str  # a field type's kind, or "event_time"
    nullable: bool = False
    precision: int = 0
    scale: int = 0
    unit: str = ""  # of the event time: ms, s, us, iso

    @property
    def label(self) -> str:
        """How a message names it."""
        return f"event time field {self.source}" if self.kind == "event_time" else f"field {self.source}"

    @property
    def type_text(self) -> str:
        """How a message names its type."""
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.kind == "event_time":
            return "an ISO 8601 time" if self.unit == "iso" else f"a time in {self.unit}"
        return self.kind


def targets(stream: Stream) -> tuple[Target, ...]:
    """Return the stream's fields in declared order, then its event time."""
    fields = tuple(_field_target(field) for field in stream.fields.values())
    declared = stream.fields.get(stream.event_time.field)
    source = stream.event_time.field if declared is None else declared.from_name
    return (*fields, Target("", source, "event_time", unit=stream.event_time.unit))


def _field_target(field: Field) -> Target:
    kind = field.type
    return Target(field.name, field.from_name, kind.kind, kind.nullable, kind.precision or 0, kind.scale or 0)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_parse: Callable[[str], Any] = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=_refuse_constant
).decode


class MessageDecoder:
    """Decode single messages of one stream by the rules above (some microseconds each)."""

    def __init__(self, wanted: tuple[Target, ...]) -> None:
        self._readers = [(target, _READERS[target.kind]) for target in wanted]

    def decode(self, message: bytes | None) -> list[Value]:
        """Return the targets' values in order.

        Raises BadMessage where the message does not parse or does not fit.
        """
        values: list[Value] = []
        found = parse_object(message)
        for target, read in self._readers:
            value = found.get(target.source)
            if value is None:
                if not target.nullable:
                    state = "null" if target.source in found else "missing"
                    raise BadMessage(Reason.SCHEMA, f"{target.label} is {state}")
                values.append(None)
                continue
            result = read(value, target)
            if result is None:
                raise BadMessage(Reason.SCHEMA, f"{target.label}: {show(value)} is not {target.type_text}")
            values.append(result)
        return values


def parse_object(message: bytes | None) -> dict[str, Any]:
    """Return the message's JSON object, numbers as `Number`; raise BadMessage if it is none."""
    if message is None:
        raise BadMessage(Reason.PARSE, "the message has no value")
    try:
        found = _parse(message.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadMessage(Reason.PARSE, "the message is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadMessage(Reason.PARSE, f"the message is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadMessage(Reason.PARSE, "the message is not a JSON object")
    return found


def _read_int(value: Any, target: Target) -> Value:
    number = scaled(value, 0) if isinstance(value, Number) else None
    return number if number is not None and INT64_MIN <= number <= INT64_MAX else None


def _read_float(value: Any, target: Target) -> Value:
    if not isinstance(value, Number):
        return None
    number = float(value)
    return number + 0.0 if abs(number) != float("inf") else None


def _read_decimal(value: Any, target: Target) -> Value:
    if not isinstance(value, str):
        return None
    number = scaled(value, target.scale)
    limit = 10**target.precision
    if isinstance(value, Number):
        limit = min(limit, EXACT_LIMIT)
    return number if number is not None and -limit < number < limit else None


def _read_bool(value: Any, target: Target) -> Value:
    return value if isinstance(value, bool) else None


def _read_string(value: Any, target: Target) -> Value:
    if not isinstance(value, str) or isinstance(value, Number):
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return value


def _read_timestamp(value: Any, target: Target) -> Value:
    if isinstance(value, Number):
        number = floored(value, 0)
    else:
        number = iso_ms(value) if isinstance(value, str) else None
    return number if number is not None and INT64_MIN <= number <= INT64_MAX else None


def _read_event_time(value: Any, target: Target) -> Value:
    if isinstance(value, Number):
        number = None if target.unit == "iso" else floored(value, UNIT_SHIFT[target.unit])
    else:
        number = iso_ms(value) if target.unit == "iso" and isinstance(value, str) else None
    return number if number is not None and MIN_EVENT_TIME_MS <= number <= MAX_EVENT_TIME_MS else None


_READERS: Final[dict[str, Callable[[Any, Target], Value]]] = {
    "int64": _read_int,
    "float64": _read_float,
    "decimal": _read_decimal,
    "bool": _read_bool,
    "string": _read_string,
    "timestamp": _read_timestamp,
    "event_time": _read_event_time,
}
