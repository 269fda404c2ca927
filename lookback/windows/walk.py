"""Walks: what lanes accumulate over shared steps, newest row first.

Owns: the loops over rows, and the fixed grid that float families add in (docs/adr/0002).
Refuses: choosing the steps (see `cells`), and what an acc means (see `aggregates`).

    step := ROWS_STEP a b      rows a <= j < b, newest first
          | EDGE bound         all rows of the windows that end at `bound` have been seen: emit
          | TAIL bound a       they amount to what was seen and the tail at hot[a:] (see `tails`): emit
          | level a b          a closed cell of the grid: its partials at hot[a:], its newest row b

Float families nest second < minute < hour < day of the clock: rows add up within a second, seconds within
their minute, and so on, days into the total, each level from its newest part to its oldest.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.aggregates import merge, update
from lookback.windows.cache import jit, jit_inline
from lookback.windows.layout import (
    DECAY,
    ENDS,
    L_ACC,
    L_BIT,
    L_CELL,
    L_COLUMN,
    L_FAMILY,
    L_FIRST,
    L_KIND,
    L_PARAM,
    L_TAIL,
    L_WINDOWS,
    MAX_FLOAT,
    MAX_INT,
    MIN_FLOAT,
    ROWS,
    SUM_FLOAT,
    SUM_INT,
    WELFORD,
)
from lookback.windows.numeric import INT64_MAX, add_128, halves_128
from lookback.windows.rows import takes_part

GRID_MS = (1_000, 60_000, 3_600_000, 86_400_000)
LEVELS = 4
ROWS_STEP = 4
EDGE = 5
TAIL = 6  # for lanes that have one


@jit
def walk_rows(heap, base, cap, lane, windows, acc, p, steps, hot, final):
    """ROWS: how many rows take part."""
    bit = lane[L_BIT]
    word = base + (2 + (bit >> 6)) * cap
    shift = bit & 63
    cell = 3 * lane[L_CELL]
    n = 0
    w = 0
    for s in range(p, p + 3 * steps, 3):
        kind, a, b = acc[s], acc[s + 1], acc[s + 2]
        if kind == ROWS_STEP:
            for i in range(word + a, word + b):
                n += (heap[i] >> shift) & 1
        elif kind == EDGE:
            if windows[lane[L_FIRST] + w] == a:
                acc[lane[L_ACC] + w] = n
                w += 1
                if w == lane[L_WINDOWS]:
                    return
        else:
            n += hot[a + cell]
    if final >= 0:
        hot[final] = n


@jit
def walk_sum_int(heap, base, cap, lane, windows, acc, p, steps, hot, final):
    """SUM_INT: exact sums; those of rows kept as two sums over halves of words until they are emitted."""
    bit = lane[L_BIT]
    word = base + (2 + (bit >> 6)) * cap
    shift = bit & 63
    column = base + lane[L_COLUMN] * cap
    cell = 3 * lane[L_CELL]
    n = 0
    lows = 0
    highs = 0
    low = 0
    high = 0
    w = 0
    for s in range(p, p + 3 * steps, 3):
        kind, a, b = acc[s], acc[s + 1], acc[s + 2]
        if kind == ROWS_STEP:
            if bit < 0:
                n += b - a
                for i in range(column + a, column + b):
                    lows += heap[i] & 0xFFFFFFFF
                    highs += heap[i] >> 32
            else:
                for i in range(a, b):
                    mask = -((heap[word + i] >> shift) & 1)
                    value = heap[column + i] & mask
                    n -= mask
                    lows += value & 0xFFFFFFFF
                    highs += value >> 32
        elif kind == EDGE:
            if windows[lane[L_FIRST] + w] == a:
                o = lane[L_ACC] + 3 * w
                more_low, more_high = halves_128(lows, highs)
                acc[o] = n
                acc[o + 1], acc[o + 2] = add_128(low, high, more_low, more_high)
                w += 1
                if w == lane[L_WINDOWS]:
                    return
        else:
            o = a + cell
            n += hot[o]
            low, high = add_128(low, high, hot[o + 1], hot[o + 2])
    if final >= 0:
        more_low, more_high = halves_128(lows, highs)
        hot[final] = n
        hot[final + 1], hot[final + 2] = add_128(low, high, more_low, more_high)


@jit
def walk_extreme(heap, base, cap, lane, windows, acc, p, steps, hot, final):
    """MIN, MAX: the least key, where a key is a word mapped so that the wanted value has the least one."""
    family = lane[L_FAMILY]
    bit = lane[L_BIT]
    word = base + (2 + (bit >> 6)) * cap
    shift = bit & 63
    column = base + lane[L_COLUMN] * cap
    cell = 3 * lane[L_CELL]
    # a negative float's bits order the wrong way round: turn them; for a maximum turn all
    turn = INT64_MAX if family == MIN_FLOAT or family == MAX_FLOAT else 0
    flip = -1 if family == MAX_INT or family == MAX_FLOAT else 0
    n = 0
    best = INT64_MAX
    w = 0
    for s in range(p, p + 3 * steps, 3):
        kind, a, b = acc[s], acc[s + 1], acc[s + 2]
        if kind == ROWS_STEP:
            if bit < 0:
                n += b - a
                for i in range(column + a, column + b):
                    best = min(best, heap[i] ^ ((heap[i] >> 63) & turn) ^ flip)
            else:
                for i in range(a, b):
                    mask = -((heap[word + i] >> shift) & 1)
                    value = heap[column + i]
                    n -= mask
                    key = value ^ ((value >> 63) & turn) ^ flip
                    best = min(best, (key & mask) | (INT64_MAX & ~mask))
        elif kind == EDGE:
            if windows[lane[L_FIRST] + w] == a:
                o = lane[L_ACC] + 3 * w
                acc[o] = n
                value = best ^ flip
                acc[o + 1] = value ^ ((value >> 63) & turn)
                w += 1
                if w == lane[L_WINDOWS]:
                    return
        else:
            o = a + cell
            if hot[o] > 0:
                n += hot[o]
                value = hot[o + 1]
                best = min(best, value ^ ((value >> 63) & turn) ^ flip)
    if final >= 0:
        value = best ^ flip
        hot[final] = n
        hot[final + 1] = value ^ ((value >> 63) & turn)


@jit
def walk_ends(heap, base, cap, lane, windows, acc, p, steps, hot, final, base_row):
    """Find ENDS: how many rows take part, their first and their last (in cells: absolute numbers)."""
    bit = lane[L_BIT]
    cell = 3 * lane[L_CELL]
    n = 0
    first = 0
    last = 0
    w = 0
    for s in range(p, p + 3 * steps, 3):
        kind, a, b = acc[s], acc[s + 1], acc[s + 2]
        if kind == ROWS_STEP:
            for i in range(b - 1, a - 1, -1):
                if takes_part(heap, base, cap, bit, i):
                    if n == 0:
                        last = i
                    n += 1
                    first = i
        elif kind == EDGE:
            if windows[lane[L_FIRST] + w] == a:
                emit_ends(heap, base, cap, lane, acc, lane[L_ACC] + 5 * w, n, first, last)
                w += 1
                if w == lane[L_WINDOWS]:
                    return
        elif kind == TAIL:
            if windows[lane[L_FIRST] + w] == a:
                tail = b + 3 * lane[L_TAIL]
                rows = hot[tail]
                oldest = hot[tail + 1] - base_row if rows else first
                newest = last if n else hot[tail + 2] - base_row
                emit_ends(heap, base, cap, lane, acc, lane[L_ACC] + 5 * w, n + rows, oldest, newest)
                w += 1
                if w == lane[L_WINDOWS]:
                    return
        elif bit >= 0 and hot[a + cell] > 0:
            if n == 0:
                last = hot[a + cell + 2] - base_row
            n += hot[a + cell]
            first = hot[a + cell + 1] - base_row
    if final >= 0:
        hot[final], hot[final + 1], hot[final + 2] = n, first + base_row, last + base_row


@jit
def emit_ends(heap, base, cap, lane, acc, o, n, first, last):
    """Write (n, first time, first value, last time, last value) to acc[o:]."""
    acc[o] = n
    if n > 0:
        acc[o + 1] = heap[base + first]
        acc[o + 3] = heap[base + last]
        if lane[L_COLUMN] >= 0:
            column = base + lane[L_COLUMN] * cap
            acc[o + 2] = heap[column + first]
            acc[o + 4] = heap[column + last]


@jit
def fold_levels(family, param, st, o, levels):
    """Merge the states of levels 0 .. levels - 1 upward into level `levels`, and empty them."""
    for level in range(levels):
        merge(family, param, st, o + 3 * level + 3, st, o + 3 * level)
        st[o + 3 * level] = 0
        st[o + 3 * level + 1] = 0
        st[o + 3 * level + 2] = 0


@jit
def emit_levels(family, param, st, o, acc, to):
    """Write to acc[to:to+3] what all levels amount to, leaving them as they are."""
    spare = o + 3 * (LEVELS + 1)
    for x in range(3):
        acc[to + x] = st[o + x]
    for level in range(1, LEVELS + 1):
        for x in range(3):
            st[spare + x] = acc[to + x]
            acc[to + x] = st[o + 3 * level + x]
        merge(family, param, acc, to, st, spare)


@jit
def walk_grid(heap, base, cap, lane, windows, acc, p, steps, hot, final, o):
    """Float families: acc[o:o + 18] is working room, five levels' states and one more."""
    family = lane[L_FAMILY]
    param = lane[L_PARAM]
    floats = lane[L_KIND] == 1
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    counts = lane[L_COLUMN] < 0
    cell = 3 * lane[L_CELL]
    for x in range(18):
        acc[o + x] = 0
    second = minute = hour = day = INT64_MAX
    w = 0
    for s in range(p, p + 3 * steps, 3):
        kind, a, j = acc[s], acc[s + 1], acc[s + 2]
        if kind == EDGE:
            if windows[lane[L_FIRST] + w] == a:
                emit_levels(family, param, acc, o, acc, lane[L_ACC] + 3 * w)
                w += 1
                if w == lane[L_WINDOWS]:
                    return
            continue
        if kind == TAIL:
            if windows[lane[L_FIRST] + w] == a:
                # what was seen are later days
                fold_levels(family, param, acc, o, LEVELS)
                to = lane[L_ACC] + 3 * w
                for x in range(3):
                    acc[to + x] = acc[o + 3 * LEVELS + x]
                merge(family, param, acc, to, hot, j + 3 * lane[L_TAIL])
                w += 1
                if w == lane[L_WINDOWS]:
                    return
            continue
        low = a if kind == ROWS_STEP else j
        if kind != ROWS_STEP:
            j += 1
        while j > low:
            j -= 1
            time = heap[base + j]
            if time < second:
                levels = 1 + (time < minute) + (time < hour) + (time < day)
                if acc[o] or levels > 1:
                    fold_levels(family, param, acc, o, levels)
                second = time - time % GRID_MS[0]
                if levels > 1:
                    minute = time - time % GRID_MS[1]
                    if levels > 2:
                        hour = time - time % GRID_MS[2]
                        if levels > 3:
                            day = time - time % GRID_MS[3]
            if kind != ROWS_STEP:
                for x in range(3):
                    acc[o + 3 * kind + x] = hot[a + cell + x]
            elif takes_part(heap, base, cap, bit, j):
                update(family, floats, param, acc, o, time, heap[column + j] if not counts else 1)
    if final >= 0:
        emit_levels(family, param, acc, o, hot, final)


@jit_inline
def walk_lane(heap, base, cap, base_row, lane, windows, acc, p, steps, hot, final, room):
    """Walk one lane over steps: an acc at each edge, or (final >= 0) the state of all at hot[final:]."""
    family = lane[L_FAMILY]
    if family == ROWS:
        walk_rows(heap, base, cap, lane, windows, acc, p, steps, hot, final)
    elif family == SUM_INT:
        walk_sum_int(heap, base, cap, lane, windows, acc, p, steps, hot, final)
    elif family == SUM_FLOAT or family == WELFORD or family == DECAY:
        walk_grid(heap, base, cap, lane, windows, acc, p, steps, hot, final, room)
    elif family == ENDS:
        walk_ends(heap, base, cap, lane, windows, acc, p, steps, hot, final, base_row)
    else:
        walk_extreme(heap, base, cap, lane, windows, acc, p, steps, hot, final)
