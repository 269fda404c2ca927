"""The live shard: commit steps 1 to 3 around one shard's state, as a Bytewax stateful operator.

Owns: when values may go out. After a start nothing does until the shard has passed the served mark that the store
holds in every partition; then every key touched or dirty goes out. Without that, two partitions replayed in another
interleaving could take a value back (see docs/commit.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from bytewax.operators import StatefulBatchLogic

from connectors.online import Waiting, patiently
from dataflows.board import NEVER, Board
from dataflows.catchup import Catchup
from dataflows.disk import ROOM_BYTES, free_bytes, no_room
from dataflows.draining import draining
from dataflows.failures import guarded
from dataflows.memory_budget import MemoryBudget
from dataflows.refresh import Refresher
from dataflows.route import I64, Chunk, Item
from dataflows.settings import Settings
from dataflows.telemetry.meters import APPLY, COMMIT_STATE, EMIT, Meters
from dataflows.together import Together
from lookback.errors import RefusedError
from lookback.stores.base import AS_OF, SEQUENCE, StoreWriter, ViewWrite, row_limit
from lookback.windows.log import Values
from lookback.windows.plan import ROW_HEAD, Status
from lookback.windows.texts import distinct
from state import faults
from state.errors import StateError
from state.rocksdb import Database
from state.shard import Shard, ViewSpec
from state.texts import life_places
from state.view import ViewState

if TYPE_CHECKING:
    from dataflows.change_log import ChangeLog, Teller

WAIT_SECONDS = 0.2  # between looks at a full disk
Change = tuple[I64, I64]  # a view's rows of a wave: slots int64[n], rows int64[2 + width, n]

EMIT_KEYS = 4096  # keys a write holds when a shard emits all that is dirty


class LiveShard(StatefulBatchLogic[Item, ViewWrite, tuple[int, int]]):
    """One shard of a live job."""

    def __init__(
        self,
        settings: Settings,
        views: Sequence[ViewSpec],
        board: Board,
        worker: int,
        open_writer: Callable[[], StoreWriter],
        store_waits: Waiting,
        budget: MemoryBudget,
        pointer: tuple[int, int] | None,
        lateness_ms: int,
        meters: Meters | None = None,
        log: ChangeLog | None = None,
        together: Together | None = None,
    ) -> None:
        self._settings = settings
        self._specs = views
        self._board = board
        self._worker = worker
        self._open_writer = open_writer
        self._store_waits = store_waits
        self._budget = budget
        self._pointer = pointer
        self._lateness_ms = lateness_ms  # the longest of all streams
        self._meters = meters or Meters.unheard([view.fingerprint for view in views])
        self._log = log
        self._teller: Teller | None = None  # where there is a change log
        self._together = together or Together()
        self._shard: Shard | None = None
        self._trace = 0  # of a batch of this wave, where one is traced
        self.shard_number: int | None = None  # for the note of a failure
        self._committed = False
        self._refresher = Refresher(settings, board)
        self._waiting: list[Catchup | None] = []
        self._through: dict[str, int] = {}  # up to which offset all rows of a partition have come

    @guarded
    def on_batch(self, values: list[Item]) -> tuple[Iterable[ViewWrite], bool]:
        """Apply a wave of items; return the values to emit."""
        if self._shard is None:
            self._open(values[0].shard)
        shard = self._shard
        assert shard is not None
        self._together.at_work(self)
        if self._committed:
            # The first batch after a commit proves that commit's epoch durable on all workers.
            self._committed = False
            shard.proved_durable([catchup is None for catchup in self._waiting])
            faults.reach("4-after", shard.shard)
        faults.reach("1-before", shard.shard)
        began_ns = time.perf_counter_ns()
        changes = self._apply(shard, values)
        traces = {item.trace: item.rows for item in values if item.trace}
        self._trace = next(iter(traces), 0)
        began_ns = self._meters.since(APPLY, began_ns, traces)
        faults.reach("1-after", shard.shard)
        self._refresher.hear(values)
        out: list[ViewWrite] = []
        for index, view in enumerate(shard.views):
            out.extend(self._emit(shard, index, view, changes[index]))
        if self._refresher.is_time:
            for index, view in enumerate(shard.views):
                out.extend(self._refresh(shard, index, view))
        if not out and any(item.look for item in values) and not any(self._waiting):
            none = np.empty(0, np.int64)
            out.append(self._whole(shard, 0, shard.views[0], none))
        self._meters.since(EMIT, began_ns, traces)
        self._refresher.report(shard.shard, shard.views, any(self._waiting))
        self._bound(shard)
        return out, False

    @guarded
    def snapshot(self) -> tuple[int, int]:
        """Commit step 3; Bytewax then stores the pointer in step 4."""
        if self._shard is None:
            assert self._pointer is not None  # woken before any batch of this run: the old pointer stands
            return self._pointer
        began_ns = time.perf_counter_ns()
        self._together.commit(self)
        self._meters.since(COMMIT_STATE, began_ns)
        self._committed = True
        return self._shard.pointer()

    @guarded
    def begin_commit(self) -> Callable[[], None]:
        """Write the shard's batch; return what makes it durable, for another thread to call."""
        shard = self._shard
        assert shard is not None
        self._keep_room()
        entry = None if self._teller is None else self._teller.entry()
        shard.begin_commit(self._wait_for_room, self._settled_ms(shard), entry)
        return self._sync

    @guarded
    def _sync(self) -> None:
        assert self._shard is not None
        self._shard.sync(self._wait_for_room)

    @guarded
    def end_commit(self) -> None:
        """Go on: the batch is durable."""
        shard = self._shard
        assert shard is not None
        shard.end_commit()
        if self._teller is not None:
            self._teller.committed()
        self._board.waiting[self._worker] = 0
        self._bound(shard, dirty=False)
        self._meters.committed(shard, [catchup is not None for catchup in self._waiting])

    def _open(self, number: int) -> None:
        settings = self._settings
        self.shard_number = number
        path = settings.shard_path(number)
        self._keep_room()
        db = Database(
            path,
            write_buffer_bytes=self._budget.write_buffer_bytes,
            block_cache=self._budget.blocks,
            durable=not faults.off("log"),
        )
        shard = Shard(path, number, settings.shards, self._specs, db)
        if self._pointer is not None:
            shard.check_pointer(self._pointer)
        writer = self._open_writer()
        for index, view in enumerate(shard.views):
            view.over_rows = row_limit(view.plan)
            self._waiting.append(self._catchup(shard, index, writer))
        if self._log is not None:
            self._teller = self._log.open(shard)
        self._shard = shard
        self._board.waiting[self._worker] = 0
        faults.reach("0-open", number)

    def _catchup(self, shard: Shard, index: int, writer: StoreWriter) -> Catchup:
        """Take a shard of the store over; return what its view waits for.

        A store that kept less than it once acknowledged gets everything again: it was emptied, restarted without
        its data, or is a replica that lagged behind.
        """
        fingerprint, number = shard.views[index].fingerprint, shard.shard
        marks = patiently(lambda: writer.marks(fingerprint, number), self._store_waits)
        sequence = 0
        if marks is not None:
            shard.views[index].timers.raise_floor(marks.pop(AS_OF, NEVER))
            sequence = marks.pop(SEQUENCE, 0)
        strangers = sorted(set(marks or ()) - {part.id for part in self._settings.parts})
        if strangers:  # they would be waited for in vain
            raise RefusedError(
                f"the store counts events of {strangers[0]}, which this job does not read: "
                "name a fresh --store"
            )
        kept = writer.kept(fingerprint, number)
        lost = any(kept.get(part, -1) < offset for part, offset in shard.durable[index].items())
        return Catchup(marks, sequence, lost=lost or (marks is None and shard.epoch > 0))

    # --- step 1 ------------------------------------------------------------------------------------------

    def _apply(self, shard: Shard, items: Sequence[Item]) -> list[Change | None]:
        """Commit step 1: apply rows above the applied offsets; return what was inserted, view by view."""
        chunks: list[list[tuple[Chunk, slice]]] = [[] for _ in shard.views]
        for item in items:
            seen = shard.watermarks.get(item.part, item.watermark_ms)
            shard.watermarks[item.part] = max(seen, item.watermark_ms)
            self._through[item.part] = max(self._through.get(item.part, -1), item.through)
            for chunk in item.chunks:
                fresh = shard.views[chunk.view].fresh(item.part, chunk.position)
                if fresh.start < len(chunk.position):
                    chunks[chunk.view].append((chunk, fresh))
        return [_insert(view, mine) if mine else None for view, mine in zip(shard.views, chunks, strict=True)]

    # --- step 2 ------------------------------------------------------------------------------------------

    def _emit(self, shard: Shard, index: int, view: ViewState, change: Change | None) -> Iterator[ViewWrite]:
        """Commit step 2: yield absolute values, each write with the served mark that it includes."""
        catchup = self._waiting[index]
        if catchup is not None:
            # In the dirty set, so that a commit before the mark is passed keeps what is still to go out.
            if change is not None:
                keys = view.keys_of(np.unique(change[0]).tolist())
                shard.dirty[index].update(keys)
                if self._teller is not None:
                    self._teller.held(index, keys)
            if not catchup.passed(view, self._through):
                return
            self._waiting[index] = None
            view.sequence = max(view.sequence, catchup.sequence)
            faults.reach("2-again", shard.shard)
            every = view.all_keys() if catchup.lost else ()
            held_back = () if faults.off("dirty_set") else shard.dirty[index]
            for keys in _batches({*every, *held_back}):
                slots = view.slots(keys)
                shard.dirty[index].update(keys)
                yield self._whole(shard, index, view, slots)
                self._budget.evict(shard)
        elif change is not None:
            yield self._changed(shard, index, view, *change)

    def _changed(self, shard: Shard, index: int, view: ViewState, row_slots: I64, rows: I64) -> ViewWrite:
        """Return the write of what one wave of batches changed."""
        slots, owner = np.unique(row_slots, return_inverse=True)
        again = view.fits_again(slots)
        if again.any():
            # A log that was too long for the store fits again: its record takes all the rows at once.
            order = np.flatnonzero(~again[owner])
            pieces, counts = view.rows_of(slots[again])
            owner = np.concatenate([owner[order], np.repeat(np.flatnonzero(again), counts)])
            rows = np.concatenate([rows[:, order], pieces], axis=1)
        # Rows that a long wave has already left behind are none of the record's: they would count against its limit.
        order = np.argsort(owner, kind="stable")
        order = order[rows[0, order] > view.log.covers_from_ms(slots)[owner[order]]]
        starts = np.searchsorted(owner[order], np.arange(len(slots) + 1))
        whole = np.diff(starts) == view.log.lengths(slots)
        return self._write(shard, index, view, slots, starts, rows[:, order], again, whole)

    def _whole(self, shard: Shard, index: int, view: ViewState, slots: I64) -> ViewWrite:
        """Return the write of these logs with all the rows they have; nothing of an entity that has expired."""
        slots = slots[view.log.newest_ms(slots) > np.iinfo(np.int64).min]
        view.fits_again(slots)
        rows, counts = view.rows_of(slots)
        starts = np.concatenate([[0], np.cumsum(counts)])
        every = np.ones(len(slots), bool)
        return self._write(shard, index, view, slots, starts, rows, every, every, again=True)

    def _refresh(self, shard: Shard, index: int, view: ViewState) -> Iterator[ViewWrite]:
        """Yield writes of values that have changed though no event came; none before the mark is passed."""
        if self._waiting[index] is not None:
            return
        for slots in self._refresher.turns(view):
            if len(slots):
                faults.reach("2-refresh", shard.shard)
                none = np.zeros(len(slots), bool)
                no_rows = np.empty((ROW_HEAD + view.plan.width, 0), np.int64)
                starts = np.zeros(len(slots) + 1, np.int64)
                yield self._write(shard, index, view, slots, starts, no_rows, none, none, known=True)
            self._budget.evict(shard)

    def _write(
        self, shard: Shard, index: int, view: ViewState, slots: I64, starts: I64, rows: I64, replace: Any, whole: Any,
        *, known: bool = False, again: bool = False,
    ) -> ViewWrite:  # fmt: skip
        keys = view.keys_of(slots)
        shard.dirty[index].update(keys)
        newest, as_of = view.log.newest_ms(slots), view.as_of_ms(slots)
        values = view.log.evaluate_as_of(slots, as_of)
        view.sent(slots, as_of)
        latest = view.timers.latest_ms
        covers = view.log.covers_from_ms(slots)
        life = view.log.export(slots)[2] if view.log.life_words else np.empty((len(slots), 0), np.int64)
        texts, words, rows, life = _own_texts(view, values, rows, life)
        write = ViewWrite(
            view=view.name,
            fingerprint=view.fingerprint,
            shard=shard.shard,
            keys=keys,
            event_time_ms=newest,
            as_of_ms=as_of,
            sequence=view.sequence,
            watermark_ms=min(shard.watermarks.values()),
            words=words,
            status=values.status,
            row_starts=starts.astype(np.int64),
            rows=rows,
            covers_from_ms=covers,
            replace=replace,
            whole=whole,
            life=life,
            texts=texts,
            marks={**view.applied, SEQUENCE: view.sequence, **({AS_OF: latest} if latest > NEVER else {})},
            known=known,
            trace=self._trace,
        )
        if self._teller is not None:
            if again:
                self._teller.wrote_again(index, view, slots, write)
            else:
                self._teller.wrote(index, write)
        return write

    def _settled_ms(self, shard: Shard) -> int:
        """Return the time before which no partition will give an accepted event."""
        marks = [shard.watermarks.get(part.id, NEVER) for part in self._settings.parts]
        return max(NEVER, min(marks) - self._lateness_ms)

    # --- memory and disk ---------------------------------------------------------------------------------

    def _bound(self, shard: Shard, *, dirty: bool = True) -> None:
        """Keep the cache in its bounds; where dirty logs fill it, make the sources wait for the commit.

        After a commit nothing is dirty: what is then left over a small limit no waiting makes less.
        """
        over = self._budget.evict(shard, dirty=dirty)
        self._board.pressure[self._worker] = over

    def _keep_room(self) -> None:
        """Wait while the disk is nearly full: step 4 needs room too, and Bytewax's store can't wait for it."""
        folder = self._settings.folder
        while free_bytes(folder) < ROOM_BYTES:
            self._wait_for_room(no_room(folder))
            time.sleep(WAIT_SECONDS)

    def _wait_for_room(self, message: str) -> None:
        """Say on the board that this worker waits; the parent, whose log lies elsewhere, tells the person."""
        if draining():
            raise StateError(message)
        self._board.waiting[self._worker] = 1


def _insert(view: ViewState, chunks: list[tuple[Chunk, slice]]) -> Change:
    """Insert what a wave has for a view, of all partitions at once."""
    keys, starts = chunks[0][0].keys, [0]
    if len(chunks) > 1:
        keys = pa.concat_arrays([pa.array(chunk.keys) for chunk, _ in chunks])
        starts = [0, *accumulate(len(chunk.keys) for chunk, _ in chunks)]
    codes = np.concatenate(
        [chunk.code[fresh] + start for (chunk, fresh), start in zip(chunks, starts, strict=False)]
    )
    rows = np.empty((ROW_HEAD + view.plan.width, len(codes)), np.int64)
    np.concatenate([chunk.time_ms[fresh] for chunk, fresh in chunks], out=rows[0])
    np.concatenate([chunk.position[fresh] for chunk, fresh in chunks], out=rows[1])
    values = [view.intern(chunk.texts, chunk.values[:, fresh]) for chunk, fresh in chunks]
    np.concatenate(values, axis=1, out=rows[ROW_HEAD:])
    slots = view.slots(keys)[codes]
    view.apply(slots, rows[0], rows[1], rows[ROW_HEAD:])
    return slots, rows


def _batches(keys: set[str]) -> Iterator[list[str]]:
    ordered = sorted(keys)
    for start in range(0, len(ordered), EMIT_KEYS):
        yield ordered[start : start + EMIT_KEYS]


def _own_texts(view: ViewState, values: Values, rows: I64, life: I64) -> tuple[list[str], I64, I64, I64]:
    """Return (texts, value words, rows, life) with indices into `texts` in place of the log's text ids."""
    places = view.text_words
    words = values.words
    if not (places.outputs or places.rows):
        return [], words, rows, life
    outs, columns = list(places.outputs), list(places.rows)
    records, life_words = life_places(life, places)
    shown = np.where(values.status[outs] == Status.OK, words[outs], 0)
    ids = np.concatenate([shown.reshape(-1), rows[columns].reshape(-1), life[records, life_words]])
    used, local = distinct(ids, len(view.log.texts))
    words, rows, life = words.copy(), rows.copy(), life.copy()
    words[outs] = local[: shown.size].reshape(shown.shape)
    rows[columns] = local[shown.size : len(ids) - len(records)].reshape(len(columns), -1)
    life[records, life_words] = local[len(ids) - len(records) :]
    return view.log.texts.get(used), words, rows, life
