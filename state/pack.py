"""Compiled passes that turn many logs into the bytes of records; `codec` owns the grammar, this the loops.

part := where its log begins, rows of the log, its first row, its end, kind, life (-1: none), chunks, covers, newest
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import entry, jit
from lookback.windows.crc import crc32, put_bytes, put_number

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

BASE, ROWS, FIRST, END, KIND, LIFE, CHUNKS, COVERS, NEWEST = range(9)
PART_WORDS = 9
HEAD_BYTES = 36  # the checksum counted
LONG = 0xFFFF


@jit
def _own_id(text: int, n: int, ids: I64, first: int, count: int, owner: I64, own: I64) -> int:
    """Return how many ids are given after this text of record n: one more where it is new to the record."""
    if owner[text] != n:
        owner[text] = n
        own[text] = count - first
        ids[count] = text
        count += 1
    return count


@entry
def number_texts(
    flat: I64, life: I64, parts: I64, columns: I64, lives: I64, owner: I64, own: I64, ids: I64, id_starts: I64
) -> None:
    """Put ids of the record's own in place of text ids, record by record, in the order they are met.

    flat, life: changed. columns: rows' words that are text ids; lives: (count, id) words of life that are.
    owner: filled with -1, own: as long as the table of texts; ids, id_starts: what each record's ids mean.
    """
    count = 0
    for n in range(len(parts)):
        first = count
        id_starts[n] = first
        for c in range(len(columns)):
            start = parts[n, BASE] + columns[c] * parts[n, ROWS]
            for at in range(start + parts[n, FIRST], start + parts[n, END]):
                text = flat[at]
                count = _own_id(text, n, ids, first, count, owner, own)
                flat[at] = own[text]
        if parts[n, LIFE] < 0:
            continue
        for k in range(len(lives)):
            if life[parts[n, LIFE], lives[k, 0]] > 0:
                text = life[parts[n, LIFE], lives[k, 1]]
                count = _own_id(text, n, ids, first, count, owner, own)
                life[parts[n, LIFE], lives[k, 1]] = own[text]
    id_starts[len(parts)] = count


@entry
def sizes(parts: I64, columns: int, life_words: int, ids: I64, id_starts: I64, ends: I64, out: I64) -> None:
    """Return in out[n] how many bytes record n takes."""
    for n in range(len(parts)):
        size = HEAD_BYTES + 8 * columns * (parts[n, END] - parts[n, FIRST])
        if parts[n, LIFE] >= 0:
            size += 8 * life_words
        if id_starts[n + 1] - id_starts[n] >= LONG:
            size += 4
        for at in range(id_starts[n], id_starts[n + 1]):
            size += 4 + ends[ids[at] + 1] - ends[ids[at]]
        out[n] = size


@entry
def pack(
    version: int, flat: U8, columns: int, parts: I64, life: U8, life_words: int,
    ids: I64, id_starts: I64, blob: U8, ends: I64, places: I64, out: U8,
) -> None:  # fmt: skip
    """Write record n to out[places[n]:places[n + 1]]. flat, life: bytes of int64 words."""
    for n in range(len(parts)):
        rows = parts[n, END] - parts[n, FIRST]
        lives = life_words if parts[n, LIFE] >= 0 else 0
        texts = id_starts[n + 1] - id_starts[n]
        at = places[n] + 4
        at = put_number(out, at, version, 1)
        at = put_number(out, at, parts[n, KIND], 1)
        at = put_number(out, at, columns - 2, 2)
        at = put_number(out, at, lives, 2)
        at = put_number(out, at, min(texts, LONG), 2)
        at = put_number(out, at, rows, 4)
        at = put_number(out, at, parts[n, CHUNKS], 4)
        at = put_number(out, at, parts[n, COVERS], 8)
        at = put_number(out, at, parts[n, NEWEST], 8)
        if lives:
            at = put_bytes(out, at, life, 8 * lives * parts[n, LIFE], 8 * lives * (parts[n, LIFE] + 1))
        if texts >= LONG:
            at = put_number(out, at, texts, 4)
        for k in range(id_starts[n], id_starts[n + 1]):
            start, end = ends[ids[k]], ends[ids[k] + 1]
            at = put_number(out, at, end - start, 4)
            at = put_bytes(out, at, blob, start, end)
        for c in range(columns):
            start = 8 * (parts[n, BASE] + c * parts[n, ROWS] + parts[n, FIRST])
            at = put_bytes(out, at, flat, start, start + 8 * rows)
        put_number(out, places[n], crc32(out, places[n] + 4, at), 4)
