"""One pass over a batch: insert, evaluate, trim, row by row.

Owns: the order of these steps, which is what `before`, `including`, an instant and a request row mean.
Refuses: growing memory: `run` stops where it needs room and is called again from there.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.aggregates import finalize
from lookback.windows.cache import entry, jit, jit_inline
from lookback.windows.cells import truncate_cells
from lookback.windows.counters import shift_states, trim_counters
from lookback.windows.hot import H_COUNTER, HOT_ROWS, drop_header, open_header, reserve
from lookback.windows.layout import (
    G_LANE,
    G_LANES,
    S_BLOCK,
    S_BOUNDS,
    S_COLUMNS,
    S_COUNTERS,
    S_LIFE,
    S_STEPS,
    S_STRIDE,
    SMALL,
)
from lookback.windows.numeric import prefetch
from lookback.windows.rows import (
    C_NEED,
    M_BASE,
    M_CAP,
    M_COVERS,
    M_HEAD,
    M_HOT,
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
from lookback.windows.scan import find_edges, follow_edges, scan_lane

FAR, NEAR = 12, 6  # how many items ahead a slot's `meta`, and its rows, are fetched

# what to do with each item of a batch
INSERT = 1  # its row joins the log for good
EVALUATE = 2  # features are wanted as of it
COUNTED = 4  # the own row is in its own windows (`including`), else not (`before`)
REQUEST = 8  # its row is there for this evaluation only
NEWEST = 16  # as of the log's newest row, which is the own row and counted


@jit_inline
def evaluate_one(
    heap, meta, life, hot, hot_ctl, shape, bounds, lanes, windows, groups, group_bounds, blob, ends,
    acc, slot, t, high, own,
):  # fmt: skip
    """Accumulate all lanes of one log at instant t: rows [0, high) are visible, `own` is its event's row."""
    cap = meta[slot, M_CAP]
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    h = meta[slot, M_HOT]
    if h >= 0:
        edges = h + H_COUNTER + 2 * shape[S_COUNTERS]
        follow_edges(heap, base, meta[slot, M_BASE], bounds, t, high, acc, hot, edges)
    else:
        find_edges(heap, base, bounds, t, high, acc)
    at = acc[: shape[S_BOUNDS] + 1]
    start = slot * shape[S_LIFE]
    for g in range(len(groups)):
        acc[shape[S_STEPS] - 1] = -1  # the walk's steps are laid out when a lane first needs them
        for x in range(groups[g, G_LANE], groups[g, G_LANE] + groups[g, G_LANES]):
            scan_lane(
                heap, base, cap, lanes, x, windows, at, acc, own, life, start, shape, blob, ends,
                hot, hot_ctl, meta, slot, groups[g], group_bounds,
            )  # fmt: skip


@jit_inline
def place_row(heap, meta, hot, hot_ctl, shape, lanes, blob, ends, slot, t, position, values, i):
    """Insert an item's row and tell what the log keeps beside its rows; return its index."""
    own = insert(heap, meta, shape[S_COLUMNS], slot, t, position, values, i)
    if meta[slot, M_HOT] >= 0:
        truncate_cells(heap, hot, hot_ctl, meta, shape, slot, own)
        cap, base = meta[slot, M_CAP], meta[slot, M_OFFSET] + meta[slot, M_HEAD]
        shift_states(heap, hot, hot_ctl, meta, shape, lanes, base, cap, slot, own, 1, blob, ends)
    return own


@jit
def take_out_row(heap, meta, hot, hot_ctl, shape, lanes, blob, ends, slot, own):
    """Undo `place_row`."""
    if meta[slot, M_HOT] >= 0:
        cap, base = meta[slot, M_CAP], meta[slot, M_OFFSET] + meta[slot, M_HEAD]
        shift_states(heap, hot, hot_ctl, meta, shape, lanes, base, cap, slot, own, -1, blob, ends)
    remove(heap, meta, shape[S_COLUMNS], slot, own)
    truncate_cells(heap, hot, hot_ctl, meta, shape, slot, own)


@jit_inline
def trim_slot(heap, meta, life, hot, hot_ctl, shape, lanes, blob, ends, slot, before):
    """Fold and drop a log's rows with time <= before."""
    if meta[slot, M_HOT] >= 0:
        cap, base = meta[slot, M_CAP], meta[slot, M_OFFSET] + meta[slot, M_HEAD]
        dropped = 0
        while dropped < meta[slot, M_LENGTH] and heap[base + dropped] <= before:
            dropped += 1
        if dropped > 0:
            trim_counters(heap, hot, hot_ctl, meta, shape, lanes, base, cap, slot, dropped, blob, ends)
    drop_until(heap, meta, life, shape, lanes, slot, before)


@jit_inline
def fetch_ahead(heap, meta, columns, slots, i):
    """Bring the memory of items to come near: a log's tail is several cache lines, all of them far."""
    if i + FAR < len(slots):
        prefetch(meta, slots[i + FAR] * 8)
    if i + NEAR < len(slots):
        slot = slots[i + NEAR]
        cap = meta[slot, M_CAP]
        if cap > 0:
            tail = meta[slot, M_OFFSET] + meta[slot, M_HEAD] + meta[slot, M_LENGTH]
            for c in range(columns):
                prefetch(heap, tail + c * cap)
                if c != 1:  # positions matter at the end only
                    prefetch(heap, tail + c * cap - 8)
                    prefetch(heap, tail + c * cap - 16)


@jit_inline
def has_room(heap, meta, ctl, hot, hot_ctl, shape, acc, slot, flag):
    """Make sure that an item finds the memory it may take; False when some must grow first."""
    if hot_ctl[C_NEED] > 0:
        return False
    if meta[slot, M_LENGTH] >= SMALL and shape[S_COUNTERS] > 0:
        if not reserve(hot, hot_ctl, 8 * meta[slot, M_LENGTH] + len(acc)):
            return False
    return not flag & (INSERT | REQUEST) or make_room(heap, meta, ctl, shape[S_COLUMNS], slot, 1)


@entry
def run(
    heap, meta, life, ctl, hot, hot_ctl, shape, bounds, lanes, windows, groups, group_bounds, features,
    blob, ends, acc, slots, times, positions, values, flags, first, out, status,
):  # fmt: skip
    """Do items first .. n - 1; return n, or the item at which memory must grow (nothing of it is done)."""
    stride = shape[S_STRIDE]
    waiting = 0  # items whose accs are there and whose results aren't: `finalize` takes them together
    for i in range(first, len(slots)):
        slot = slots[i]
        flag = flags[i]
        t = times[i]
        own = -1
        fetch_ahead(heap, meta, shape[S_COLUMNS], slots, i)
        if not has_room(heap, meta, ctl, hot, hot_ctl, shape, acc, slot, flag):
            finalize(features, acc, stride, waiting, out, status)
            return i
        item = acc[waiting * stride :]
        if flag & EVALUATE and meta[slot, M_LENGTH] >= HOT_ROWS:
            open_header(hot, hot_ctl, meta, shape, lanes, slot)
        if flag & (INSERT | REQUEST):
            own = place_row(
                heap, meta, hot, hot_ctl, shape, lanes, blob, ends, slot, t, positions[i], values, i
            )
        if flag & EVALUATE:
            base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
            if flag & NEWEST:
                high = meta[slot, M_LENGTH]
                own = high - 1
                t = heap[base + own] if own >= 0 else max(meta[slot, M_NEWEST], 0)
            elif own >= 0:
                high = own + 1 if flag & COUNTED else own
            else:
                high = rank(heap, base, meta[slot, M_CAP], meta[slot, M_LENGTH], t, positions[i])
            evaluate_one(
                heap, meta, life, hot, hot_ctl, shape, bounds, lanes, windows, groups, group_bounds,
                blob, ends, item, slot, t, high, own,
            )  # fmt: skip
            item[stride - 2] = t
            item[stride - 1] = i
            waiting += 1
            if waiting == shape[S_BLOCK]:
                finalize(features, acc, stride, waiting, out, status)
                waiting = 0
        if flag & REQUEST:
            take_out_row(heap, meta, hot, hot_ctl, shape, lanes, blob, ends, slot, own)
        elif flag & INSERT:
            if t > meta[slot, M_NEWEST]:
                meta[slot, M_NEWEST] = t
            before = max(horizon(meta, shape, slot), meta[slot, M_COVERS])
            trim_slot(heap, meta, life, hot, hot_ctl, shape, lanes, blob, ends, slot, before)
    finalize(features, acc, stride, waiting, out, status)
    return len(slots)


@entry
def trim(heap, meta, life, hot, hot_ctl, shape, lanes, blob, ends, slots, before):
    """Fold and drop rows with time <= before[i]."""
    for i in range(len(slots)):
        trim_slot(heap, meta, life, hot, hot_ctl, shape, lanes, blob, ends, slots[i], before[i])


@entry
def forget_hot(hot, hot_ctl, meta, shape, slots):
    """Drop what logs keep beside their rows."""
    for i in range(len(slots)):
        drop_header(hot, hot_ctl, meta, shape, slots[i])
