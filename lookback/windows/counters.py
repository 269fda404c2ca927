"""Counters by value that move with a long log's windows: distinct, top_k, mode, entropy, seen_before.

Owns: one counter a (log, by-value lane) and how it follows instants, late rows and trims.
Refuses: short windows (see `tally`), and being right about rows it has lost: then it is dropped.

    counter := high windows capacity used size want k kind
               low[windows] distinct[windows] whole[windows] part[windows] kth[windows] stale[windows]
               rows[windows] list[windows][1 + k] value[capacity] place[2 * capacity] count[capacity][windows]
               tree[windows][capacity]                                       (the last for top_k and mode)

Window w counts the rows low[w] <= r < high (absolute numbers) that take part. A value has a small id i;
place is an open-addressing hash table of ids. whole, part: sum of c ln c over the counts c, as integers
whole + part / 2**52, so that it has no memory of order. tree[w] is a tournament: node x holds the better
id of nodes 2x and 2x + 1 (leaf capacity + i is id i); kth and list remember the last answer, stale says
that a change may have touched it.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.cache import jit
from lookback.windows.hot import H_COUNTER, hot_give, hot_take
from lookback.windows.layout import (
    L_ACC,
    L_BIT,
    L_COLUMN,
    L_COUNTER,
    L_FIRST,
    L_HIGH,
    L_KIND,
    L_MOVE,
    L_PARAM,
    L_WANT,
    L_WINDOWS,
    L_WORDS,
    S_COUNTERS,
    SEEN,
    SMALL,
    WANT_ENTROPY,
    WANT_TOP,
)
from lookback.windows.moving import shift_moving
from lookback.windows.numeric import as_word
from lookback.windows.rows import M_BASE, M_HOT, takes_part
from lookback.windows.tally import entropy_of, less, log_term, mix

N_HIGH, N_WINDOWS, N_CAP, N_USED, N_SIZE, N_WANT, N_K, N_KIND, N_LOW = range(9)
PART = (1 << 52) - 1
FIRST_CAP = 128


@jit
def offsets(hot, c):
    """Return where a counter's lists, values, places, counts and trees begin."""
    windows, cap = hot[c + N_WINDOWS], hot[c + N_CAP]
    lists = c + N_LOW + 7 * windows
    values = lists + windows * (1 + hot[c + N_K])
    places = values + cap
    counts = places + 2 * cap
    return lists, values, places, counts, counts + cap * windows


@jit
def find(hot, c, word, add):
    """Return the id of a value: -1 when it has none (add: when there is no room for one)."""
    _, values, places, _, _ = offsets(hot, c)
    mask = 2 * hot[c + N_CAP] - 1
    h = mix(word) & mask
    while hot[places + h] >= 0:
        if hot[values + hot[places + h]] == word:
            return hot[places + h]
        h = (h + 1) & mask
    used = hot[c + N_USED]
    if not add or used == hot[c + N_CAP]:
        return -1
    hot[places + h] = used
    hot[values + used] = word
    hot[c + N_USED] = used + 1
    return used


@jit
def better(hot, c, w, a, b, blob, ends):
    """Return the one of two ids that comes first in window w: larger count, then smaller value."""
    windows = hot[c + N_WINDOWS]
    _, values, _, counts, _ = offsets(hot, c)
    count_a, count_b = hot[counts + a * windows + w], hot[counts + b * windows + w]
    if count_a != count_b:
        return a if count_a > count_b else b
    if count_a == 0:
        return a
    return a if less(hot[c + N_KIND], hot[values + a], hot[values + b], blob, ends) else b


@jit
def replay_up(hot, c, w, i, blob, ends):
    """Play id i's matches again, from its leaf up to where it no longer matters."""
    cap = hot[c + N_CAP]
    _, _, _, _, trees = offsets(hot, c)
    tree = trees + w * cap
    node = (cap + i) >> 1
    while node >= 1:
        before = hot[tree + node]
        left, right = 2 * node, 2 * node + 1
        a = left - cap if left >= cap else hot[tree + left]
        b = right - cap if right >= cap else hot[tree + right]
        best = better(hot, c, w, a, b, blob, ends)
        if best == before and best != i:
            return
        hot[tree + node] = best
        node >>= 1


@jit
def bump(hot, c, w, i, step, play, blob, ends):
    """Change the count of id i in window w by step, and all that follows from it."""
    windows = hot[c + N_WINDOWS]
    _, _, _, counts, _ = offsets(hot, c)
    at = counts + i * windows + w
    count = hot[at]
    now = count + step
    hot[at] = now
    state = c + N_LOW + windows + w
    hot[state + 5 * windows] += step
    if count == 0:
        hot[state] += 1
    elif now == 0:
        hot[state] -= 1
    want = hot[c + N_WANT]
    if want & WANT_ENTROPY:
        whole, part = log_term(count)
        whole2, part2 = log_term(now)
        part = hot[state + 2 * windows] + part2 - part
        hot[state + windows] += whole2 - whole + (part >> 52)
        hot[state + 2 * windows] = part & PART
    if want & WANT_TOP:
        if max(count, now) >= hot[state + 3 * windows]:
            hot[state + 4 * windows] = 1
        if play:
            replay_up(hot, c, w, i, blob, ends)


@jit
def drop_counter(hot, ctl, h, x):
    """Forget counter x of a log; the next one gets room for twice the values still counted."""
    c = hot[h + H_COUNTER + x]
    if c < 0:
        return 0
    windows = hot[c + N_WINDOWS]
    _, _, _, counts, _ = offsets(hot, c)
    live = 0
    for i in range(hot[c + N_USED]):
        live += hot[counts + i * windows + windows - 1] > 0
    hot_give(hot, ctl, c, hot[c + N_SIZE])
    hot[h + H_COUNTER + x] = -1
    return live


@jit
def change_rows(heap, base, cap, base_row, lane, hot, c, w, begin, end, step, blob, ends):
    """Add (step 1) or take out (-1) rows begin <= r < end (absolute) of window w; False without room."""
    bit = lane[L_BIT]
    column = base + lane[L_COLUMN] * cap
    for r in range(begin - base_row, end - base_row):
        if takes_part(heap, base, cap, bit, r):
            i = find(hot, c, heap[column + r], step > 0)
            if i < 0:
                return False
            bump(hot, c, w, i, step, True, blob, ends)
    return True


@jit
def build(heap, base, cap, base_row, lane, windows, at, high, blob, ends, hot, ctl, h, values_cap):
    """Return a new counter of the windows that end at row `high`; -1 without room, -2 with too few ids."""
    n = lane[L_WINDOWS]
    k = max(lane[L_WORDS] - 3, 0) if lane[0] != SEEN else 0
    trees = values_cap * n if lane[L_WANT] & WANT_TOP else 0
    size = N_LOW + 7 * n + n * (1 + k) + values_cap * (3 + n) + trees
    c = hot_take(hot, ctl, size)
    if c < 0:
        return -1
    for x in range(size):
        hot[c + x] = 0
    hot[c + N_HIGH], hot[c + N_WINDOWS], hot[c + N_CAP] = high + base_row, n, values_cap
    hot[c + N_SIZE], hot[c + N_WANT], hot[c + N_K], hot[c + N_KIND] = size, lane[L_WANT], k, lane[L_KIND]
    _, _, places, _, tree = offsets(hot, c)
    for x in range(2 * values_cap):
        hot[places + x] = -1
    column = base + lane[L_COLUMN] * cap
    for w in range(n):
        low = min(at[windows[lane[L_FIRST] + w]], high)
        hot[c + N_LOW + w] = low + base_row
        for r in range(low, high):
            if takes_part(heap, base, cap, lane[L_BIT], r):
                i = find(hot, c, heap[column + r], True)
                if i < 0:
                    hot_give(hot, ctl, c, size)
                    return -2
                bump(hot, c, w, i, 1, False, blob, ends)
        if trees:
            for node in range(values_cap - 1, 0, -1):
                left, right = 2 * node, 2 * node + 1
                a = left - values_cap if left >= values_cap else hot[tree + left]
                b = right - values_cap if right >= values_cap else hot[tree + right]
                hot[tree + node] = better(hot, c, w, a, b, blob, ends)
            tree += values_cap
            hot[c + N_LOW + 5 * n + w] = 1
    return c


@jit
def advance(heap, base, cap, base_row, lane, windows, at, high, blob, ends, hot, c):
    """Move a counter's windows to end at row `high`; False when it can't, or it wouldn't pay."""
    n = lane[L_WINDOWS]
    far = 0
    for w in range(n):
        low = hot[c + N_LOW + w]
        if low < base_row and low < hot[c + N_HIGH]:
            return False
        far += abs(min(at[windows[lane[L_FIRST] + w]], high) + base_row - low)
        far += abs(high + base_row - hot[c + N_HIGH])
    longest = high - at[windows[lane[L_FIRST] + n - 1]]
    if far > SMALL + longest:
        return False
    for w in range(n):
        old_low, old_high = hot[c + N_LOW + w], hot[c + N_HIGH]
        low, top = min(at[windows[lane[L_FIRST] + w]], high) + base_row, high + base_row
        # first what comes in, then what goes out: [old_low, old_high) becomes [low, top)
        if low >= old_high or top <= old_low:
            moves = ((low, top, 1), (old_low, old_high, -1))
            for begin, end, step in moves:
                if not change_rows(heap, base, cap, base_row, lane, hot, c, w, begin, end, step, blob, ends):
                    return False
        else:
            moves2 = (
                (old_high, top, 1), (low, old_low, 1), (top, old_high, -1), (old_low, low, -1),
            )  # fmt: skip
            for begin, end, step in moves2:
                if not change_rows(heap, base, cap, base_row, lane, hot, c, w, begin, end, step, blob, ends):
                    return False
        hot[c + N_LOW + w] = low
    hot[c + N_HIGH] = high + base_row
    return True


@jit
def follow(heap, base, cap, lane, windows, at, high, blob, ends, hot, ctl, meta, shape, slot):
    """Return a lane's counter, its windows ending at row `high`; -1 when the rows must be counted anew."""
    if high - at[windows[lane[L_FIRST] + lane[L_WINDOWS] - 1]] <= SMALL:
        return -1
    h = meta[slot, M_HOT]
    if h < 0:
        return -1
    base_row = meta[slot, M_BASE]
    x = lane[L_COUNTER]
    c = hot[h + H_COUNTER + x]
    spare = h + H_COUNTER + shape[S_COUNTERS] + x
    if c >= 0:
        if advance(heap, base, cap, base_row, lane, windows, at, high, blob, ends, hot, c):
            return c
        live = drop_counter(hot, ctl, h, x)
        hot[spare] = FIRST_CAP
        while hot[spare] < 2 * live:
            hot[spare] *= 2
        return -1
    hot[spare] = max(hot[spare], FIRST_CAP)
    while True:
        c = build(heap, base, cap, base_row, lane, windows, at, high, blob, ends, hot, ctl, h, hot[spare])
        if c != -2:
            hot[h + H_COUNTER + x] = c
            return c
        hot[spare] *= 2


@jit
def best_k(hot, c, w, lists, values, counts, trees, blob, ends):
    """Write window w's list again: take the winner out, again and again, then put them all back."""
    windows, cap, k = hot[c + N_WINDOWS], hot[c + N_CAP], hot[c + N_K]
    at = lists + w * (1 + k)
    n = 0
    kth = 0
    # a winner's count is negative while it is out; its place in the list holds its id
    while n < k:
        i = hot[trees + w * cap + 1]
        count = hot[counts + i * windows + w]
        if count <= 0:
            break
        hot[at + 1 + n] = i
        n += 1
        kth = count
        if n < k:
            hot[counts + i * windows + w] = -count
            replay_up(hot, c, w, i, blob, ends)
    for j in range(n):
        i = hot[at + 1 + j]
        if hot[counts + i * windows + w] < 0:
            hot[counts + i * windows + w] *= -1
            replay_up(hot, c, w, i, blob, ends)
        hot[at + 1 + j] = hot[values + i]
    hot[at] = n
    hot[c + N_LOW + 4 * windows + w] = kth if n == k else 0
    hot[c + N_LOW + 5 * windows + w] = 0


@jit
def count_values(heap, base, cap, lane, windows, at, acc, blob, ends, hot, ctl, meta, shape, slot):
    """COUNTER: read a lane's accs from its counter; False where there is none to read."""
    high = at[lane[L_HIGH]]
    c = follow(heap, base, cap, lane, windows, at, high, blob, ends, hot, ctl, meta, shape, slot)
    if c < 0:
        return False
    lists, values, _, counts, trees = offsets(hot, c)
    n = lane[L_WINDOWS]
    for w in range(n):
        o = lane[L_ACC] + lane[L_WORDS] * w
        state = c + N_LOW + n + w
        acc[o] = hot[state]
        if lane[L_WANT] & WANT_ENTROPY:
            acc[o + 1] = as_word(
                entropy_of(hot[state], hot[state + n], hot[state + 2 * n], hot[state + 5 * n])
            )
        if lane[L_WANT] & WANT_TOP:
            if hot[state + 4 * n]:
                best_k(hot, c, w, lists, values, counts, trees, blob, ends)
            k = hot[c + N_K]
            for x in range(1 + hot[lists + w * (1 + k)]):
                acc[o + 2 + x] = hot[lists + w * (1 + k) + x]
    return True


@jit
def count_seen(heap, base, cap, lane, windows, at, acc, blob, ends, hot, ctl, meta, shape, slot, own):
    """SEEN: look the own value up in the lane's counter of earlier rows; False where there is none."""
    if own < 0 or not takes_part(heap, base, cap, lane[L_PARAM], own):
        return False
    high = min(at[lane[L_HIGH]], own)
    c = follow(heap, base, cap, lane, windows, at, high, blob, ends, hot, ctl, meta, shape, slot)
    if c < 0:
        return False
    i = find(hot, c, heap[base + lane[L_COLUMN] * cap + own], False)
    _, _, _, counts, _ = offsets(hot, c)
    for w in range(lane[L_WINDOWS]):
        o = lane[L_ACC] + 2 * w
        acc[o] = 1
        acc[o + 1] = 1 if i >= 0 and hot[counts + i * lane[L_WINDOWS] + w] > 0 else 0
    return True


@jit
def shift_states(heap, hot, ctl, meta, shape, lanes, base, cap, slot, at, step, blob, ends):
    """Follow a row that has come in at index `at` (step 1) or is about to go out (-1)."""
    h = meta[slot, M_HOT]
    if h < 0:
        return
    p = at + meta[slot, M_BASE]
    for x in range(len(lanes)):
        if lanes[x, L_MOVE] >= 0:
            m = h + lanes[x, L_MOVE]
            shift_moving(heap, base, cap, meta[slot, M_BASE], lanes[x], hot, m, at, step)
        if lanes[x, L_COUNTER] < 0:
            continue
        c = hot[h + H_COUNTER + lanes[x, L_COUNTER]]
        if c < 0 or p >= hot[c + N_HIGH]:
            continue
        part = takes_part(heap, base, cap, lanes[x, L_BIT], at)
        i = find(hot, c, heap[base + lanes[x, L_COLUMN] * cap + at], step > 0) if part else 0
        if i < 0:
            drop_counter(hot, ctl, h, lanes[x, L_COUNTER])
            continue
        for w in range(lanes[x, L_WINDOWS]):
            if p < hot[c + N_LOW + w]:
                hot[c + N_LOW + w] += step
            elif part:
                bump(hot, c, w, i, step, True, blob, ends)
        hot[c + N_HIGH] += step


@jit
def trim_counters(heap, hot, ctl, meta, shape, lanes, base, cap, slot, dropped, blob, ends):
    """Take the log's first `dropped` rows out before they go."""
    h = meta[slot, M_HOT]
    if h < 0:
        return
    base_row = meta[slot, M_BASE]
    first = base_row + dropped
    for x in range(len(lanes)):
        if lanes[x, L_COUNTER] < 0:
            continue
        c = hot[h + H_COUNTER + lanes[x, L_COUNTER]]
        if c < 0:
            continue
        if hot[c + N_HIGH] < first:
            drop_counter(hot, ctl, h, lanes[x, L_COUNTER])
            continue
        for w in range(lanes[x, L_WINDOWS]):
            low = hot[c + N_LOW + w]
            if low < first:
                change_rows(heap, base, cap, base_row, lanes[x], hot, c, w, low, first, -1, blob, ends)
                hot[c + N_LOW + w] = first
