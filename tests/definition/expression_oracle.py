"""One row of a typed expression, by the book: plain Python, exact fractions, None for null."""

from __future__ import annotations

import datetime
import math
import zoneinfo
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from lookback.definition.expression_tree import Node, ValueType
from lookback.windows.numeric import ln

Value = Any  # None, bool, str, int (also times, ms), Fraction (a decimal), float


def fits(value: Value, kind: ValueType) -> Value:
    """Return what a type can hold, else None."""
    if value is None:
        return None
    if kind.kind == "float64":
        number = float(value)
        return number if math.isfinite(number) else None
    if kind.kind == "decimal":
        return Fraction(value) if -(2**63) <= Fraction(value) * 10**kind.scale < 2**63 else None
    if kind.kind in ("int64", "timestamp"):
        return value if -(2**63) <= value < 2**63 else None
    return value


def as_float(value: Value, kind: ValueType) -> float:
    """Return the float64 that a number counts as: its unscaled value over a power of ten."""
    if kind.kind == "float64":
        return float(value)
    return float(int(value * 10**kind.scale)) / 10.0**kind.scale


def answer(node: Node, row: Mapping[str, Value]) -> Value:
    """Return the expression's value for one row."""
    if node.op == "name":
        return row[node.value]
    if node.op == "literal":
        return (
            Fraction(node.value, 10**node.type.scale)
            if node.type.kind == "decimal" and node.value is not None
            else node.value
        )
    args = [answer(arg, row) for arg in node.args]
    kinds = [arg.type for arg in node.args]
    if node.op == "isnull":
        return args[0] is None
    if node.op in ("and", "or"):
        decides = node.op == "or"
        return decides if decides in args else None if None in args else not decides
    if node.op == "if":
        return fits(args[1] if args[0] else args[2], node.type)
    if node.op == "coalesce":
        for value in args:
            if fits(value, node.type) is not None:
                return fits(value, node.type)
        return None
    if node.op == "in":
        return (
            None
            if args[0] is None
            else any(compare("eq", args[0], v, kinds[0], k) for v, k in zip(args[1:], kinds[1:], strict=True))
        )
    if None in args:
        return None
    if node.op in ("eq", "ne", "lt", "le", "gt", "ge"):
        return compare(node.op, args[0], args[1], kinds[0], kinds[1])
    if node.op == "not":
        return not args[0]
    if node.op in ("min", "max"):
        cells = [fits(value, node.type) for value in args]
        return None if None in cells else (min if node.op == "min" else max)(cells)
    return fits(arithmetic(node, args, kinds), node.type)


def compare(op: str, one: Value, two: Value, a: ValueType, b: ValueType) -> bool:
    """Compare two values that are there: as floats if one is, else exactly; texts by their bytes."""
    if "float64" in (a.kind, b.kind):
        one, two = as_float(one, a), as_float(two, b)
    elif a.kind == "string":
        one, two = one.encode(), two.encode()
    order = (one > two) - (one < two)
    answers = {"eq": order == 0, "ne": order != 0, "lt": order < 0, "le": order <= 0, "gt": order > 0}
    return bool(answers.get(op, order >= 0))


def arithmetic(node: Node, args: list[Value], kinds: list[ValueType]) -> Value:
    """Return the value of an operation on numbers and times, None where there is none."""
    op = node.op
    if op in ("year", "month", "day", "hour", "minute", "second", "day_of_week"):
        return time_part(op, args[0], node.value)
    if op in ("log", "sqrt"):
        number = as_float(args[0], kinds[0])
        if number < 0 or (op == "log" and number == 0):
            return None
        return math.sqrt(number) if op == "sqrt" else float(ln(np.array([number]))[0])
    if op in ("neg", "abs"):
        return -args[0] if op == "neg" or args[0] < 0 else args[0]
    if op in ("floordiv", "mod"):
        return None if args[1] == 0 else args[0] // args[1] if op == "floordiv" else args[0] % args[1]
    if op == "div" and "float64" not in (kinds[0].kind, kinds[1].kind):
        scale = max(kinds[0].scale, kinds[1].scale)
        args = [
            float(int(v * 10**k.scale)) * 10.0 ** (scale - k.scale) for v, k in zip(args, kinds, strict=True)
        ]
    elif node.type.kind == "float64":
        args = [as_float(v, k) for v, k in zip(args, kinds, strict=True)]
    elif node.type.kind == "decimal":
        args = [fits(value, node.type) for value in args]
    if None in args or (op == "div" and args[1] == 0):
        return None
    one, two = args
    return one + two if op == "add" else one - two if op == "sub" else one * two if op == "mul" else one / two


def time_part(op: str, time_ms: int, zone: str) -> int | None:
    """Return a part of the local time, None outside the years that datetimes reach."""
    if not -62_135_510_400_000 <= time_ms <= 253_402_214_399_999:
        return None
    start = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    local = (start + datetime.timedelta(milliseconds=time_ms)).astimezone(zoneinfo.ZoneInfo(zone))
    return local.weekday() if op == "day_of_week" else int(getattr(local, op))
