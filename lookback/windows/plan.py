"""What one view computes, as plain data: the contract between definitions, kernel, state and stores.

Owns: the names of the aggregates, the shape of a row, the shape of a result. Refuses: YAML, I/O, clocks.

A *row* is one event's part in an entity's log. It is ``ROW_HEAD + plan.width`` int64 words:

    row   := time position word* value*
    time  := event time in ms, already floored to the view's resolution
    position := partition << OFFSET_BITS | offset         (see `pack_position`)
    word  := 64 participation bits; bit b of word b // 64  says whether the row takes part in `Term`s of bit b
    value := the column's int64, or the bits of its float64, or a text id   (0 where the field is null)

Rows of a log are sorted by (time, position); no two share both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

ROW_HEAD = 2
OFFSET_BITS = 47
MAX_OFFSET = (1 << OFFSET_BITS) - 1
MAX_PARTITION = (1 << 15) - 1
LIFETIME = None  # a feature's `window_ms` when its window is all of time


def pack_position(partition: int, offset: int) -> int:
    """Return the int64 that orders positions as (partition, offset).

    >>> pack_position(1, 0) > pack_position(0, MAX_OFFSET)
    True
    """
    if not (0 <= partition <= MAX_PARTITION and 0 <= offset <= MAX_OFFSET):
        raise ValueError(f"partition {partition}, offset {offset}: outside the range of a position")
    return partition << OFFSET_BITS | offset


def unpack_position(position: int) -> tuple[int, int]:
    """Return (partition, offset) of a packed position."""
    return position >> OFFSET_BITS, position & MAX_OFFSET


class Agg(IntEnum):
    """Aggregates, by the names used in a definition (lower case)."""

    COUNT = 1
    SUM = 2
    MEAN = 3
    MIN = 4
    MAX = 5
    VARIANCE = 6
    STDDEV = 7
    FIRST = 8
    LAST = 9
    DISTINCT = 10
    TOP_K = 11
    MODE = 12
    ENTROPY = 13
    RATIO = 14
    TIME_SINCE_FIRST = 15
    TIME_SINCE_LAST = 16
    MEAN_GAP = 17
    DECAYED_COUNT = 18
    DECAYED_SUM = 19
    LAST_K = 20
    SEEN_BEFORE = 21


class Kind(str, Enum):
    """How a column's int64 words are to be read."""

    INT = "int"  # int64, bool (0/1), timestamp (ms), decimal (unscaled, |v| < 10**18)
    FLOAT = "float"  # bits of a float64; never NaN or infinite; -0.0 is stored as 0.0
    TEXT = "text"  # id in the log's text table


class Status(IntEnum):
    """State of one computed value; its text is the lower-case name."""

    OK = 0
    DEFAULT = 1  # empty window, or only nulls: the empty value or `default:` stands
    OVERFLOW = 2  # an int64 or decimal result that does not fit: null


@dataclass(frozen=True)
class Column:
    """One value column of a view's rows."""

    name: str
    kind: Kind
    scale: int = 0  # decimals: value = int64 / 10**scale


@dataclass(frozen=True)
class Term:
    """Which rows take part, and with which column.

    column: index in `ViewPlan.columns`; -1 when the rows themselves are meant (counts).
    bit: participation bit; -1 when every row takes part.
    """

    column: int = -1
    bit: int = -1


class Result(str, Enum):
    """Type of a materialized feature's value."""

    INT = "int64"  # also times and gaps, in ms
    FLOAT = "float64"
    DECIMAL = "decimal"
    BOOL = "bool"
    TEXT = "string"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True)
class Feature:
    """One materialized feature `<feature>_<window>` of a view."""

    name: str
    agg: Agg
    term: Term
    window_ms: int | None  # None: lifetime
    result: Result  # of one element, for the list aggregates top_k and last_k
    delay_ms: int = 0
    # ratio: the denominator; column -1 is a count, else a sum
    # seen_before: its bit says that the own row's value isn't null (None: `term.bit` says so)
    other: Term | None = None
    k: int = 0  # top_k, last_k
    half_life_ms: int = 0  # decayed_*
    scale: int = 0  # of a decimal result
    precision: int = 0  # of a decimal result
    default: int | float | str | bool | None = None  # decimals: the unscaled int
    has_default: bool = False

    @property
    def is_list(self) -> bool:
        """Whether the value is a list (one output column for the length, then k for the elements)."""
        return self.agg in (Agg.TOP_K, Agg.LAST_K)


@dataclass(frozen=True)
class ViewPlan:
    """All that the kernel needs to know of one view."""

    columns: tuple[Column, ...]
    bits: int  # participation bits in use
    features: tuple[Feature, ...]
    resolution_ms: int = 1

    @property
    def words(self) -> int:
        """Participation words a row carries."""
        return (self.bits + 63) // 64

    @property
    def width(self) -> int:
        """int64 words of a row after its time and position."""
        return self.words + len(self.columns)

    @cached_property
    def out_starts(self) -> tuple[int, ...]:
        """First output column of each feature; the last entry is the number of output columns."""
        starts = [0]
        for feature in self.features:
            starts.append(starts[-1] + (1 + feature.k if feature.is_list else 1))
        return tuple(starts)
