"""Values of a typed expression over whole columns; a single row is a column of one.

Owns: SQL's three-valued logic, exact decimals, and what overflow and division by zero give (null).
Refuses: text, types that do not fit (the parser has refused them), any second path for single rows.

A column is a pair (values, valid): valid is None where no value is null. Values are int64 (also decimals,
unscaled, and timestamps in ms), float64, bool, or a ``pa.StringArray``; literals stand as scalars and
broadcast. A value under a False `valid` means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookback.definition.calendar import time_part
from lookback.definition.expression_tree import Node, ValueType

Valid = npt.NDArray[np.bool_] | None

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_NUMPY: dict[str, Any] = {"float64": np.float64, "bool": np.bool_}


@dataclass(frozen=True)
class ColumnValues:
    """One column inside an expression (see the module)."""

    values: Any
    valid: Valid = None


def evaluate(node: Node, columns: Mapping[str, ColumnValues], rows: int) -> ColumnValues:
    """Return the expression's value for each of `rows` rows.

    columns: one entry a name that the expression reads, of its declared type, each of `rows` values.
    Returns values and validity of length `rows`; an int64 or decimal that does not fit is null, and so is a
    float64 that is not finite. Costs a few passes over the columns a node.
    """
    with np.errstate(all="ignore"):
        found = _value(node, columns)
    valid = found.valid
    if valid is not None and np.shape(valid) != (rows,):
        valid = np.broadcast_to(valid, rows)
    if node.type.kind == "string":
        values = found.values
        if isinstance(values, pa.Scalar):
            values = pa.repeat(values, rows)
        return ColumnValues(values, valid)
    dtype = _NUMPY.get(node.type.kind, np.int64)
    values = np.asarray(found.values, dtype)
    return ColumnValues(values if values.shape == (rows,) else np.broadcast_to(values, rows), valid)


def both(one: Valid, two: Valid) -> Valid:
    """Return where both are valid."""
    if one is None:
        return two
    return one if two is None else one & two


def _value(node: Node, columns: Mapping[str, ColumnValues]) -> ColumnValues:
    if node.op == "name":
        return columns[node.value]
    if node.op == "literal":
        return _literal(node)
    return _OPERATIONS[node.op](node, [_value(arg, columns) for arg in node.args])


def _literal(node: Node) -> ColumnValues:
    value, kind = node.value, node.type.kind
    if kind == "string":
        return ColumnValues(pa.scalar(value or "", pa.string()), None if value is not None else _never())
    number = np.asarray(value if value is not None else 0, _NUMPY.get(kind, np.int64))
    return ColumnValues(number, None if value is not None else _never())


def _never() -> npt.NDArray[np.bool_]:
    return np.asarray(False)


def _invalid_where(bad: Any, valid: Valid) -> Valid:
    """Return validity without the rows where `bad`."""
    if not np.any(bad):
        return valid
    return both(np.asarray(~np.asarray(bad)), valid)


def _finite(values: Any, valid: Valid) -> ColumnValues:
    """Return float64 values, null where not finite, without a negative zero."""
    values = np.asarray(values, np.float64) + 0.0
    return ColumnValues(values, _invalid_where(~np.isfinite(values), valid))


def as_float(column: ColumnValues, kind: ValueType) -> Any:
    """Return a numeric column as float64; a decimal is its unscaled value over a power of ten."""
    values = np.asarray(column.values)
    if kind.kind == "float64":
        return values
    return values.astype(np.float64) / 10.0**kind.scale if kind.scale else values.astype(np.float64)


def _multiply(one: Any, two: Any) -> tuple[Any, Any]:
    """Return the int64 product and where it does not fit."""
    one, two = np.asarray(one, np.int64), np.asarray(two, np.int64)
    product = one * two
    size = np.abs(one.astype(np.float64)) * np.abs(two.astype(np.float64))
    if not np.any(size >= 2.0**62):
        return product, np.False_
    divisor = np.where((two == 0) | (two == -1), 1, two)
    wrong = (product // divisor != one) | (product % divisor != 0)
    wrong = np.where(two == -1, one == _INT_MIN, wrong & (two != 0))
    return product, wrong


def rescale(column: ColumnValues, scale: int, wanted: int) -> ColumnValues:
    """Return decimals (or int64: scale 0) at a finer scale; null where that does not fit int64."""
    if scale == wanted:
        return column
    values, wrong = _multiply(column.values, 10 ** (wanted - scale))
    return ColumnValues(values, _invalid_where(wrong, column.valid))


def cast(column: ColumnValues, kind: ValueType, wanted: ValueType) -> ColumnValues:
    """Return a column as the common type that the parser chose for alternatives."""
    if kind == wanted or kind.kind == "null" or not wanted.is_numeric:
        return column
    if wanted.kind == "float64":
        return ColumnValues(as_float(column, kind), column.valid)
    return rescale(column, kind.scale, wanted.scale)


def _add(node: Node, args: list[ColumnValues]) -> ColumnValues:
    sign = 1 if node.op == "add" else -1
    if node.type.kind == "float64":
        one, two = (as_float(arg, child.type) for arg, child in zip(args, node.args, strict=True))
        return _finite(one + sign * two, both(args[0].valid, args[1].valid))
    a, b = (
        rescale(arg, child.type.scale, node.type.scale) for arg, child in zip(args, node.args, strict=True)
    )
    one, two = np.asarray(a.values), np.asarray(b.values)
    total = one + two if sign == 1 else one - two
    wrong = ((one ^ total) & (two ^ total)) < 0 if sign == 1 else ((one ^ two) & (one ^ total)) < 0
    return ColumnValues(total, _invalid_where(wrong, both(a.valid, b.valid)))


def _mul(node: Node, args: list[ColumnValues]) -> ColumnValues:
    valid = both(args[0].valid, args[1].valid)
    if node.type.kind == "int64":
        values, wrong = _multiply(args[0].values, args[1].values)
        return ColumnValues(values, _invalid_where(wrong, valid))
    one, two = (as_float(arg, child.type) for arg, child in zip(args, node.args, strict=True))
    return _finite(one * two, valid)


def _div(node: Node, args: list[ColumnValues]) -> ColumnValues:
    """Divide; decimals and int64 meet at one scale first, so 0.30 / 0.10 is 3.0."""
    valid = both(args[0].valid, args[1].valid)
    types = [child.type for child in node.args]
    if any(kind.kind == "float64" for kind in types):
        one, two = (as_float(arg, kind) for arg, kind in zip(args, types, strict=True))
    else:
        scale = max(kind.scale for kind in types)
        one, two = (
            np.asarray(arg.values).astype(np.float64) * 10.0 ** (scale - kind.scale)
            for arg, kind in zip(args, types, strict=True)
        )
    return _finite(one / two, valid)


def _whole_division(node: Node, args: list[ColumnValues]) -> ColumnValues:
    one, two = np.asarray(args[0].values), np.asarray(args[1].values)
    wrong = two == 0
    if node.op == "floordiv":
        wrong = wrong | ((one == _INT_MIN) & (two == -1))
    safe = np.where(wrong | (two == -1), 1, two)
    if node.op == "floordiv":
        values = np.where(two == -1, -one, one // safe)
    else:
        values = np.where(two == -1, 0, one % safe)
    return ColumnValues(values, _invalid_where(wrong, both(args[0].valid, args[1].valid)))


def _neg(node: Node, args: list[ColumnValues]) -> ColumnValues:
    values = np.asarray(args[0].values)
    if node.type.kind == "float64":
        return _finite(np.abs(values) if node.op == "abs" else -values, args[0].valid)
    flipped = np.where(values < 0, -values, values) if node.op == "abs" else -values
    return ColumnValues(flipped, _invalid_where(values == _INT_MIN, args[0].valid))


_STRING_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": pc.equal,
    "ne": pc.not_equal,
    "lt": pc.less,
    "le": pc.less_equal,
    "gt": pc.greater,
    "ge": pc.greater_equal,
}
_NUMBER_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _strings(op: str, one: Any, two: Any) -> npt.NDArray[np.bool_]:
    """Compare texts by their UTF-8 bytes."""
    answer = _STRING_COMPARE[op](one, two)
    if isinstance(answer, pa.Scalar):
        return np.asarray(bool(answer.as_py()))
    if isinstance(answer, pa.ChunkedArray):
        answer = answer.combine_chunks()
    filled = answer.fill_null(False) if answer.null_count else answer
    return np.asarray(filled.to_numpy(zero_copy_only=False), np.bool_)


def _numbers(op: str, one: ColumnValues, a: ValueType, two: ColumnValues, b: ValueType) -> Any:
    """Compare numbers: exactly unless one is float64, then both as float64."""
    if "float64" in (a.kind, b.kind):
        return _NUMBER_COMPARE[op](as_float(one, a), as_float(two, b))
    left, right = np.asarray(one.values), np.asarray(two.values)
    if a.scale == b.scale:
        return _NUMBER_COMPARE[op](left, right)
    if a.scale > b.scale:
        flipped = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}.get(op, op)
        return _numbers(flipped, two, b, one, a)
    power = 10 ** (b.scale - a.scale)
    whole, rest = np.floor_divide(right, power), np.mod(right, power)
    order = np.where(left != whole, np.where(left < whole, -1, 1), np.where(rest > 0, -1, 0))
    return _NUMBER_COMPARE[op](order, 0)


def _compare(node: Node, args: list[ColumnValues]) -> ColumnValues:
    one, two = node.args
    if one.type.kind == "string":
        values: Any = _strings(node.op, args[0].values, args[1].values)
    else:
        values = _numbers(node.op, args[0], one.type, args[1], two.type)
    return ColumnValues(values, both(args[0].valid, args[1].valid))


def _in(node: Node, args: list[ColumnValues]) -> ColumnValues:
    kind = node.args[0].type
    hits = [
        _strings("eq", args[0].values, arg.values)
        if kind.kind == "string"
        else _numbers("eq", args[0], kind, arg, child.type)
        for arg, child in zip(args[1:], node.args[1:], strict=True)
    ]
    return ColumnValues(reduce(np.logical_or, hits), args[0].valid)


def _and(node: Node, args: list[ColumnValues]) -> ColumnValues:
    """Three-valued and / or: a false (or true) part decides whatever the nulls are."""
    decides = node.op == "or"
    values: Any = None
    valid: Valid = None
    for arg in args:
        if values is None:
            values, valid = np.asarray(arg.values, np.bool_), arg.valid
            continue
        other = np.asarray(arg.values, np.bool_)
        if valid is not None or arg.valid is not None:
            known_one = _known(valid, values)
            known_two = _known(arg.valid, other)
            decided = (known_one & (values == decides)) | (known_two & (other == decides))
            valid = decided | (known_one & known_two)
            values = np.where(decided, decides, not decides)
        else:
            values = values | other if decides else values & other
    return ColumnValues(values, valid)


def _known(valid: Valid, values: Any) -> npt.NDArray[np.bool_]:
    return np.ones(np.shape(values), np.bool_) if valid is None else valid


def _not(node: Node, args: list[ColumnValues]) -> ColumnValues:
    return ColumnValues(~np.asarray(args[0].values, np.bool_), args[0].valid)


def _isnull(node: Node, args: list[ColumnValues]) -> ColumnValues:
    return ColumnValues(np.asarray(False) if args[0].valid is None else ~args[0].valid)


def _choose(take: Any, yes: ColumnValues, no: ColumnValues, kind: ValueType) -> ColumnValues:
    """Return `yes` where `take`, else `no`; nulls go with their side."""
    take = np.asarray(take, np.bool_)
    valid: Valid = None
    if yes.valid is not None or no.valid is not None:
        valid = np.where(
            take,
            np.asarray(True) if yes.valid is None else yes.valid,
            np.asarray(True) if no.valid is None else no.valid,
        )
    if kind.kind != "string":
        return ColumnValues(np.where(take, yes.values, no.values), valid)
    if take.ndim == 0 and isinstance(yes.values, pa.Scalar) and isinstance(no.values, pa.Scalar):
        return ColumnValues(yes.values if take else no.values, valid)
    if take.ndim == 0:
        rows = len(no.values if isinstance(yes.values, pa.Scalar) else yes.values)
        take = np.broadcast_to(take, rows)
    return ColumnValues(pc.if_else(pa.array(take), yes.values, no.values), valid)


def _if(node: Node, args: list[ColumnValues]) -> ColumnValues:
    condition, yes, no = args
    take = np.asarray(condition.values, np.bool_)
    if condition.valid is not None:
        take = take & condition.valid
    yes = cast(yes, node.args[1].type, node.type)
    no = cast(no, node.args[2].type, node.type)
    return _choose(take, yes, no, node.type)


def _coalesce(node: Node, args: list[ColumnValues]) -> ColumnValues:
    found = cast(args[0], node.args[0].type, node.type)
    for arg, child in zip(args[1:], node.args[1:], strict=True):
        if found.valid is None:
            break
        found = _choose(found.valid, found, cast(arg, child.type, node.type), node.type)
    return found


def _extreme(node: Node, args: list[ColumnValues]) -> ColumnValues:
    pick: Callable[[Any, Any], Any] = np.minimum if node.op == "min" else np.maximum
    cells = [cast(arg, child.type, node.type) for arg, child in zip(args, node.args, strict=True)]
    found = cells[0]
    for cell in cells[1:]:
        found = ColumnValues(pick(found.values, cell.values), both(found.valid, cell.valid))
    return found


def _root(node: Node, args: list[ColumnValues]) -> ColumnValues:
    values = as_float(args[0], node.args[0].type)
    wrong = values < 0 if node.op == "sqrt" else values <= 0
    safe = np.where(wrong, 1.0, values)
    valid = _invalid_where(wrong, args[0].valid)
    if node.op == "log":
        from lookback.windows.numeric import ln  # here, so that who takes no logarithm loads no Numba

        return _finite(ln(np.asarray(safe, np.float64)), valid)
    return _finite(np.sqrt(safe), valid)


def _time_part(node: Node, args: list[ColumnValues]) -> ColumnValues:
    values, known = time_part(node.op, np.asarray(args[0].values, np.int64), str(node.value))
    return ColumnValues(values, _invalid_where(~known, args[0].valid))


_OPERATIONS: dict[str, Callable[[Node, list[ColumnValues]], ColumnValues]] = {
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "div": _div,
    "floordiv": _whole_division,
    "mod": _whole_division,
    "neg": _neg,
    "abs": _neg,
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _compare),
    "in": _in,
    "and": _and,
    "or": _and,
    "not": _not,
    "isnull": _isnull,
    "if": _if,
    "coalesce": _coalesce,
    "min": _extreme,
    "max": _extreme,
    "log": _root,
    "sqrt": _root,
    **dict.fromkeys(("year", "month", "day", "hour", "minute", "second", "day_of_week"), _time_part),
}
