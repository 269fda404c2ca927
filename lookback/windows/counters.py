"""Counters by value that move with a long log's windows: distinct, top_k, mode, entropy.

Owns: one counter a (log, by-value lane) and how it follows instants, late rows and trims.
Refuses: short windows (see `tally`), and being right about rows it has lost: then it is dropped.

    counter := high windows capacity used size want leaders kind
               low[windows] distinct[windows] whole[windows] part[windows] rows[windows]
               list[windows][1 + leaders] place[2 * capacity] record[capacity]
               tree[windows][capacity]                                       (the last for top_k and mode)
    record  := value count[windows]

Window w counts the rows low[w] <= r < high (absolute numbers) that take part. A value has a small id i;
place is an open-addressing hash table of ids. whole, part: sum of c ln c over the counts c, as integers
whole + part / 2**52, so that it has no memory of order.

For top_k and mode, list[w] holds its length and the ids of window w's *leaders*, best first, their counts
kept negative. tree[w] is a tournament of all others: node x holds the better id of nodes 2x and 2x + 1 (leaf
capacity + i is id i, a leader being there with count 0). Every leader beats every other value, so a read
takes the first k, and the values that change most often, the leaders, seldom play in the tree.
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
    L_FAMILY,
    L_FIRST,
    L_HIGH,
    L_KIND,
    L_MOVE,
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
from lookback.windows.seen import shift_seen
from lookback.windows.tally import entropy_of, less, log_term, mix

N_HIGH, N_WINDOWS, N_CAP, N_USED, N_SIZE, N_WANT, N_LEADERS, N_KIND, N_LOW = range(9)
PART = (1 << 52) - 1
FIRST_CAP = 128
MORE_LEADERS = 4  # beyond the k asked for, so that one seldom goes into the tree and comes out again


@jit
def offsets(hot, c):
    """Return where a counter's lists, places, records and trees begin."""
    windows, cap = hot[c + N_WINDOWS], hot[c + N_CAP]
    lists = c + N_LOW + 5 * windows
    places = lists + windows * (1 + hot[c + N_LEADERS])
    records = places + 2 * cap
    return lists, places, records, records + cap * (1 + windows)


@jit
def count_at(hot, c, w, i):
    """Return where the count of id i in window w is."""
    _, _, records, _ = offsets(hot, c)
    return records + i * (1 + hot[c + N_WINDOWS]) + 1 + w


@jit
def find(hot, c, word, add):
    """Return the id of a value: -1 when it has none (add: when there is no room for one)."""
    _, places, records, _ = offsets(hot, c)
    words = 1 + hot[c + N_WINDOWS]
    mask = 2 * hot[c + N_CAP] - 1
    h = mix(word) & mask
    while hot[places + h] >= 0:
        if hot[records + hot[places + h] * words] == word:
            return hot[places + h]
        h = (h + 1) & mask
    used = hot[c + N_USED]
    if not add or used == hot[c + N_CAP]:
        return -1
    hot[places + h] = used
    hot[records + used * words] = word
    hot[c + N_USED] = used + 1
    return used


@jit
def beats_id(hot, c, a, count_a, b, count_b, blob, ends):
    """Whether id a comes before id b with these counts: larger count, then smaller value."""
    if count_a != count_b:
        return count_a > count_b
    _, _, records, _ = offsets(hot, c)
    words = 1 + hot[c + N_WINDOWS]
    return less(hot[c + N_KIND], hot[records + a * words], hot[records + b * words], blob, ends)


@jit
def better(hot, c, w, a, b, blob, ends):
    """Return the one of two ids that wins in window w's tree, where leaders count 0."""
    count_a, count_b = max(hot[count_at(hot, c, w, a)], 0), max(hot[count_at(hot, c, w, b)], 0)
    if count_b == 0:
        return a
    return a if beats_id(hot, c, a, count_a, b, count_b, blob, ends) else b


@jit
def replay_up(hot, c, w, i, blob, ends):
    """Play id i's matches again, from its leaf up to where it no longer matters."""
    cap = hot[c + N_CAP]
    _, _, _, trees = offsets(hot, c)
    tree = trees + w * cap
    best = i
    node = cap + i
    while node > 1:
        other = node ^ 1
        best = better(hot, c, w, best, other - cap if other >= cap else hot[tree + other], blob, ends)
        node >>= 1
        if hot[tree + node] == best and best != i:
            return
        hot[tree + node] = best


@jit
def lead(hot, c, w, i, blob, ends):
    """Put id i, whose count is negative by now, among window w's leaders; the last of too many goes out."""
    lists, _, _, _ = offsets(hot, c)
    most = hot[c + N_LEADERS]
    at = lists + w * (1 + most)
    n = hot[at]
    count = -hot[count_at(hot, c, w, i)]
    j = n
    while j > 0:
        other = hot[at + j]
        if not beats_id(hot, c, i, count, other, -hot[count_at(hot, c, w, other)], blob, ends):
            break
        j -= 1
    gone = -1
    if n == most:
        n -= 1
        gone = hot[at + 1 + n] if j <= n else i
    if gone != i:
        for x in range(n, j, -1):
            hot[at + 1 + x] = hot[at + x]
        hot[at + 1 + j] = i
    hot[at] = n + 1
    if gone >= 0:
        hot[count_at(hot, c, w, gone)] *= -1
        replay_up(hot, c, w, gone, blob, ends)


@jit
def follow_leader(hot, c, w, i, blob, ends):
    """Put leader i, whose count has changed, where it belongs now: maybe into the tree."""
    lists, _, _, trees = offsets(hot, c)
    at = lists + w * (1 + hot[c + N_LEADERS])
    n = hot[at]
    j = 1
    while hot[at + j] != i:
        j += 1
    for x in range(j, n):
        hot[at + x] = hot[at + x + 1]
    hot[at] = n - 1
    place = count_at(hot, c, w, i)
    count = -hot[place]
    root = hot[trees + w * hot[c + N_CAP] + 1]
    best = max(hot[count_at(hot, c, w, root)], 0)
    if count > 0 and (best == 0 or beats_id(hot, c, i, count, root, best, blob, ends)):
        lead(hot, c, w, i, blob, ends)
    else:
        hot[place] = count
        replay_up(hot, c, w, i, blob, ends)


@jit
def rank_again(hot, c, w, i, blob, ends):
    """Follow the changed count of id i, no leader: into the leaders if it beats the last of them."""
    lists, _, _, _ = offsets(hot, c)
    at = lists + w * (1 + hot[c + N_LEADERS])
    place = count_at(hot, c, w, i)
    count = hot[place]
    n = hot[at]
    if n > 0 and count > 0:
        last = hot[at + n]
        if beats_id(hot, c, i, count, last, -hot[count_at(hot, c, w, last)], blob, ends):
            hot[place] = -count
            replay_up(hot, c, w, i, blob, ends)
            lead(hot, c, w, i, blob, ends)
            return
    replay_up(hot, c, w, i, blob, ends)


@jit
def bump(hot, c, w, i, step, play, blob, ends):
    """Change the count of id i in window w by step, and all that follows from it (play: its rank, too)."""
    windows = hot[c + N_WINDOWS]
    at = count_at(hot, c, w, i)
    leads = hot[at] < 0
    count = abs(hot[at])
    now = count + step
    hot[at] = -now if leads else now
    state = c + N_LOW + windows + w
    hot[state + 3 * windows] += step
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
    if want & WANT_TOP and play:
        if leads:
            follow_leader(hot, c, w, i, blob, ends)
        else:
            rank_again(hot, c, w, i, blob, ends)


@jit
def drop_counter(hot, ctl, h, x):
    """Forget counter x of a log; the next one gets room for twice the values still counted."""
    c = hot[h + H_COUNTER + x]
    if c < 0:
        return 0
    live = 0
    for i in range(hot[c + N_USED]):
        live += hot[count_at(hot, c, hot[c + N_WINDOWS] - 1, i)] != 0
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
    ranked = lane[L_WANT] & WANT_TOP
    leaders = lane[L_WORDS] - 3 + MORE_LEADERS if ranked else 0
    size = N_LOW + 5 * n + n * (1 + leaders) + values_cap * (3 + n) + (values_cap * n if ranked else 0)
    c = hot_take(hot, ctl, size)
    if c < 0:
        return -1
    for x in range(size):
        hot[c + x] = 0
    hot[c + N_HIGH], hot[c + N_WINDOWS], hot[c + N_CAP] = high + base_row, n, values_cap
    hot[c + N_SIZE], hot[c + N_WANT], hot[c + N_LEADERS] = size, lane[L_WANT], leaders
    hot[c + N_KIND] = lane[L_KIND]
    _, places, _, tree = offsets(hot, c)
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
        if ranked:
            for node in range(values_cap - 1, 0, -1):
                left, right = 2 * node, 2 * node + 1
                a = left - values_cap if left >= values_cap else hot[tree + left]
                b = right - values_cap if right >= values_cap else hot[tree + right]
                hot[tree + node] = better(hot, c, w, a, b, blob, ends)
            tree += values_cap
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
    old_high, top = hot[c + N_HIGH], high + base_row
    for r in range(max(old_high, base_row), top):  # each new row is looked up once for all windows
        if takes_part(heap, base, cap, lane[L_BIT], r - base_row):
            i = find(hot, c, heap[base + lane[L_COLUMN] * cap + r - base_row], True)
            if i < 0:
                return False
            for w in range(n):
                if r >= at[windows[lane[L_FIRST] + w]] + base_row:
                    bump(hot, c, w, i, 1, True, blob, ends)
    for w in range(n):
        old_low, low = hot[c + N_LOW + w], min(at[windows[lane[L_FIRST] + w]], high) + base_row
        # first what comes in, then what goes out: [old_low, old_high) becomes [low, top)
        moves = (
            (low, min(old_low, top), 1), (max(top, old_low), old_high, -1), (old_low, min(low, old_high), -1),
        )  # fmt: skip
        for begin, end, step in moves:
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
def list_best(hot, c, w, k, acc, o, blob, ends):
    """Write window w's k best values to acc[o:], their number first; leaders come out of the tree as needed."""
    lists, _, records, trees = offsets(hot, c)
    words = 1 + hot[c + N_WINDOWS]
    at = lists + w * (1 + hot[c + N_LEADERS])
    n = hot[at]
    while n < k:
        i = hot[trees + w * hot[c + N_CAP] + 1]
        if hot[count_at(hot, c, w, i)] <= 0:
            break
        hot[count_at(hot, c, w, i)] *= -1
        n += 1
        hot[at + n] = i
        replay_up(hot, c, w, i, blob, ends)
    hot[at] = n
    acc[o] = min(n, k)
    for x in range(1, acc[o] + 1):
        acc[o + x] = hot[records + hot[at + x] * words]


@jit
def count_values(heap, base, cap, lane, windows, at, acc, blob, ends, hot, ctl, meta, shape, slot):
    """COUNTER: read a lane's accs from its counter; False where there is none to read."""
    high = at[lane[L_HIGH]]
    c = follow(heap, base, cap, lane, windows, at, high, blob, ends, hot, ctl, meta, shape, slot)
    if c < 0:
        return False
    n = lane[L_WINDOWS]
    for w in range(n):
        o = lane[L_ACC] + lane[L_WORDS] * w
        state = c + N_LOW + n + w
        acc[o] = hot[state]
        if lane[L_WANT] & WANT_ENTROPY:
            acc[o + 1] = as_word(
                entropy_of(hot[state], hot[state + n], hot[state + 2 * n], hot[state + 3 * n])
            )
        if lane[L_WANT] & WANT_TOP:
            list_best(hot, c, w, lane[L_WORDS] - 3, acc, o + 2, blob, ends)
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
        if lanes[x, L_FAMILY] == SEEN:
            shift_seen(heap, base, cap, meta[slot, M_BASE], lanes[x], hot, ctl, h, at, step)
            continue
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
        if lanes[x, L_COUNTER] < 0 or lanes[x, L_FAMILY] == SEEN:
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
