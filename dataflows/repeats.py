"""The ids that a partition has had of late, so that an event sent again is told from a new one.

Owns: what is remembered, for how long, and from where it can be read again. Refuses: who is late or ahead.

An event is *seen* when it is neither bad, late nor ahead and has an id. It is a repeat when an event seen before it in
its partition has the same id and an event time >= watermark - horizon. Both the watermark and what is seen leave out
whether an event was a repeat, so the memory as of an offset is a function of the events seen in the horizon before it,
however long the chain of repeats: it can be read anew from any offset before which all event times are older.

    rung := offset watermark_ms seen    as of an offset: the watermark, and how many events were seen, before it

    event time  ───────────●───────────(───────────────────────▶│ watermark
                           rung        │◀───────horizon────────▶│
                           the newest one below the horizon: what lies before it is forgotten
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataflows.board import NEVER
from lookback.errors import RefusedError
from lookback.events import I64
from lookback.windows.cache import entry
from state.key_table import KeyTable

STEPS = 16  # rungs a horizon: so much of one is read for nothing after a restart
FEW = 1 << 16  # ids that are not worth forgetting

Rung = tuple[int, int, int]
Bools = npt.NDArray[np.bool_]


@entry
def mark(
    code: I64, slot: I64, offset: I64, time: I64, watermark: I64, horizon: int, newest: I64, place: I64, out: I64
) -> int:  # fmt: skip
    """Set out[i] to the offset that had event i's id before, -1 where none had; return how many had.

    code: of the id among those of the batch, -1 where the event is not seen; slot: of each id. newest, place: each
    slot's largest event time, and the offset of the last event with its id.
    """
    found = 0
    for i in range(len(code)):
        out[i] = -1
        if code[i] < 0:
            continue
        s = slot[code[i]]
        if newest[s] >= watermark[i] - horizon:
            out[i] = place[s]
            found += 1
        newest[s] = max(newest[s], time[i])
        place[s] = offset[i]
    return found


class Repeats:
    """What one partition remembers. Memory: some 100 bytes and the bytes of the id, for each id in the horizon."""

    def __init__(self, horizon_ms: int, state: dict[str, Any] | None = None) -> None:
        """Begin with nothing remembered; what `state` had remembered is yet to be read again."""
        self._horizon_ms = horizon_ms
        self._keys = KeyTable()
        self._newest: I64 = np.full(0, NEVER, np.int64)
        self._place: I64 = np.empty(0, np.int64)
        self._top = 0  # slots that were ever taken; those without a key are in `_free`
        self._free: I64 = np.empty(0, np.int64)
        self._kept = 0  # ids that the last forgetting left
        state = state or {"rungs": [], "seen": 0}
        self._rungs: list[Rung] = list(state["rungs"])
        self._seen: int = state["seen"]
        self._recalled = 0

    def __len__(self) -> int:
        return len(self._keys)

    def state(self) -> dict[str, Any]:
        """Return what a later run goes on from: where to read again, not what is remembered."""
        return {"rungs": list(self._rungs), "seen": self._seen}

    def begin(self, offset: int, watermark_ms: int) -> None:
        """Note where a batch begins."""
        if not self._rungs or watermark_ms - self._rungs[-1][1] >= max(1, self._horizon_ms // STEPS):
            self._rungs.append((offset, watermark_ms, self._seen))
        while len(self._rungs) > 1 and self._rungs[1][1] < watermark_ms - self._horizon_ms:
            del self._rungs[0]

    def find(
        self, ids: pa.Array, offset: I64, time_ms: I64, watermark_ms: I64, refused: Bools | None
    ) -> I64 | None:
        """Remember a batch; return for each event the offset that had its id before, else -1 (None: none had).

        ids: int64 or string. refused: late or ahead. watermark_ms: int64[n] as of each event.
        """
        before, seen = self._mark(ids, offset, time_ms, watermark_ms, refused)
        self._seen += seen
        return before

    def recall_from(self, watermark_ms: int) -> Rung | None:
        """Return the newest rung from which all that is remembered at a watermark can be read again."""
        old = [rung for rung in self._rungs if rung[1] < watermark_ms - self._horizon_ms]
        return old[-1] if old else self._rungs[0] if self._rungs else None

    def recall(
        self, ids: pa.Array, offset: I64, time_ms: I64, watermark_ms: I64, refused: Bools | None
    ) -> None:
        """Remember a batch that an earlier run has judged already."""
        self._recalled += self._mark(ids, offset, time_ms, watermark_ms, refused)[1]

    def recall_end(self, rung: Rung, what: str, *, accept_loss: bool) -> None:
        """Go on behind what was recalled from a rung. Raises RefusedError where some of it is gone, unless accepted."""
        gone = self._seen - rung[2] - self._recalled
        if gone <= 0:
            return
        if not accept_loss:
            raise RefusedError(
                f"{gone:,} events of {what} are gone that the job has counted and whose ids it must know "
                "(drop_repeats): it could not tell their repeats; go on with --accept-loss, which may count such a "
                "repeat, or name a fresh --state and a fresh --store"
            )
        self._rungs = [(*rung[:2], self._seen - self._recalled)]

    def _mark(
        self, ids: pa.Array, offset: I64, time_ms: I64, watermark_ms: I64, refused: Bools | None
    ) -> tuple[I64 | None, int]:
        coded = ids.dictionary_encode()
        code = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if refused is not None:
            code[refused] = -1
        slots = self._slots(coded.dictionary)
        before = np.empty(len(code), np.int64)
        found = mark(
            code, slots, offset, time_ms, watermark_ms, self._horizon_ms, self._newest, self._place, before
        )
        if len(self._keys) > 2 * self._kept + FEW:
            self._forget(int(watermark_ms[-1]) - self._horizon_ms)
        return before if found else None, int((code >= 0).sum())

    def _slots(self, ids: pa.Array) -> I64:
        """Return the slots of ids, which are distinct; new ones get one."""
        keys = _as_keys(ids)
        slots = self._keys.find(keys)
        new = np.flatnonzero(slots < 0)
        if len(new):
            slots[new] = self._take(len(new))
            self._keys.add(keys if len(new) == len(keys) else keys.take(pa.array(new)), slots[new])
        return slots

    def _take(self, count: int) -> I64:
        reused, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self._top, self._top + count - len(reused))
        self._top += len(fresh)
        if self._top > len(self._newest):
            more = max(self._top, 2 * len(self._newest)) - len(self._newest)
            self._newest = np.concatenate([self._newest, np.full(more, NEVER, np.int64)])
            self._place = np.concatenate([self._place, np.empty(more, np.int64)])
        return np.concatenate([reused, fresh])

    def _forget(self, before_ms: int) -> None:
        slots = self._keys.slots
        old = slots[self._newest[slots] < before_ms]
        self._keys.drop(old)
        self._newest[old] = NEVER
        self._free = np.concatenate([self._free, old])
        self._kept = len(self._keys)


def _as_keys(ids: pa.Array) -> pa.StringArray:
    """Return ids as the bytes that tell them apart: their text, or the eight of an integer."""
    if not pa.types.is_integer(ids.type):
        return ids
    offsets = np.arange(0, 8 * len(ids) + 1, 8, dtype=np.int32)
    words = np.ascontiguousarray(ids.to_numpy(), np.int64)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(words))


def warm() -> None:
    """Compile what is compiled here, or load it where it was compiled before."""
    one = np.zeros(1, np.int64)
    Repeats(0).find(pa.array([1]), one, one, one, None)
