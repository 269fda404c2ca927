from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.decode_message import MessageDecoder, targets
from connectors.decode_typed import FINAL_TYPES, WrongType, check_schema, convert
from lookback.errors import SourceError
from tests.connectors.build import stream_of

BAD = "bad"


def read(array: pa.Array, kind: str) -> list[Any]:
    """Return a column's values by the field type, BAD where one does not fit; nulls may be."""
    (target, _) = targets(stream_of({"x": kind}))
    found, fits = convert(array, target)
    assert found.type == FINAL_TYPES[target.kind] and len(found) == len(array)
    return [v if fits is None or fits[i] else BAD for i, v in enumerate(found.to_pylist())]


def read_time(array: pa.Array, unit: Any) -> list[Any]:
    """Return the event times of a column, BAD where one does not fit."""
    (target,) = targets(stream_of({}, unit=unit))
    found, fits = convert(array, target)
    return [v if fits is None or fits[i] else BAD for i, v in enumerate(found.to_pylist())]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64()]
)
def test_integers_widen(kind: pa.DataType) -> None:
    array = pa.array([None, 1, 100], kind)
    assert read(array, "int64?") == [None, 1, 100]
    assert read(array.slice(1), "int64") == [1, 100]
    assert read(array, "float64?") == [None, 1.0, 100.0]
    assert read(array, "decimal(4,2)?") == [None, 100, BAD]


@pytest.mark.parametrize(
    ("array", "kind", "values"),
    [
        (pa.array([2**63, 2**63 - 1], pa.uint64()), "int64", [BAD, 2**63 - 1]),
        (
            pa.array([1.0, 1.5, float("nan"), 2.0**63, -(2.0**63), None]),
            "int64?",
            [1, BAD, BAD, BAD, BAD, None],
        ),
        (pa.array([Decimal("3.00"), Decimal("3.01")]), "int64", [3, BAD]),
        (pa.array([1.5, float("nan"), float("inf"), None]), "float64?", [1.5, BAD, BAD, None]),
        (pa.array([Decimal("0.1"), None]), "float64?", [0.1, None]),
        (pa.array([Decimal("0.10"), Decimal("-12.34"), None]), "decimal(12,2)?", [10, -1234, None]),
        (pa.array([Decimal("0.100"), Decimal("0.123")]), "decimal(12,2)", [10, BAD]),
        (pa.array([Decimal("7"), Decimal("9999999")]), "decimal(6,2)", [700, BAD]),
        (
            pa.array([Decimal("1e20"), Decimal("2.5e17")], pa.decimal128(38, 2)),
            "decimal(18,0)",
            [BAD, 25 * 10**16],
        ),
        (pa.array([Decimal("1.25")], pa.decimal256(60, 30)), "decimal(12,2)", [125]),
        (pa.array([Decimal("1.25")], pa.decimal32(5, 2)), "decimal(12,3)", [1250]),
        (pa.array(["0.1", "+2", "x", "0.123", None]), "decimal(12,2)?", [10, 200, BAD, BAD, None]),
        (pa.array([0.1, 1.005, 0.1 + 0.2, 1e18, float("nan")]), "decimal(12,2)", [10, BAD, BAD, BAD, BAD]),
        (pa.array([True, None]), "bool?", [True, None]),
        (pa.array(["a", None]).dictionary_encode(), "string?", ["a", None]),
        (pa.array(["a"], pa.large_string()), "string", ["a"]),
        (pa.array(["a"], pa.string_view()), "string", ["a"]),
        (pa.array([datetime(1970, 1, 2, tzinfo=UTC)], pa.timestamp("us", "UTC")), "timestamp", [86_400_000]),
        (pa.array([-1, 1_999_999], pa.timestamp("ns")), "timestamp", [-1, 1]),
        (pa.array([date(1970, 1, 2)]), "timestamp", [86_400_000]),
        (pa.array([5, None]), "timestamp?", [5, None]),
        (pa.array(["1970-01-02T00:00:00Z", "soon"]), "timestamp", [86_400_000, BAD]),
        (pa.nulls(2), "decimal(3,1)?", [None, None]),
    ],
)
def test_values(array: pa.Array, kind: str, values: list[Any]) -> None:
    found = read(array, kind)
    assert [v if f != BAD else BAD for v, f in zip(values, found, strict=True)] == found == values
    padded = pa.concat_arrays([array, array]).slice(len(array))
    assert read(padded, kind) == values


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array(["1"]), "int64"),
        (pa.array([True]), "int64"),
        (pa.array(["1"]), "float64"),
        (pa.array([1]), "bool"),
        (pa.array([1]), "string"),
        (pa.array([b"x"]), "string"),
        (pa.array([True]), "decimal(3,1)"),
        (pa.array([[1]]), "timestamp"),
    ],
)
def test_wrong_types_are_refused_for_the_whole_file(array: pa.Array, kind: str) -> None:
    with pytest.raises(WrongType):
        read(array, kind)
    with pytest.raises(SourceError, match="column 'x'"):
        check_schema(pa.table({"x": array, "ts": [1]}).schema, targets(stream_of({"x": kind})), "f")


@pytest.mark.parametrize(
    ("array", "unit", "values"),
    [
        (pa.array([1, -1]), "ms", [1, -1]),
        (pa.array([1, 10**15], pa.int64()), "s", [1000, BAD]),
        (pa.array([1999, -1]), "us", [1, -1]),
        (pa.array([1_700_000_000.123, 0.0005]), "s", [1_700_000_000_123, 0]),
        (pa.array([1.9, float("nan")]), "ms", [1, BAD]),
        (pa.array([7, None], pa.int32()), "s", [7000, None]),
        (pa.array([1], pa.timestamp("s")), "iso", [1000]),
        (pa.array(["1970-01-01T00:00:01Z"]), "iso", [1000]),
        (pa.array([2**62]), "ms", [BAD]),
    ],
)
def test_event_times(array: pa.Array, unit: str, values: list[Any]) -> None:
    assert read_time(array, unit) == values


def test_event_times_of_the_wrong_kind_are_refused() -> None:
    for array, unit in ((pa.array(["1"]), "ms"), (pa.array([1]), "iso"), (pa.array([True]), "s")):
        with pytest.raises(WrongType):
            read_time(array, unit)


@given(st.lists(st.integers(-(10**12) + 1, 10**12 - 1) | st.none(), min_size=1), st.integers(0, 6))
def test_floats_of_a_scale_read_as_json_numbers_do(numbers: list[int | None], scale: int) -> None:
    """A writer of floats and a writer of JSON mean the same decimal."""
    kind = f"decimal(12,{scale})?"
    floats = [None if n is None else n / 10**scale for n in numbers]
    messages = MessageDecoder(targets(stream_of({"x": kind})))
    by_rule = [
        messages.decode(f'{{"ts": 0, "x": {"null" if f is None else repr(f)}}}'.encode())[0] for f in floats
    ]
    assert read(pa.array(floats, pa.float64()), kind) == by_rule == numbers


@given(
    st.integers(0, 12).flatmap(
        lambda scale: st.tuples(
            st.just(scale), st.lists(st.integers(-(10**20), 10**20) | st.none(), min_size=1)
        )
    ),
    st.integers(0, 9),
)
def test_decimals_rescale_exactly(column: tuple[int, list[int | None]], scale: int) -> None:
    source_scale, numbers = column
    array = pa.array(
        [None if n is None else Decimal(n).scaleb(-source_scale) for n in numbers],
        pa.decimal128(38, source_scale),
    )
    expected: list[Any] = []
    for n in numbers:
        scaled = None if n is None else n * 10**scale
        fits = (
            scaled is not None and scaled % 10**source_scale == 0 and abs(scaled // 10**source_scale) < 10**12
        )
        expected.append(None if scaled is None else scaled // 10**source_scale if fits else BAD)
    assert read(array, f"decimal(12,{scale})?") == expected


def test_columns_without_nulls_are_not_copied() -> None:
    array = pa.array(np.arange(5))
    (target, _) = targets(stream_of({"x": "int64"}))
    assert convert(array, target)[0] is array
