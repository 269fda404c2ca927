"""What a window's oldest day amounts to, for every row its edge may rest on, so that the edge costs one look.

Owns: one table a (long log, bound) for lanes that walk and cannot move. Refuses: days that are not closed.

    tail := (n a b)[tail lanes]                for each row r of a closed day, what rows r .. the day's end leave
    table := offset begin end seen             in the log's header: tails of rows begin <= r < end (absolute
                                               numbers) at `offset`, -1 without; seen: the end of the day that
                                               the bound's edge last lay in

    rows   [........day........][......day......][...day...  high
               └─ edge: its tail ──┘

A day is the coarsest cell of the grid, so a tail is merged as the walk would have merged what it stands for:
it changes no bit. A table is made when an edge is found in a day for the second time, in one pass, which is
O(1) a row; a row that comes late in or before the day drops it.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.aggregates import update
from lookback.windows.cache import jit
from lookback.windows.hot import T_BEGIN, T_END, T_OFFSET, T_SEEN, drop_tail, hot_take
from lookback.windows.layout import (
    ENDS,
    L_BIT,
    L_COLUMN,
    L_FAMILY,
    L_FIRST,
    L_KIND,
    L_PARAM,
    L_TAIL,
    L_WINDOWS,
    S_LIMBS,
    S_TAILS,
)
from lookback.windows.numeric import INT64_MAX
from lookback.windows.rows import M_BASE, M_CAP, M_HEAD, M_OFFSET, takes_part
from lookback.windows.walk import GRID_MS, emit_levels, fold_levels

TAIL_ROWS = 32_768  # longer days are walked, cell by cell


@jit
def fill_ends(heap, base, cap, base_row, lane, hot, to, stride, begin, end):
    """Write ENDS: how many rows take part, their first and their last (absolute numbers)."""
    n = 0
    first = 0
    last = 0
    p = to + (end - begin) * stride
    for j in range(end - 1, begin - 1, -1):
        p -= stride
        if takes_part(heap, base, cap, lane[L_BIT], j):
            last = j + base_row if n == 0 else last
            first = j + base_row
            n += 1
        hot[p], hot[p + 1], hot[p + 2] = n, first, last


@jit
def fill_grid(heap, base, cap, lane, hot, to, stride, begin, end, acc, o):
    """Add up float families as `walk_grid` does, a state for each row; acc[o:o + 18] is working room."""
    family = lane[L_FAMILY]
    param = lane[L_PARAM]
    floats = lane[L_KIND] == 1
    column = base + lane[L_COLUMN] * cap
    counts = lane[L_COLUMN] < 0
    for x in range(18):
        acc[o + x] = 0
    second = minute = hour = INT64_MAX
    p = to + (end - begin) * stride
    for j in range(end - 1, begin - 1, -1):
        p -= stride
        if takes_part(heap, base, cap, lane[L_BIT], j):
            time = heap[base + j]
            if time < second:
                fold_levels(family, param, acc, o, 1 + (time < minute) + (time < hour))
                second = time - time % GRID_MS[0]
                minute = time - time % GRID_MS[1]
                hour = time - time % GRID_MS[2]
            update(family, floats, param, acc, o, time, heap[column + j] if not counts else 1)
        emit_levels(family, param, acc, o, hot, p)


@jit
def has_bound(lane, windows, bound):
    """Whether one of a lane's windows ends at a bound."""
    found = False
    for w in range(lane[L_FIRST], lane[L_FIRST] + lane[L_WINDOWS]):
        found = found or windows[w] == bound
    return found


@jit
def make_tails(heap, hot, ctl, meta, shape, lanes, windows, acc, slot, t, bound, begin, end):
    """Make the table at hot[t:] anew, of the day of rows begin <= r < end (absolute); False where it isn't."""
    drop_tail(hot, ctl, shape, t)
    if hot[t + T_SEEN] != end or end - begin > TAIL_ROWS:
        hot[t + T_SEEN] = end
        return False
    stride = 3 * shape[S_TAILS]
    to = hot_take(hot, ctl, (end - begin) * stride)
    if to < 0:
        return False
    hot[t + T_OFFSET], hot[t + T_BEGIN], hot[t + T_END] = to, begin, end
    cap = meta[slot, M_CAP]
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    base_row = meta[slot, M_BASE]
    begin -= base_row
    end -= base_row
    for x in range(len(lanes)):
        if lanes[x, L_TAIL] < 0 or not has_bound(lanes[x], windows, bound):
            continue
        at = to + 3 * lanes[x, L_TAIL]
        if lanes[x, L_FAMILY] == ENDS:
            fill_ends(heap, base, cap, base_row, lanes[x], hot, at, stride, begin, end)
        else:
            fill_grid(heap, base, cap, lanes[x], hot, at, stride, begin, end, acc, shape[S_LIMBS])
    return True
