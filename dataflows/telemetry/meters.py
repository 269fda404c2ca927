"""What a live job's workers count and time, for whoever watches it: a memory-mapped file, made anew at each start.

Owns: the words, and the few writes that the hot path has for them. Refuses: deciding anything; a torn read costs a
metric's exactness for a moment, nothing else. The words are always written: an `int` into a mapped word takes under a
tenth of a microsecond, and there are some ten an epoch and shard and a few a wave.

    meters := worker[WORKERS] view[WORKERS, views] shard[SHARDS, views] sample[WORKERS, RING] span[WORKERS, RING]
    worker := EPOCH EPOCHS ERRORS NEXT NEXT_SPAN       int64, as all words. EPOCH: the monotonic
                                               clock, ms, when an epoch was last seen durable
    view   := WRITES STALE                     one worker's, absolute since its start
    shard  := NEWEST LOOKUPS MISSES CACHE OPEN     as of the shard's last commit; NEWEST: event time, ms
    sample := KIND VALUE                       a ring: the NEXT-th sample of a worker lies at NEXT % RING
    span   := TRACE KIND START DURATION ROWS   another, of NEXT_SPAN: of batches that are traced; Unix ns, ns
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataflows.board import NEVER, SHARDS, WORKERS
from lookback.stores.base import I64, ViewWrite
from state.shard import Shard

FILE = "meters"
RING = 1024
EPOCH, EPOCHS, ERRORS, NEXT, NEXT_SPAN = range(5)
WRITES, STALE = range(2)
NEWEST, LOOKUPS, MISSES, CACHE, OPEN = range(5)
WORKER_WORDS, VIEW_WORDS, SHARD_WORDS, SAMPLE_WORDS, SPAN_WORDS = 5, 2, 5, 2, 5
WAITING, READY = 1, 2  # OPEN: 0 not open yet; open, but silent until it has passed the served mark; at work

# Kinds of samples. Those of the commit's steps are as docs/commit.md numbers them; a value is in ns, freshness in ms.
APPLY, EMIT, COMMIT_STATE, COMMIT_EPOCH, PUBLISH = range(1, 6)
STORE_WRITE, FRESHNESS, FETCH = 6, 7, 8
TRACE_NS = 1_000_000_000  # between two batches of a worker that are traced
NEVER_NS = 1 << 62  # later than any clock
_UNTRACED: Mapping[int, int] = {}


@dataclass(frozen=True)
class MeterFile:
    """The words, as arrays; whoever watches reads them."""

    workers: I64  # int64[WORKERS, WORKER_WORDS]
    views: I64  # int64[WORKERS, views, VIEW_WORDS]
    shards: I64  # int64[SHARDS, views, SHARD_WORDS]
    samples: I64  # int64[WORKERS, RING, SAMPLE_WORDS]
    spans: I64  # int64[WORKERS, RING, SPAN_WORDS]

    @staticmethod
    def over(words: I64, views: int) -> MeterFile:
        """Lay the arrays over words."""
        shapes = _shapes(views)
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        pieces = np.split(words, ends[:-1])
        return MeterFile(*(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)))

    @staticmethod
    def reset(path: Path, views: int) -> MeterFile:
        """Make the file anew and map it."""
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(8 * _size(views))
        found = MeterFile.open(path, views)
        found.shards[:, :, NEWEST] = NEVER
        return found

    @staticmethod
    def open(path: Path, views: int) -> MeterFile:
        """Map the file of a job with so many views."""
        return MeterFile.over(np.memmap(path, np.int64, mode="r+", shape=(_size(views),)), views)


class Meters:
    """One worker's: what it calls as it works."""

    def __init__(
        self, file: MeterFile, worker: int, fingerprints: Sequence[str], *, traces: bool = False
    ) -> None:
        self._traced_ns = 0 if traces else NEVER_NS  # when a batch was last chosen to be traced
        self._spans = memoryview(file.spans[worker].reshape(-1))
        self._own = memoryview(file.workers[worker])
        self._ring = memoryview(file.samples[worker].reshape(-1))
        self._views = {name: memoryview(file.views[worker, i]) for i, name in enumerate(fingerprints)}
        self._shards = file.shards
        self._spent = [0] * (PUBLISH + 1)  # ns of each commit step in this epoch
        self._closing_ns = 0  # when this epoch's store was asked to be durable
        self._lock = threading.Lock()  # a store may write, and tell of it, in a thread of its own

    @staticmethod
    def unheard(fingerprints: Sequence[str] = ()) -> Meters:
        """Return meters that nobody reads: a replay's, a test's."""
        words = np.zeros(_size(len(fingerprints)), np.int64)
        return Meters(MeterFile.over(words, len(fingerprints)), 0, fingerprints)

    def since(self, step: int, began_ns: int, traces: Mapping[int, int] = _UNTRACED) -> int:
        """Add the time since `began_ns` of `time.perf_counter_ns` to a commit step; return that clock.

        traces: of the batches that were at work and are traced, how many rows.
        """
        now = time.perf_counter_ns()
        self._spent[step] += now - began_ns
        for trace, rows in traces.items():
            self._span(trace, step, began_ns, rows)
        return now

    def fetched(self, began_ns: int, rows: int) -> int:
        """Choose whether a batch that was fetched is traced; return its trace, 0 where it isn't."""
        if began_ns - self._traced_ns < TRACE_NS:
            return 0
        self._traced_ns = began_ns
        trace = random.getrandbits(62) | 1
        self._span(trace, FETCH, began_ns, rows)
        return trace

    def committed(self, shard: Shard, waits: Sequence[bool]) -> None:
        """Take over what a shard has counted; waits: view by view, whether it is silent until the served mark."""
        for view, words, silent in zip(shard.views, self._shards[shard.shard], waits, strict=True):
            marks = [shard.watermarks[part] for part in view.applied if part in shard.watermarks]
            words[:] = (
                max(marks, default=NEVER), view.lookups, view.misses, view.log.nbytes, WAITING if silent else READY
            )  # fmt: skip

    def written(self, writes: Sequence[ViewWrite], stale: Sequence[I64], began_ns: int) -> None:
        """Count what a store has taken in one call; perhaps called by the store's own thread."""
        self._sample(STORE_WRITE, time.perf_counter_ns() - began_ns)
        newest = None
        for write, gone in zip(writes, stale, strict=True):
            words = self._views[write.fingerprint]
            words[WRITES] += write.words.size
            words[STALE] += len(gone)
            if write.trace:
                self._span(write.trace, STORE_WRITE, began_ns, len(write.keys))
            if len(write.keys) and not write.known:
                newest = write
        if newest is not None:  # one view of the wave: they hold events of the same moment
            self._sample(FRESHNESS, time.time_ns() // 1_000_000 - int(newest.event_time_ms.max()))

    def failed(self) -> None:
        """Count a call that the store could not take just now."""
        self._own[ERRORS] += 1

    def closing(self) -> None:
        """Note that the epoch ends: all its values are sent, the store and then Bytewax make it durable."""
        self._closing_ns = time.perf_counter_ns()

    def durable(self) -> None:
        """Note that the last epoch is durable on all workers, and what its steps took of this one."""
        self._own[EPOCH] = time.monotonic_ns() // 1_000_000
        self._own[EPOCHS] += 1
        if not self._closing_ns:
            return  # another partition of this worker was asked first
        self.since(COMMIT_EPOCH, self._closing_ns)
        self._closing_ns = 0
        for step in range(APPLY, PUBLISH + 1):
            self._sample(step, self._spent[step])
            self._spent[step] = 0

    def _sample(self, kind: int, value: int) -> None:
        with self._lock:
            at = self._own[NEXT]
            place = SAMPLE_WORDS * (at % RING)
            self._ring[place], self._ring[place + 1] = kind, value
            self._own[NEXT] = at + 1

    def _span(self, trace: int, kind: int, began_ns: int, rows: int) -> None:
        took_ns = time.perf_counter_ns() - began_ns
        with self._lock:
            at = self._own[NEXT_SPAN]
            place = SPAN_WORDS * (at % RING)
            for word, value in enumerate((trace, kind, time.time_ns() - took_ns, took_ns, rows)):
                self._spans[place + word] = value
            self._own[NEXT_SPAN] = at + 1


def _shapes(views: int) -> tuple[tuple[int, ...], ...]:
    return (
        (WORKERS, WORKER_WORDS),
        (WORKERS, views, VIEW_WORDS),
        (SHARDS, views, SHARD_WORDS),
        (WORKERS, RING, SAMPLE_WORDS),
        (WORKERS, RING, SPAN_WORDS),
    )


def _size(views: int) -> int:
    return sum(int(np.prod(shape)) for shape in _shapes(views))
