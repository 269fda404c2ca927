"""Plans and rows for kernel tests, and the bridge from oracle rows to kernel arrays.

One plan holds every aggregate over every kind of column; the strategies choose windows, delays and rows.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from lookback.windows.log import Values, ViewLog
from lookback.windows.plan import Agg, Column, Feature, Kind, Result, Status, Term, ViewPlan
from tests.oracle import OVERFLOW, Row, expected

I64 = npt.NDArray[np.int64]
INT64_MAX = 2**63 - 1
COLUMNS = (Column("i", Kind.INT), Column("d", Kind.INT, 2), Column("f", Kind.FLOAT), Column("s", Kind.TEXT))
RESULTS = {Kind.INT: Result.INT, Kind.FLOAT: Result.FLOAT, Kind.TEXT: Result.TEXT}
NUMBERS = (Agg.SUM, Agg.MEAN, Agg.MIN, Agg.MAX, Agg.VARIANCE, Agg.STDDEV, Agg.DECAYED_SUM)
VALUES = (Agg.FIRST, Agg.LAST, Agg.DISTINCT, Agg.TOP_K, Agg.MODE, Agg.ENTROPY, Agg.LAST_K, Agg.SEEN_BEFORE)
TIMES = (Agg.COUNT, Agg.TIME_SINCE_FIRST, Agg.TIME_SINCE_LAST, Agg.MEAN_GAP, Agg.DECAYED_COUNT)
FOLDING = (
    Agg.COUNT, Agg.SUM, Agg.MEAN, Agg.MIN, Agg.MAX, Agg.FIRST, Agg.LAST, Agg.TIME_SINCE_FIRST,
    Agg.TIME_SINCE_LAST, Agg.MEAN_GAP, Agg.RATIO,
)  # fmt: skip
# bits: b = c is "column c is not null"; 4 + c is "where, and column c is not null"; 8 is "where"
WHERE = 8
BITS = 70  # more than a word's worth
HIGH = 65  # "where" once more, in the second word


def make_feature(
    agg: Agg, column: int, bit: int, window: int | None, delay: int, half_life: int = 1000, k: int = 2
) -> Feature:
    kind = COLUMNS[column].kind if column >= 0 else Kind.INT
    floats = (Agg.MEAN, Agg.VARIANCE, Agg.STDDEV, Agg.ENTROPY, Agg.RATIO, Agg.DECAYED_COUNT, Agg.DECAYED_SUM)
    result = Result.FLOAT if agg in floats else RESULTS[kind]
    if agg in (*TIMES[:4], Agg.DISTINCT):
        result = Result.INT
    other = None
    if agg is Agg.RATIO:
        other = Term(-1, HIGH) if column != 2 else Term(1, 1)
    if agg is Agg.SEEN_BEFORE:
        result, other = Result.BOOL, Term(column, column)
    name = f"{agg.name.lower()}_{column}_{bit}_{delay}_{window}"
    return Feature(name, agg, Term(column, bit), window, result, delay, other, k=k, half_life_ms=half_life)


def make_plan(windows: list[int | None], delays: list[int], aggs: tuple[Agg, ...] = tuple(Agg)) -> ViewPlan:
    """Return a plan of all `aggs` over all columns they take, with and without a filter."""
    features = []
    for window in windows:
        for delay in delays:
            for agg in aggs:
                columns = {Agg.RATIO: (-1, 0, 1, 2)}.get(agg, (0, 1, 2) if agg in NUMBERS else (0, 2, 3))
                for column in (-1,) if agg in TIMES else columns:
                    for bit in (-1, HIGH, WHERE) if column < 0 else (column, 4 + column):
                        features.append(make_feature(agg, column, bit, window, delay))
    return ViewPlan(COLUMNS, BITS, tuple(features))


def make_row(time: int, position: int, values: list[Any], where: bool) -> Row:
    """Return an oracle row; None in `values` is a null."""
    bits = sum(1 << c for c, value in enumerate(values) if value is not None)
    if where:
        bits |= bits << 4 | 1 << WHERE | 1 << HIGH
    return time, position, bits, tuple(0 if value is None else value for value in values)


def word_of(log: ViewLog, value: Any, kind: Kind) -> int:
    if kind is Kind.FLOAT:
        return int(struct.unpack("<q", struct.pack("<d", float(value) + 0.0))[0])
    return int(log.texts.intern([str(value)])[0]) if kind is Kind.TEXT else int(value)


def to_arrays(log: ViewLog, rows: list[Row]) -> tuple[I64, I64, I64]:
    """Return (time, position, values) of oracle rows as a `ViewLog` takes them."""
    plan = log.plan
    values = np.zeros((plan.width, len(rows)), dtype=np.int64)
    for i, (_, _, bits, cells) in enumerate(rows):
        for w in range(plan.words):
            word = bits >> (64 * w) & (2**64 - 1)
            values[w, i] = word - 2**64 if word >= 2**63 else word
        for c, (column, cell) in enumerate(zip(plan.columns, cells, strict=True)):
            null = not bits >> c & 1
            values[plan.words + c, i] = 0 if null else word_of(log, cell, column.kind)
    return (
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.int64),
        values,
    )


def values_at(log: ViewLog, values: Values, i: int) -> list[Any]:
    """Return item i feature by feature as the oracle gives it: None for default, OVERFLOW for overflow."""
    out: list[Any] = []
    for feature, start in zip(log.plan.features, log.plan.out_starts, strict=False):
        status, word = values.status[start, i], int(values.words[start, i])
        if status != Status.OK:
            out.append(None if status == Status.DEFAULT else OVERFLOW)
        elif feature.is_list:
            out.append([read(log, feature, int(w)) for w in values.words[start + 1 : start + 1 + word, i]])
        else:
            out.append(read(log, feature, word))
    return out


def read(log: ViewLog, feature: Feature, word: int) -> Any:
    if feature.result is Result.FLOAT:
        return struct.unpack("<d", struct.pack("<q", word))[0]
    if feature.result is Result.TEXT:
        return log.texts[word]
    return bool(word) if feature.result is Result.BOOL else word


def check(
    log: ViewLog,
    values: Values,
    i: int,
    rows: list[Row],
    t: int,
    position: int,
    own: Row | None,
    counted: bool,
) -> None:
    """Assert that item i holds what the oracle says, bit by bit."""
    for feature, got in zip(log.plan.features, values_at(log, values, i), strict=True):
        want = expected(log.plan, feature, rows, t, position, own, counted)
        assert got == want and type(got) is type(want), f"{feature}: got {got!r}, want {want!r} at {t}"


def one_log(plan: ViewPlan) -> tuple[ViewLog, I64]:
    log = ViewLog(plan)
    return log, log.new_slots(1)


def slots_of(slot: I64, n: int) -> I64:
    return np.full(n, slot[0], dtype=np.int64)
