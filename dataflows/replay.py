"""The replay shard: rows wait until the safe time has passed them, then are applied and evaluated in order.

safe = min over all partitions of (watermark - lateness) - 1 ms: no event that is accepted later lies at or before it,
so what is released is final, and every row of an entity comes in (event time, position) order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from bytewax.operators import StatefulBatchLogic

from connectors.training import TrainingChunk
from connectors.training_sink import TrainingItem
from dataflows.board import END, NEVER
from dataflows.failures import guarded
from dataflows.route import I64, Bools, Chunk, Item
from dataflows.settings import Settings
from lookback.definition import View
from lookback.windows.results import to_arrow
from state.rocksdb import Database
from state.shard import ViewSpec
from state.view import ViewState

RELEASE_ROWS = (
    131_072  # a release waits for this many rows, so that sorting and writing work on large batches
)

_ALL_TIES = np.iinfo(np.int64).max
_NO_TIES = np.iinfo(np.int64).min

BaseColumns = Callable[[pa.RecordBatch, I64, I64], list[pa.Array]]


@dataclass(slots=True)
class _Pending:
    """Rows of one view that wait, one chunk's worth."""

    chunk: Chunk
    event_time_ms: I64
    slots: I64 | None = None  # each row's log, -1 for a null key; None while nobody has asked
    evictions: int = -1  # the state's count when they were looked up: after another one they may be wrong

    def __len__(self) -> int:
        return len(self.event_time_ms)

    def looked_up(self, state: ViewState) -> I64:
        """Return the rows' slots, looking the keys up once."""
        if self.slots is None or self.evictions != state.evictions:
            self.slots = np.append(state.slots(self.chunk.keys), -1)[self.chunk.code]
            self.evictions = state.evictions
        return self.slots


@dataclass(slots=True)
class _Rows:
    """Rows and instants of one view that are ready: arrays of one length n.

    order is the kernel's position: a row's own, or for an instant before or after all rows of its millisecond.
    slots is -1 for a null key. base is None but for the view that carries the training row's own columns.
    """

    slots: I64
    time_ms: I64
    order: I64
    event_time_ms: I64
    position: I64
    values: I64  # int64[width, n]
    insert: Bools
    output: Bools
    base: pa.RecordBatch | None

    def part(self, rows: slice) -> _Rows:
        """Return a slice, without copying."""
        base = self.base
        if base is not None:
            start, stop, _ = rows.indices(base.num_rows)
            base = base.slice(start, stop - start)
        return self._each(lambda a: a[..., rows], base)

    def take(self, index: I64) -> _Rows:
        """Return these rows in this order."""
        base = None if self.base is None else self.base.take(pa.array(index))
        return self._each(lambda a: a[..., index], base)

    def _each(self, pick: Callable[[Any], Any], base: pa.RecordBatch | None) -> _Rows:
        return _Rows(**{name: pick(getattr(self, name)) for name in _ARRAYS}, base=base)


_ARRAYS = ("slots", "time_ms", "order", "event_time_ms", "position", "values", "insert", "output")


class ReplayShard(StatefulBatchLogic[Item, TrainingItem, None]):
    """One shard of a replay; its state is scratch, begun anew by each run."""

    def __init__(
        self,
        settings: Settings,
        views: Sequence[View],
        specs: Sequence[ViewSpec],
        gives_rows: Sequence[bool],
        tie_ranks: Sequence[bool],
        base_columns: BaseColumns,
    ) -> None:
        """Begin empty.

        gives_rows: views whose own events are the training rows. tie_ranks: for views that are asked as of another
        stream's events or labels, whether rows of the same millisecond are there by then.
        """
        self._settings = settings
        self._views = views
        self._specs = specs
        self._gives_rows = gives_rows
        self._base_columns = base_columns
        self._tie_ranks = tie_ranks
        self._states: list[ViewState] = []
        self._safe_of = dict.fromkeys((part.id for part in settings.parts), NEVER)
        self._released_ms = NEVER
        self._pending: list[list[_Pending]] = [[] for _ in views]
        self._rows = 0
        self._shard = -1
        self._db: Database | None = None

    @guarded
    def on_batch(self, values: list[Item]) -> tuple[Iterable[TrainingItem], bool]:
        """Take a wave of items; release what the safe time has passed."""
        if self._db is None:
            self._open(values[0].shard)
        for item in values:
            for chunk in item.chunks:
                times = chunk.time_ms if chunk.event_time_ms is None else chunk.event_time_ms
                self._pending[chunk.view].append(_Pending(chunk, times))
                self._rows += len(times)
            self._safe_of[item.part] = max(self._safe_of[item.part], item.watermark_ms)
        safe = min(self._safe_of.values())
        if safe <= self._released_ms or (self._rows < RELEASE_ROWS and safe != END):
            return [], False
        out: list[TrainingItem] = []
        for index, view in enumerate(self._views):
            step = view.plan.resolution_ms
            # A row later than the safe time may still be floored to a step that the safe time has reached.
            passed = safe if safe == END or step == 1 else (safe + 1) // step * step - 1
            released = self._release(index, passed)
            if released is not None:
                out.append(released)
            out.append((index, self._shard, passed))
        self._released_ms = safe
        self._rows = sum(len(p) for pending in self._pending for p in pending)
        self._bound()
        return out, False

    def snapshot(self) -> None:
        """Keep nothing: a replay that was stopped begins anew."""

    def _open(self, shard: int) -> None:
        self._shard = shard
        path = self._settings.shard_path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = Database(path, create=True, durable=False, write_buffer_bytes=8 << 20)
        self._states = [ViewState(s.name, s.fingerprint, s.plan, self._db, empty=True) for s in self._specs]

    def _release(self, index: int, passed_ms: int) -> TrainingChunk | None:
        """Apply what is ready of one view in order, and return the training rows it gives."""
        ready = self._ready(index, passed_ms)
        if not ready:
            return None
        state = self._states[index]
        rows = _in_order(_gather(ready, state, self._gives_rows[index], self._tie_ranks[index]))
        if self._settings.to_ms is not None:
            rows = rows.take(np.flatnonzero(rows.event_time_ms < self._settings.to_ms))
        wanted = rows.output & (rows.event_time_ms >= self._settings.from_ms)
        first = int(wanted.argmax()) if wanted.any() else len(wanted)
        before, after = rows.part(slice(None, first)), rows.part(slice(first, None))
        _insert(state, before)
        if not len(after.slots):
            return None
        columns = _evaluate(state, after, self._settings.including)
        base = None
        if after.base is not None:
            base = self._base_columns(after.base, after.event_time_ms, after.position)
        chunk = TrainingChunk(index, self._shard, after.event_time_ms, after.position, columns, base)
        return _chosen(chunk, wanted[first:], self._views[index].plan.resolution_ms > 1)

    def _ready(self, index: int, passed_ms: int) -> list[_Pending]:
        ready, rest = [], []
        for pending in self._pending[index]:
            times = pending.event_time_ms
            if passed_ms == END or int(times.max()) <= passed_ms:
                ready.append(pending)
                continue
            mask = times <= passed_ms
            if mask.any():
                pending.looked_up(self._states[index])
                ready.append(_part(pending, np.flatnonzero(mask)))
                pending = _part(pending, np.flatnonzero(~mask))
            rest.append(pending)
        self._pending[index] = rest
        return ready

    def _bound(self) -> None:
        """Keep the logs in the cache's bounds: scratch rows go to the scratch database, none is lost."""
        share = self._settings.cache_bytes // self._settings.shards
        total = sum(state.log.nbytes for state in self._states)
        if total <= share or self._db is None:
            return
        for state in self._states:
            dirty = state.dirty_slots()
            puts = state.puts(dirty)
            if puts:
                self._db.write(puts)
            state.stored(dirty)
            state.evict(share * state.log.nbytes // total)


def _part(pending: _Pending, index: I64) -> _Pending:
    """Return some of a chunk's rows."""
    chunk = pending.chunk
    return _Pending(
        Chunk(
            chunk.view,
            chunk.keys,
            chunk.code[index],
            chunk.time_ms[index],
            chunk.position[index],
            chunk.values[:, index],
            chunk.texts,
            chunk.instants,
            None,
            None if chunk.base is None else chunk.base.take(pa.array(index)),
        ),
        pending.event_time_ms[index],
        None if pending.slots is None else pending.slots[index],
        pending.evictions,
    )


def _gather(ready: Sequence[_Pending], state: ViewState, gives_rows: bool, ties_seen: bool) -> _Rows:
    """Return the ready chunks of one view as one, in no order."""
    parts = []
    for pending in ready:
        chunk = pending.chunk
        count = len(pending)
        if chunk.instants:
            order = np.full(count, _ALL_TIES if ties_seen else _NO_TIES, np.int64)
            values = np.zeros((state.plan.width, count), np.int64)
        else:
            order = chunk.position
            values = state.intern(chunk.texts, chunk.values)
        parts.append(
            _Rows(
                pending.looked_up(state),
                chunk.time_ms,
                order,
                pending.event_time_ms,
                chunk.position,
                values,
                np.full(count, not chunk.instants),
                np.full(count, chunk.instants or gives_rows),
                chunk.base,
            )
        )
    if len(parts) == 1:
        return parts[0]
    base = _joined_base([(part.base, len(part.slots)) for part in parts])
    arrays = {name: np.concatenate([getattr(p, name) for p in parts], axis=-1) for name in _ARRAYS}
    return _Rows(**arrays, base=base)


def _joined_base(parts: Sequence[tuple[pa.RecordBatch | None, int]]) -> pa.RecordBatch | None:
    """Return carried columns end to end; null for rows that carry none (those are only inserted)."""
    schema = next((batch.schema for batch, _ in parts if batch is not None), None)
    if schema is None:
        return None
    batches = [
        pa.RecordBatch.from_arrays([pa.nulls(rows, field.type) for field in schema], schema=schema)
        if batch is None
        else batch
        for batch, rows in parts
    ]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _in_order(rows: _Rows) -> _Rows:
    """Return rows sorted by (time, position); as they are where they are sorted already."""
    ahead = np.diff(rows.time_ms)
    if len(ahead) and ((ahead < 0) | ((ahead == 0) & (rows.order[1:] < rows.order[:-1]))).any():
        return rows.take(np.lexsort((rows.order, rows.time_ms)))
    return rows


def _insert(state: ViewState, rows: _Rows) -> None:
    """Insert rows that nobody asks a value of."""
    keep = rows.insert & (rows.slots >= 0)
    if not keep.all():
        rows = rows.take(np.flatnonzero(keep))
    if len(rows.slots):
        state.apply(rows.slots, rows.time_ms, rows.order, np.ascontiguousarray(rows.values))


def _evaluate(state: ViewState, rows: _Rows, including: bool) -> list[pa.Array]:
    """Insert rows and return each feature as of each; null where the entity key is null."""
    keyed = rows.slots >= 0
    asked = rows if keyed.all() else rows.take(np.flatnonzero(keyed))
    insert = None if asked.insert.all() else asked.insert
    values = state.apply_evaluate(
        asked.slots, asked.time_ms, asked.order, np.ascontiguousarray(asked.values), including, insert
    )
    columns = to_arrow(state.plan, values, state.log.texts)
    if asked is rows:
        return columns
    index = pa.array(np.where(keyed, np.cumsum(keyed) - 1, 0), mask=~keyed)
    return [column.take(index) for column in columns]


def _chosen(chunk: TrainingChunk, wanted: Bools, resort: bool) -> TrainingChunk | None:
    """Return the wanted rows, by (event time, position)."""
    if wanted.all() and not resort:
        return chunk
    index = np.flatnonzero(wanted)
    if resort:
        index = index[np.lexsort((chunk.position[index], chunk.time_ms[index]))]
    if not len(index):
        return None
    taken = pa.array(index)
    return TrainingChunk(
        chunk.view,
        chunk.shard,
        chunk.time_ms[index],
        chunk.position[index],
        [column.take(taken) for column in chunk.columns],
        None if chunk.base is None else [column.take(taken) for column in chunk.base],
    )
