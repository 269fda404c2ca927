"""Sums, counts and extremes that move with a long log's windows, where that is exact.

Owns: one state a (log, lane) in the log's header and how it follows instants and late rows.
Refuses: floats' sums (their grouping is the grid's; lifetime ones are exact) and being right about rows it
has lost: then the state is dropped (high = -1) and the lane walks anew.

    sum     := high (low n low_word high_word)[windows]     window w: rows low <= r < high, absolute numbers
    extreme := high from count (row key)[count]             rows from <= r < high that take part and that no
                                                            later one beats; keys as in `walk_extreme`

    exact   := high n limb[LIMBS]                           all rows r < high, folded ones too, without error

The newest visible row is never in an extreme's state: a request's row can't be taken out of one again.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.cache import jit, jit_inline
from lookback.windows.layout import (
    L_ACC,
    L_BIT,
    L_COLUMN,
    L_FAMILY,
    L_FIRST,
    L_HIGH,
    L_LIFE,
    L_MOVE,
    L_WINDOWS,
    L_WORDS,
    MAX_FLOAT,
    MAX_INT,
    MIN_FLOAT,
    MOVING_ROWS,
    ROWS,
    SUM_EXACT,
    SUM_INT,
)
from lookback.windows.numeric import (
    INT64_MAX,
    LIMBS,
    add_128,
    as_float,
    as_word,
    super_add,
    super_value,
)
from lookback.windows.rows import takes_part

FAR_ROWS = 64  # a window whose edge moves further is walked instead


@jit
def key_of(lane, word):
    """Return the key that is least for the wanted extreme; its own inverse is `word_of`."""
    family = lane[L_FAMILY]
    turn = INT64_MAX if family == MIN_FLOAT or family == MAX_FLOAT else 0
    flip = -1 if family == MAX_INT or family == MAX_FLOAT else 0
    return word ^ ((word >> 63) & turn) ^ flip


@jit
def word_of(lane, key):
    """Return the word of a key."""
    family = lane[L_FAMILY]
    turn = INT64_MAX if family == MIN_FLOAT or family == MAX_FLOAT else 0
    word = key ^ (-1 if family == MAX_INT or family == MAX_FLOAT else 0)
    return word ^ ((word >> 63) & turn)


@jit
def slide(heap, base, cap, base_row, lane, hot, o, begin, end, step):
    """Add (step 1) or take out (-1) rows begin <= r < end (absolute) of the sum (n low high) at hot[o:]."""
    column = base + lane[L_COLUMN] * cap
    for r in range(begin - base_row, end - base_row):
        if takes_part(heap, base, cap, lane[L_BIT], r):
            hot[o] += step
            if lane[L_FAMILY] == SUM_INT:
                word = heap[column + r]
                high = word >> 63
                if step < 0:
                    word, high = -word, ~high + (word == 0)
                hot[o + 1], hot[o + 2] = add_128(hot[o + 1], hot[o + 2], word, high)


@jit
def move_sum(heap, base, cap, base_row, lane, windows, at, acc, hot, m):
    """ROWS, SUM_INT: move the state at hot[m:] to the windows' edges and emit it; False to walk instead."""
    high = at[lane[L_HIGH]] + base_row
    old_high = hot[m]
    words = lane[L_WORDS]
    n = lane[L_WINDOWS]
    if old_high < base_row or abs(high - old_high) > FAR_ROWS:
        return False
    for w in range(n):
        old = hot[m + 1 + 4 * w]
        low = at[windows[lane[L_FIRST] + w]] + base_row
        if low >= old_high or old >= high:  # nothing in common: made anew
            if high - low > FAR_ROWS:
                return False
        elif old < base_row or abs(low - old) > FAR_ROWS:
            return False
    for w in range(n):
        o = m + 2 + 4 * w
        old = hot[o - 1]
        low = at[windows[lane[L_FIRST] + w]] + base_row
        if low >= old_high or old >= high:
            hot[o] = hot[o + 1] = hot[o + 2] = 0
            slide(heap, base, cap, base_row, lane, hot, o, low, high, 1)
        else:
            slide(heap, base, cap, base_row, lane, hot, o, old_high, high, 1)
            slide(heap, base, cap, base_row, lane, hot, o, high, old_high, -1)
            slide(heap, base, cap, base_row, lane, hot, o, low, old, 1)
            slide(heap, base, cap, base_row, lane, hot, o, old, low, -1)
        hot[o - 1] = low
        to = lane[L_ACC] + words * w
        for x in range(words):
            acc[to + x] = hot[o + x]
    hot[m] = high
    return True


@jit
def keep_sum(base_row, lane, windows, at, acc, hot, m):
    """Take what a walk has left in acc as the state at hot[m:]."""
    hot[m] = at[lane[L_HIGH]] + base_row
    for w in range(lane[L_WINDOWS]):
        o = m + 1 + 4 * w
        hot[o] = at[windows[lane[L_FIRST] + w]] + base_row
        for x in range(lane[L_WORDS]):
            hot[o + 1 + x] = acc[lane[L_ACC] + lane[L_WORDS] * w + x]


@jit
def push(hot, m, row, key, first):
    """Put a row behind the others of an extreme's state, those it beats going out; False when it is full."""
    count = hot[m + 2]
    while count > 0 and hot[m + 2 + 2 * count] >= key:
        count -= 1
    if count == MOVING_ROWS:
        gone = 0
        while gone < count and hot[m + 3 + 2 * gone] < first:
            gone += 1
        if gone == 0:
            hot[m] = -1
            return False
        count -= gone
        for x in range(2 * count):
            hot[m + 3 + x] = hot[m + 3 + x + 2 * gone]
        hot[m + 1] = first
    hot[m + 3 + 2 * count] = row
    hot[m + 4 + 2 * count] = key
    hot[m + 2] = count + 1
    return True


@jit
def move_extreme(heap, base, cap, base_row, lane, windows, at, acc, hot, m):
    """MIN, MAX: move the state at hot[m:] up to the newest visible row and emit; False to walk instead."""
    newest = at[lane[L_HIGH]] - 1
    n = lane[L_WINDOWS]
    first = at[windows[lane[L_FIRST] + n - 1]]
    column = base + lane[L_COLUMN] * cap
    if newest < 0:
        return False
    start = hot[m] - base_row
    if hot[m] < 0 or start > newest or start < first or hot[m + 1] > first + base_row:
        start = first
        hot[m + 1] = first + base_row
        hot[m + 2] = 0
    for r in range(start, newest):
        if takes_part(heap, base, cap, lane[L_BIT], r):
            key = key_of(lane, heap[column + r])
            if not push(hot, m, r + base_row, key, first + base_row):
                return False
    hot[m] = newest + base_row
    has = takes_part(heap, base, cap, lane[L_BIT], newest)
    own = key_of(lane, heap[column + newest]) if has else INT64_MAX
    best = INT64_MAX
    found = 0
    x = hot[m + 2] - 1
    for w in range(n):
        low = at[windows[lane[L_FIRST] + w]]
        while x >= 0 and hot[m + 3 + 2 * x] >= low + base_row:
            best = hot[m + 4 + 2 * x]
            found = 1
            x -= 1
        o = lane[L_ACC] + lane[L_WORDS] * w
        visible = has and newest >= low
        acc[o] = 1 if found or visible else 0
        acc[o + 1] = word_of(lane, min(best, own) if visible else best)
    return True


@jit
def move_exact(heap, base, cap, base_row, lane, at, acc, life, start, hot, m):
    """SUM_EXACT: move the state at hot[m:] to the newest visible row and emit it."""
    high = at[lane[L_HIGH]] + base_row
    if hot[m] < base_row:  # rows it never saw may be folded by now: from what is folded on
        hot[m] = base_row
        for x in range(1 + LIMBS):
            hot[m + 1 + x] = life[start + lane[L_LIFE] + x] if lane[L_LIFE] >= 0 else 0
    column = base + lane[L_COLUMN] * cap
    step = 1 if high >= hot[m] else -1
    for r in range(min(high, hot[m]) - base_row, max(high, hot[m]) - base_row):
        if takes_part(heap, base, cap, lane[L_BIT], r):
            hot[m + 1] += step
            super_add(hot, m + 2, as_float(heap[column + r]), step)
    hot[m] = high
    acc[lane[L_ACC]] = hot[m + 1]
    acc[lane[L_ACC] + 1] = as_word(super_value(hot, m + 2))


@jit
def shift_moving(heap, base, cap, base_row, lane, hot, m, at, step):
    """Follow a row that has come in at index `at` (step 1) or is about to go out (-1)."""
    p = at + base_row
    if hot[m] < 0 or p >= hot[m]:
        return
    if lane[L_FAMILY] == SUM_EXACT:
        if takes_part(heap, base, cap, lane[L_BIT], at):
            hot[m + 1] += step
            super_add(hot, m + 2, as_float(heap[base + lane[L_COLUMN] * cap + at]), step)
        hot[m] += step
        return
    if lane[L_FAMILY] == ROWS or lane[L_FAMILY] == SUM_INT:
        for w in range(lane[L_WINDOWS]):
            o = m + 1 + 4 * w
            if p < hot[o]:
                hot[o] += step
            else:
                slide(heap, base, cap, base_row, lane, hot, o + 1, p, p + 1, step)
        hot[m] += step
        return
    if step < 0 or hot[m + 2] == MOVING_ROWS:
        hot[m] = -1
        return
    count = hot[m + 2]
    hot[m] += 1
    if p < hot[m + 1]:
        hot[m + 1] += 1
    y = count
    while y > 0 and hot[m + 3 + 2 * (y - 1)] >= p:
        y -= 1
        hot[m + 3 + 2 * y] += 1
    if p < hot[m + 1] or not takes_part(heap, base, cap, lane[L_BIT], at):
        return
    key = key_of(lane, heap[base + lane[L_COLUMN] * cap + at])
    if y < count and hot[m + 4 + 2 * y] <= key:
        return
    keep = y
    while keep > 0 and hot[m + 4 + 2 * (keep - 1)] >= key:
        keep -= 1
    if keep == y:
        for x in range(2 * count - 1, 2 * y - 1, -1):
            hot[m + 5 + x] = hot[m + 3 + x]
        count += 1
    elif keep < y - 1:
        for x in range(2 * (count - y)):
            hot[m + 3 + 2 * (keep + 1) + x] = hot[m + 3 + 2 * y + x]
        count -= y - keep - 1
    hot[m + 3 + 2 * keep] = p
    hot[m + 4 + 2 * keep] = key
    hot[m + 2] = count


@jit_inline
def move_lane(heap, base, cap, base_row, lane, windows, at, acc, hot, h):
    """Emit a lane from its moving state; False where it has to be walked."""
    m = h + lane[L_MOVE]
    if lane[L_FAMILY] == ROWS or lane[L_FAMILY] == SUM_INT:
        return move_sum(heap, base, cap, base_row, lane, windows, at, acc, hot, m)
    return move_extreme(heap, base, cap, base_row, lane, windows, at, acc, hot, m)
