from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from examples.card_fraud.compare import KEY, Difference, compare

FEATURES = ["count", "total", "mean", "last", "top", "seen"]


def table(n: int = 40) -> pa.Table:
    some = [i if i % 7 else None for i in range(n)]
    return pa.table(
        {
            KEY: [f"c{i}" for i in range(n)],
            "count": pa.array(range(n), pa.int64()),
            "total": pa.array([None if i is None else Decimal(i) for i in some], pa.decimal128(18, 2)),
            "mean": pa.array([None if i is None else i / 3 for i in some], pa.float64()),
            "last": pa.array([None if i is None else f"m{i}" for i in some], pa.string()),
            "top": pa.array([[f"m{i}", "m0"] if i % 5 else [] for i in range(n)], pa.list_(pa.string())),
            "seen": pa.array([None if i is None else i % 2 == 0 for i in some], pa.bool_()),
        }
    )


def planted(rows: pa.Table, feature: str, place: int, value: Any) -> pa.Table:
    values = rows[feature].to_pylist()
    values[place] = value
    index = rows.schema.get_field_index(feature)
    return rows.set_column(index, feature, pa.array(values, rows.schema.field(feature).type))


def test_equal_tables_in_any_order_do_not_differ(rng: np.random.Generator) -> None:
    rows = table()
    found = compare(rows, rows.take(pa.array(rng.permutation(rows.num_rows))), FEATURES)
    assert (found.entities, found.compared, found.differing) == (40, 240, 0)
    assert found.examples == []


@pytest.mark.parametrize(
    ("feature", "place", "value"),
    [
        ("count", 13, 14),
        ("total", 13, Decimal("13.01")),
        ("total", 13, None),
        ("total", 14, Decimal("0.00")),
        ("mean", 13, float(np.nextafter(13 / 3, 9))),
        ("mean", 14, 0.0),
        ("last", 13, "m013"),
        ("last", 14, ""),
        ("top", 13, ["m0", "m13"]),
        ("top", 15, None),
        ("seen", 13, True),
        ("seen", 14, False),
    ],
)
def test_one_planted_difference_is_found(feature: str, place: int, value: Any) -> None:
    rows = table()
    was = rows[feature][place].as_py()
    for found in (
        compare(planted(rows, feature, place, value), rows, FEATURES),
        compare(rows, planted(rows, feature, place, value), FEATURES),
    ):
        assert (found.compared, found.differing) == (240, 1)
        assert {repr(found.examples[0].live), repr(found.examples[0].replayed)} == {repr(value), repr(was)}
        assert found.examples[0].entity_key == f"c{place}"
        assert found.examples[0].feature == feature


def test_the_sign_of_zero_is_a_difference() -> None:
    rows = planted(table(), "mean", 3, 0.0)
    assert compare(rows, planted(rows, "mean", 3, -0.0), FEATURES).differing == 1


@pytest.mark.parametrize("live_lacks", [True, False])
def test_an_entity_that_one_side_lacks_differs_in_all(live_lacks: bool) -> None:
    rows = table()
    fewer = rows.slice(1)
    found = compare(fewer, rows, FEATURES) if live_lacks else compare(rows, fewer, FEATURES)
    assert (found.entities, found.compared, found.differing) == (40, 240, 6)
    assert found.examples[0].entity_key == "c0"
    assert (found.examples[0].live == "no such entity") is live_lacks
    assert "no such entity" in str(found.examples[0])


def test_only_the_first_few_differences_are_kept_and_counts_add_up() -> None:
    rows = table()
    other = rows.set_column(1, "count", pa.array([i + 1 for i in range(40)]))
    both = compare(rows, other, FEATURES) + compare(rows, other, FEATURES)
    assert both.differing == 80 and both.compared == 480
    assert both.examples[0] == Difference("c0", "count", 0, 1)
    assert len(both.examples) == 5


def test_tables_that_cannot_be_compared_are_refused() -> None:
    rows = table()
    with pytest.raises(ValueError, match="count: int64"):
        compare(rows, rows.set_column(1, "count", pa.array([0.0] * 40)), FEATURES)
    with pytest.raises(ValueError, match="twice"):
        compare(pa.concat_tables([rows, rows.slice(0, 1)]), rows, FEATURES)
