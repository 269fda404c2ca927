"""Random expressions of every kind, and random rows for them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from lookback.definition.expression_tree import TIMESTAMP, ValueType

NAMES = {
    "i": ValueType("int64"),
    "j": ValueType("int64"),
    "f": ValueType("float64"),
    "g": ValueType("float64"),
    "d": ValueType("decimal", 2),
    "e": ValueType("decimal", 6),
    "b": ValueType("bool"),
    "c": ValueType("bool"),
    "s": ValueType("string"),
    "u": ValueType("string"),
    "t": TIMESTAMP,
    "event_time": TIMESTAMP,
}
ZONES = ["UTC", "Europe/Paris", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]
PARTS = ["year", "month", "day", "hour", "minute", "second", "day_of_week"]
EDGES = [0, 1, -1, 2, 5, 100, 2**31, 2**53, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 10**17, -(10**18)]

_int = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES) | st.integers(-9, 9)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": _int,
    "float64": st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
    | st.integers(-9, 9).map(float),
    "bool": st.booleans(),
    "string": st.sampled_from(["", "a", "b", "é", "\U0001f600", "ﬀ", "FR"]) | st.text(max_size=3),
    "timestamp": st.integers(-(2**42), 2**42)
    | st.sampled_from([0, -1, 2**62, -(2**62), 253_402_300_799_999]),
}


def value(kind: ValueType) -> st.SearchStrategy[Any]:
    """Return values of a name, None now and then; decimals as fractions."""
    if kind.kind == "decimal":
        plain: st.SearchStrategy[Any] = _int.map(lambda x: Fraction(x, 10**kind.scale))
    else:
        plain = _VALUES[kind.kind]
    return st.none() | plain | plain | plain


rows = st.lists(
    st.fixed_dictionaries({name: value(kind) for name, kind in NAMES.items()}), min_size=1, max_size=8
)

_int_text = st.sampled_from(["i", "j", "i", "j", "0", "3", "-7", "9223372036854775807"])
_decimal_text = st.sampled_from(["d", "e", "d", "1.50", "-0.001"])
_float_text = st.sampled_from(["f", "g", "2.5", "1e300", "-1e-300"])
_string_text = st.sampled_from(["s", "u", "'a'", "'é'", "''"])
_time_text = st.sampled_from(["t", "event_time"])
_bool_text = st.sampled_from(["b", "c", "True", "False"])


def _numbers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bools, numbers = _bools(inner), inner
    zone = st.sampled_from(ZONES)
    return st.one_of(
        st.builds("({} {} {})".format, numbers, st.sampled_from("+-*/"), numbers),
        st.builds("({} {} {})".format, _int_text, st.sampled_from(["//", "%", "*", "+", "-"]), _int_text),
        st.builds("(-{})".format, numbers),
        st.builds("{}({})".format, st.sampled_from(["abs", "sqrt", "log"]), numbers),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "coalesce"]), numbers, numbers),
        st.builds("({} if {} else {})".format, numbers, bools, numbers),
        st.builds("({} if {} else None)".format, numbers, bools),
        st.builds("{}({}, '{}')".format, st.sampled_from(PARTS), _time_text, zone),
        st.builds("({} - {})".format, _time_text, _time_text),
    )


def _bools(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        _bool_text,
        st.builds("({} {} {})".format, inner, signs, inner),
        st.builds("({} {} {})".format, _string_text, signs, _string_text),
        st.builds("({} {} {})".format, _time_text, signs, _time_text),
        st.builds("({} is None)".format, inner | _string_text | _bool_text),
        st.builds("({} is not None)".format, inner | _time_text),
        st.builds("({} in ({}, 3, 1.5))".format, inner, st.sampled_from(["0", "-7", "2.25", "1e300"])),
        st.builds("({} not in ('a', 'é'))".format, _string_text),
        st.builds("({} < {} <= {})".format, inner, inner, inner),
    )


numbers = st.recursive(_int_text | _decimal_text | _float_text, _numbers, max_leaves=5)

bools = st.recursive(
    _bools(numbers),
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
        st.builds("({} == {})".format, inner, inner),
        st.builds("coalesce({}, {})".format, inner, inner),
    ),
    max_leaves=4,
)
strings = st.one_of(
    st.builds("coalesce({}, {})".format, _string_text, _string_text),
    st.builds("({} if {} else {})".format, _string_text, bools, _string_text),
    st.builds("({} if {} else None)".format, _string_text, bools),
)
times = st.one_of(
    st.builds("({} {} {})".format, _time_text, st.sampled_from("+-"), _int_text),
    st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "coalesce"]), _time_text, _time_text),
)
texts = numbers | bools | strings | times
