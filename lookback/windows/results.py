"""Values as Arrow columns and as Python objects: the one place where words get their types back.

Owns: empty values, `default:`, the types of results. Refuses: computing anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookback.windows.log import Values
from lookback.windows.plan import Agg, Feature, Result, Status, ViewPlan
from lookback.windows.texts import TextTable

I64 = npt.NDArray[np.int64]
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


def to_python(plan: ViewPlan, values: Values, i: int, texts: Texts) -> list[Any]:
    """Return the values of item i, one a feature: int, float, Decimal, bool, str, list or None."""
    words = values.words[:, i].tolist()
    status = values.status[:, i].tolist()
    out: list[Any] = []
    for start, k, read, empty in _readers(plan):
        state = status[start]
        if state == 1:
            out.append(empty)
        elif state != 0:
            out.append(None)
        elif k:
            out.append([read(word, texts) for word in words[start + 1 : start + 1 + words[start]]])
        else:
            out.append(read(words[start], texts))
    return out


Reader = Callable[[int, Texts], Any]


@lru_cache(maxsize=256)
def _readers(plan: ViewPlan) -> list[tuple[int, int, Reader, Any]]:
    readers: list[tuple[int, int, Reader, Any]] = []
    for feature, start in zip(plan.features, plan.out_starts, strict=False):
        read = _reader(feature)
        empty = empty_word(feature)
        if empty is not None and feature.result is Result.DECIMAL:
            empty = read(int(empty), [])
        elif empty is not None and feature.result is Result.FLOAT:
            empty = float(empty)
        readers.append((start, feature.k if feature.is_list else 0, read, empty))
    return readers


def _reader(feature: Feature) -> Reader:
    if feature.result is Result.FLOAT:
        unpack, pack = struct.Struct("<d").unpack, struct.Struct("<q").pack
        return lambda word, texts: unpack(pack(word))[0]
    if feature.result is Result.BOOL:
        return lambda word, texts: word != 0
    if feature.result is Result.TEXT:
        return lambda word, texts: texts[word]
    if feature.result is Result.DECIMAL:
        exponent = -feature.scale
        return lambda word, texts: Decimal(word).scaleb(exponent)
    return lambda word, texts: word
