"""Scans: what each lane accumulates over the rows of its windows, newest row first.

Owns: window edges and the loops over rows. Refuses: what a result means (see `aggregates`).

    time   ──────┬────────┬───────────┬──▶           rows at[b] <= j < at[high] are in a window
               at[b2]   at[b1]     at[high]          whose far bound is b, near bound is `high`

Windows of a lane ascend, so one pass backward over the rows serves them all, leaving an acc at each edge.
Float families add within the fixed grid second < minute < hour < day of the clock (docs/adr/0002).
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.aggregates import beats, merge, update
from lookback.windows.cache import jit
from lookback.windows.layout import (
    COUNTER,
    DECAY,
    ENDS,
    L_ACC,
    L_BIT,
    L_COLUMN,
    L_FAMILY,
    L_FIRST,
    L_HIGH,
    L_KIND,
    L_LIFE,
    L_PARAM,
    L_WINDOWS,
    L_WORDS,
    LAST_K,
    PREVIOUS,
    ROWS,
    SEEN,
    SUM_EXACT,
    SUM_FLOAT,
    SUM_INT,
    WELFORD,
)
from lookback.windows.numeric import (
    INT64_MAX,
    INT64_MIN,
    LIMBS,
    add_128,
    as_float,
    as_word,
    halves_128,
    super_add,
    super_value,
)
from lookback.windows.rows import takes_part
from lookback.windows.tally import scan_counter

GRID_MS = (1_000, 60_000, 3_600_000, 86_400_000)
LEVELS = 4


@jit
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
def scan_rows(heap, base, cap, lane, windows, at, acc):
    """ROWS: how many rows take part."""
    high = at[lane[L_HIGH]]
    bit = lane[L_BIT]
    word = base + (2 + (bit >> 6)) * cap
    shift = bit & 63
    n = 0
    j = high
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        if bit < 0:
            n = high - low
        else:
            for i in range(word + low, word + j):
                n += (heap[i] >> shift) & 1
        j = low
        acc[lane[L_ACC] + w] = n


@jit
def scan_sum_int(heap, base, cap, lane, windows, at, acc):
    """SUM_INT: exact sums, kept as two sums over halves of words until they are emitted."""
    bit = lane[L_BIT]
    word = base + (2 + (bit >> 6)) * cap
    shift = bit & 63
    column = base + lane[L_COLUMN] * cap
    n = 0
    lows = 0
    highs = 0
    j = at[lane[L_HIGH]]
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        if bit < 0:
            n += j - low
            for i in range(column + low, column + j):
                lows += heap[i] & 0xFFFFFFFF
                highs += heap[i] >> 32
        else:
            for i in range(low, j):
                mask = -((heap[word + i] >> shift) & 1)
                value = heap[column + i] & mask
                n -= mask
                lows += value & 0xFFFFFFFF
                highs += value >> 32
        j = low
        o = lane[L_ACC] + 3 * w
        acc[o] = n
        acc[o + 1], acc[o + 2] = halves_128(lows, highs)


@jit
def scan_extreme(heap, base, cap, lane, windows, at, acc):
    """MIN, MAX: the value that beats the others."""
    family = lane[L_FAMILY]
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    n = 0
    best = 0
    j = at[lane[L_HIGH]]
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        for i in range(low, j):
            if takes_part(heap, base, cap, bit, i):
                value = heap[column + i]
                if n == 0 or beats(family, value, best):
                    best = value
                n += 1
        j = low
        o = lane[L_ACC] + 3 * w
        acc[o] = n
        acc[o + 1] = best


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
def scan_grid(heap, base, cap, lane, windows, at, acc, st, o):
    """Float families: rows into seconds, seconds into minutes, hours, days, days into the total.

    st[o:o + 18] is working room: five levels' states and one more.
    """
    family = lane[L_FAMILY]
    param = lane[L_PARAM]
    floats = lane[L_KIND] == 1
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    counts = lane[L_COLUMN] < 0
    for x in range(18):
        st[o + x] = 0
    second = INT64_MAX
    minute = INT64_MAX
    hour = INT64_MAX
    day = INT64_MAX
    j = at[lane[L_HIGH]]
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        while j > low:
            j -= 1
            time = heap[base + j]
            if time < second:
                levels = 1 + (time < minute) + (time < hour) + (time < day)
                if st[o] or levels > 1:
                    fold_levels(family, param, st, o, levels)
                second = time - time % GRID_MS[0]
                if levels > 1:
                    minute = time - time % GRID_MS[1]
                    if levels > 2:
                        hour = time - time % GRID_MS[2]
                        if levels > 3:
                            day = time - time % GRID_MS[3]
            if takes_part(heap, base, cap, bit, j):
                value = heap[column + j] if not counts else 1
                update(family, floats, param, st, o, time, value)
        emit_levels(family, param, st, o, acc, lane[L_ACC] + 3 * w)


@jit
def scan_ends(heap, base, cap, lane, windows, at, acc):
    """ENDS: how many rows take part, and the first and last of them."""
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    valued = lane[L_COLUMN] >= 0
    n = 0
    first = 0
    last = 0
    j = at[lane[L_HIGH]]
    for w in range(lane[L_WINDOWS]):
        low = at[windows[lane[L_FIRST] + w]]
        if bit < 0:
            if n == 0:
                last = j - 1
            n += j - low
            first = low
        else:
            for i in range(j - 1, low - 1, -1):
                if takes_part(heap, base, cap, bit, i):
                    if n == 0:
                        last = i
                    n += 1
                    first = i
        j = low
        o = lane[L_ACC] + 5 * w
        acc[o] = n
        if n > 0:
            acc[o + 1] = heap[base + first]
            acc[o + 3] = heap[base + last]
            if valued:
                acc[o + 2] = heap[column + first]
                acc[o + 4] = heap[column + last]


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


@jit
def scan_lane(heap, base, cap, lane, windows, at, acc, own, life, start, limbs, blob, ends):
    """Accumulate one lane over all its windows."""
    family = lane[L_FAMILY]
    if family == ROWS:
        scan_rows(heap, base, cap, lane, windows, at, acc)
    elif family == SUM_INT:
        scan_sum_int(heap, base, cap, lane, windows, at, acc)
    elif family == SUM_FLOAT or family == WELFORD or family == DECAY:
        scan_grid(heap, base, cap, lane, windows, at, acc, acc, limbs)
    elif family == ENDS:
        scan_ends(heap, base, cap, lane, windows, at, acc)
    elif family == PREVIOUS:
        scan_previous(heap, base, cap, lane, windows, at, acc, own)
    elif family == COUNTER:
        scan_counter(heap, base, cap, lane, windows, at, acc, blob, ends)
    elif family == SEEN:
        scan_seen(heap, base, cap, lane, windows, at, acc, own)
    elif family == LAST_K:
        scan_last(heap, base, cap, lane, windows, at, acc)
    elif family == SUM_EXACT:
        scan_exact(heap, base, cap, lane, at, acc, life, start, limbs)
    else:
        scan_extreme(heap, base, cap, lane, windows, at, acc)
    if lane[L_LIFE] >= 0:
        add_life(lane, acc, life, start)
