"""Counts by value: distinct, top_k, mode, entropy.

Owns: the hash table of a window's values and what is read from it. Refuses: where windows begin.

Values are told apart by their words: integers, float bits, text ids. The order of ties is that of the
values: numbers by size, texts by their UTF-8 bytes.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

import inspect

import numpy as np

from lookback.windows.cache import jit
from lookback.windows.layout import (
    L_ACC,
    L_BIT,
    L_COLUMN,
    L_FIRST,
    L_HIGH,
    L_KIND,
    L_WANT,
    L_WINDOWS,
    L_WORDS,
    SMALL,
    WANT_ENTROPY,
    WANT_TOP,
)
from lookback.windows.numeric import as_float, as_word, ln1
from lookback.windows.rows import C_RESERVE, takes_part

_ln = inspect.unwrap(ln1)  # run by Python: the same bits, and nothing is compiled or loaded to import this
LOG_TERMS = np.array([0.0, 0.0, *(c * _ln(float(c)) for c in range(2, 256))])  # the usual counts' c ln c


@jit
def less(kind, a, b, blob, ends):
    """Whether value a comes before value b; text i is blob[ends[i]:ends[i + 1]]."""
    if kind == 0:
        return a < b
    if kind == 1:
        return as_float(a) < as_float(b)
    start_a, start_b = ends[a], ends[b]
    length_a, length_b = ends[a + 1] - start_a, ends[b + 1] - start_b
    for j in range(min(length_a, length_b)):
        x, y = blob[start_a + j], blob[start_b + j]
        if x != y:
            return x < y
    return length_a < length_b


@jit
def mix(word):
    """Return a well spread non-negative hash of a word."""
    h = np.uint64(word) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(32)
    return np.int64(h >> np.uint64(1))


@jit
def put_top(acc, o, k, table, tops, n, value, count, kind, blob, ends):
    """Insert a value into the list acc[o + 3:] of up to k, by count down, value up; return its length.

    table[tops:] holds the counts of those in the list.
    """
    j = n
    while j > 0 and (
        table[tops + j - 1] < count
        or (table[tops + j - 1] == count and less(kind, value, acc[o + 3 + j - 1], blob, ends))
    ):
        j -= 1
    if j >= k:
        return n
    n = min(n + 1, k)
    for x in range(n - 1, j, -1):
        table[tops + x] = table[tops + x - 1]
        acc[o + 3 + x] = acc[o + 3 + x - 1]
    table[tops + j] = count
    acc[o + 3 + j] = value
    return n


@jit
def log_term(count):
    """Return c ln c as (whole, part): whole + part / 2**52, exactly the float's value."""
    if count < len(LOG_TERMS):
        x = LOG_TERMS[count]
    else:
        x = float(count) * ln1(float(count))
    whole = np.int64(x)
    return whole, np.int64((x - float(whole)) * 4503599627370496.0)


@jit
def entropy_of(distinct, whole, part, rows):
    """Return ln N - (sum of c ln c) / N in nats; N = rows, the sum being whole + part / 2**52."""
    if distinct < 2:
        return 0.0
    total = float(whole) + float(part) * 2.220446049250313e-16
    return max(0.0, ln1(float(rows)) - total / float(rows))


@jit
def scan_counter(heap, base, cap, lane, windows, at, acc, room, blob, ends, hot, ctl):
    """COUNTER: count each window's values anew. O(rows of the longest window).

    acc[room:] is scratch for up to SMALL rows; beyond, the arena's reserve is (see `hot`).
    """
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    k = lane[L_WORDS] - 3
    j = at[lane[L_HIGH]]
    most = j - at[windows[lane[L_FIRST] + lane[L_WINDOWS] - 1]]
    size = 16
    while size < 2 * most:
        size *= 2
    table = acc[room:] if most <= SMALL else hot[len(hot) - ctl[C_RESERVE] :]
    values, counts, tops = size, size + size // 2, 2 * size
    for h in range(size):
        table[h] = -1
    n = 0
    rows = 0
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        for i in range(low, j):
            if not takes_part(heap, base, cap, bit, i):
                continue
            rows += 1
            word = heap[column + i]
            h = mix(word) & (size - 1)
            while table[h] >= 0 and table[values + table[h]] != word:
                h = (h + 1) & (size - 1)
            if table[h] < 0:
                table[h] = n
                table[values + n] = word
                table[counts + n] = 0
                n += 1
            table[counts + table[h]] += 1
        j = low
        o = lane[L_ACC] + lane[L_WORDS] * w
        acc[o] = n
        if lane[L_WANT] & WANT_TOP:
            length = 0
            for v in range(n):
                value, count = table[values + v], table[counts + v]
                length = put_top(acc, o, k, table, tops, length, value, count, lane[L_KIND], blob, ends)
            acc[o + 2] = length
        if lane[L_WANT] & WANT_ENTROPY:
            whole = 0
            part = 0
            for v in range(n):
                more, rest = log_term(table[counts + v])
                whole += more
                part += rest
                whole += part >> 52
                part &= (1 << 52) - 1
            acc[o + 1] = as_word(entropy_of(n, whole, part, rows))
