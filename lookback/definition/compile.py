"""From a view's resolved features to its `ViewPlan`: columns, participation bits, result types.

Owns: which aggregate takes which field and gives which type, and the layout of a view's rows (a function of
the features' names and meaning, never of their order in the file). Refuses: YAML, columns of data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from lookback.definition.expression_tree import BOOL, MAX_RESULT_DIGITS, Node
from lookback.definition.types import Field, FieldType, Notes
from lookback.windows.plan import ROW_HEAD, Agg, Column, Feature, Kind, Result, Term, ViewPlan

MAX_ROW_WORDS = 60

NUMERIC_AGGS = frozenset({Agg.SUM, Agg.MEAN, Agg.VARIANCE, Agg.STDDEV, Agg.DECAYED_SUM})
ORDERED_AGGS = frozenset({Agg.MIN, Agg.MAX})
VALUE_AGGS = frozenset(
    {Agg.FIRST, Agg.LAST, Agg.DISTINCT, Agg.TOP_K, Agg.MODE, Agg.ENTROPY, Agg.LAST_K, Agg.SEEN_BEFORE}
)
ROW_AGGS = frozenset({Agg.COUNT, Agg.TIME_SINCE_FIRST, Agg.TIME_SINCE_LAST, Agg.MEAN_GAP, Agg.DECAYED_COUNT})
K_AGGS = frozenset({Agg.TOP_K, Agg.LAST_K})
DECAYED_AGGS = frozenset({Agg.DECAYED_COUNT, Agg.DECAYED_SUM})
SAME_AS_FIELD = frozenset({Agg.MIN, Agg.MAX, Agg.FIRST, Agg.LAST, Agg.MODE, Agg.TOP_K, Agg.LAST_K})
FLOAT_AGGS = frozenset(
    {Agg.MEAN, Agg.VARIANCE, Agg.STDDEV, Agg.ENTROPY, Agg.RATIO, Agg.DECAYED_COUNT, Agg.DECAYED_SUM}
)

_RESULTS = {
    "int64": Result.INT,
    "float64": Result.FLOAT,
    "decimal": Result.DECIMAL,
    "bool": Result.BOOL,
    "string": Result.TEXT,
    "timestamp": Result.TIMESTAMP,
}


@dataclass(frozen=True)
class Side:
    """What takes part: rows where `where` is true and `of` is not null."""

    agg: Agg
    of: Field | None = None
    where: Node | None = None


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a view as resolved, before its windows multiply it.

    windows: (suffix as written, ms or None for lifetime). other: a ratio's denominator, `side` being its
    numerator.
    """

    name: str
    agg: Agg
    side: Side
    windows: tuple[tuple[str, int | None], ...]
    delay_ms: int = 0
    k: int = 0
    half_life_ms: int = 0
    default: int | float | str | bool | None = None
    has_default: bool = False
    other: Side | None = None
    notes: Notes = field(default_factory=Notes, compare=False)


@dataclass(frozen=True)
class BitRule:
    """When a row carries a participation bit: `where` is true and `field` (if any) is not null."""

    where: Node | None
    field: str | None


@dataclass(frozen=True)
class Layout:
    """A view's plan, with what fills it: the field of each column, the rule of each bit."""

    plan: ViewPlan
    column_fields: tuple[str, ...]
    rules: tuple[BitRule, ...]


def both_conditions(one: Node | None, two: Node | None) -> Node | None:
    """Return the condition that both hold."""
    if one is None or two is None:
        return one or two
    return Node("and", BOOL, (one, two))


def result_type(agg: Agg, of: FieldType | None) -> tuple[Result, int, int]:
    """Return the type, precision and scale of an aggregate's value (of one element, for a list)."""
    if agg is Agg.SEEN_BEFORE:
        return Result.BOOL, 0, 0
    if agg in FLOAT_AGGS:
        return Result.FLOAT, 0, 0
    if of is not None and (agg in SAME_AS_FIELD or agg is Agg.SUM):
        precision = of.precision if agg is not Agg.SUM else MAX_RESULT_DIGITS
        return _RESULTS[of.kind], precision if of.kind == "decimal" else 0, of.scale
    return Result.INT, 0, 0


def compile_view(specs: list[FeatureSpec], resolution_ms: int = 1) -> Layout:
    """Return the layout of a view's rows and results.

    Features come sorted by materialized name; columns and bits in order of first use by them.
    Raises ValueError where a row would exceed 60 words.
    """
    builder = _Builder()
    pairs = [
        (f"{spec.name}_{suffix}", window_ms, spec) for spec in specs for suffix, window_ms in spec.windows
    ]
    features = tuple(
        builder.feature(name, window_ms, spec) for name, window_ms, spec in sorted(pairs, key=_name)
    )
    plan = ViewPlan(tuple(builder.columns), len(builder.rules), features, resolution_ms)
    if ROW_HEAD + plan.width > MAX_ROW_WORDS:
        raise ValueError(
            f"a row of this view would take {ROW_HEAD + plan.width} words of at most {MAX_ROW_WORDS} "
            f"({len(plan.columns)} fields aggregated, {plan.bits} conditions); split the view in two"
        )
    return Layout(plan, tuple(builder.fields), tuple(builder.rules))


def _name(pair: tuple[str, int | None, FeatureSpec]) -> str:
    return pair[0]


class _Builder:
    """Hands out columns and bits in order of first use."""

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self.fields: list[str] = []
        self.rules: list[BitRule] = []
        self.bits: dict[str, int] = {}

    def feature(self, name: str, window_ms: int | None, spec: FeatureSpec) -> Feature:
        result, precision, scale = result_type(spec.agg, spec.side.of.type if spec.side.of else None)
        return Feature(
            name=name,
            agg=spec.agg,
            term=self.term(spec.side, spec.agg is Agg.RATIO),
            window_ms=window_ms,
            result=result,
            delay_ms=spec.delay_ms,
            other=self.other(spec),
            k=spec.k,
            half_life_ms=spec.half_life_ms,
            scale=scale,
            precision=precision,
            default=spec.default,
            has_default=spec.has_default,
        )

    def term(self, side: Side, in_ratio: bool) -> Term:
        """Return a side's term.

        A required field needs no bit, except where one row could be half in: a request row may leave any
        field out, and a ratio's two sides, or a count of a field, have no other way to see that.
        """
        counts_rows = side.agg in ROW_AGGS
        checked = side.of is not None and (side.of.type.nullable or in_ratio or counts_rows)
        bit = -1
        if side.where is not None or checked:
            bit = self.bit(BitRule(side.where, side.of.name if side.of is not None else None))
        return Term(-1 if counts_rows or side.of is None else self.column(side.of), bit)

    def other(self, spec: FeatureSpec) -> Term | None:
        """Return a ratio's denominator, or when a seen_before's own value is there, whatever its `where`."""
        if spec.other is not None:
            return self.term(spec.other, True)
        if spec.agg is Agg.SEEN_BEFORE and spec.side.where is not None:
            return self.term(Side(spec.agg, spec.side.of), False)
        return None

    def bit(self, rule: BitRule) -> int:
        key = json.dumps([rule.where.canonical() if rule.where else None, rule.field])
        if key not in self.bits:
            self.bits[key] = len(self.rules)
            self.rules.append(rule)
        return self.bits[key]

    def column(self, of: Field) -> int:
        if of.name not in self.fields:
            kind = {"float64": Kind.FLOAT, "string": Kind.TEXT}.get(of.type.kind, Kind.INT)
            self.fields.append(of.name)
            self.columns.append(Column(of.name, kind, of.type.scale))
        return self.fields.index(of.name)


def feature_facts(spec: FeatureSpec) -> list[dict[str, Any]]:
    """Return what decides a feature's values, as JSON data, one entry a window."""

    def side(one: Side | None) -> Any:
        if one is None:
            return None
        where = one.where.canonical() if one.where else None
        return [one.agg.name, one.of.name if one.of else None, where]

    return [
        {
            "name": f"{spec.name}_{suffix}",
            "agg": spec.agg.name,
            "side": side(spec.side),
            "other": side(spec.other),
            "window_ms": window_ms,
            "delay_ms": spec.delay_ms,
            "k": spec.k,
            "half_life_ms": spec.half_life_ms,
            "default": [spec.default] if spec.has_default else None,
        }
        for suffix, window_ms in spec.windows
    ]


def used_fields(specs: list[FeatureSpec]) -> set[str]:
    """Return the names of the fields that decide a view's values, beside its key."""
    found: set[str] = set()
    for spec in specs:
        for side in (spec.side, spec.other):
            if side is not None and side.of is not None:
                found.add(side.of.name)
            if side is not None and side.where is not None:
                found |= side.where.names()
    return found
