"""The next instant at which a log's values change though no event comes: a row passes a window's edge.

Owns: which instants those are. Refuses: clocks, and values that drift with every millisecond (an age, a decay).

    row      ──●───────────────┬──────────────────▶ t
              time         time + bound            a bound is a delay (the row comes in) or delay + window (it
                                                   goes out); see `layout`
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.cache import entry
from lookback.windows.numeric import INT64_MAX, INT64_MIN
from lookback.windows.rows import M_HEAD, M_LENGTH, M_OFFSET


@entry
def next_changes(heap, meta, bounds, slack, slots, after, out):
    """Set out[i] to the least time + bound + slack over rows and bounds with time + bound > after[i]; INT64_MAX: none.

    slack: int64[bounds], how late the change at each bound may be noticed. Costs O(bounds * log rows) a log.
    """
    for i in range(len(slots)):
        slot = slots[i]
        base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
        length = meta[slot, M_LENGTH]
        best = INT64_MAX
        for b in range(len(bounds)):
            edge = after[i] - bounds[b] if after[i] >= INT64_MIN + bounds[b] else INT64_MIN
            low = 0
            high = length
            while low < high:
                middle = (low + high) >> 1
                if heap[base + middle] > edge:
                    high = middle
                else:
                    low = middle + 1
            if low < length and heap[base + low] <= INT64_MAX - bounds[b] - slack[b]:
                best = min(best, heap[base + low] + bounds[b] + slack[b])
        out[i] = best
