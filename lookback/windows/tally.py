"""Counts by value: distinct, top_k, mode, entropy.

Owns: the hash table of a window's values and what is read from it. Refuses: where windows begin.

Values are told apart by their words: integers, float bits, text ids. The order of ties is that of the
values: numbers by size, texts by their UTF-8 bytes.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

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
    WANT_ENTROPY,
    WANT_TOP,
)
from lookback.windows.numeric import as_float, as_word, ln1
from lookback.windows.rows import takes_part


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
def put_top(acc, o, k, counts, n, value, count, kind, blob, ends):
    """Insert a value into the list acc[o + 3:] of up to k, kept by (count down, value up); return its length."""
    j = n
    while j > 0 and (
        counts[j - 1] < count
        or (counts[j - 1] == count and less(kind, value, acc[o + 3 + j - 1], blob, ends))
    ):
        j -= 1
    if j >= k:
        return n
    n = min(n + 1, k)
    for x in range(n - 1, j, -1):
        counts[x] = counts[x - 1]
        acc[o + 3 + x] = acc[o + 3 + x - 1]
    counts[j] = count
    acc[o + 3 + j] = value
    return n


@jit
def entropy_of(counts, n, rows):
    """Return -sum(c/N ln(c/N)) in nats of counts[:n], which get sorted; N = rows.

    Bits: for each distinct count c, ascending, of m values: total += m * (c/N * (ln N - ln c)).
    """
    ordered = np.sort(counts[:n])
    log_rows = ln1(float(rows))
    total = 0.0
    i = 0
    while i < n:
        c = ordered[i]
        same = i
        while i < n and ordered[i] == c:
            i += 1
        total += float(i - same) * (float(c) / float(rows) * (log_rows - ln1(float(c))))
    return total


@jit
def scan_counter(heap, base, cap, lane, windows, at, acc, blob, ends):
    """COUNTER: count each window's values anew. O(rows of the longest window)."""
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    kind = lane[L_KIND]
    k = lane[L_WORDS] - 3
    j = at[lane[L_HIGH]]
    most = j - at[windows[lane[L_FIRST] + lane[L_WINDOWS] - 1]]
    size = 16
    while size < 2 * most:
        size *= 2
    place = np.full(size, -1, np.int64)
    values = np.empty(most + 1, np.int64)
    counts = np.empty(most + 1, np.int64)
    tops = np.empty(k + 1, np.int64)
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
            while place[h] >= 0 and values[place[h]] != word:
                h = (h + 1) & (size - 1)
            if place[h] < 0:
                place[h] = n
                values[n] = word
                counts[n] = 0
                n += 1
            counts[place[h]] += 1
        j = low
        o = lane[L_ACC] + lane[L_WORDS] * w
        acc[o] = n
        acc[o + 2] = 0
        if lane[L_WANT] & WANT_TOP:
            length = 0
            for v in range(n):
                length = put_top(acc, o, k, tops, length, values[v], counts[v], kind, blob, ends)
            acc[o + 2] = length
        if lane[L_WANT] & WANT_ENTROPY:
            acc[o + 1] = as_word(entropy_of(counts, n, rows) if n else 0.0)
