"""Records on their way to Redis: columns in, one MessagePack array a record out, no Python per value.

Owns: the numbers' texts and the bytes that the write script unpacks (see `redis_scripts`):

    chunk   := ("$" size CRLF record CRLF)*           bulk strings, ready for the socket
    record  := [key, event_time, as_of, covers_from, flags, expires, key_text, status, life, value*, (score, row)*]
    flags   := "r"? "w"? "s"?       replace; whole: all rows that there are; more than the store takes
    status  := digit*               one a feature: 0 ok, 1 default, 2 overflow
    row     := word{2 + width} utf8*    each word big-endian, sign flipped; of a text: 0, or its length + 1

All of a record are strings; an empty one stands for "none". Refuses: what the values mean (`redis_values`).
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

import numpy as np

from lookback.windows.cache import entry, jit

NONE = -(2**63)  # of a time: there is none
REPLACE, WHOLE, STALE = 1, 2, 4  # bits of flags
WORD, DECIMAL, TRUTH, TEXT, POOL = range(5)  # how a value's word becomes text
HEAD_STRINGS = 9  # before the values
MAX_EXACT = 1 << 53  # scores are doubles: times beyond it share one, and the row's own bytes sort them
STRING_HEAD = 5  # bytes at most before a string,
NUMBER_BYTES = 24  # and of a number: 19 digits, sign, point
TRUTHS = np.frombuffer(b"truefalse", np.uint8)
RECORD_HEAD = 32  # of a record: its size as a bulk string and its count of strings


@jit
def magnitude(value):
    """Return the absolute value of an int64 as a uint64."""
    bits = np.uint64(value)
    return ~bits + np.uint64(1) if value < 0 else bits


@jit
def digits(value):
    """Return how many decimal digits a uint64 has."""
    count = 1
    while value >= np.uint64(10):
        value //= np.uint64(10)
        count += 1
    return count


@jit
def put_digits(out, at, value, count):
    """Write the last `count` digits of a uint64, zeros before it where it has fewer; return where they end."""
    for i in range(at + count - 1, at - 1, -1):
        out[i] = 48 + value % np.uint64(10)
        value //= np.uint64(10)
    return at + count


@jit
def put_string_head(out, at, size):
    """Write what begins a MessagePack string of `size` bytes; return where it ends."""
    if size < 32:
        out[at] = 0xA0 | size
        return at + 1
    if size < 256:
        out[at], out[at + 1] = 0xD9, size
        return at + 2
    if size < 65536:
        out[at], out[at + 1], out[at + 2] = 0xDA, size >> 8, size & 255
        return at + 3
    out[at] = 0xDB
    for i in range(4):
        out[at + 1 + i] = (size >> (24 - 8 * i)) & 255
    return at + 5


@jit
def put_bytes(out, at, blob, start, end):
    """Copy blob[start:end]; return where the copy ends."""
    for i in range(start, end):
        out[at] = blob[i]
        at += 1
    return at


@jit
def put_string(out, at, blob, start, end):
    """Write blob[start:end] as a string."""
    return put_bytes(out, put_string_head(out, at, end - start), blob, start, end)


@jit
def put_number(out, at, value, scale):
    """Write value / 10**scale as a string, with exactly `scale` digits after the point."""
    size = magnitude(value)
    count = max(digits(size), scale + 1)
    at = put_string_head(out, at, count + (value < 0) + (scale > 0))
    if value < 0:
        out[at] = 45
        at += 1
    if scale == 0:
        return put_digits(out, at, size, count)
    power = np.uint64(1)
    for _ in range(scale):
        power *= np.uint64(10)
    at = put_digits(out, at, size // power, count - scale)
    out[at] = 46
    return put_digits(out, at + 1, size % power, scale)


@jit
def put_time(out, at, value):
    """Write a time as a string, none as an empty one."""
    if value == NONE:
        out[at] = 0xA0
        return at + 1
    return put_number(out, at, value, 0)


@jit
def put_value(out, at, i, f, spec, words, status, empties, empty_ends, texts, text_ends, pool, pool_ends):
    """Write feature f of entity i."""
    column = spec[f, 1]
    state = status[column, i]
    if state == 1:
        return put_string(out, at, empties, empty_ends[f], empty_ends[f + 1])
    if state != 0:
        out[at] = 0xA0
        return at + 1
    kind = spec[f, 0]
    word = words[column, i]
    if kind in (WORD, DECIMAL):
        return put_number(out, at, word, spec[f, 2])
    if kind == TRUTH:
        return put_string(out, at, TRUTHS, 0, 4) if word != 0 else put_string(out, at, TRUTHS, 4, 9)
    if kind == TEXT:
        return put_string(out, at, texts, text_ends[word], text_ends[word + 1])
    place = spec[f, 2] * words.shape[1] + i
    return put_string(out, at, pool, pool_ends[place], pool_ends[place + 1])


@jit
def put_row(out, at, j, rows, text_words, cells, texts, text_ends):
    """Write row j: its score, then its bytes. cells: int64[texts a row, m], -1 where there is none."""
    time = rows[0, j]
    at = put_number(out, at, min(max(time, -MAX_EXACT), MAX_EXACT), 0)
    size = 8 * rows.shape[0]
    for c in range(len(text_words)):
        cell = cells[c, j]
        if cell >= 0:
            size += text_ends[cell + 1] - text_ends[cell]
    at = put_string_head(out, at, size)
    c = 0
    for w in range(rows.shape[0]):
        word = rows[w, j]
        if c < len(text_words) and text_words[c] == w:
            cell = cells[c, j]
            word = text_ends[cell + 1] - text_ends[cell] + 1 if cell >= 0 else 0
            c += 1
        bits = np.uint64(word) ^ np.uint64(1 << 63)
        for b in range(8):
            out[at + b] = (bits >> np.uint64(56 - 8 * b)) & np.uint64(255)
        at += 8
    for c in range(len(text_words)):
        cell = cells[c, j]
        if cell >= 0:
            at = put_bytes(out, at, texts, text_ends[cell], text_ends[cell + 1])
    return at


@jit
def put_flags(out, at, flags):
    """Write the flags as a string of their letters."""
    start = at
    at += 1
    for bit, letter in ((REPLACE, 114), (WHOLE, 119), (STALE, 115)):
        if flags & bit:
            out[at] = letter
            at += 1
    out[start] = 0xA0 | (at - start - 1)
    return at


@jit
def close_record(out, start, end, strings):
    """Put the size as a bulk string and the count before a record that lies at start + RECORD_HEAD."""
    body = start + RECORD_HEAD
    size = np.uint64(end - body + 3)
    count = digits(size)
    at = start
    out[at] = 36
    at = put_digits(out, at + 1, size, count)
    out[at], out[at + 1] = 13, 10
    out[at + 2], out[at + 3], out[at + 4] = 0xDC, strings >> 8, strings & 255
    at += 5
    for i in range(body, end):  # it lies a few bytes further on
        out[at] = out[i]
        at += 1
    out[at], out[at + 1] = 13, 10
    return at + 2


@entry
def pack(
    out, ends, prefix, keys, key_ends, long_texts, long_ends, heads, flags, life, life_ends,
    spec, words, status, empties, empty_ends, texts, text_ends, pool, pool_ends,
    row_starts, rows, text_words, cells,
):  # fmt: skip
    """Write n records; ends[i + 1] is where record i ends. `out` must be as large as `room` says.

    keys, long_texts, life, empties, texts, pool: uint8[], one string after the other, cut at their *_ends.
    heads: int64[4, n] event time, as of, covers from, expires (NONE: none). spec: int64[F, 3] of each feature
    (kind, output column, scale or place in the pool). rows of a record with STALE are left out.
    """
    at = 0
    ends[0] = 0
    for i in range(len(flags)):
        start = at
        at += RECORD_HEAD
        at = put_string_head(out, at, len(prefix) + key_ends[i + 1] - key_ends[i] + 1)
        at = put_bytes(out, at, prefix, 0, len(prefix))
        at = put_bytes(out, at, keys, key_ends[i], key_ends[i + 1])
        out[at] = 125
        at += 1
        for h in range(3):
            at = put_time(out, at, heads[h, i])
        at = put_flags(out, at, flags[i])
        at = put_time(out, at, heads[3, i])
        at = put_string(out, at, long_texts, long_ends[i], long_ends[i + 1])
        at = put_string_head(out, at, len(spec))
        for f in range(len(spec)):
            out[at] = 48 + status[spec[f, 1], i]
            at += 1
        at = put_string(out, at, life, life_ends[i], life_ends[i + 1])
        for f in range(len(spec)):
            at = put_value(
                out, at, i, f, spec, words, status, empties, empty_ends, texts, text_ends, pool, pool_ends
            )
        strings = HEAD_STRINGS + len(spec)
        if not flags[i] & STALE:
            for j in range(row_starts[i], row_starts[i + 1]):
                if rows[0, j] > heads[2, i]:
                    at = put_row(out, at, j, rows, text_words, cells, texts, text_ends)
                    strings += 2
        at = close_record(out, start, at, strings)
        ends[i + 1] = at
    return at
