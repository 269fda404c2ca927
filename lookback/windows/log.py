"""The logs of one view: rows in, feature values out.

Owns: the arrays behind all slots of a view and how they grow. Refuses: I/O, clocks, entity keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookback.windows import evaluate as kernel
from lookback.windows import rows
from lookback.windows.changes import next_changes
from lookback.windows.layout import (
    ENDS,
    L_FAMILY,
    L_KIND,
    L_LIFE,
    MAX_SPAN_MS,
    REACH_INFINITE,
    TEXT_KIND,
    Layout,
    build_layout,
)
from lookback.windows.numeric import INT64_MAX
from lookback.windows.plan import ROW_HEAD, Kind, Status, ViewPlan
from lookback.windows.texts import TextTable

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

META_WORDS = 8
GROUPED_ITEMS = 256  # batches below this many items are done as they come


def grown(arena: I64, ctl: I64) -> I64:
    """Return a larger arena with the same contents: by half, or by what is needed."""
    top, need = int(ctl[rows.C_TOP]), int(ctl[rows.C_NEED])
    grown = np.empty(max(len(arena) * 3 // 2, top + 2 * need), dtype=np.int64)
    grown[:top] = arena[:top]
    ctl[rows.C_NEED] = 0
    return grown


def _words(array: I64) -> I64:
    """Return an array as kernels are compiled for: int64, contiguous, writable (copied where it isn't)."""
    return np.require(array, np.int64, ["C", "W"])


def _rooms(lengths: I64) -> int:
    """Return how many rows the regions of logs of these lengths have room for: see `rows.room_of`."""
    upper = 2 ** np.ceil(np.log2(np.maximum(lengths, 4))).astype(np.int64)
    return int(np.where(lengths <= upper * 3 // 4, np.maximum(upper * 3 // 4, 4), upper)[lengths > 0].sum())


def _by_log(slots: I64) -> I64 | None:
    """Return the order that does a batch log by log, or None where that would not pay: few items a log.

    What a long log's event touches is some thirty cache lines, far apart; the next event of the same log
    finds most of them near. Items of one log keep their order, and logs know nothing of one another.
    """
    n = len(slots)
    bits = n.bit_length()
    if n < GROUPED_ITEMS or int(slots.max()) >= 1 << (63 - bits):
        return None
    keys = np.sort(slots << bits | np.arange(n))
    slots = keys >> bits
    if 2 * (1 + int(np.count_nonzero(slots[1:] != slots[:-1]))) > n:
        return None
    return keys & ((1 << bits) - 1)


@dataclass(frozen=True)
class Values:
    """Results of an evaluation; columns as `ViewPlan.out_starts` lays them out.

    words: int64[n_out, n], floats as bits, texts as ids; 0 where there is no value.
    status: uint8[n_out, n], a `Status`.
    """

    words: I64
    status: U8

    def __len__(self) -> int:
        return int(self.words.shape[1])


class ViewLog:
    """The logs of one view in one shard. Not thread safe.

    A log holds rows sorted by (time, position) and, where the plan has lifetime features, accumulators
    of the rows it folded away. Slots name logs; `new_slots` gives them out.
    """

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self.texts = TextTable()
        self.layout: Layout = build_layout(plan)
        self.life_words = self.layout.life_words
        self.reach_ms = self.layout.reach_ms
        self._columns = ROW_HEAD + plan.width
        self._heap = np.zeros(max(64, 16 * self._columns), dtype=np.int64)
        self._meta = np.zeros((0, META_WORDS), dtype=np.int64)
        self._life = np.zeros(0, dtype=np.int64)
        self._ctl = np.zeros(rows.C_FREE + 64, dtype=np.int64)
        self._ctl[rows.C_FREE :] = -1
        self._hot = np.zeros(64, dtype=np.int64)
        self._hot_ctl = self._ctl.copy()
        self._acc = np.zeros(self.layout.scratch_words, dtype=np.int64)
        self._slots = 0
        self._free: list[int] = []
        self._no_rows = np.zeros((0, 0), dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, as far as they were ever used, and texts."""
        used = int(self._ctl[rows.C_TOP] + self._hot_ctl[rows.C_TOP] + self._hot_ctl[rows.C_RESERVE]) * 8
        return used + self._meta.nbytes + self._life.nbytes + self.texts.nbytes

    # slots

    def new_slots(self, n: int) -> I64:
        """Return n slots with empty logs. int64[n]."""
        reused = [self._free.pop() for _ in range(min(n, len(self._free)))]
        fresh = n - len(reused)
        if self._slots + fresh > len(self._meta):
            room = max(16, 2 * len(self._meta), self._slots + fresh)
            meta = np.zeros((room, META_WORDS), dtype=np.int64)
            meta[: self._slots] = self._meta[: self._slots]
            self._meta = meta
            life = np.zeros(room * self.life_words, dtype=np.int64)
            life[: self._slots * self.life_words] = self._life[: self._slots * self.life_words]
            self._life = life
        slots = np.array([*reused, *range(self._slots, self._slots + fresh)], dtype=np.int64)
        self._slots += fresh
        rows.free_regions(self._heap, self._meta, self._ctl, self._columns, slots)
        if self.life_words:
            self._life.reshape(-1, self.life_words)[slots] = 0
        return slots

    def free_slots(self, slots: I64) -> None:
        """Drop the logs of slots; the slots may be given out again."""
        slots = _words(slots)
        kernel.forget_hot(self._hot, self._hot_ctl, self._meta, self.layout.shape, slots)
        rows.free_regions(self._heap, self._meta, self._ctl, self._columns, slots)
        self._free.extend(slots.tolist())

    # rows in, values out

    def apply(self, slots: I64, time_ms: I64, position: I64, values: I64) -> None:
        """Insert n rows, in any order of time, and trim each log it touches.

        values: int64[plan.width, n]: participation words, then columns (texts as ids of `texts`).
        A row at or before its log's newest time minus the reach is folded at once.
        """
        n = len(slots)
        if n > 1 and bool((time_ms[1:] < time_ms[:-1]).any()):
            order = np.lexsort((position, time_ms))
            slots, time_ms, position = slots[order], time_ms[order], position[order]
            values = values[:, order]
        self._run(slots, time_ms, position, values, np.full(n, kernel.INSERT, dtype=np.uint8), None)

    def apply_evaluate(
        self,
        slots: I64,
        time_ms: I64,
        position: I64,
        values: I64,
        *,
        including: bool,
        insert: Bool | None = None,
        row: Bool | None = None,
    ) -> Values:
        """Insert rows one by one, each evaluated as of itself before the next one is there.

        Rows come sorted by (time, position), none before those of earlier calls. Where insert[i] is
        False nothing is inserted: item i is an instant that sees rows up to (time, position), INT64_MAX
        as position meaning all of that millisecond, INT64_MIN none. Where row[i] is False no values
        are wanted (they come out as 0 with status default): the row is only inserted.
        """
        n = len(slots)
        counted = kernel.COUNTED if including else 0
        flags = np.full(n, kernel.INSERT | kernel.EVALUATE | counted, dtype=np.uint8)
        if insert is not None:
            flags[~insert] &= np.uint8(255 - kernel.INSERT)
        if row is not None:
            flags[~row] &= np.uint8(255 - kernel.EVALUATE)
        return self._evaluate(slots, time_ms, position, values, flags)

    def evaluate(self, slots: I64, time_ms: I64) -> Values:
        """Evaluate as of instants: all rows with time <= time_ms count, there is no own event."""
        n = len(slots)
        flags = np.full(n, kernel.EVALUATE, dtype=np.uint8)
        return self._evaluate(slots, time_ms, np.full(n, INT64_MAX), self._no_rows, flags)

    def evaluate_newest(self, slots: I64) -> Values:
        """Evaluate as of each log's newest row, that row being its own event and counted."""
        n = len(slots)
        zeros = np.zeros(n, dtype=np.int64)
        flags = np.full(n, kernel.EVALUATE | kernel.NEWEST | kernel.COUNTED, dtype=np.uint8)
        return self._evaluate(slots, zeros, zeros, self._no_rows, flags)

    def evaluate_as_of(self, slots: I64, time_ms: I64) -> Values:
        """Evaluate as of instants, none before its log's newest row; at that row's time it is the own event."""
        n = len(slots)
        own = np.where(time_ms <= self.newest_ms(slots), kernel.NEWEST | kernel.COUNTED, 0).astype(np.uint8)
        return self._evaluate(
            slots, time_ms, np.full(n, INT64_MAX), self._no_rows, own | np.uint8(kernel.EVALUATE)
        )

    def evaluate_request(self, slots: I64, time_ms: I64, values: I64) -> Values:
        """Evaluate as of request rows: events after all stored ones of time <= theirs; none is stored."""
        n = len(slots)
        flags = np.full(n, kernel.EVALUATE | kernel.REQUEST | kernel.COUNTED, dtype=np.uint8)
        return self._evaluate(slots, time_ms, np.full(n, INT64_MAX), values, flags)

    def trim(self, slots: I64, before_ms: I64) -> None:
        """Fold and drop rows with time <= before_ms[i].

        Raises ValueError where the plan needs every row (a lifetime window that can't fold).
        """
        if self.reach_ms == REACH_INFINITE:
            raise ValueError("a lifetime window of this view needs every row; nothing can be trimmed")
        layout = self.layout
        kernel.trim(
            self._heap, self._meta, self._life, self._hot, self._hot_ctl, layout.shape, layout.lanes,
            self.texts.blob, self.texts.ends, _words(slots), _words(before_ms),
        )  # fmt: skip

    # what a log holds

    def newest_ms(self, slots: I64) -> I64:
        """Return the newest event time each log has seen (INT64_MIN: none)."""
        return np.ascontiguousarray(self._meta[slots, rows.M_NEWEST])

    def next_changes(self, slots: I64, after_ms: I64, slack_ms: I64 | None = None) -> I64:
        """Return when each log's values next change after an instant though no event comes (INT64_MAX: never).

        slack_ms: int64[len(layout.bounds)], by how much the passing of each bound may be late (None: not at all);
        the earliest of passings and slack together counts. What changes with every ms (ages, decay) does not.
        """
        slack = np.zeros_like(self.layout.bounds) if slack_ms is None else slack_ms
        found = np.empty(len(slots), dtype=np.int64)
        next_changes(
            self._heap, self._meta, self.layout.bounds, slack, _words(slots), _words(after_ms), found
        )
        return found

    def lengths(self, slots: I64) -> I64:
        """Return how many rows each log holds."""
        return np.ascontiguousarray(self._meta[slots, rows.M_LENGTH])

    def covers_from_ms(self, slots: I64) -> I64:
        """Return the time at or before which rows are gone (INT64_MIN: none ever was).

        A feature of window W and delay D is complete at instants t with t - D - W >= covers
        (lifetime: t - D >= covers).
        """
        return np.ascontiguousarray(self._meta[slots, rows.M_COVERS])

    def export(self, slots: I64) -> tuple[I64, I64, I64, I64]:
        """Return (flat, starts, life, covers): all that `load` needs to make the same logs again.

        flat[starts[i]:starts[i + 1]].reshape(2 + width, length) are log i's columns.
        life: int64[n, life_words]; covers: int64[n].
        """
        starts = np.zeros(len(slots) + 1, dtype=np.int64)
        np.cumsum(self.lengths(slots) * self._columns, out=starts[1:])
        flat = np.empty(int(starts[-1]), dtype=np.int64)
        rows.export_rows(self._heap, self._meta, self._columns, _words(slots), starts, flat)
        life = (
            self._life.reshape(-1, self.life_words)[slots] if self.life_words else self._no_life(len(slots))
        )
        return flat, starts, np.ascontiguousarray(life), self.covers_from_ms(slots)

    def load(self, slots: I64, flat: I64, starts: I64, life: I64, covers: I64) -> None:
        """Fill empty slots with what `export` gave (texts as ids of this log's `texts`)."""
        assert not self.lengths(slots).any(), "logs must be empty to load rows into"
        slots, flat, starts = _words(slots), _words(flat), _words(starts)
        done = 0
        while True:
            done = rows.load_rows(self._heap, self._meta, self._ctl, self._columns, slots, flat, starts, done)
            if done == len(slots):
                break
            self._grow()
        self._meta[slots, rows.M_COVERS] = covers
        if self.life_words:
            self._life.reshape(-1, self.life_words)[slots] = life

    def compact(self) -> None:
        """Give unused memory back: regions shrink to their rows, the heap to its regions."""
        used = np.arange(self._slots, dtype=np.int64)
        newest = self._meta[used, rows.M_NEWEST].copy()
        flat, starts, life, covers = self.export(used)
        kernel.forget_hot(self._hot, self._hot_ctl, self._meta, self.layout.shape, used)
        self._hot = np.zeros(64, dtype=np.int64)
        self._hot_ctl[:] = 0
        self._hot_ctl[rows.C_FREE :] = -1
        rows.free_regions(self._heap, self._meta, self._ctl, self._columns, used)
        room = _rooms(np.diff(starts) // self._columns)
        self._heap = np.zeros(max(64, room * self._columns), dtype=np.int64)
        self._ctl[:] = 0
        self._ctl[rows.C_FREE :] = -1
        self.load(used, flat, starts, life, covers)
        self._meta[used, rows.M_NEWEST] = newest

    def compact_texts(self) -> None:
        """Forget texts that no row or accumulator holds; ids change, so none given out before is valid."""
        text = [
            ROW_HEAD + self.plan.words + c for c, col in enumerate(self.plan.columns) if col.kind is Kind.TEXT
        ]
        used = np.arange(self._slots, dtype=np.int64)
        newest = self._meta[used, rows.M_NEWEST].copy()
        flat, starts, life, covers = self.export(used)
        lengths = np.diff(starts) // self._columns
        # word x of log i lies in its column (x - starts[i]) // lengths[i]
        column = (np.arange(len(flat)) - np.repeat(starts[:-1], np.diff(starts))) // np.repeat(
            lengths, np.diff(starts)
        )
        held = np.isin(column, text)
        lives = [
            int(lane[L_LIFE]) + place
            for lane in self.layout.lanes
            if lane[L_FAMILY] == ENDS and lane[L_LIFE] >= 0 and lane[L_KIND] == TEXT_KIND
            for place in (3, 6)
        ]
        ids, codes = np.unique(np.concatenate([flat[held], life[:, lives].reshape(-1)]), return_inverse=True)
        table = TextTable()
        fresh = table.intern(self.texts.get(ids)) if len(self.texts) else ids
        flat[held] = fresh[codes[: held.sum()]]
        life[:, lives] = fresh[codes[held.sum() :]].reshape(len(used), len(lives))
        kernel.forget_hot(self._hot, self._hot_ctl, self._meta, self.layout.shape, used)
        rows.free_regions(self._heap, self._meta, self._ctl, self._columns, used)
        self.texts = table
        self.load(used, flat, starts, life, covers)
        self._meta[used, rows.M_NEWEST] = newest

    # inside

    def _no_life(self, n: int) -> I64:
        return np.zeros((n, 0), dtype=np.int64)

    def _grow(self) -> None:
        """Make the heap larger, by half or by what is needed; where a quarter lies idle, close up first."""
        if 4 * int(self._ctl[rows.C_SPARE]) < int(self._ctl[rows.C_TOP]):
            self._heap = grown(self._heap, self._ctl)
            return
        live = int(self._ctl[rows.C_TOP] - self._ctl[rows.C_SPARE])
        packed = np.empty(live + max(live // 2, 2 * int(self._ctl[rows.C_NEED])), dtype=np.int64)
        used = np.arange(self._slots, dtype=np.int64)
        rows.pack(self._heap, self._meta, self._ctl, self._columns, used, packed)
        self._heap = packed

    def _evaluate(self, slots: I64, time_ms: I64, position: I64, values: I64, flags: U8) -> Values:
        order = _by_log(slots)
        if order is not None:
            slots, time_ms, position, flags = slots[order], time_ms[order], position[order], flags[order]
            values = values.take(order, axis=1) if values.size else values
        n_out = self.plan.out_starts[-1]
        out = Values(
            np.empty((n_out, len(slots)), dtype=np.int64), np.empty((n_out, len(slots)), dtype=np.uint8)
        )
        unasked = flags & kernel.EVALUATE == 0
        if unasked.any():
            out.words[:, unasked] = 0
            out.status[:, unasked] = Status.DEFAULT
        self._run(slots, time_ms, position, values, flags, out)
        if order is None:
            return out
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        return Values(out.words.take(places, axis=1), out.status.take(places, axis=1))

    def _run(
        self, slots: I64, time_ms: I64, position: I64, values: I64, flags: U8, out: Values | None
    ) -> None:
        if len(time_ms) and not (int(time_ms.min()) >= -MAX_SPAN_MS and int(time_ms.max()) <= MAX_SPAN_MS):
            raise ValueError(f"event times must lie within {MAX_SPAN_MS} ms of 1970")
        layout = self.layout
        if out is None:
            out = Values(self._no_rows, np.zeros((0, 0), dtype=np.uint8))
        slots, time_ms, position, values = _words(slots), _words(time_ms), _words(position), _words(values)
        done = 0
        while True:
            done = kernel.run(
                self._heap, self._meta, self._life, self._ctl, self._hot, self._hot_ctl,
                layout.shape, layout.bounds, layout.lanes, layout.windows, layout.groups, layout.group_bounds,
                layout.features, self.texts.blob, self.texts.ends, self._acc,
                slots, time_ms, position, values, flags, done, out.words, out.status,
            )  # fmt: skip
            if done == len(slots):
                return
            if self._hot_ctl[rows.C_NEED]:
                self._hot = grown(self._hot, self._hot_ctl)
            else:
                self._grow()
