"""How far behind its partition's watermark each event comes, counted: what a lateness would keep.

Owns: the counts of one partition, and what they answer. Refuses: deciding who is late.

    behind_ms := watermark - event time, the watermark as of the event; 0 for an event that comes in order
    bucket(v) := 32 * k + (v >> k) with k = max(0, floor(log2 v) - 5)

A bucket holds [low, high] with high < low * 33/32, so what is read off is at most 3.2 % above what is true, never
below; the largest is kept as it is. Counted are events that are neither bad, ahead nor repeats: those that are late
with the lateness of now too, for none of these raises a watermark, so the answer does not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataflows.route import Bools, Judged
from lookback.definition import View
from lookback.events import I64, EventBatch

FINE_BITS = 5
FINE = 1 << FINE_BITS
BUCKETS = FINE * (64 - FINE_BITS)
SHARES = ("99", "99.9", "100")  # per cent of the events
ROUNDING_PERCENT = 3.2  # 100 / FINE, rounded up


def bucket(behind_ms: I64) -> I64:
    """Return the buckets of values >= 0.

    >>> bucket(np.array([0, 31, 32, 33, 64, 65, 66])).tolist()
    [0, 31, 32, 33, 64, 64, 65]
    """
    # frexp rounds integers above 2**53 up: none of them is a time span anybody asks for
    exponent = np.frexp(behind_ms.astype(np.float64))[1].astype(np.int64) - 1
    shift = np.maximum(exponent - FINE_BITS, 0)
    found: I64 = FINE * shift + (behind_ms >> shift)
    return found


def highest(buckets: I64) -> I64:
    """Return the largest value of each bucket.

    >>> highest(np.array([0, 31, 32, 64, 65])).tolist()
    [0, 31, 32, 65, 67]
    """
    shift = np.maximum(buckets // FINE - 1, 0)
    found: I64 = ((buckets - FINE * shift + 1) << shift) - 1
    return found


class Histogram:
    """Counts by bucket, and how many are late with the lateness of now. state: what `state` returned."""

    def __init__(self, state: tuple[int, int, bytes, bytes] | None = None) -> None:
        self.counts: I64 = np.zeros(BUCKETS, np.int64)
        self.late = self.most_ms = 0
        if state is not None:
            self.late, self.most_ms, buckets, counts = state
            self.counts[np.frombuffer(buckets, np.int16)] = np.frombuffer(counts, np.int64)

    def state(self) -> tuple[int, int, bytes, bytes]:
        """Return it in some kilobytes: only what is not 0."""
        held = np.flatnonzero(self.counts)
        return self.late, self.most_ms, held.astype(np.int16).tobytes(), self.counts[held].tobytes()

    def add(self, in_order: int, behind_ms: I64, late: int) -> None:
        """Count events: so many in order, and those that came behind a watermark, so many of them late."""
        self.counts[0] += in_order
        self.late += late
        if len(behind_ms):
            self.counts += np.bincount(bucket(behind_ms), minlength=BUCKETS)
            self.most_ms = max(self.most_ms, int(behind_ms.max()))

    def merge(self, other: Histogram) -> None:
        """Count what another has counted too."""
        self.counts += other.counts
        self.late += other.late
        self.most_ms = max(self.most_ms, other.most_ms)

    @property
    def events(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())

    def within(self, behind_ms: int) -> int:
        """Return how many events came at most so far behind; a bucket counts where all of it does."""
        if behind_ms >= self.most_ms:
            return self.events
        return int(self.counts[highest(np.arange(BUCKETS)) <= behind_ms].sum())

    def keeps(self, share: str) -> int | None:
        """Return the lateness that keeps a share of the events, in per cent; None where there are none."""
        if not self.events:
            return None
        # in whole thousandths of a per cent: 99.9 % of 1,000 events are 999 of them
        wanted = -(-self.events * round(1000 * float(share)) // 100_000)
        first = int(np.searchsorted(np.cumsum(self.counts), wanted))
        return min(self.most_ms, int(highest(np.array([first]))[0]))


class Lateness:
    """One partition's events, all of them and those of each view: an event without a view's key is none of it."""

    def __init__(self, views: Sequence[View], state: Mapping[str, Any] | None = None) -> None:
        state = state or {"all": None, "views": {}}
        self.all = Histogram(state["all"])
        self._keys = {view.name: view.key_fields for view in views}
        self.views = {name: Histogram(state["views"].get(name, state["all"])) for name in self._keys}

    def state(self) -> dict[str, Any]:
        """Return what a later run goes on from."""
        differ = {n: h for n, h in self.views.items() if not np.array_equal(h.counts, self.all.counts)}
        return {"all": self.all.state(), "views": {name: found.state() for name, found in differ.items()}}

    def add(self, events: EventBatch, judged: Judged, left_out: Bools | None) -> None:
        """Count a batch. left_out: mask of the events that no lateness would keep."""
        behind = judged.watermark_ms - events.event_time_ms
        if left_out is not None:
            behind[left_out] = -1
        none = np.zeros(0, np.int64)
        late = none if judged.late is None else np.flatnonzero(judged.late)
        after = np.flatnonzero(behind > 0)
        in_order = int((behind == 0).sum())
        self.all.add(in_order, behind[after], len(late))
        for name, fields in self._keys.items():
            columns = [column for field in fields if (column := events.fields.column(field)).null_count]
            if not columns:
                self.views[name].add(in_order, behind[after], len(late))
                continue
            mine = _all_valid(columns)
            self.views[name].add(
                int((mine & (behind == 0)).sum()), behind[after[mine[after]]], int(mine[late].sum())
            )


def _all_valid(columns: Sequence[pa.Array]) -> Bools:
    valid = np.ones(len(columns[0]), np.bool_)
    for column in columns:
        valid &= pc.is_valid(column).to_numpy(zero_copy_only=False)
    return valid
