"""One lane of one log at one instant: which way its windows are accumulated.

Owns: window edges, and lanes that need no walk. Refuses: what a result means (see `aggregates`).

    time   ──────┬────────┬───────────┬──▶           rows at[b] <= j < at[high] are in a window
               at[b2]   at[b1]     at[high]          whose far bound is b, near bound is `high`

Windows of a lane ascend, so one pass backward over the rows serves them all, leaving an acc at each edge.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.aggregates import beats
from lookback.windows.cache import jit, jit_inline
from lookback.windows.cells import close_cells, plan_walk
from lookback.windows.counters import count_values
from lookback.windows.layout import (
    COUNTER,
    ENDS,
    L_ACC,
    L_BIT,
    L_COLUMN,
    L_FAMILY,
    L_FIRST,
    L_HIGH,
    L_LIFE,
    L_MOVE,
    L_PARAM,
    L_TAIL,
    L_WINDOWS,
    L_WORDS,
    LAST_K,
    PREVIOUS,
    ROWS,
    S_LIMBS,
    S_STEPS,
    S_TABLE,
    SEEN,
    SUM_EXACT,
    SUM_INT,
)
from lookback.windows.moving import keep_sum, move_exact, move_lane
from lookback.windows.numeric import INT64_MIN, LIMBS, add_128, as_float, as_word, super_add, super_value
from lookback.windows.rows import M_BASE, M_HOT, takes_part
from lookback.windows.seen import look_up_seen
from lookback.windows.tally import scan_counter
from lookback.windows.walk import emit_ends, walk_lane


@jit_inline
def find_edges(heap, base, bounds, t, high, at):
    """Set at[b] to the first row with time > t - bounds[b], for b > 0; at[0] = high, at[len(bounds)] = 0."""
    at[0] = high
    j = high
    for b in range(1, len(bounds)):
        edge = t - bounds[b] if t >= INT64_MIN + bounds[b] else INT64_MIN
        steps = 0
        while j > 0 and heap[base + j - 1] > edge:
            j -= 1
            steps += 1
            if steps == 16:  # a long way: gallop, then halve
                low = j
                stride = 16
                while low > 0 and heap[base + low - 1] > edge:
                    j = low
                    low = max(0, low - stride)
                    stride *= 2
                while low < j:
                    middle = (low + j) >> 1
                    if heap[base + middle] > edge:
                        j = middle
                    else:
                        low = middle + 1
        at[b] = j
    at[len(bounds)] = 0


@jit
def follow_edges(heap, base, base_row, bounds, t, high, at, hot, edges):
    """Do as `find_edges`, from where the bounds last were: hot[edges + b], absolute row numbers."""
    at[0] = high
    for b in range(1, len(bounds)):
        edge = t - bounds[b] if t >= INT64_MIN + bounds[b] else INT64_MIN
        j = min(max(hot[edges + b] - base_row, 0), high)
        steps = 0
        while j < high and heap[base + j] <= edge and steps < 16:
            j += 1
            steps += 1
        while j > 0 and heap[base + j - 1] > edge and steps < 16:
            j -= 1
            steps += 1
        if steps == 16:
            low = 0
            j = high
            while low < j:
                middle = (low + j) >> 1
                if heap[base + middle] > edge:
                    j = middle
                else:
                    low = middle + 1
        at[b] = j
        hot[edges + b] = j + base_row
    at[len(bounds)] = 0


@jit_inline
def count_rows(lane, windows, at, acc):
    """ROWS without a filter: a difference of edges."""
    for w in range(lane[L_WINDOWS]):
        acc[lane[L_ACC] + w] = at[lane[L_HIGH]] - at[windows[lane[L_FIRST] + w]]


@jit
def scan_ends(heap, base, cap, lane, windows, at, acc):
    """Find ENDS without a filter: the rows at the edges."""
    high = at[lane[L_HIGH]]
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        emit_ends(heap, base, cap, lane, acc, lane[L_ACC] + 5 * w, high - low, low, high - 1)


@jit
def scan_previous(heap, base, cap, lane, windows, at, acc, own):
    """PREVIOUS: the newest row that takes part, the own one (own >= 0) and those after it left out."""
    bit = lane[L_BIT]
    high = at[lane[L_HIGH]]
    if own >= 0:
        high = min(high, own)
    j = high - 1
    while j >= 0 and not takes_part(heap, base, cap, bit, j):
        j -= 1
    for w in range(lane[L_WINDOWS]):
        o = lane[L_ACC] + 2 * w
        acc[o] = 1 if j >= at[windows[lane[L_FIRST] + w]] and j >= 0 else 0
        acc[o + 1] = heap[base + j] if j >= 0 else 0


@jit
def scan_seen(heap, base, cap, lane, windows, at, acc, own):
    """SEEN: whether the own row's value is that of an earlier row; null without one, or if it is null."""
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    known = own >= 0 and takes_part(heap, base, cap, lane[L_PARAM], own)
    j = -1
    if known:
        value = heap[column + own]
        lowest = at[windows[lane[L_FIRST] + lane[L_WINDOWS] - 1]]
        j = min(at[lane[L_HIGH]], own) - 1
        while j >= lowest and not (heap[column + j] == value and takes_part(heap, base, cap, bit, j)):
            j -= 1
    for w in range(lane[L_WINDOWS]):
        o = lane[L_ACC] + 2 * w
        acc[o] = 1 if known else 0
        acc[o + 1] = 1 if known and j >= at[windows[lane[L_FIRST] + w]] else 0


@jit
def scan_last(heap, base, cap, lane, windows, at, acc):
    """LAST_K: the newest k values."""
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    k = lane[L_PARAM]
    first = lane[L_ACC]
    n = 0
    j = at[lane[L_HIGH]]
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        o = first + (1 + k) * w
        if w > 0:
            for x in range(1, n + 1):
                acc[o + x] = acc[o - 1 - k + x]
        while j > low and n < k:
            j -= 1
            if takes_part(heap, base, cap, bit, j):
                n += 1
                acc[o + n] = heap[column + j]
        acc[o] = n


@jit
def scan_exact(heap, base, cap, lane, at, acc, life, start, limbs):
    """SUM_EXACT: folded and unfolded rows of a lifetime window, summed without error, rounded once."""
    o = lane[L_ACC]
    n = 0
    if lane[L_LIFE] >= 0:
        n = life[start + lane[L_LIFE]]
        for x in range(LIMBS):
            acc[limbs + x] = life[start + lane[L_LIFE] + 1 + x]
    else:
        for x in range(LIMBS):
            acc[limbs + x] = 0
    column = base + lane[L_COLUMN] * cap
    for j in range(at[lane[L_HIGH]]):
        if takes_part(heap, base, cap, lane[L_BIT], j):
            n += 1
            super_add(acc, limbs, as_float(heap[column + j]), 1)
    acc[o] = n
    acc[o + 1] = as_word(super_value(acc, limbs))


@jit
def add_life(lane, acc, life, start):
    """Put the folded rows, all older, under the acc of a lane's lifetime window (its last)."""
    family = lane[L_FAMILY]
    o = lane[L_ACC] + lane[L_WORDS] * (lane[L_WINDOWS] - 1)
    p = start + lane[L_LIFE]
    n = acc[o]
    if life[p] == 0 or family == SUM_EXACT:
        return
    if family == PREVIOUS:
        if n == 0:
            acc[o], acc[o + 1] = 1, life[p + 1]
        return
    acc[o] = n + life[p]
    if family == SUM_INT:
        acc[o + 1], acc[o + 2] = add_128(acc[o + 1], acc[o + 2], life[p + 1], life[p + 2])
    elif family == ENDS:
        acc[o + 1], acc[o + 2] = life[p + 1], life[p + 3]
        if n == 0:
            acc[o + 3], acc[o + 4] = life[p + 4], life[p + 6]
    elif family != ROWS and (n == 0 or beats(family, life[p + 1], acc[o + 1])):
        acc[o + 1] = life[p + 1]


@jit_inline
def scan_lane(
    heap, base, cap, lanes, x, windows, at, acc, own, life, start, shape, blob, ends,
    hot, ctl, meta, slot, group, group_bounds,
):  # fmt: skip
    """Accumulate lane x over all its windows."""
    lane = lanes[x]
    family = lane[L_FAMILY]
    if family == PREVIOUS:
        scan_previous(heap, base, cap, lane, windows, at, acc, own)
    elif family == COUNTER:
        if not count_values(heap, base, cap, lane, windows, at, acc, blob, ends, hot, ctl, meta, shape, slot):
            scan_counter(heap, base, cap, lane, windows, at, acc, shape[S_TABLE], blob, ends, hot, ctl)
    elif family == SEEN:
        if not look_up_seen(heap, base, cap, lane, windows, at, acc, hot, ctl, meta, shape, slot, own):
            scan_seen(heap, base, cap, lane, windows, at, acc, own)
    elif family == LAST_K:
        scan_last(heap, base, cap, lane, windows, at, acc)
    elif family == SUM_EXACT:
        h = meta[slot, M_HOT]
        if h >= 0:
            move_exact(heap, base, cap, meta[slot, M_BASE], lane, at, acc, life, start, hot, h + lane[L_MOVE])
        else:
            scan_exact(heap, base, cap, lane, at, acc, life, start, shape[S_LIMBS])
    elif family == ROWS and lane[L_BIT] < 0:
        count_rows(lane, windows, at, acc)
    elif family == ENDS and lane[L_BIT] < 0:
        scan_ends(heap, base, cap, lane, windows, at, acc)
    else:
        h = meta[slot, M_HOT]
        base_row = meta[slot, M_BASE]
        moves = h >= 0 and lane[L_MOVE] >= 0
        if not moves or not move_lane(heap, base, cap, base_row, lane, windows, at, acc, hot, h):
            p = shape[S_STEPS]
            tails = 1 if h >= 0 and lane[L_TAIL] >= 0 else 0
            if acc[p - 1] < 0 or acc[p - 2] != tails:
                if h >= 0:
                    close_cells(heap, hot, ctl, meta, shape, lanes, windows, acc, slot)
                acc[p - 1] = plan_walk(
                    heap, hot, ctl, meta, shape, lanes, windows, group, group_bounds, acc, slot, p, tails
                )
                acc[p - 2] = tails
            walk_lane(heap, base, cap, base_row, lane, windows, acc, p, acc[p - 1], hot, -1, shape[S_LIMBS])
            if moves and (family == ROWS or family == SUM_INT):
                keep_sum(base_row, lane, windows, at, acc, hot, h + lane[L_MOVE])
    if lane[L_LIFE] >= 0:
        add_life(lane, acc, life, start)
