"""Closed cells of the clock's grid, with every lane's partial state, so that long logs need few steps.

Owns: which cells a long log keeps, and the walk that takes them whole. Refuses: what a partial means.

    cell := first end (n a b)[lanes with partials]       rows first <= r < end, absolute numbers

A cell of level 0..3 is a second, minute, hour or day; it is *closed* once a row of a later one is there, and
kept when it holds `CELL_ROWS` rows or more. Its partial is what a scan of it alone leaves, so whether it is
kept changes no bit. A row that comes late drops the cells at and after it.

    rows   ........[second][   minute   ][        hour        ]....      a walk from the right takes, at each
           edge ─┘                                             └─ high   place, the largest cell that fits
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.cache import jit, jit_inline
from lookback.windows.hot import (
    H_CHECKED,
    H_LIST,
    H_START,
    T_BEGIN,
    T_END,
    T_OFFSET,
    drop_tails,
    hot_give,
    hot_take,
)
from lookback.windows.layout import (
    G_BOUNDS,
    G_FIRST,
    L_CELL,
    S_BOUNDS,
    S_CELLS,
    S_LIMBS,
    S_STEPS,
    S_TAIL,
    S_TAILS,
    STEPS,
    TAIL_WORDS,
)
from lookback.windows.rows import M_BASE, M_CAP, M_HEAD, M_HOT, M_LENGTH, M_OFFSET
from lookback.windows.tails import make_tails
from lookback.windows.walk import EDGE, GRID_MS, ROWS_STEP, TAIL, walk_lane

CELL_ROWS = 8


@jit
def record_words(shape):
    """Return the words of a cell."""
    return 2 + 3 * shape[S_CELLS]


@jit
def add_step(acc, p, n, kind, a, b):
    """Append a step; return how many there are now (never past STEPS, which means too many)."""
    if n < STEPS:
        acc[p + 3 * n] = kind
        acc[p + 3 * n + 1] = a
        acc[p + 3 * n + 2] = b
        n += 1
    return n


@jit
def last_cell(hot, h, level, words, row):
    """Return the number of the last cell of a level with end <= row (absolute), -1 without one."""
    offset = hot[h + H_LIST + 4 * level]
    low = hot[h + H_LIST + 4 * level + 2]
    high = low + hot[h + H_LIST + 4 * level + 3]
    first = low
    # mostly one of the last few
    tries = 0
    while high > low and tries < 4:
        if hot[offset + (high - 1) * words + 1] <= row:
            return high - 1
        high -= 1
        tries += 1
    while low < high:
        middle = (low + high) >> 1
        if hot[offset + middle * words + 1] <= row:
            low = middle + 1
        else:
            high = middle
    return low - 1 if low > first else -1


@jit
def cover(hot, h, words, level_limit, base_row, i, e, cell, acc, p, n):
    """Append steps that cover rows [e, i), newest first; cell[level]: where to look in each level's list."""
    while i > e:
        stop = e
        taken = False
        for level in range(level_limit - 1, -1, -1):
            offset = hot[h + H_LIST + 4 * level]
            first = hot[h + H_LIST + 4 * level + 2]
            x = acc[cell + level]
            while x >= first and hot[offset + x * words + 1] - base_row > i:
                x -= 1
            if x >= first:
                o = offset + x * words
                end = hot[o + 1] - base_row
                begin = hot[o] - base_row
                if end == i and begin >= e:
                    n = add_step(acc, p, n, level, o + 2, i - 1)
                    i = begin
                    acc[cell + level] = x - 1
                    taken = True
                    break
                if end == i:
                    x -= 1
                    end = hot[offset + x * words + 1] - base_row if x >= first else e
                if x >= first and end > stop:
                    stop = end
            acc[cell + level] = x
        if not taken:
            n = add_step(acc, p, n, ROWS_STEP, stop, i)
            i = stop
    return n


@jit
def tail_of(heap, hot, ctl, meta, shape, lanes, windows, acc, slot, bound, e, i):
    """Return where the table of the closed day is that row e lies in, at or before row i; -1 to walk."""
    h = meta[slot, M_HOT]
    base_row = meta[slot, M_BASE]
    t = h + shape[S_TAIL] + TAIL_WORDS * bound
    row = e + base_row
    if hot[t + T_OFFSET] < 0 or row < hot[t + T_BEGIN] or row >= hot[t + T_END]:
        words = record_words(shape)
        offset, first, count = hot[h + H_LIST + 12], hot[h + H_LIST + 14], hot[h + H_LIST + 15]
        x = last_cell(hot, h, 3, words, row)
        x = first if x < 0 else x + 1
        o = offset + x * words
        if x >= first + count or hot[o] >= row:
            return -1
        begin, end = max(hot[o], base_row), hot[o + 1]
        if not make_tails(heap, hot, ctl, meta, shape, lanes, windows, acc, slot, t, bound, begin, end):
            return -1
    return t if hot[t + T_END] <= i + base_row else -1


@jit_inline
def plan_walk(
    heap, hot, ctl, meta, shape, lanes, windows, group, group_bounds, acc, slot, p, tails
):  # fmt: skip
    """Write the steps of a group's walk at acc[p:]; return how many. tails: whether they may be taken."""
    high = acc[group[0]]
    n = 0
    h = meta[slot, M_HOT]
    cells = h >= 0 and shape[S_CELLS] > 0
    base_row = meta[slot, M_BASE]
    words = record_words(shape)
    cell = shape[S_STEPS] - 8
    if cells:
        for level in range(4):
            acc[cell + level] = last_cell(hot, h, level, words, high + base_row)
    i = high
    for b in range(group[G_FIRST], group[G_FIRST] + group[G_BOUNDS]):
        e = acc[group_bounds[b]]
        t = -1
        if tails and group_bounds[b] < shape[S_BOUNDS] and i - e >= CELL_ROWS:
            t = tail_of(heap, hot, ctl, meta, shape, lanes, windows, acc, slot, group_bounds[b], e, i)
        if t >= 0:
            end = hot[t + T_END] - base_row
            n = cover(hot, h, words, 4, base_row, i, end, cell, acc, p, n)
            tail = hot[t + T_OFFSET] + (e + base_row - hot[t + T_BEGIN]) * 3 * shape[S_TAILS]
            n = add_step(acc, p, n, TAIL, group_bounds[b], tail)
            i = end
            continue
        if cells and i - e >= CELL_ROWS:
            n = cover(hot, h, words, 4, base_row, i, e, cell, acc, p, n)
        elif i > e:
            n = add_step(acc, p, n, ROWS_STEP, e, i)
        i = min(i, e)
        n = add_step(acc, p, n, EDGE, group_bounds[b], 0)
    if n == STEPS:  # too many: row by row, then
        n = 0
        i = high
        for b in range(group[G_FIRST], group[G_FIRST] + group[G_BOUNDS]):
            e = acc[group_bounds[b]]
            n = add_step(acc, p, n, ROWS_STEP, e, i)
            n = add_step(acc, p, n, EDGE, group_bounds[b], 0)
            i = e
    return n


@jit
def append_cell(hot, ctl, h, level, words, base_row):
    """Return the offset of a new cell at the end of a level's list, or -1 without room."""
    at = h + H_LIST + 4 * level
    offset, cap, first, count = hot[at], hot[at + 1], hot[at + 2], hot[at + 3]
    if first + count == cap:
        while count > 0 and hot[offset + first * words] < base_row:  # its first rows are gone
            first += 1
            count -= 1
        new_cap, new = cap, offset
        if cap == 0 or count > cap // 2:
            new_cap = max(4, 2 * cap)
            new = hot_take(hot, ctl, new_cap * words)
            if new < 0:
                return -1
        for x in range(count * words):
            hot[new + x] = hot[offset + first * words + x]
        if new != offset and cap > 0:
            hot_give(hot, ctl, offset, cap * words)
        offset, cap, first = new, new_cap, 0
        hot[at], hot[at + 1], hot[at + 2] = offset, cap, first
    hot[at + 3] = count + 1
    return offset + (first + count) * words


@jit
def close_cell(heap, hot, ctl, meta, shape, lanes, windows, acc, slot, level, begin, end):
    """Keep the cell of rows [begin, end) (indexes in the log); False without room."""
    h = meta[slot, M_HOT]
    words = record_words(shape)
    base_row = meta[slot, M_BASE]
    o = append_cell(hot, ctl, h, level, words, base_row)
    if o < 0:
        return False
    hot[o] = begin + base_row
    hot[o + 1] = end + base_row
    p = shape[S_STEPS]
    cell = p - 8
    for lower in range(level):
        acc[cell + lower] = last_cell(hot, h, lower, words, end + base_row)
    n = cover(hot, h, words, level, base_row, end, begin, cell, acc, p, 0)
    if n == STEPS:
        n = add_step(acc, p, 0, ROWS_STEP, begin, end)
    cap = meta[slot, M_CAP]
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    for x in range(len(lanes)):
        if lanes[x, L_CELL] >= 0:
            to = o + 2 + 3 * lanes[x, L_CELL]
            walk_lane(heap, base, cap, base_row, lanes[x], windows, acc, p, n, hot, to, shape[S_LIMBS])
    return True


@jit
def close_cells(heap, hot, ctl, meta, shape, lanes, windows, acc, slot):
    """Keep the cells that rows since the last call have closed. O(1) a row, amortized.

    The first walk over a log takes its rows singly: most logs whose lanes all move are walked but once.
    """
    h = meta[slot, M_HOT]
    base_row = meta[slot, M_BASE]
    if hot[h + H_CHECKED] < 0:
        hot[h + H_CHECKED] = base_row
        return
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    length = meta[slot, M_LENGTH]
    r = max(hot[h + H_CHECKED] - base_row, 0)
    for level in range(4):
        if hot[h + H_START + level] < base_row:
            hot[h + H_START + level] = base_row
    if shape[S_CELLS] == 0:
        return
    while r < length:
        if r > 0:
            before = heap[base + r - 1]
            now = heap[base + r]
            for level in range(4):
                if now < before - before % GRID_MS[level] + GRID_MS[level]:
                    break
                begin = hot[h + H_START + level] - base_row
                if r - begin >= CELL_ROWS and not close_cell(
                    heap, hot, ctl, meta, shape, lanes, windows, acc, slot, level, begin, r
                ):
                    hot[h + H_CHECKED] = r + base_row + 1  # row r is undone, and done again with room
                    truncate_cells(heap, hot, ctl, meta, shape, slot, r)
                    return
                hot[h + H_START + level] = r + base_row
        r += 1
        hot[h + H_CHECKED] = r + base_row


@jit
def truncate_cells(heap, hot, ctl, meta, shape, slot, at):
    """Drop the cells and tails that end at or after row `at` (index in the log), which is new or about to go."""
    h = meta[slot, M_HOT]
    base_row = meta[slot, M_BASE]
    if h < 0 or hot[h + H_CHECKED] <= at + base_row:
        return
    drop_tails(hot, ctl, shape, h, at + base_row - 1)
    words = record_words(shape)
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    hot[h + H_CHECKED] = at + base_row
    for level in range(4):
        where = h + H_LIST + 4 * level
        offset, first = hot[where], hot[where + 2]
        while hot[where + 3] > 0 and hot[offset + (first + hot[where + 3] - 1) * words + 1] >= at + base_row:
            hot[where + 3] -= 1
        begin = at
        if at > 0:
            edge = heap[base + at - 1] - heap[base + at - 1] % GRID_MS[level]
            low = 0
            while low < begin:
                middle = (low + begin) >> 1
                if heap[base + middle] >= edge:
                    begin = middle
                else:
                    low = middle + 1
        hot[h + H_START + level] = begin + base_row
