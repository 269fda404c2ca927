"""What streams, fields and entities are, once a definition has been checked.

Owns: the plain data that the rest of Lookback reads about sources, and the words for types and durations.
Refuses: YAML, positions in files, views (see `view`) and I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

FieldKind = Literal["int64", "float64", "decimal", "bool", "string", "timestamp"]
EventFormat = Literal["json", "avro", "arrow"]
TimeUnit = Literal["ms", "s", "us", "iso"]

MAX_DECIMAL_DIGITS = 18
MAX_DURATION_MS = 36_525 * 86_400_000  # a hundred years
LIFETIME_NAME = "lifetime"
DURATION_HINT = "write a whole number and one of ms s m h d w, such as 10m"
TYPE_HINT = "write int64, float64, decimal(P,S), bool, string or timestamp, with ? where it may be null"

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,17})(ms|s|m|h|d|w)", re.ASCII)
_DECIMAL = re.compile(r"decimal\(\s*([0-9]{1,4})\s*,\s*([0-9]{1,4})\s*\)", re.ASCII)
_PLAIN_KINDS: dict[str, FieldKind] = {
    "int64": "int64",
    "float64": "float64",
    "bool": "bool",
    "string": "string",
    "timestamp": "timestamp",
}
_ARROW = {
    "int64": pa.int64(),
    "decimal": pa.int64(),
    "timestamp": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
_OTHER_NAMES = {
    "int": "int64", "integer": "int64", "long": "int64", "int32": "int64", "bigint": "int64",
    "float": "float64", "double": "float64", "number": "float64", "float32": "float64",
    "str": "string", "text": "string", "varchar": "string", "boolean": "bool",
    "datetime": "timestamp", "date": "timestamp", "time": "timestamp",
    "decimal": "decimal(12,2)", "numeric": "decimal(12,2)",
}  # fmt: skip


def parse_duration(text: str) -> int:
    """Return a duration's milliseconds.

    Raises ValueError with what to write instead.

    >>> parse_duration("90m")
    5400000
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is not a duration: {DURATION_HINT}")
    duration_ms = int(match[1]) * _UNIT_MS[match[2]]
    if duration_ms > MAX_DURATION_MS:
        raise ValueError(f"`{text}` is longer than a hundred years; for all of time write {LIFETIME_NAME}")
    return duration_ms


@dataclass(frozen=True)
class FieldType:
    """The type of a field's values.

    precision, scale: of a decimal, 1 <= precision <= 18 and 0 <= scale <= precision; else 0.
    """

    kind: FieldKind
    precision: int = 0
    scale: int = 0
    nullable: bool = False

    def arrow(self) -> pa.DataType:
        """Return the Arrow type of this field in an `EventBatch` (decimals unscaled, timestamps in ms)."""
        return _ARROW[self.kind]

    def __str__(self) -> str:
        text = f"decimal({self.precision},{self.scale})" if self.kind == "decimal" else self.kind
        return text + "?" if self.nullable else text


def parse_field_type(text: str) -> FieldType:
    """Return the type that a definition's words name.

    Raises ValueError with what to write instead.

    >>> parse_field_type("decimal(12,2)?")
    FieldType(kind='decimal', precision=12, scale=2, nullable=True)
    """
    words = text.strip()
    nullable = words.endswith("?")
    bare = words[:-1].rstrip() if nullable else words
    if bare in _PLAIN_KINDS:
        return FieldType(_PLAIN_KINDS[bare], nullable=nullable)
    match = _DECIMAL.fullmatch(bare)
    if match is None:
        other = _OTHER_NAMES.get(bare.lower())
        meant = f"; did you mean `{other}{'?' if nullable else ''}`?" if other else ""
        raise ValueError(f"`{text}` is not a type: {TYPE_HINT}{meant}")
    precision, scale = int(match[1]), int(match[2])
    if not 1 <= precision <= MAX_DECIMAL_DIGITS:
        raise ValueError(f"`{text}` has {precision} digits: write a precision of 1 to {MAX_DECIMAL_DIGITS}")
    if scale > precision:
        raise ValueError(f"`{text}` has more decimals than digits: write a scale of 0 to {precision}")
    return FieldType("decimal", precision, scale, nullable)


@dataclass(frozen=True)
class Notes:
    """What people say about a thing: never part of what it computes."""

    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Field:
    """One declared field of a stream; `from_name` is what the source calls it."""

    name: str
    type: FieldType
    from_name: str
    notes: Notes = field(default_factory=Notes, compare=False)


@dataclass(frozen=True)
class EventTime:
    """Which field holds the event time (a declared one, else the source's name), and in what unit."""

    field: str
    unit: TimeUnit


@dataclass(frozen=True)
class Stream:
    """One source of events, as declared."""

    name: str
    topic: str
    format: EventFormat
    event_time: EventTime
    event_id: str | None
    lateness_ms: int
    max_ahead_ms: int
    fields: Mapping[str, Field]
    notes: Notes = field(default_factory=Notes, compare=False)
    drop_repeats_ms: int | None = None  # at least lateness_ms; None: repeats are events like any other

    @property
    def event_time_source(self) -> str:
        """What the source calls the field of the event time."""
        declared = self.fields.get(self.event_time.field)
        return self.event_time.field if declared is None else declared.from_name

    def schema(self) -> pa.Schema:
        """Return the Arrow schema of this stream's `EventBatch.fields`, in declared order."""
        return pa.schema([pa.field(f.name, f.type.arrow(), f.type.nullable) for f in self.fields.values()])

    def request_time_ms(self, event: Mapping[str, Any]) -> int | None:
        """Return the event time that a request event carries, or None where it carries none.

        Raises UsageError where it is there but not as the stream declares it.
        """
        from lookback.definition.values import parse_event_time

        return parse_event_time(self, event)


@dataclass(frozen=True)
class Entity:
    """What a view is keyed by; `fields` are the names of its parts (its own name unless composite)."""

    name: str
    fields: tuple[str, ...]
    type: Literal["string", "int64", "composite"]
    notes: Notes = field(default_factory=Notes, compare=False)
