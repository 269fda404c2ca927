"""Every feature recomputed from all rows, by the definition's letter: what the kernel is tested against.

Owns: correctness, short enough to trust by eye. Refuses: speed, and any code of the kernel but `ln`, `exp2`.
A row is (time, position, bits, values); bits a Python int, values numbers or strings (None nowhere).
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import groupby
from math import isfinite, sqrt
from typing import Any

from lookback.windows.numeric import exp2_neg, ln1
from lookback.windows.plan import Agg, Feature, Term, ViewPlan

Row = tuple[int, int, int, tuple[Any, ...]]
GRID = [86_400_000, 3_600_000, 60_000, 1_000]
OVERFLOW = object()  # stands for a null with status overflow


def takes_part(row: Row, bit: int) -> bool:
    return bit < 0 or bool(row[2] >> bit & 1)


def by_grid(items: list[Any], leaf: Any, merge: Any, grid: list[int] = GRID) -> Any:
    """Reduce newest first: rows within a second, seconds within a minute, then hours, days, all of them."""
    if not grid:
        return leaf(items)
    total = None
    for _, cell in groupby(items, key=lambda item: item[0] // grid[0]):
        part = by_grid(list(cell), leaf, merge, grid[1:])
        total = part if total is None else merge(total, part)
    return total


def float_sum(pairs: list[tuple[int, float]]) -> float:
    def leaf(cell: list[tuple[int, float]]) -> float:
        total = cell[0][1]
        for _, x in cell[1:]:
            total += x
        return total

    return float(by_grid(pairs, leaf, lambda a, b: a + b))


def welford(pairs: list[tuple[int, float]]) -> tuple[int, float, float]:
    def leaf(cell: list[tuple[int, float]]) -> tuple[int, float, float]:
        n, mean, m2 = 0, 0.0, 0.0
        for _, x in cell:
            n += 1
            d = x - mean
            mean += d / n
            m2 += d * (x - mean)
        return n, mean, m2

    def merge(a: Any, b: Any) -> tuple[int, float, float]:
        n, d = a[0] + b[0], b[1] - a[1]
        return n, a[1] + d * (b[0] / n), a[2] + b[2] + d * d * (float(a[0]) * b[0] / n)

    return by_grid(pairs, leaf, merge)  # type: ignore[no-any-return]


def decayed(pairs: list[tuple[int, float]], at: int, half_life: int) -> float:
    def older(newest: int, total: float, time: int, x: float) -> tuple[int, float]:
        return newest, total + x * exp2_neg(float(newest - time) / half_life)

    def leaf(cell: list[tuple[int, float]]) -> tuple[int, float]:
        acc = cell[0]
        for time, x in cell[1:]:
            acc = older(*acc, time, x)
        return acc

    newest, total = by_grid(pairs, leaf, lambda a, b: older(*a, *b))
    return float(total * exp2_neg(float(at - newest) / half_life))


def entropy(counts: list[int]) -> float:
    n = sum(counts)
    total: int = sum(
        (Fraction(c * ln1(float(c))) * 2**52).__floor__() for c in counts
    )  # whole units of 2**-52
    if len(counts) < 2:
        return 0.0
    return float(max(0.0, ln1(float(n)) - (float(total >> 52) + (total & 2**52 - 1) / 2**52) / n))


def exact(values: list[Any], floats: bool) -> Any:
    total = sum(map(Fraction, values))
    try:
        return float(total) if floats else int(total)
    except OverflowError:
        return OVERFLOW


def checked(x: Any) -> Any:
    """Return a result, or overflow where it is no finite float or no int64."""
    ok = isfinite(x) if isinstance(x, float) else not isinstance(x, int) or -(2**63) <= x < 2**63
    return x if ok else OVERFLOW


def scaled(plan: ViewPlan, term: Term) -> int:
    return 0 if term.column < 0 else plan.columns[term.column].scale


def expected(
    plan: ViewPlan, feature: Feature, rows: list[Row], t: int, position: int, own: Row | None, counted: bool
) -> Any:
    """Return a feature's value as of instant t, `own` being the event looked at; None is null or empty.

    rows: all the entity's rows, the own one (if it is stored) among them.
    """
    upto = t - feature.delay_ms
    rows = sorted((row for row in rows if row[:2] <= (t, position)), key=lambda row: row[:2])
    earlier = [row for row in rows if own is None or row[:2] != own[:2]]
    rows = rows if counted else earlier

    def window(rows: list[Row], term: Term) -> list[Row]:
        return [
            row for row in rows
            if row[0] <= upto
            and (feature.window_ms is None or row[0] > upto - feature.window_ms)
            and takes_part(row, term.bit)
        ][::-1]  # fmt: skip

    def value(row: Row, term: Term = feature.term) -> Any:
        return row[3][term.column] if term.column >= 0 else 1

    def total(term: Term) -> Any:
        values = [value(row, term) for row in window(rows, term)]
        floats = term.column >= 0 and plan.columns[term.column].kind.value == "float"
        if not floats or feature.window_ms is None:
            return exact(values, floats)
        return float_sum([(row[0], value(row, term)) for row in window(rows, term)]) if values else 0.0

    agg, scale = feature.agg, scaled(plan, feature.term)
    inside = window(earlier if agg in (Agg.TIME_SINCE_LAST, Agg.SEEN_BEFORE) else rows, feature.term)
    values = [value(row) for row in inside]
    n = len(inside)
    if agg is Agg.SEEN_BEFORE:
        known = own is not None and takes_part(own, feature.other.bit if feature.other else feature.term.bit)
        return value(own) in values if own is not None and known else None
    if agg is Agg.RATIO:
        assert feature.other is not None
        a, b, up = total(feature.term), total(feature.other), scaled(plan, feature.other) - scale
        if a is OVERFLOW or b is OVERFLOW:
            return OVERFLOW
        if b == 0:
            return None
        return checked_quotient(float(a) * float(10 ** max(up, 0)), float(b) * float(10 ** max(-up, 0)))
    if not n:
        return None
    pairs = [(row[0], float(value(row))) for row in inside] if not isinstance(values[0], str) else []
    ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], sort_key(item[0])))
    if agg is Agg.COUNT:
        return n
    if agg is Agg.SUM:
        return checked(total(feature.term))
    if agg is Agg.MEAN:
        sum_ = total(feature.term)
        return sum_ if sum_ is OVERFLOW else checked(float(sum_) / (n * float(10**scale)))
    if agg in (Agg.MIN, Agg.MAX):
        return min(values) if agg is Agg.MIN else max(values)
    if agg in (Agg.VARIANCE, Agg.STDDEV):
        if n < 2:
            return None
        variance, unit = welford(pairs)[2] / (n - 1), float(10**scale)
        if agg is Agg.VARIANCE:
            return checked(variance / (unit * unit))
        return checked(sqrt(variance) / unit if variance >= 0 else variance)
    if agg in (Agg.FIRST, Agg.LAST):
        return values[-1] if agg is Agg.FIRST else values[0]
    if agg is Agg.DISTINCT:
        return len(set(values))
    if agg is Agg.TOP_K:
        return [item for item, _ in ranked[: feature.k]]
    if agg is Agg.MODE:
        return ranked[0][0]
    if agg is Agg.ENTROPY:
        return entropy(list(Counter(values).values()))
    if agg in (Agg.TIME_SINCE_FIRST, Agg.TIME_SINCE_LAST):
        return checked(upto - inside[-1 if agg is Agg.TIME_SINCE_FIRST else 0][0])
    if agg is Agg.MEAN_GAP:
        return checked((inside[0][0] - inside[-1][0]) // (n - 1)) if n > 1 else None
    if agg is Agg.LAST_K:
        return values[: feature.k]
    if agg is Agg.DECAYED_COUNT:
        return checked(decayed([(row[0], 1.0) for row in inside], upto, feature.half_life_ms))
    assert agg is Agg.DECAYED_SUM
    return checked(decayed(pairs, upto, feature.half_life_ms) / float(10**scale))


def checked_quotient(a: float, b: float) -> Any:
    return checked(a / b) if isfinite(a) and isfinite(b) else OVERFLOW


def sort_key(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
