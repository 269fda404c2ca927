"""On-demand features over Arrow columns (training output) and over one request: the same evaluation.

Owns: how Arrow and Python values enter and leave expressions. Refuses: reading stores, knowing instants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookback.definition.encode import array_values
from lookback.definition.expression_evaluate import ColumnValues, evaluate, rescale
from lookback.definition.expression_tree import EVENT_TIME, MAX_RESULT_DIGITS, ValueType
from lookback.definition.view import Definition
from lookback.errors import UsageError

_ARROW: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.int64(),
}


def arrow_type(kind: ValueType) -> pa.DataType:
    """Return the type that an on-demand feature's column has in training output."""
    if kind.kind == "decimal":
        return pa.decimal128(MAX_RESULT_DIGITS, kind.scale)
    return _ARROW[kind.kind]


def evaluate_on_demand(
    definition: Definition,
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
    names: Sequence[str] | None = None,
    rows: int | None = None,
) -> dict[str, pa.Array]:
    """Return on-demand features as columns, in the definition's order.

    columns: under `view.feature_window` as in training output (decimals as decimal128), under a request
    field's name as in an `EventBatch` (decimals unscaled int64) and `event_time` (int64 ms), all of one
    length. A request field or `event_time` that is absent is null throughout. names: which to compute
    (default all); those that they read are computed too, and only `names` come back. rows: the length,
    where `columns` may be empty. Raises UsageError where a stored feature is absent.
    """
    order = list(definition.on_demand) if names is None else definition.needed(names)[1]
    if rows is None:
        if not columns:
            raise UsageError("give the columns that the on-demand features read, or a number of rows")
        rows = len(next(iter(columns.values())))
    values: dict[str, ColumnValues] = {}
    found: dict[str, pa.Array] = {}
    for name in order:
        one = definition.on_demand[name]
        for needed in one.requires:
            if needed not in values:
                values[needed] = _read(columns, needed, one.names[needed], rows)
        values[name] = evaluate(one.tree, values, rows)
        if names is None or name in names:
            found[name] = _to_arrow(values[name], one.type)
    return found


def evaluate_on_demand_row(
    definition: Definition, values: Mapping[str, Any], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return on-demand features of one row as Python values, by the same evaluation as of columns.

    values: under `view.feature_window` and request fields' names; decimals as Decimal (or int unscaled),
    times as int ms, null as None; an absent name is null. Decimals come back as Decimal.
    """
    order = list(definition.on_demand) if names is None else definition.needed(names)[1]
    found = evaluate_row_in_order(definition, values, order)
    return found if names is None else {name: found[name] for name in order if name in names}


def evaluate_row_in_order(
    definition: Definition, values: Mapping[str, Any], order: Sequence[str]
) -> dict[str, Any]:
    """Do as `evaluate_on_demand_row` for names in an order in which each comes after those that it reads."""
    cells: dict[str, ColumnValues] = {}
    found: dict[str, Any] = {}
    for name in order:
        one = definition.on_demand[name]
        for needed in one.requires:
            if needed not in cells:
                cells[needed] = _cell(values.get(needed), one.names[needed])
        cells[name] = evaluate(one.tree, cells, 1)
        found[name] = _to_python(cells[name], one.type)
    return found


def _read(
    columns: Mapping[str, pa.Array | pa.ChunkedArray], name: str, kind: ValueType, rows: int
) -> ColumnValues:
    if name not in columns:
        if "." in name and name != EVENT_TIME:
            raise UsageError(f"an on-demand feature reads {name}, which is not among the columns given")
        return _nulls(kind, rows)
    array = columns[name]
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_decimal(array.type):
        return _unscaled(array, kind.scale)
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    wanted = _ARROW.get(kind.kind, pa.int64())
    return array_values(array if array.type == wanted else array.cast(wanted), kind.kind)


def _nulls(kind: ValueType, rows: int) -> ColumnValues:
    never = np.zeros(rows, np.bool_)
    if kind.kind == "string":
        return ColumnValues(pa.nulls(rows, pa.string()), never)
    dtype: Any = {"float64": np.float64, "bool": np.bool_}.get(kind.kind, np.int64)
    return ColumnValues(np.zeros(rows, dtype), never)


def _unscaled(array: pa.Array, scale: int) -> ColumnValues:
    """Return decimal128 values as int64 at a scale; what does not fit is null."""
    if not pa.types.is_decimal128(array.type):
        array = array.cast(pa.decimal128(38, array.type.scale))
    buffer = array.buffers()[1]
    words = np.frombuffer(buffer, np.int64)[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    fits = high == low >> 63
    valid: npt.NDArray[np.bool_] | None = None
    if array.null_count:
        valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.bool_)
        low = np.where(valid, low, 0)
        fits |= ~valid
    if not fits.all():
        valid = fits if valid is None else valid & fits
    return rescale(ColumnValues(low, valid), array.type.scale, scale)


def _to_arrow(column: ColumnValues, kind: ValueType) -> pa.Array:
    valid = column.valid
    if kind.kind == "string":
        if valid is None or valid.all():
            return column.values
        return pa.compute.if_else(pa.array(valid), column.values, pa.scalar(None, pa.string()))
    mask = None if valid is None else ~valid
    values = np.ascontiguousarray(column.values)
    if kind.kind != "decimal":
        return pa.array(values, _ARROW[kind.kind], mask=mask)
    wide = np.empty((len(values), 2), np.int64)
    wide[:, 0], wide[:, 1] = values, values >> 63
    bits = None if valid is None else pa.array(valid).buffers()[1]
    return pa.Array.from_buffers(arrow_type(kind), len(values), [bits, pa.py_buffer(wide)])


def _cell(value: Any, kind: ValueType) -> ColumnValues:
    if value is None:
        return _nulls(kind, 1)
    if kind.kind == "string":
        return ColumnValues(pa.array([value], pa.string()))
    if kind.kind == "decimal" and isinstance(value, Decimal):
        value = int(value.scaleb(kind.scale))
    dtype: Any = {"float64": np.float64, "bool": np.bool_}.get(kind.kind, np.int64)
    return ColumnValues(np.array([value], dtype))


def _to_python(column: ColumnValues, kind: ValueType) -> Any:
    if column.valid is not None and not column.valid[0]:
        return None
    value = column.values[0]
    if kind.kind == "string":
        return value.as_py()
    if kind.kind == "decimal":
        return Decimal(int(value)).scaleb(-kind.scale)
    return value.item()
