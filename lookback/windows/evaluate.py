"""One pass over a batch: insert, evaluate, trim, row by row.

Owns: the order of these steps, which is what `before`, `including`, an instant and a request row mean.
Refuses: growing memory: `run` stops where it needs room and is called again from there.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.aggregates import finalize
from lookback.windows.cache import jit
from lookback.windows.layout import S_BOUNDS, S_COLUMNS, S_LIFE, S_LIMBS
from lookback.windows.rows import (
    M_CAP,
    M_COVERS,
    M_HEAD,
    M_LENGTH,
    M_NEWEST,
    M_OFFSET,
    drop_until,
    horizon,
    insert,
    make_room,
    rank,
    remove,
)
from lookback.windows.scan import find_edges, scan_lane

# what to do with each item of a batch
INSERT = 1  # its row joins the log for good
EVALUATE = 2  # features are wanted as of it
COUNTED = 4  # the own row is in its own windows (`including`), else not (`before`)
REQUEST = 8  # its row is there for this evaluation only
NEWEST = 16  # as of the log's newest row, which is the own row and counted


@jit
def evaluate_one(heap, meta, life, shape, bounds, lanes, windows, features, blob, ends, acc, slot, t, high, own, out, status, i):
    """Evaluate all features of one log at instant t: rows [0, high) are visible, row `own` is its own event."""
    cap = meta[slot, M_CAP]
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    find_edges(heap, base, bounds, t, high, acc)
    at = acc[: shape[S_BOUNDS] + 1]
    start = slot * shape[S_LIFE]
    for x in range(len(lanes)):
        scan_lane(heap, base, cap, lanes[x], windows, at, acc, own, life, start, shape[S_LIMBS], blob, ends)
    finalize(features, acc, t, out, status, i)


@jit
def run(
    heap, meta, life, ctl, shape, bounds, lanes, windows, features, blob, ends, acc,
    slots, times, positions, values, flags, first, out, status,
):  # fmt: skip
    """Do items first .. n - 1; return n, or the item at which the heap must grow (nothing of it is done)."""
    columns = shape[S_COLUMNS]
    for i in range(first, len(slots)):
        slot = slots[i]
        flag = flags[i]
        t = times[i]
        position = positions[i]
        own = -1
        if flag & (INSERT | REQUEST):
            if not make_room(heap, meta, ctl, columns, slot, 1):
                return i
            own = insert(heap, meta, columns, slot, t, position, values, i)
        if flag & EVALUATE:
            base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
            if flag & NEWEST:
                high = meta[slot, M_LENGTH]
                own = high - 1
                t = heap[base + own] if own >= 0 else max(meta[slot, M_NEWEST], 0)
            elif own >= 0:
                high = own + 1 if flag & COUNTED else own
            else:
                high = rank(heap, base, meta[slot, M_CAP], meta[slot, M_LENGTH], t, position)
            evaluate_one(
                heap, meta, life, shape, bounds, lanes, windows, features, blob, ends, acc,
                slot, t, high, own, out, status, i,
            )  # fmt: skip
        if flag & REQUEST:
            remove(heap, meta, columns, slot, own)
        elif flag & INSERT:
            if t > meta[slot, M_NEWEST]:
                meta[slot, M_NEWEST] = t
            before = max(horizon(meta, shape, slot), meta[slot, M_COVERS])
            drop_until(heap, meta, life, shape, lanes, slot, before)
    return len(slots)


@jit
def trim(heap, meta, life, shape, lanes, slots, before):
    """Fold and drop rows with time <= before."""
    for i in range(len(slots)):
        drop_until(heap, meta, life, shape, lanes, slots[i], before[i])
