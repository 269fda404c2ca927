"""From one partition's events to items for shards: who is late, which shard a row belongs to.

Runs at the source, columns at a time, so that what it decides depends on the partition's own prefix alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from connectors.batches import DeadLetter
from dataflows.board import NEVER
from lookback.definition import View
from lookback.events import EventBatch, Keys, ViewRows, key_texts
from lookback.windows.plan import OFFSET_BITS
from lookback.windows.texts import distinct

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Chunk:
    """Rows of one source batch for one view in one shard, in offset order.

    values: int64[width, n] (empty for instants); codes index `keys`, -1 for a null key (carrier rows only).
    event_time_ms differs from time_ms where the view's resolution floors it. base: the training row's own columns.
    """

    view: int
    keys: Keys
    code: npt.NDArray[np.int32]
    time_ms: I64
    position: I64
    values: I64
    texts: list[str]
    instants: bool = False  # ask as of these, insert nothing
    event_time_ms: I64 | None = None
    base: pa.RecordBatch | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Send another process this part alone: Arrow would take along all of what a slice is cut from."""
        keys = self.keys if isinstance(self.keys, list) else _own(self.keys)
        base = None if self.base is None else self.base.take(pa.array(np.arange(len(self.base))))
        rest = (self.position, self.values, self.texts, self.instants, self.event_time_ms, base)
        return Chunk, (self.view, keys, self.code, self.time_ms, *rest)


def _own(keys: pa.StringArray) -> pa.StringArray:
    return keys.take(pa.array(np.arange(len(keys))))


@dataclass(slots=True)
class Item:
    """What a shard gets of one source batch: rows first, then the partition's watermark behind them."""

    shard: int
    part: str
    watermark_ms: int  # in a replay: the partition's safe time, watermark - lateness - 1
    chunks: list[Chunk] = field(default_factory=list)
    clock_ms: int = NEVER  # the job's clock (see `dataflows.clock`)
    final: bool = False  # it stands still from here on: the source has ended
    trace: int = 0  # of the batch, where it is traced
    look: bool = False  # send the store something, if only nothing: is it still there, and whose is it?
    through: int = -1  # the partition's offset up to which all rows have come, whatever shard they are of

    @property
    def rows(self) -> int:
        """Rows of all views."""
        return sum(len(chunk.position) for chunk in self.chunks)


Payload = Item | list[DeadLetter]  # what a source partition emits, under a shard's key or that of its letters


def either(one: Bools | None, other: Bools | None) -> Bools | None:
    """Return the mask of what is in one of two, None being empty."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a batch's events. late, ahead: masks, None where there are none.

    watermark_ms: int64[n] as of each event, its own time counted in unless it is too far ahead.
    """

    watermark_ms: I64
    late: Bools | None
    ahead: Bools | None

    @property
    def refused(self) -> Bools | None:
        """Mask of both."""
        return either(self.late, self.ahead)


@dataclass
class Judge:
    """Watermark of one partition, and which of its events are late or too far ahead.

    late: event_time < watermark - lateness, the watermark being the largest event time before or at the event.
    ahead: event_time > broker_time + max_ahead; such an event moves no watermark.
    """

    lateness_ms: int
    max_ahead_ms: int
    watermark_ms: int = NEVER

    def judge(self, event_time_ms: I64, broker_time_ms: I64 | None) -> Judged:
        """Say which events are late or ahead, and advance the watermark."""
        if not len(event_time_ms):
            return Judged(event_time_ms, None, None)
        ahead = None
        times = event_time_ms
        if broker_time_ms is not None:
            mask = times > broker_time_ms + self.max_ahead_ms
            if mask.any():
                ahead = mask
                times = np.where(mask, NEVER, times)
        running = np.maximum.accumulate(times)
        np.maximum(running, self.watermark_ms, out=running)
        late = times < running - self.lateness_ms
        if ahead is not None:
            late &= ~ahead
        self.watermark_ms = int(running[-1])
        return Judged(running, late if late.any() else None, ahead)


def shard_of(keys: Keys, shards: int) -> I64:
    """Return each key's shard: XXH3-64 of its UTF-8 text modulo the shard count; stable for ever."""
    if shards == 1:
        return np.zeros(len(keys), np.int64)
    return shard_of_utf8(list(map(str.encode, key_texts(keys))), shards)


def shard_of_utf8(keys: Sequence[bytes], shards: int) -> I64:
    """Return each key's shard, given their texts in UTF-8."""
    digests = np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys))
    return (digests % np.uint64(shards)).astype(np.int64)


def positions(batch: EventBatch) -> I64:
    """Return the packed positions of a batch."""
    return batch.offset | np.int64(batch.partition << OFFSET_BITS)


def split(
    index: int,
    view: View,
    rows: ViewRows,
    position: I64,
    shards: int,
    *,
    event_time_ms: I64 | None = None,
    base: pa.RecordBatch | None = None,
    instants: bool = False,
) -> dict[int, Chunk]:
    """Return the rows of each shard that has any.

    Rows with a null key go nowhere, or to shard 0 where `base` says that each row must come out again.
    """
    keep_null = base is not None
    if shards == 1 and (keep_null or not len(rows.key_code) or rows.key_code.min() >= 0):
        whole = Chunk(
            index, rows.keys, rows.key_code, rows.time_ms, position, rows.values, rows.texts, instants
        )
        whole.event_time_ms, whole.base = event_time_ms, base
        return {0: whole} if len(rows.key_code) else {}
    keys = rows.keys if isinstance(rows.keys, pa.Array) else pa.array(rows.keys, pa.string())
    of_key = shard_of(keys, shards)
    by_shard = np.argsort(of_key, kind="stable")
    key_bounds = np.searchsorted(of_key[by_shard], np.arange(shards + 1))
    local = np.empty(len(of_key) + 1, np.int32)
    local[by_shard] = np.arange(len(of_key)) - key_bounds[of_key[by_shard]]
    local[-1] = -1
    of_row = np.append(of_key, 0 if keep_null else shards)[rows.key_code]
    order = np.argsort(of_row, kind="stable")
    bounds = np.searchsorted(of_row[order], np.arange(shards + 1))
    # Each column is gathered once, and a shard's part is a piece of it: shards are many, and most waves are small.
    names = keys.take(pa.array(by_shard))
    code, time_ms, position, values = (
        local[rows.key_code[order]],
        rows.time_ms[order],
        position[order],
        rows.values[:, order],
    )
    event_time_ms = None if event_time_ms is None else event_time_ms[order]
    base = None if base is None else base.take(pa.array(order))
    columns = view.text_columns if rows.texts else []
    found = {}
    starts, name_starts = bounds.tolist(), key_bounds.tolist()
    for shard in np.flatnonzero(np.diff(bounds)).tolist():
        mine = slice(starts[shard], starts[shard + 1])
        first = name_starts[shard]
        own = names.slice(first, name_starts[shard + 1] - first)
        words, texts = values[:, mine], rows.texts
        if columns:
            used, place = distinct(words[columns].reshape(-1), len(texts))
            words[columns] = place.reshape(len(columns), -1)
            texts = [texts[i] for i in used.tolist()]
        chunk = Chunk(index, own, code[mine], time_ms[mine], position[mine], words, texts, instants)
        chunk.event_time_ms = None if event_time_ms is None else event_time_ms[mine]
        chunk.base = None if base is None else base.slice(mine.start, mine.stop - mine.start)
        found[shard] = chunk
    return found
