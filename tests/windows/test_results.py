"""Words back to values: types, defaults, nulls, the same in Arrow and in Python."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa

from lookback.windows.log import Values, ViewLog
from lookback.windows.plan import Agg, Column, Feature, Kind, Result, Status, Term, ViewPlan
from lookback.windows.results import arrow_type, to_arrow, to_python

PLAN = ViewPlan(
    (Column("amount", Kind.INT, 2), Column("score", Kind.FLOAT), Column("shop", Kind.TEXT)),
    0,
    (
        Feature("count_1s", Agg.COUNT, Term(), 1000, Result.INT),
        Feature("sum_1s", Agg.SUM, Term(0), 1000, Result.DECIMAL, scale=2, precision=18),
        Feature("max_1s", Agg.MAX, Term(0), 1000, Result.DECIMAL, scale=2, precision=12),
        Feature("mean_1s", Agg.MEAN, Term(1), 1000, Result.FLOAT),
        Feature("last_1s", Agg.LAST, Term(2), 1000, Result.TEXT, default="none", has_default=True),
        Feature("shops_1s", Agg.TOP_K, Term(2), 1000, Result.TEXT, k=2),
        Feature("seen_1s", Agg.SEEN_BEFORE, Term(2), 1000, Result.BOOL),
        Feature("min_1s", Agg.MIN, Term(0), 1000, Result.DECIMAL, scale=2, precision=12, default=-150,
                has_default=True),
    ),
)  # fmt: skip


def evaluated() -> tuple[ViewLog, Values]:
    log = ViewLog(PLAN)
    slots = log.new_slots(2)
    shops = log.texts.intern(["b", "é", "b"])
    scores = np.array([0.5, 1.5, 2.5]).view(np.int64)
    values = np.array([[105, -5, 2000], scores, shops])
    log.apply(np.repeat(slots[:1], 3), np.array([1, 2, 3]), np.arange(3), values)
    return log, log.evaluate_newest(slots)


def test_values_come_out_typed_with_defaults_in_place() -> None:
    log, values = evaluated()
    full = [3, Decimal("21.00"), Decimal("20.00"), 1.5, "b", ["b", "é"], True, Decimal("-0.05")]
    empty = [0, Decimal("0.00"), None, None, "none", None, None, Decimal("-1.50")]
    columns = to_arrow(PLAN, values, log.texts)
    assert [column.type for column in columns] == [arrow_type(feature) for feature in PLAN.features]
    assert [column.to_pylist() for column in columns] == [
        list(pair) for pair in zip(full, empty, strict=True)
    ]
    for column in columns:
        column.validate(full=True)
    assert to_python(PLAN, values, 0, log.texts) == full
    assert to_python(PLAN, values, 1, log.texts) == empty
    assert str(to_python(PLAN, values, 1, log.texts)[1]) == "0.00"


def test_an_overflow_is_null_whatever_the_default() -> None:
    log, values = evaluated()
    values.status[:] = Status.OVERFLOW
    assert to_python(PLAN, values, 0, log.texts) == [None] * len(PLAN.features)
    assert [column.null_count for column in to_arrow(PLAN, values, log.texts)] == [2] * len(PLAN.features)


def test_no_items_give_empty_columns_of_the_same_types() -> None:
    log = ViewLog(PLAN)
    columns = to_arrow(PLAN, log.evaluate_newest(log.new_slots(0)), log.texts)
    assert [len(column) for column in columns] == [0] * len(PLAN.features)
    assert [column.type for column in columns] == [arrow_type(feature) for feature in PLAN.features]


def test_a_decimal_sum_may_use_all_digits_of_int64() -> None:
    log = ViewLog(PLAN)
    slot = log.new_slots(1)
    big = np.array([[10**18 - 1] * 9, [0] * 9, log.texts.intern(["a"] * 9)])
    log.apply(np.repeat(slot, 9), np.arange(9), np.arange(9), big)
    column = to_arrow(PLAN, log.evaluate_newest(slot), log.texts)[1]
    column.validate(full=True)
    assert column.type == pa.decimal128(19, 2)
    assert column.to_pylist() == [Decimal(9 * (10**18 - 1)).scaleb(-2)]
