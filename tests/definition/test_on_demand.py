"""On-demand features: the same over training columns and over one request."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lookback.definition import evaluate_on_demand, evaluate_on_demand_row, load, loads
from lookback.errors import UsageError
from tests.definition.samples import GOOD, ROOT

BASE = GOOD[: GOOD.index("on_demand:")]
DEFINITION = loads(
    BASE
    + """
on_demand:
  last: twice > 3.00 and not declined
  twice: amount + amount
  ratio: amount / card_activity.amount_max_30d
  where_to: coalesce(device, merchant)
  late: hour(event_time, 'Europe/Paris') >= 22
  wait: event_time - at
"""
)
MAX = pa.array([Decimal("2.00"), None, Decimal("0.00"), Decimal("7.25")], pa.decimal128(12, 2))
COLUMNS: dict[str, pa.Array] = {
    "card_activity.amount_max_30d": MAX,
    "amount": pa.array([100, 200, 300, None], pa.int64()),
    "declined": pa.array([False, True, None, False]),
    "device": pa.array(["d", None, None, "e"]),
    "merchant": pa.array(["m", "n", None, "o"]),
    "event_time": pa.array([0, 79_200_000, 86_399_999, 1], pa.int64()),
    "at": pa.array([1, None, 5, 0], pa.int64()),
}
EXPECTED: dict[str, list[Any]] = {
    "last": [False, False, None, None],
    "twice": [Decimal("2.00"), Decimal("4.00"), Decimal("6.00"), None],
    "ratio": [0.5, None, None, None],
    "where_to": ["d", "n", None, "e"],
    "late": [False, True, False, False],
    "wait": [-1, None, 86_399_994, 1],
}


def test_columns() -> None:
    found = evaluate_on_demand(DEFINITION, COLUMNS)
    assert {name: column.to_pylist() for name, column in found.items()} == EXPECTED
    assert {name: str(column.type) for name, column in found.items()} == {
        "last": "bool",
        "twice": "decimal128(19, 2)",
        "ratio": "double",
        "where_to": "string",
        "late": "bool",
        "wait": "int64",
    }
    for column in found.values():
        column.validate(full=True)


def test_slices_chunks_and_dictionaries_read_alike() -> None:
    pieces: dict[str, pa.Array] = {}
    for name, column in COLUMNS.items():
        doubled = pa.concat_arrays([column, column])
        pieces[name] = pa.chunked_array([doubled.slice(4, 1), doubled.slice(5, 3)])
    pieces["device"] = pa.concat_arrays([COLUMNS["device"]]).dictionary_encode()
    found = evaluate_on_demand(DEFINITION, pieces)
    assert {name: column.to_pylist() for name, column in found.items()} == EXPECTED


def test_rows_are_columns_of_one() -> None:
    for i in range(4):
        values = {name: column[i].as_py() for name, column in COLUMNS.items()}
        assert evaluate_on_demand_row(DEFINITION, values) == {
            name: column[i] for name, column in EXPECTED.items()
        }


def test_some_of_them_and_what_they_need() -> None:
    found = evaluate_on_demand(
        DEFINITION, {"amount": COLUMNS["amount"], "declined": COLUMNS["declined"]}, ["last"]
    )
    assert {name: column.to_pylist() for name, column in found.items()} == {"last": EXPECTED["last"]}
    assert DEFINITION.needed(["last"]) == ({}, ["twice", "last"])
    assert DEFINITION.needed(["ratio", "card_activity.tx_count_1m"]) == ({"card_activity": [0, 3]}, ["ratio"])
    with pytest.raises(UsageError, match="there is no feature `ratoi`; did you mean `ratio`"):
        DEFINITION.needed(["ratoi"])


def test_request_fields_that_are_absent_are_null_and_features_are_not() -> None:
    found = evaluate_on_demand(DEFINITION, {"card_activity.amount_max_30d": MAX})
    assert all(column.null_count == 4 for column in found.values())
    with pytest.raises(UsageError, match=r"reads card_activity\.amount_max_30d"):
        evaluate_on_demand(DEFINITION, {"amount": COLUMNS["amount"]})
    assert evaluate_on_demand_row(DEFINITION, {}) == dict.fromkeys(DEFINITION.on_demand)
    with pytest.raises(UsageError, match="a number of rows"):
        evaluate_on_demand(DEFINITION, {})
    empty = evaluate_on_demand(DEFINITION, {name: column.slice(0, 0) for name, column in COLUMNS.items()})
    assert all(len(column) == 0 for column in empty.values())


def test_decimals_beyond_int64_are_null() -> None:
    wide = pa.array([Decimal("99999999999999999999.00"), Decimal("4.00")], pa.decimal128(38, 2))
    columns = {"amount": pa.array([100, 100]), "card_activity.amount_max_30d": wide}
    assert evaluate_on_demand(DEFINITION, columns, ["ratio"])["ratio"].to_pylist() == [None, 0.25]


def test_streams_of_an_expression() -> None:
    two = load(ROOT / "examples" / "definitions" / "transfers.yaml")
    assert two.on_demand["drained"].streams == ("transfers",)
    assert two.on_demand["suspicious"].streams == ("transfers", "logins")  # reads no request field
    assert two.on_demand["drained"].request_fields == ("cents",)
    assert two.on_demand["drained"].stored == ("outgoing.cents_30d",)


def test_a_million_rows_are_no_burden() -> None:
    import time

    rows = 1_000_000
    values = np.arange(rows)
    columns = {
        "amount": pa.array(values),
        "card_activity.amount_max_30d": pa.array(values)
        .cast(pa.decimal128(38, 0))
        .cast(pa.decimal128(38, 2)),
    }
    start = time.process_time()
    found = evaluate_on_demand(DEFINITION, columns, ["ratio"])["ratio"]
    assert time.process_time() - start < 2
    assert found[4].as_py() == 0.01 and found[0].as_py() is None
