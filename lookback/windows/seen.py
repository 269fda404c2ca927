"""When each value was last there, for `seen_before` over long logs.

Owns: one table a (log, SEEN lane) and how it follows instants and late rows.
Refuses: short windows (see `scan`), instants before the last one, and taking rows out: those are scanned, or
the table is made anew.

    table := high low capacity used size place[2 * capacity] record[capacity]
    record := value time          the time of the value's newest row among low <= r < high (absolute numbers)

A value was there in a window if its newest row is: so neither windows nor rows that leave them cost anything.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.cache import jit
from lookback.windows.hot import COUNTER_SIZE, H_COUNTER, hot_give, hot_take
from lookback.windows.layout import (
    L_ACC,
    L_BIT,
    L_COLUMN,
    L_COUNTER,
    L_FIRST,
    L_HIGH,
    L_PARAM,
    L_WINDOWS,
    S_COUNTERS,
    SMALL,
)
from lookback.windows.rows import M_BASE, M_HOT, takes_part
from lookback.windows.tally import mix

T_HIGH, T_LOW, T_CAP, T_USED, T_SIZE, T_PLACE = range(6)
assert T_SIZE == COUNTER_SIZE
FIRST_CAP = 128


@jit
def place_of(hot, c, word):
    """Return where in a table's places a value is, or would be."""
    cap = hot[c + T_CAP]
    places = c + T_PLACE
    records = places + 2 * cap
    h = mix(word) & (2 * cap - 1)
    while hot[places + h] >= 0 and hot[records + 2 * hot[places + h]] != word:
        h = (h + 1) & (2 * cap - 1)
    return places + h


@jit
def note(heap, base, cap, lane, hot, c, row):
    """Note row `row` (index in the log), if it takes part; False without room for its value."""
    if not takes_part(heap, base, cap, lane[L_BIT], row):
        return True
    word = heap[base + lane[L_COLUMN] * cap + row]
    place = place_of(hot, c, word)
    records = c + T_PLACE + 2 * hot[c + T_CAP]
    i = hot[place]
    if i < 0:
        i = hot[c + T_USED]
        if i == hot[c + T_CAP]:
            return False
        hot[c + T_USED] = i + 1
        hot[place] = i
        hot[records + 2 * i] = word
        hot[records + 2 * i + 1] = heap[base + row]
    elif heap[base + row] > hot[records + 2 * i + 1]:
        hot[records + 2 * i + 1] = heap[base + row]
    return True


@jit
def note_rows(heap, base, cap, base_row, lane, hot, c, high):
    """Note the rows from the table's high on, up to row `high` (index in the log); False without room."""
    r = max(hot[c + T_HIGH] - base_row, 0)
    while r < high:
        if not note(heap, base, cap, lane, hot, c, r):
            return False
        r += 1
        hot[c + T_HIGH] = r + base_row
    return True


@jit
def drop_table(hot, ctl, h, x):
    """Forget table x of a log."""
    c = hot[h + H_COUNTER + x]
    if c >= 0:
        hot_give(hot, ctl, c, hot[c + T_SIZE])
        hot[h + H_COUNTER + x] = -1


@jit
def make_table(hot, ctl, h, x, low, cap):
    """Return a new table that begins at row `low` (absolute); -1 without room."""
    size = T_PLACE + 4 * cap
    c = hot_take(hot, ctl, size)
    if c < 0:
        return -1
    hot[c + T_HIGH], hot[c + T_LOW], hot[c + T_CAP], hot[c + T_USED], hot[c + T_SIZE] = low, low, cap, 0, size
    for place in range(c + T_PLACE, c + T_PLACE + 2 * cap):
        hot[place] = -1
    hot[h + H_COUNTER + x] = c
    return c


@jit
def live_values(hot, c, since):
    """Return how many values of a table were there at or after a time."""
    records = c + T_PLACE + 2 * hot[c + T_CAP]
    live = 0
    for i in range(hot[c + T_USED]):
        live += hot[records + 2 * i + 1] >= since
    return live


@jit
def table_of(heap, base, cap, base_row, lane, hot, ctl, h, spare, low, high):
    """Return the lane's table, all rows low <= r < high (indexes in the log) noted; -1 to scan instead."""
    x = lane[L_COUNTER]
    c = hot[h + H_COUNTER + x]
    hot[spare] = max(hot[spare], FIRST_CAP)
    if c >= 0:
        if high + base_row < hot[c + T_HIGH] or low + base_row < hot[c + T_LOW]:
            return -1
        if note_rows(heap, base, cap, base_row, lane, hot, c, high):
            return c
        # many values may have left the windows by now
        live = live_values(hot, c, heap[base + low])
        hot[spare] = FIRST_CAP
        while hot[spare] < 2 * live:
            hot[spare] *= 2
        drop_table(hot, ctl, h, x)
    while True:
        c = make_table(hot, ctl, h, x, low + base_row, hot[spare])
        if c < 0 or note_rows(heap, base, cap, base_row, lane, hot, c, high):
            return c
        drop_table(hot, ctl, h, x)
        hot[spare] *= 2


@jit
def look_up_seen(heap, base, cap, lane, windows, at, acc, hot, ctl, meta, shape, slot, own):
    """SEEN: look the own value up among earlier rows; False where it has to be scanned for."""
    if own < 0 or not takes_part(heap, base, cap, lane[L_PARAM], own):
        return False
    high = min(at[lane[L_HIGH]], own)
    low = at[windows[lane[L_FIRST] + lane[L_WINDOWS] - 1]]
    h = meta[slot, M_HOT]
    if high - low <= SMALL or h < 0:
        return False
    spare = h + H_COUNTER + shape[S_COUNTERS] + lane[L_COUNTER]
    c = table_of(heap, base, cap, meta[slot, M_BASE], lane, hot, ctl, h, spare, low, high)
    if c < 0:
        return False
    i = hot[place_of(hot, c, heap[base + lane[L_COLUMN] * cap + own])]
    time = hot[c + T_PLACE + 2 * hot[c + T_CAP] + 2 * i + 1] if i >= 0 else 0
    for w in range(lane[L_WINDOWS]):
        o = lane[L_ACC] + 2 * w
        first = at[windows[lane[L_FIRST] + w]]
        acc[o] = 1
        acc[o + 1] = 1 if i >= 0 and first < high and time >= heap[base + first] else 0
    return True


@jit
def shift_seen(heap, base, cap, base_row, lane, hot, ctl, h, at, step):
    """Follow a row that has come in at index `at` (step 1) or is about to go out (-1)."""
    c = hot[h + H_COUNTER + lane[L_COUNTER]]
    p = at + base_row
    if c < 0 or p >= hot[c + T_HIGH]:
        return
    if p >= hot[c + T_LOW] and (step < 0 or not note(heap, base, cap, lane, hot, c, at)):
        drop_table(hot, ctl, h, lane[L_COUNTER])
        return
    hot[c + T_HIGH] += step
    if p < hot[c + T_LOW]:
        hot[c + T_LOW] += step
