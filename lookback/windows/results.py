"""Values as Arrow columns and as Python objects: the one place where words get their types back.

Owns: empty values, `default:`, the types of results. Refuses: computing anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookback.windows.log import Values
from lookback.windows.plan import Agg, Feature, Result, Status, ViewPlan
from lookback.windows.texts import TextTable

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Texts = Sequence[str] | TextTable

# aggregates whose empty window is 0; of all others it is null
ZERO_WHEN_EMPTY = frozenset({Agg.COUNT, Agg.SUM, Agg.DECAYED_COUNT, Agg.DECAYED_SUM})


def empty_word(feature: Feature) -> Any:
    """Return what stands where a window holds nothing: a plain value (decimals unscaled), None for null.

    `default:` where the definition has it, else 0 for counts, sums and decayed ones.
    """
    if feature.has_default:
        return feature.default
    if feature.agg in ZERO_WHEN_EMPTY:
        return 0.0 if feature.result is Result.FLOAT else 0
    return None


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the Arrow type of a feature's column.

    A decimal sum may use all 19 digits of int64, whatever its field's precision.
    """
    digits = max(feature.precision, 19) if feature.agg is Agg.SUM else max(feature.precision, 1)
    element = {
        Result.INT: pa.int64,
        Result.TIMESTAMP: pa.int64,
        Result.FLOAT: pa.float64,
        Result.BOOL: pa.bool_,
        Result.TEXT: pa.string,
        Result.DECIMAL: lambda: pa.decimal128(digits, feature.scale),
    }[feature.result]()
    return pa.list_(element) if feature.is_list else element


def to_arrow(plan: ViewPlan, values: Values, texts: Texts) -> list[pa.Array]:
    """Return one array a feature, in the plan's order: defaults in place, null where there is no value."""
    return [
        _column(feature, values.words[start:], values.status[start:], texts)
        for feature, start in zip(plan.features, plan.out_starts, strict=False)
    ]


def _column(feature: Feature, words: I64, status: npt.NDArray[np.uint8], texts: Texts) -> pa.Array:
    state = status[0]
    if not feature.is_list:
        word = words[0]
        valid = state == Status.OK
        empty = empty_word(feature)
        if empty is not None and not valid.all():
            return _with_default(feature, word, state, empty, texts)
        return _elements(feature, word, valid, texts)
    n = words.shape[1]
    lengths = np.where(state == Status.OK, words[0], 0)
    place = np.arange(feature.k)[:, None] < lengths[None, :]
    flat = words[1 : 1 + feature.k].T[place.T]
    offsets = np.zeros(n + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    elements = _elements(feature, np.ascontiguousarray(flat), np.ones(len(flat), dtype=np.bool_), texts)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=pa.array(state != Status.OK))


def _with_default(
    feature: Feature, word: I64, state: npt.NDArray[np.uint8], empty: Any, texts: Texts
) -> pa.Array:
    if feature.result is Result.TEXT:
        filled = _elements(feature, word, state == Status.OK, texts)
        return pa.compute.if_else(pa.array(state == Status.DEFAULT), pa.scalar(empty, pa.string()), filled)
    bits = _float_bits(float(empty)) if feature.result is Result.FLOAT else int(empty)
    word = np.where(state == Status.DEFAULT, np.int64(bits), word)
    return _elements(feature, word, state != Status.OVERFLOW, texts)


def _elements(feature: Feature, word: I64, valid: npt.NDArray[np.bool_], texts: Texts) -> pa.Array:
    """Return words of one result type as an Arrow array, null where not valid."""
    mask = None if valid.all() else ~valid
    if feature.result is Result.FLOAT:
        return pa.array(word.view(np.float64), mask=mask)
    if feature.result is Result.BOOL:
        return pa.array(word != 0, mask=mask)
    if feature.result is Result.TEXT:
        return _text_array(np.where(valid, word, 0), mask, texts)
    if feature.result is Result.DECIMAL:
        element = arrow_type(feature)
        return _decimal_array(word, mask, element.value_type if feature.is_list else element)
    return pa.array(word, mask=mask)


def _text_array(ids: I64, mask: npt.NDArray[np.bool_] | None, texts: Texts) -> pa.Array:
    used, codes = np.unique(ids, return_inverse=True)
    known = len(texts) > 0
    names = pa.array([texts[i] for i in used.tolist()] if known else [None] * len(used), type=pa.string())
    return names.take(pa.array(codes.reshape(-1).astype(np.int64), mask=mask))


def _decimal_array(word: I64, mask: npt.NDArray[np.bool_] | None, kind: pa.DataType) -> pa.Array:
    pairs = np.empty((len(word), 2), dtype=np.int64)
    pairs[:, 0] = word
    pairs[:, 1] = word >> 63
    valid = None if mask is None else pa.py_buffer(np.packbits(~mask, bitorder="little").tobytes())
    return pa.Array.from_buffers(kind, len(word), [valid, pa.py_buffer(pairs.tobytes())])


def _float_bits(x: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", x))[0])


# one row, as Python objects


class RowReader:
    """Turns one item's words into Python objects; made once a plan, then shared by all that read it.

    Features that follow one another in the outputs and are read alike are read as one run.
    """

    def __init__(self, plan: ViewPlan) -> None:
        """Look at what each feature's words are."""
        self._starts = list(plan.out_starts[:-1])
        self._plain = not any(feature.is_list for feature in plan.features)  # an output a feature
        self._floats = any(feature.result is Result.FLOAT for feature in plan.features)
        self._empty = [_empty_value(feature) for feature in plan.features]
        self._runs: list[tuple[int, int, _Read]] = []
        for (kind, scale, k, _), run in groupby(zip(plan.features, plan.out_starts, strict=False), _likeness):
            starts = [start for _, start in run]
            self._runs.append((starts[0], starts[-1] + 1 + k, _reader(kind, scale, k)))

    def read(self, words: I64, status: U8, texts: Texts) -> tuple[list[Any], list[int]]:
        """Return the values and the kernel's `Status` of each feature.

        words: int64[n_out], status: uint8[n_out], of one item. A value is an int, float, Decimal, bool, str,
        list or None.
        """
        states = status.tolist()
        item = _Item(words.tolist(), words.view(np.float64).tolist() if self._floats else [], states, texts)
        values: list[Any] = []
        for start, end, read in self._runs:
            values += read(item, start, end)
        if not self._plain:
            states = [states[start] for start in self._starts]
        if any(states):
            for index, state in enumerate(states):
                if state:
                    values[index] = self._empty[index] if state == 1 else None
        return values, states


def to_python(plan: ViewPlan, values: Values, i: int, texts: Texts) -> list[Any]:
    """Return the values of item i, one a feature: int, float, Decimal, bool, str, list or None."""
    return row_reader(plan).read(values.words[:, i], values.status[:, i], texts)[0]


@lru_cache(maxsize=256)
def row_reader(plan: ViewPlan) -> RowReader:
    """Return the plan's reader; keep it where it is needed often: finding it looks at the whole plan."""
    return RowReader(plan)


def _empty_value(feature: Feature) -> Any:
    empty = empty_word(feature)
    if empty is not None and feature.result is Result.DECIMAL:
        return Decimal(int(empty)).scaleb(-feature.scale)
    return float(empty) if empty is not None and feature.result is Result.FLOAT else empty


class _Item(NamedTuple):
    """One item's words, as whole numbers and as floats, and their states."""

    ints: list[int]
    floats: list[float]
    states: list[int]
    texts: Texts


_Read = Callable[[_Item, int, int], list[Any]]


def _likeness(one: tuple[Feature, int]) -> tuple[Result, int, int, int]:
    """Return what features of one run have in common; a list is a run of its own."""
    feature, start = one
    k, own = (feature.k, start) if feature.is_list else (0, -1)
    return feature.result, feature.scale, k, own


def _reader(kind: Result, scale: int, k: int) -> _Read:
    """Return what reads the outputs start .. end - 1; where a feature is not OK it may give anything."""
    if k:
        elements = _reader(kind, scale, 0)
        return lambda item, start, _: [_list(item, start, elements)]
    if kind is Result.FLOAT:
        return lambda item, start, end: item.floats[start:end]
    if kind is Result.BOOL:
        return lambda item, start, end: [word != 0 for word in item.ints[start:end]]
    if kind is Result.TEXT:
        return _texts
    if kind is Result.DECIMAL:
        unit = Decimal(1).scaleb(-scale)
        return lambda item, start, end: [Decimal(word) * unit for word in item.ints[start:end]]
    return lambda item, start, end: item.ints[start:end]


def _texts(item: _Item, start: int, end: int) -> list[Any]:
    ints, states, texts = item.ints, item.states, item.texts
    return [texts[ints[at]] if states[at] == Status.OK else None for at in range(start, end)]


def _list(item: _Item, start: int, elements: _Read) -> list[Any]:
    """Return a list: its length, then its elements."""
    return elements(item, start + 1, start + 1 + item.ints[start])
