"""Typed Arrow columns to the types of an `EventBatch`, by the rules of `decode_message`.

Owns: which Arrow type may feed which declared type, and which of its values fit. Refuses: files, JSON.

    int64      any integer that fits; floats and decimals whose value is whole
    float64    floats, integers, decimals; NaN and infinity are refused; -0.0 is 0.0
    decimal    decimals, integers, strings holding a number; a float that is the nearest one to a number
               of the declared scale (what a writer of floats meant), below 2**53 once scaled
    bool       bool
    string     string, large_string, string_view, and dictionaries of these
    timestamp  Arrow timestamps and dates, integers and floats (ms), ISO 8601 strings
    event time the same, numbers in the declared unit
A timestamp without a time zone is UTC. What is finer than a millisecond is floored; floats of seconds are
first taken to the nearest microsecond.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.decode_message import (
    EXACT_LIMIT,
    INT64_MAX,
    INT64_MIN,
    MAX_EVENT_TIME_MS,
    MIN_EVENT_TIME_MS,
    UNIT_SHIFT,
    Target,
    iso_ms,
    scaled,
)
from lookback.errors import SourceError
from lookback.events import I64

Mask = npt.NDArray[np.bool_]
Fits = tuple[pa.Array, Mask | None]  # values in their final type; mask of the values that fit (None: all)

FINAL_TYPES: Final = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "decimal": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.int64(),
    "event_time": pa.int64(),
}
PER_MS: Final = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}


class WrongType(Exception):
    """A column's Arrow type can't feed the declared type."""


def check_schema(schema: pa.Schema, wanted: tuple[Target, ...], file: str) -> None:
    """Raise SourceError, naming file and column, where a typed file can't feed the targets."""
    if found := misfit(schema, wanted):
        target, kind = found
        if kind is None:
            have = ", ".join(schema.names)
            raise SourceError(
                f"{file} has no column {target.source!r}, which the stream declares; it has: {have}. "
                "Name the column in the field's `from:`, or make the field nullable."
            )
        raise SourceError(
            f"{file}: column {target.source!r} is {kind}, "
            f"which can't be read as {target.type_text}; declare another type or write the file anew."
        )


def misfit(schema: pa.Schema, wanted: tuple[Target, ...]) -> tuple[Target, pa.DataType | None] | None:
    """Return the first target that columns can't feed, with its column's type, None where there is no column."""
    for target in wanted:
        index = schema.get_field_index(target.source)
        if index < 0:
            if target.nullable:
                continue
            return target, None
        kind = schema.field(index).type
        try:
            convert(pa.array([], kind), target)
        except WrongType:
            return target, kind
    return None


def convert(array: pa.Array, target: Target) -> Fits:
    """Return the column in the target's final type, nulls kept, and which values fit.

    Raises WrongType where the Arrow type can't feed the target. A value that does not fit is undefined.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), FINAL_TYPES[target.kind]), None
    return _CONVERTERS[target.kind](array, target)


def _valid(array: pa.Array) -> Mask | None:
    return None if array.null_count == 0 else np.asarray(array.is_valid().to_numpy(zero_copy_only=False))


def _numpy(array: pa.Array) -> npt.NDArray[Any]:
    """Return a primitive column as numpy, nulls as 0; no copy where there are no nulls."""
    if array.null_count:
        array = array.fill_null(0)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _int64(values: npt.NDArray[Any], array: pa.Array) -> pa.Array:
    """Return int64 values with the nulls of the column they come from."""
    valid = _valid(array)
    return pa.array(np.ascontiguousarray(values, np.int64), mask=None if valid is None else ~valid)


def _all_or(fits: Mask) -> Mask | None:
    return None if fits.all() else fits


def _to_int(array: pa.Array, target: Target) -> Fits:
    kind = array.type
    if kind == pa.int64():
        return array, None
    if kind == pa.uint64():
        values = _numpy(array)
        return _int64(values.astype(np.int64), array), _all_or(values <= np.uint64(INT64_MAX))
    if pa.types.is_integer(kind):
        return array.cast(pa.int64()), None
    if pa.types.is_floating(kind):
        floats = _numpy(array).astype(np.float64)
        fits = (np.abs(floats) < 2.0**63) & (np.floor(floats) == floats)
        return _int64(np.where(fits, floats, 0.0), array), _all_or(fits)
    if pa.types.is_decimal(kind):
        return _scaled_decimals(array, 0, INT64_MIN, INT64_MAX)
    raise WrongType


def _to_float(array: pa.Array, target: Target) -> Fits:
    kind = array.type
    if pa.types.is_decimal(kind):
        array = array.cast(pa.string()).cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise WrongType
    floats = _numpy(array).astype(np.float64) + 0.0
    valid = _valid(array)
    return pa.array(floats, mask=None if valid is None else ~valid), _all_or(np.isfinite(floats))


def _to_decimal(array: pa.Array, target: Target) -> Fits:
    kind, limit = array.type, 10**target.precision - 1
    if pa.types.is_decimal(kind):
        return _scaled_decimals(array, target.scale, -limit, limit)
    if pa.types.is_integer(kind):
        whole, fits = _to_int(array, target)
        values, most = _numpy(whole), limit // 10**target.scale
        within = (values >= -most) & (values <= most)
        if fits is not None:
            within &= fits
        return _int64(np.where(within, values, 0) * 10**target.scale, array), _all_or(within)
    if pa.types.is_floating(kind):
        floats = _numpy(array).astype(np.float64)
        power = float(10**target.scale)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = np.rint(floats * power)
            within = (np.abs(rounded) < float(min(EXACT_LIMIT, limit + 1))) & (rounded / power == floats)
        return _int64(np.where(within, rounded, 0.0), array), _all_or(within)
    if _is_text(kind):
        return _by_value(array, lambda text: scaled(text, target.scale), -limit, limit)
    raise WrongType


def _scaled_decimals(array: pa.Array, scale: int, least: int, most: int) -> Fits:
    """Rescale a decimal column to unscaled int64 within [least, most]."""
    kind = array.type
    if kind.bit_width != 128:
        if kind.bit_width > 128:
            return _by_value(array.cast(pa.string()), lambda text: scaled(text, scale), least, most)
        array = array.cast(pa.decimal128(kind.precision, kind.scale))
    words = np.frombuffer(array.buffers()[1], np.int64)[2 * array.offset :][: 2 * len(array)].reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    valid = _valid(array)
    small = high == low >> 63
    if valid is not None:
        small |= ~valid
    shift = scale - kind.scale
    if not small.all() or abs(shift) > 18:
        return _by_value(array.cast(pa.string()), lambda text: scaled(text, scale), least, most)
    power = 10 ** abs(shift)
    if shift >= 0:
        fits = (low >= -(-least // power)) & (low <= most // power)
        values = np.where(fits, low, 0) * power
    else:
        values = low // power
        fits = (values * power == low) & (values >= least) & (values <= most)
    if valid is not None:
        fits |= ~valid
    return _int64(values, array), _all_or(fits)


def _by_value(array: pa.Array, read: Callable[[str], int | None], least: int, most: int) -> Fits:
    """Convert a text column value by value (about a microsecond each)."""
    texts = array.to_pylist()
    numbers = [None if text is None else read(text) for text in texts]
    good = [number is not None and least <= number <= most for number in numbers]
    fits = np.fromiter(
        (ok or text is None for ok, text in zip(good, texts, strict=True)), np.bool_, len(texts)
    )
    values = [number if ok else None for number, ok in zip(numbers, good, strict=True)]
    return pa.array(values, pa.int64()), _all_or(fits)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _to_bool(array: pa.Array, target: Target) -> Fits:
    if not pa.types.is_boolean(array.type):
        raise WrongType
    return array, None


def _to_string(array: pa.Array, target: Target) -> Fits:
    if not _is_text(array.type):
        raise WrongType
    return array.cast(pa.string()), None


def _to_ms(array: pa.Array, target: Target) -> Fits:
    """Convert a timestamp field or the event time to ms."""
    is_event_time = target.kind == "event_time"
    least, most = (MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS) if is_event_time else (INT64_MIN, INT64_MAX)
    kind = array.type
    if _is_text(kind):
        if is_event_time and target.unit != "iso":
            raise WrongType
        return _by_value(array, iso_ms, least, most)
    if pa.types.is_date32(kind):
        array, (times, per) = array.cast(pa.int32()), (86_400_000, 1)
    elif pa.types.is_date64(kind):
        array, (times, per) = array.cast(pa.int64()), (1, 1)
    elif pa.types.is_timestamp(kind):
        array, (times, per) = array.cast(pa.int64()), PER_MS[kind.unit]
    elif is_event_time and target.unit == "iso":
        raise WrongType
    else:
        times, per = PER_MS[target.unit if is_event_time else "ms"]
        if pa.types.is_floating(kind):
            array = _microseconds(array, UNIT_SHIFT[target.unit] if is_event_time else 0)
            times, per = 1, 1000
        elif not pa.types.is_integer(kind):
            raise WrongType
    whole, fits = _to_int(array, target)
    if times == per == 1 and fits is None and not is_event_time:
        return whole, None
    values = _numpy(whole)
    if per > 1:
        values = values // per
    within = (values >= -(-least // times)) & (values <= most // times)
    if fits is not None:
        within &= fits
    valid = _valid(array)
    if valid is not None:
        within |= ~valid
    if times > 1:
        values = np.where(within, values, 0) * times
    return _int64(values, array), _all_or(within)


def _microseconds(array: pa.Array, shift: int) -> pa.Array:
    """Take floats in 10**shift ms to the nearest microsecond, still as floats."""
    with np.errstate(over="ignore", invalid="ignore"):
        micros = np.rint(_numpy(array).astype(np.float64) * 10.0 ** (shift + 3))
    valid = _valid(array)
    return pa.array(micros, mask=None if valid is None else ~valid)


def present(array: pa.Array, fits: Mask | None, nullable: bool) -> Mask | None:
    """Return the mask of rows that are good: the value fits, and is not null unless it may be."""
    if nullable or array.null_count == 0:
        return fits
    valid = _valid(array)
    return valid if fits is None or valid is None else fits & valid


def millis(values: pa.Array) -> I64:
    """Return an int64 column without nulls as numpy."""
    return np.asarray(_numpy(values), np.int64)


_CONVERTERS: Final[dict[str, Callable[[pa.Array, Target], Fits]]] = {
    "int64": _to_int,
    "float64": _to_float,
    "decimal": _to_decimal,
    "bool": _to_bool,
    "string": _to_string,
    "timestamp": _to_ms,
    "event_time": _to_ms,
}
