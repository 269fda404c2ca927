"""How one entity's log is cut into records.

A log of up to INLINE_ROWS rows is one record. A longer one seals its oldest rows into chunks, named by the place of
their first row when they were sealed, so that one event rewrites the tail (or the one chunk that it falls into),
never the log. A chunk reaches to the next one's place; it is dropped when all of it is past.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookback.windows.plan import ViewPlan
from lookback.windows.text_words import TextWords
from lookback.windows.texts import TextTable
from state import codec, keys
from state.errors import StateError
from state.rocksdb import Database
from state.texts import restore

I64 = npt.NDArray[np.int64]

INLINE_ROWS = 64


class Records:
    """Reads the records of one view; knows where the long logs in memory are cut."""

    def __init__(self, name: str, tag: bytes, plan: ViewPlan, words: TextWords, life_words: int) -> None:
        self._name = name
        self._tag = tag
        self._width = plan.width
        self._words = words
        self._life_words = life_words
        # Per slot of a long log: the places where its chunks begin, the tail's last.
        self._cuts: dict[int, list[tuple[int, int]]] = {}

    def forget(self, slot: int) -> None:
        """Forget where a slot's log is cut: it leaves memory."""
        self._cuts.pop(slot, None)

    # --- reading -----------------------------------------------------------------------------------------

    def read(
        self, db: Database, text: str, record: bytes, slot: int, texts: TextTable
    ) -> tuple[I64, I64, int]:
        """Return (rows, life, covers) of a stored entity, its chunks joined, text ids those of `texts`."""
        what = f"the record of {self._name} {text!r} in {db.path}"
        stored = codec.decode(record, self._width, self._life_words, what)
        tail, life = self._with_texts(stored, texts)
        if not stored.chunks:
            return tail, life, stored.covers_ms
        prefix = keys.chunk_prefix(self._tag, text)
        parts, cuts = [], []
        for raw, value in db.scan(prefix, keys.after(prefix)):
            chunk = codec.decode(value, self._width, 0, what)
            cuts.append(keys.read_place(raw))
            parts.append(self._with_texts(chunk, texts)[0])
        if len(parts) != stored.chunks:
            raise StateError(
                f"{what} has {len(parts)} of {stored.chunks} chunks: restore this state from a backup"
            )
        if tail.shape[1]:
            cuts.append((int(tail[0, 0]), int(tail[1, 0])))
        self._cuts[slot] = cuts
        rows = np.concatenate([*parts, tail], axis=1)
        # A chunk is dropped when all of it is past; until then it may begin with rows already folded.
        first = int(np.searchsorted(rows[0], stored.covers_ms, "right"))
        return rows[:, first:], life, stored.covers_ms

    def _with_texts(self, stored: codec.Stored, texts: TextTable) -> tuple[I64, I64]:
        if not stored.texts:
            return stored.rows, stored.life
        return restore(stored.rows, stored.life, texts.intern(stored.texts), self._words)

    # --- writing -----------------------------------------------------------------------------------------

    def long_slots(self) -> I64:
        """Return the slots whose logs have chunks. int64[n]."""
        return np.fromiter(self._cuts, np.int64, len(self._cuts))

    def cut(
        self, slot: int, key: str, time_ms: I64, position: I64, covers_ms: int, dirty_from_ms: int
    ) -> tuple[list[bytes], list[Piece]]:
        """Return (keys of chunks that are past, the records to write) of a long log: its rows' places are given.

        The records are the chunks that a row at or after `dirty_from_ms` is in, and last the tail.
        """
        prefix = keys.chunk_prefix(self._tag, key)
        cuts = self._cuts.get(slot, [])
        past: list[bytes] = []
        while len(cuts) > 1 and cuts[1][0] <= covers_ms:  # all of the first chunk is past
            past.append(prefix + keys.place(*cuts.pop(0)))
        # Rows before the first chunk (late ones) belong to it.
        first_dirty = max(0, bisect_right(cuts, (dirty_from_ms, -1)) - 1)
        starts = _seal(time_ms, position, cuts)
        ends = [*starts[1:], len(time_ms)]
        chunks = len(starts) - 1
        pieces = [
            Piece(prefix + keys.place(*cuts[n]), starts[n], ends[n]) for n in range(first_dirty, chunks)
        ]
        if chunks:
            self._cuts[slot] = cuts
        else:  # all fits the tail again
            self._cuts.pop(slot, None)
        return past, [*pieces, Piece(keys.entity(self._tag, key), starts[-1], ends[-1], chunks)]


class Piece(NamedTuple):
    """One record of a long log: its key and rows; chunks: of the tail, how many lie before it."""

    key: bytes
    first: int
    end: int
    chunks: int = -1


def _seal(time_ms: I64, position: I64, cuts: list[tuple[int, int]]) -> list[int]:
    """Seal all but the newest rows, where the tail has grown long; return each part's first row, the tail's last.

    cuts: the places of the parts, brought up to date.
    """
    starts = [_row_at(time_ms, position, place) for place in cuts] or [0]
    starts[0] = 0
    count = len(time_ms)
    size = INLINE_ROWS if count <= 16 * INLINE_ROWS else 4 * INLINE_ROWS
    if count - starts[-1] > 2 * size:
        start = starts.pop()
        del cuts[len(starts) :]
        while True:
            cuts.append((int(time_ms[start]), int(position[start])))
            starts.append(start)
            if count - start <= size:
                break
            start += size
    return starts


def _row_at(time_ms: I64, position: I64, place: tuple[int, int]) -> int:
    """Return the index of the first row at or after `place` = (time, position)."""
    low = int(np.searchsorted(time_ms, place[0], "left"))
    high = int(np.searchsorted(time_ms, place[0], "right"))
    return low + int(np.searchsorted(position[low:high], place[1], "left"))
