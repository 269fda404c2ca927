"""Memory for what long logs keep beside their rows: closed cells and counters by value.

Owns: the second arena and each long log's header in it. Refuses: anything that could change a result: all
of it can be dropped at any time and is made again from the rows.

    arena  := region* free reserve       regions of classes as in `rows`, in words; the reserve is scratch
    header := checked start[4] (offset cap first count)[4] counter[counters] spare[counters]
              edge[bounds] (tails)[bounds] moving*

Rows are named by their *absolute* number here: index in the log plus the number of rows it ever dropped.
checked: rows below it have been looked at for closed cells, -1 before the first walk. start[l]: first row of
the level-l cell of row checked - 1. The four words after it describe a level's list of cells (see `cells`).
counter[c]: offset of a counter (see `counters`), -1 without one; spare[c]: the room it wants next time.
edge[b]: where bound b last was. tails: of the day that bound b's edge lies in (see `tails`), where lanes walk.
moving: states of lanes (see `moving`).
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.cache import jit
from lookback.windows.layout import (
    HEADER_WORDS,
    L_MOVE,
    S_BOUNDS,
    S_CELLS,
    S_COUNTERS,
    S_HEADER,
    S_TAIL,
    S_TAILS,
    TAIL_WORDS,
)
from lookback.windows.rows import C_NEED, C_RESERVE, C_TOP, M_BASE, M_HOT, class_of, give, take

H_CHECKED, H_START, H_LIST, H_COUNTER = 0, 1, 5, HEADER_WORDS
COUNTER_SIZE = 4  # where a counter keeps its own size in words
T_OFFSET, T_BEGIN, T_END, T_SEEN = range(TAIL_WORDS)
HOT_ROWS = 64  # logs below this many rows keep nothing


@jit
def hot_take(hot, ctl, words):
    """Return the offset of a region of at least `words` words, or -1; then the arena must grow."""
    return take(hot, ctl, 1, class_of(words))


@jit
def reserve(hot, ctl, words):
    """Keep `words` words at the arena's end free for a count by value; False when it must grow first."""
    if ctl[C_TOP] + words > len(hot):
        ctl[C_NEED] = max(ctl[C_NEED], words)
        return False
    ctl[C_RESERVE] = words
    return True


@jit
def hot_give(hot, ctl, offset, words):
    """Put a region of `words` words on its free list."""
    give(hot, ctl, 1, class_of(words), offset)


@jit
def open_header(hot, ctl, meta, shape, lanes, slot):
    """Make sure that a log has a header, where there is room for one."""
    h = meta[slot, M_HOT]
    if h >= 0:
        return
    words = shape[S_HEADER]
    h = hot_take(hot, ctl, words)
    if h < 0:
        return
    for x in range(words):
        hot[h + x] = 0
    hot[h + H_CHECKED] = -1
    for level in range(4):
        hot[h + H_START + level] = meta[slot, M_BASE]
    for c in range(shape[S_COUNTERS]):
        hot[h + H_COUNTER + c] = -1
    if shape[S_TAILS] > 0:
        for b in range(shape[S_BOUNDS]):
            hot[h + shape[S_TAIL] + TAIL_WORDS * b + T_OFFSET] = -1
    for x in range(len(lanes)):
        if lanes[x, L_MOVE] >= 0:
            hot[h + lanes[x, L_MOVE]] = -1
    meta[slot, M_HOT] = h


@jit
def drop_tail(hot, ctl, shape, t):
    """Give back the table of tails at hot[t:], if there is one."""
    if hot[t + T_OFFSET] >= 0:
        words = (hot[t + T_END] - hot[t + T_BEGIN]) * 3 * shape[S_TAILS]
        hot_give(hot, ctl, hot[t + T_OFFSET], words)
        hot[t + T_OFFSET] = -1


@jit
def drop_tails(hot, ctl, shape, h, row):
    """Give back a log's tables of tails that end after a row (absolute)."""
    if shape[S_TAILS] > 0:
        for b in range(shape[S_BOUNDS]):
            t = h + shape[S_TAIL] + TAIL_WORDS * b
            if hot[t + T_END] > row:
                drop_tail(hot, ctl, shape, t)


@jit
def drop_header(hot, ctl, meta, shape, slot):
    """Give back all that a log keeps beside its rows."""
    h = meta[slot, M_HOT]
    if h < 0:
        return
    for level in range(4):
        cap = hot[h + H_LIST + 4 * level + 1]
        if cap > 0:
            hot_give(hot, ctl, hot[h + H_LIST + 4 * level], cap * (2 + 3 * shape[S_CELLS]))
    drop_tails(hot, ctl, shape, h, -1)
    for c in range(shape[S_COUNTERS]):
        counter = hot[h + H_COUNTER + c]
        if counter >= 0:
            hot_give(hot, ctl, counter, hot[counter + COUNTER_SIZE])
    hot_give(hot, ctl, h, shape[S_HEADER])
    meta[slot, M_HOT] = -1
