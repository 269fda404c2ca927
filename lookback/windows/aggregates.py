"""The aggregates as small algebras: `update`, `merge`, `finalize`.

Owns: what one more row, one more block, and the end of a window mean for each aggregate.
Refuses: where rows lie, and which of them are in the window (see `scan`).

A state is three words (n, a, b); n = 0 is the neutral element. Rows come newest first. `update` and `merge` are of
the float families, whose grouping matters; exact ones have loops of their own in `walk`:

    update(S, row)    row older than everything in S
    merge(S, T)       T older than everything in S
    finalize(acc)     -> (word, status)

To add an aggregate: name it in `plan.Agg`, give it a family in `layout` (an old one, or a new one with its
branch in `update` and `merge` here or its loop in `walk`), and a branch in `finalize_one`. The oracle in
`tests` comes first.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

import math

import numpy as np

from lookback.windows.cache import jit
from lookback.windows.layout import (
    F_ACC,
    F_ACC2,
    F_AGG,
    F_DELAY,
    F_FAMILY,
    F_FAMILY2,
    F_K,
    F_OUT,
    F_PARAM,
    F_SCALE,
    F_SCALE2,
    MAX_INT,
    MIN_FLOAT,
    MIN_INT,
    ROWS,
    SUM_FLOAT,
    SUM_INT,
    WELFORD,
)
from lookback.windows.numeric import as_float, as_word, exp2_neg, fits_64, float_128
from lookback.windows.plan import Agg, Status

OK = int(Status.OK)
DEFAULT = int(Status.DEFAULT)
OVERFLOW = int(Status.OVERFLOW)
COUNT, SUM, MEAN, MIN, MAX = (int(Agg[n]) for n in ("COUNT", "SUM", "MEAN", "MIN", "MAX"))
VARIANCE, STDDEV, FIRST, LAST = (int(Agg[n]) for n in ("VARIANCE", "STDDEV", "FIRST", "LAST"))
DISTINCT, TOP_K, MODE, ENTROPY = (int(Agg[n]) for n in ("DISTINCT", "TOP_K", "MODE", "ENTROPY"))
RATIO, SINCE_FIRST, SINCE_LAST = (int(Agg[n]) for n in ("RATIO", "TIME_SINCE_FIRST", "TIME_SINCE_LAST"))
MEAN_GAP, DECAYED_COUNT, DECAYED_SUM = (int(Agg[n]) for n in ("MEAN_GAP", "DECAYED_COUNT", "DECAYED_SUM"))
LAST_K_AGG, SEEN_BEFORE = int(Agg.LAST_K), int(Agg.SEEN_BEFORE)
POW10 = tuple(float(10**scale) for scale in range(40))


@jit
def weight(age, half_life):
    """Return 0.5 ** (age / half_life), for two ages in ms whose difference is read without sign."""
    return exp2_neg(float(np.uint64(age)) / float(half_life))


@jit
def update(family, floats, param, st, o, time, word):
    """Add one row, older than all of the state st[o:o+3] of a SUM_FLOAT, WELFORD or DECAY lane."""
    n = st[o]
    st[o] = n + 1
    if family == SUM_FLOAT:
        st[o + 1] = as_word(as_float(st[o + 1]) + as_float(word)) if n else word
    elif family == WELFORD:
        x = as_float(word) if floats else float(word)
        mean = as_float(st[o + 1])
        d = x - mean
        mean += d / float(n + 1)
        st[o + 1] = as_word(mean)
        st[o + 2] = as_word(as_float(st[o + 2]) + d * (x - mean))
    else:
        x = as_float(word) if floats else float(word)
        if n == 0:
            st[o + 1] = as_word(x)
            st[o + 2] = time
        else:
            st[o + 1] = as_word(as_float(st[o + 1]) + x * weight(st[o + 2] - time, param))


@jit
def beats(family, word, other):
    """Whether a value replaces another as the minimum or maximum."""
    if family == MIN_INT:
        return word < other
    if family == MAX_INT:
        return word > other
    if family == MIN_FLOAT:
        return as_float(word) < as_float(other)
    return as_float(word) > as_float(other)


@jit
def merge(family, param, st, o, older, p):
    """Add the state older[p:p+3], all of it older than the state st[o:o+3]."""
    n2 = older[p]
    if n2 == 0:
        return
    n = st[o]
    if n == 0:
        st[o], st[o + 1], st[o + 2] = n2, older[p + 1], older[p + 2]
        return
    st[o] = n + n2
    if family == SUM_FLOAT:
        st[o + 1] = as_word(as_float(st[o + 1]) + as_float(older[p + 1]))
    elif family == WELFORD:
        na = float(n)
        nb = float(n2)
        total = float(n + n2)
        mean = as_float(st[o + 1])
        d = as_float(older[p + 1]) - mean
        st[o + 1] = as_word(mean + d * (nb / total))
        m2 = as_float(st[o + 2]) + as_float(older[p + 2])
        st[o + 2] = as_word(m2 + d * d * (na * nb / total))
    else:
        w = weight(st[o + 2] - older[p + 2], param)
        st[o + 1] = as_word(as_float(st[o + 1]) + as_float(older[p + 1]) * w)


@jit
def number(family, acc, o):
    """Return a count's or a sum's accumulator as a float64, unscaled."""
    if family == ROWS:
        return float(acc[o])
    if family == SUM_INT:
        return float_128(acc[o + 1], acc[o + 2])
    return as_float(acc[o + 1])


@jit
def finite(x):
    """Return a float result, or overflow where it isn't finite."""
    if math.isfinite(x):
        return as_word(x), OK
    return np.int64(0), OVERFLOW


@jit
def elapsed(later, earlier):
    """Return later - earlier >= 0 in ms, or overflow where that is past int64."""
    d = later - earlier
    if d < 0:
        return np.int64(0), OVERFLOW
    return d, OK


@jit
def mean_gap(first, last, n):
    """Return (last - first) // (n - 1), the difference read as unsigned."""
    gap = np.uint64(last - first) // np.uint64(n - 1)
    if gap > np.uint64(0x7FFFFFFFFFFFFFFF):
        return np.int64(0), OVERFLOW
    return np.int64(gap), OK


@jit
def ratio(features, f, acc):
    """Return numerator / denominator, each a count or a sum, scales cancelled before the division."""
    a = number(features[f, F_FAMILY], acc, features[f, F_ACC])
    b = number(features[f, F_FAMILY2], acc, features[f, F_ACC2])
    if b == 0.0:
        return np.int64(0), DEFAULT
    up = features[f, F_SCALE2] - features[f, F_SCALE]
    if up > 0:
        a *= POW10[up]
    elif up < 0:
        b *= POW10[-up]
    return finite(a / b)


@jit
def finalize_one(features, f, acc, t):
    """Return (word, status) of a feature `finalize` has no loop of its own for, as of instant t (ms)."""
    agg = features[f, F_AGG]
    family = features[f, F_FAMILY]
    o = features[f, F_ACC]
    n = acc[o]
    if agg == RATIO:
        return ratio(features, f, acc)
    if agg == ENTROPY:
        return acc[o + 1], OK if n else DEFAULT
    if agg == MODE:
        return acc[o + 3], OK if n else DEFAULT
    if agg == SEEN_BEFORE:
        return acc[o + 1], OK if n else DEFAULT
    if n == 0:
        return np.int64(0), DEFAULT
    if agg == SUM:
        return finite(as_float(acc[o + 1]))
    if agg == MEAN:
        return finite(number(family, acc, o) / (float(n) * POW10[features[f, F_SCALE]]))
    if agg == FIRST:
        return acc[o + 2], OK
    if agg == LAST:
        return acc[o + 4], OK
    if agg == SINCE_FIRST:
        return elapsed(t - features[f, F_DELAY], acc[o + 1])
    if agg == SINCE_LAST:
        return elapsed(t - features[f, F_DELAY], acc[o + 1])
    if agg == DECAYED_COUNT or agg == DECAYED_SUM:
        w = weight(t - features[f, F_DELAY] - acc[o + 2], features[f, F_PARAM])
        return finite(as_float(acc[o + 1]) * w / POW10[features[f, F_SCALE]])
    if n < 2:
        return np.int64(0), DEFAULT
    if agg == MEAN_GAP:
        return mean_gap(acc[o + 1], acc[o + 3], n)
    scale = POW10[features[f, F_SCALE]]
    variance = as_float(acc[o + 2]) / float(n - 1)
    if agg == STDDEV:
        return finite(math.sqrt(variance) / scale)
    return finite(variance / (scale * scale))


@jit
def finalize(features, acc, stride, items, out, status):
    """Write the results of items 0 .. items - 1, whose accs lie `stride` words apart.

    The last two words of an item are its instant t (ms) and the column of the results it goes to.
    Feature by feature, so that what comes next is foreseen and results are written in runs.
    """
    end = items * stride
    for f in range(len(features)):
        agg = features[f, F_AGG]
        column = features[f, F_OUT]
        o = features[f, F_ACC]
        if agg == TOP_K or agg == LAST_K_AGG:
            o += 2 if agg == TOP_K else 0
            k = features[f, F_K]
            for p in range(0, end, stride):
                i = acc[p + stride - 1]
                n = min(k, acc[p + o])
                out[column, i] = n
                status[column, i] = OK if n else DEFAULT
                for j in range(k):
                    out[column + 1 + j, i] = acc[p + o + 1 + j] if j < n else 0
                    status[column + 1 + j, i] = OK if j < n else DEFAULT
        elif agg == COUNT or agg == DISTINCT:
            for p in range(0, end, stride):
                i = acc[p + stride - 1]
                n = acc[p + o]
                out[column, i] = n
                status[column, i] = OK if n else DEFAULT
        elif agg == MIN or agg == MAX:
            for p in range(0, end, stride):
                i = acc[p + stride - 1]
                n = acc[p + o]
                out[column, i] = acc[p + o + 1] if n else 0
                status[column, i] = OK if n else DEFAULT
        elif agg == SUM and features[f, F_FAMILY] == SUM_INT:
            for p in range(0, end, stride):
                i = acc[p + stride - 1]
                n = acc[p + o]
                fits = fits_64(acc[p + o + 1], acc[p + o + 2])
                out[column, i] = acc[p + o + 1] if n and fits else 0
                status[column, i] = DEFAULT if n == 0 else OK if fits else OVERFLOW
        else:
            for p in range(0, end, stride):
                i = acc[p + stride - 1]
                word, state = finalize_one(features, f, acc[p : p + stride], acc[p + stride - 2])
                out[column, i] = word if state == OK else 0
                status[column, i] = state
