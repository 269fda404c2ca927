"""Whole columns, single rows and a plain-Python oracle agree on every expression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings

from lookback.definition.encode import array_values, one_value
from lookback.definition.expression_evaluate import ColumnValues, evaluate
from lookback.definition.expression_parse import parse_expression
from lookback.definition.expression_tree import ValueType
from tests.definition.expression_oracle import answer
from tests.definition.expression_texts import NAMES, rows, texts

ARROW = {"float64": pa.float64(), "bool": pa.bool_(), "string": pa.string()}


def stored(value: Any, kind: ValueType) -> Any:
    return int(value * 10**kind.scale) if isinstance(value, Fraction) else value


def columns(
    given_rows: Sequence[Mapping[str, Any]], names: Mapping[str, ValueType]
) -> dict[str, ColumnValues]:
    found = {}
    for name, kind in names.items():
        values = [stored(row[name], kind) for row in given_rows]
        found[name] = array_values(pa.array(values, ARROW.get(kind.kind, pa.int64())), kind.kind)
    return found


def listed(found: ColumnValues, kind: ValueType, count: int) -> list[Any]:
    values = found.values.to_pylist() if kind.kind == "string" else found.values.tolist()
    valid = [True] * count if found.valid is None else found.valid.tolist()
    assert len(values) == len(valid) == count
    return [value if ok else None for value, ok in zip(values, valid, strict=True)]


def same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and one == two


@settings(max_examples=400)
@given(texts, rows)
@example("(i < d)", [{n: None for n in NAMES} | {"i": 2**62, "d": Fraction(2**62, 100)}])
@example("(d + e)", [{n: None for n in NAMES} | {"d": Fraction(2**62, 100), "e": Fraction(1, 10**6)}])
@example("(i * j)", [{n: None for n in NAMES} | {"i": -(2**63), "j": -1}])
@example("(i * j)", [{n: None for n in NAMES} | {"i": 3037000500, "j": 3037000500}])
@example("(i // j)", [{n: None for n in NAMES} | {"i": -(2**63), "j": -1}])
@example("abs(i)", [{n: None for n in NAMES} | {"i": -(2**63)}])
def test_columns_rows_and_oracle_agree(text: str, given_rows: list[dict[str, Any]]) -> None:
    tree = parse_expression(text, NAMES)
    count = len(given_rows)
    whole = listed(evaluate(tree, columns(given_rows, NAMES), count), tree.type, count)
    for row, from_column in zip(given_rows, whole, strict=True):
        cells = {n: one_value(stored(row[n], kind), kind.kind) for n, kind in NAMES.items()}
        (alone,) = listed(evaluate(tree, cells, 1), tree.type, 1)
        assert from_column == alone and type(from_column) is type(alone), text  # to the last bit
        if isinstance(alone, float):
            assert math.copysign(1, alone) == math.copysign(1, from_column)
        expected = stored(answer(tree, row), tree.type)
        assert same(alone, expected), (text, alone, expected)


FACTS = [
    ("None if b else i", {"b": None, "i": 4}, 4),
    ("d / e", {"d": Fraction(3, 10), "e": Fraction(1, 10)}, 3.0),
    ("i / j", {"i": 1, "j": 0}, None),
    ("f / g", {"f": 1.0, "g": 0.0}, None),
    ("i // j", {"i": -7, "j": 2}, -4),
    ("i % j", {"i": -7, "j": 2}, 1),
    ("i % j", {"i": 7, "j": 0}, None),
    ("d + 0.005", {"d": Fraction(1, 100)}, 15),
    ("d > 1.5", {"d": Fraction(151, 100)}, True),
    ("d == 1.50", {"d": Fraction(3, 2)}, True),
    ("b and c", {"b": None, "c": False}, False),
    ("b and c", {"b": None, "c": True}, None),
    ("b or c", {"b": None, "c": True}, True),
    ("b or c", {"b": None, "c": False}, None),
    ("not b", {"b": None}, None),
    ("b == c", {"b": True, "c": None}, None),
    ("s in ('a', 'b')", {"s": None}, None),
    ("s not in ('a', 'b')", {"s": "c"}, True),
    ("coalesce(s, 'x')", {"s": None}, "x"),
    ("min(i, j)", {"i": 1, "j": None}, None),
    ("max(i, 2.5)", {"i": 2}, 2.5),
    ("sqrt(i)", {"i": -1}, None),
    ("log(f)", {"f": 0.0}, None),
    ("log(f)", {"f": 1.0}, 0.0),
    ("f * g", {"f": 1e300, "g": 1e300}, None),
    ("-f", {"f": 0.0}, 0.0),
    ("t - event_time", {"t": 5_000, "event_time": 2_000}, 3_000),
    ("hour(event_time)", {"event_time": -1}, 23),
    ("day_of_week(event_time)", {"event_time": 0}, 3),
    ("hour(event_time, 'Europe/Paris')", {"event_time": 1_711_846_800_000}, 3),  # 2024-03-31T01:00Z: summer
    ("s < 'é'", {"s": "z"}, True),
]


@pytest.mark.parametrize(("text", "row", "expected"), FACTS, ids=[f"{fact[0]} {fact[1]}" for fact in FACTS])
def test_what_the_docs_say(text: str, row: dict[str, Any], expected: Any) -> None:
    tree = parse_expression(text, NAMES)
    full = {name: row.get(name) for name in NAMES}
    (found,) = listed(evaluate(tree, columns([full], NAMES), 1), tree.type, 1)
    assert found == expected and type(found) is type(expected)
    assert same(stored(answer(tree, full), tree.type), expected)


def test_logarithms_are_the_kernels() -> None:
    from lookback.windows.numeric import ln

    tree = parse_expression("log(f)", NAMES)
    values = np.random.default_rng(7).lognormal(0, 50, 2_000)
    found = evaluate(tree, {"f": ColumnValues(values)}, len(values))
    assert np.array_equal(found.values, ln(values))


def test_an_empty_column_stays_empty() -> None:
    for text in ("i + 1", "s", "coalesce(s, 'a')", "hour(t, 'Europe/Paris')", "s == 'a'", "log(f)", "3"):
        tree = parse_expression(text, NAMES)
        found = evaluate(tree, columns([], NAMES), 0)
        assert len(found.values) == 0
