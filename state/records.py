"""How one entity's log is cut into records.

A log of up to INLINE_ROWS rows is one record. A longer one seals its oldest rows into chunks, named by the place of
their first row when they were sealed, so that one event rewrites the tail (or the one chunk that it falls into),
never the log. A chunk reaches to the next one's place; it is dropped when all of it is past.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookback.windows.plan import ViewPlan
from lookback.windows.text_words import TextWords
from lookback.windows.texts import TextTable
from state import codec, keys
from state.errors import StateError
from state.rocksdb import Database, Put
from state.texts import pick, restore

I64 = npt.NDArray[np.int64]

INLINE_ROWS = 64
_NO_LIFE: I64 = np.empty(0, np.int64)


class Records:
    """Writes and reads the records of one view; knows where the long logs in memory are cut."""

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

    def is_long(self, slot: int) -> bool:
        """Return whether a slot's log has chunks."""
        return slot in self._cuts

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

    def short(
        self,
        key: str,
        columns: memoryview,
        rows: int,
        texts: Sequence[bytes],
        life: bytes,
        covers: int,
        newest: int,
    ) -> Put:
        """Return the write of a log that is one record; `columns` are its bytes, text ids index `texts`."""
        record = codec.encode(codec.ENTITY, columns, rows, self._width, texts, life, 0, covers, newest)
        return keys.entity(self._tag, key), record

    def long(
        self,
        slot: int,
        key: str,
        rows: I64,
        texts: Sequence[bytes],
        life: I64,
        covers: int,
        newest: int,
        dirty_from_ms: int,
    ) -> list[Put]:
        """Return the writes of a long log: the chunks that a row at or after `dirty_from_ms` is in, and the tail."""
        prefix = keys.chunk_prefix(self._tag, key)
        cuts = self._cuts.get(slot, [])
        out: list[Put] = []
        while len(cuts) > 1 and cuts[1][0] <= covers:  # all of the first chunk is past
            out.append((prefix + keys.place(*cuts.pop(0)), None))
        # Rows before the first chunk (late ones) belong to it.
        first_dirty = max(0, bisect_right(cuts, (dirty_from_ms, -1)) - 1)
        starts = _seal(rows, cuts)
        ends = [*starts[1:], rows.shape[1]]
        for n in range(first_dirty, len(starts) - 1):
            record = self._encode(codec.CHUNK, rows[:, starts[n] : ends[n]], texts, _NO_LIFE)
            out.append((prefix + keys.place(*cuts[n]), record))
        chunks = len(starts) - 1
        if chunks:
            self._cuts[slot] = cuts
        else:  # all fits the tail again
            self._cuts.pop(slot, None)
        tail = self._encode(codec.ENTITY, rows[:, starts[-1] :], texts, life, chunks, covers, newest)
        out.append((keys.entity(self._tag, key), tail))
        return out

    def _encode(
        self,
        kind: int,
        rows: I64,
        texts: Sequence[bytes],
        life: I64,
        chunks: int = 0,
        covers: int = 0,
        newest: int = 0,
    ) -> bytes:
        if self._words.rows:
            texts, rows, life = pick(texts, rows, life, self._words)
        count = rows.shape[1]
        return codec.encode(
            kind, rows.tobytes(), count, self._width, texts, life.tobytes(), chunks, covers, newest
        )


def _seal(rows: I64, cuts: list[tuple[int, int]]) -> list[int]:
    """Seal all but the newest rows, where the tail has grown long; return each part's first row, the tail's last.

    cuts: the places of the parts, brought up to date.
    """
    starts = [_row_at(rows, place) for place in cuts] or [0]
    starts[0] = 0
    count = rows.shape[1]
    size = INLINE_ROWS if count <= 16 * INLINE_ROWS else 4 * INLINE_ROWS
    if count - starts[-1] > 2 * size:
        start = starts.pop()
        del cuts[len(starts) :]
        while True:
            cuts.append((int(rows[0, start]), int(rows[1, start])))
            starts.append(start)
            if count - start <= size:
                break
            start += size
    return starts


def _row_at(rows: I64, place: tuple[int, int]) -> int:
    """Return the index of the first row at or after `place` = (time, position)."""
    low = int(np.searchsorted(rows[0], place[0], "left"))
    high = int(np.searchsorted(rows[0], place[0], "right"))
    return low + int(np.searchsorted(rows[1, low:high], place[1], "left"))
