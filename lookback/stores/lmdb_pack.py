"""Compiled passes over all entities of a write: ids of texts, chunks of dictionaries, records.

Owns: the loops. Refuses: the grammar of the bytes (`lmdb_record`), what is written when.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import entry, jit
from lookback.windows.crc import crc32, put_bytes, put_number

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

FREE = -1
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@jit
def _place(cells: I64, cell: int) -> int:
    """Return where in a hash table (of a power of two, never full) a cell is or belongs."""
    mask = len(cells) - 1
    at = np.int64((np.uint64(cell) * _SPREAD) >> np.uint64(32)) & mask
    while cells[at] != FREE and cells[at] != cell:
        at = (at + 1) & mask
    return int(at)


@entry
def move_cells(cells: I64, ids: I32, new_cells: I64, new_ids: I32) -> None:
    """Fill an empty, larger table with what another one holds."""
    for i in range(len(cells)):
        if cells[i] != FREE:
            at = _place(new_cells, cells[i])
            new_cells[at] = cells[i]
            new_ids[at] = ids[i]


@entry
def give_ids(
    slots: I64, texts: I64, cells: I64, ids: I32, counts: I64, last: I64, text_of: I32, before: I32, used: int, out: I64
) -> int:  # fmt: skip
    """Return how many texts are known after giving ids to those new to their dictionary, from 1 on, in order.

    slots: int64[m], the dictionary of each row; texts, out: int64[w, m], table numbers (-1: null) to ids (0: null).
    cells, ids: hash table of (slot << 32 | text) with room for all. counts, last: of each slot, how many texts and
    the newest one's place in (text_of, before), which list them from the newest back.
    """
    for row in range(texts.shape[1]):
        slot = slots[row]
        for w in range(texts.shape[0]):
            text = texts[w, row]
            if text < 0:
                out[w, row] = 0
                continue
            cell = slot << 32 | text
            at = _place(cells, cell)
            if cells[at] == FREE:
                counts[slot] += 1
                cells[at] = cell
                ids[at] = counts[slot]
                text_of[used] = text
                before[used] = last[slot]
                last[slot] = used
                used += 1
            out[w, row] = ids[at]
    return used


@entry
def newest_texts(slots: I64, starts: I64, last: I64, text_of: I32, before: I32, out: I64) -> None:
    """Put the newest texts of dictionary slots[n] into out[starts[n]:starts[n + 1]], oldest first."""
    for n in range(len(slots)):
        place = last[slots[n]]
        for at in range(starts[n + 1] - 1, starts[n] - 1, -1):
            out[at] = text_of[place]
            place = np.int64(before[place])


@jit
def put_texts(out: U8, at: int, texts: I64, first: int, end: int, blob: U8, ends: I64) -> int:
    """Write lengths and bytes of texts[first:end] (-1: empty) at out[at]; return where they end."""
    for k in range(first, end):
        text = texts[k]
        at = put_number(out, at, ends[text + 1] - ends[text] if text >= 0 else 0, 4)
    for k in range(first, end):
        text = texts[k]
        if text >= 0:
            at = put_bytes(out, at, blob, ends[text], ends[text + 1])
    return at


@entry
def pack_chunks(
    version: int, texts: I64, firsts: I64, blob: U8, ends: I64, places: I64, out: U8
) -> None:  # fmt: skip
    """Write the chunk of texts[firsts[n]:firsts[n + 1]] to out[places[n]:places[n + 1]]."""
    for n in range(len(firsts) - 1):
        start = places[n]
        out[start] = version
        out[start + 1] = 0
        at = put_number(out, start + 6, firsts[n + 1] - firsts[n], 2)
        at = put_texts(out, at, texts, firsts[n], firsts[n + 1], blob, ends)
        put_number(out, start + 2, crc32(out, start + 6, at), 4)


@entry
def pack_records(
    heads: U8, words: I64, life: I64, status: U8, texts: I64, firsts: I64, blob: U8, ends: I64, places: I64, out: U8
) -> None:  # fmt: skip
    """Write record n to out[places[n]:places[n + 1]].

    heads: uint8[n, head]. words, status: [outputs, n]. life: [n, L]. Its texts: texts[firsts[n]:firsts[n + 1]].
    """
    for n in range(len(heads)):
        at = places[n]
        for k in range(heads.shape[1]):
            out[at + k] = heads[n, k]
        at += heads.shape[1]
        for k in range(words.shape[0]):
            at = put_number(out, at, words[k, n], 8)
        for k in range(life.shape[1]):
            at = put_number(out, at, life[n, k], 8)
        for k in range(status.shape[0]):
            out[at + k] = status[k, n]
        at += status.shape[0]
        at = put_texts(out, at, texts, firsts[n], firsts[n + 1], blob, ends)
        put_number(out, at, crc32(out, places[n], at), 4)
