"""Logs of rows in one flat array: insert, trim, fold.

Owns: the region of each slot, the order of its rows, and what becomes of rows past the reach.
Refuses: windows and aggregates' results.

    heap   := region*                     one int64 array a view
    region := column[0] .. column[columns - 1]        each `cap` words
    column := gap(head) row[0] .. row[length - 1] free

Rows are sorted by (time, position). Trimming moves `head`; a full region moves to one of the next class. Class
c has (2 + c % 2) * 2**(c // 2) rows: 4, 6, 8, 12, 16, 24 …
A slot's `meta` is one cache line: offset, cap, head, length, newest, covers.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from lookback.windows.aggregates import beats
from lookback.windows.cache import entry, jit, jit_inline
from lookback.windows.layout import (
    ENDS,
    L_BIT,
    L_COLUMN,
    L_FAMILY,
    L_LIFE,
    PREVIOUS,
    REACH_INFINITE,
    ROWS,
    S_LIFE,
    S_REACH,
    SUM_EXACT,
    SUM_INT,
)
from lookback.windows.numeric import INT64_MIN, add_128, as_float, super_add

M_OFFSET, M_CAP, M_HEAD, M_LENGTH, M_NEWEST, M_COVERS, M_HOT, M_BASE = range(8)
# control words: end of the used part, words missing, words kept free at the end, words in free lists, those
# lists by class
C_TOP, C_NEED, C_RESERVE, C_SPARE, C_FREE = 0, 1, 2, 3, 8
FIRST_CLASS = 2  # the smallest region holds 4 rows


@jit
def room_of(size_class):
    """Return how many rows (in other arenas: words) a class has room for."""
    return (2 + (size_class & 1)) << (size_class >> 1)


@jit
def class_of(rows):
    """Return the smallest class with room for `rows` rows."""
    size_class = FIRST_CLASS
    while room_of(size_class) < rows:
        size_class += 1
    return size_class


@jit
def take(heap, ctl, columns, size_class):
    """Return the offset of a free region of a class, or -1 (then ctl[C_NEED] says how much)."""
    free = ctl[C_FREE + size_class]
    words = columns * room_of(size_class)
    if free >= 0:
        ctl[C_FREE + size_class] = heap[free]
        ctl[C_SPARE] -= words
        return free
    top = ctl[C_TOP]
    if top + words > len(heap) - ctl[C_RESERVE]:
        ctl[C_NEED] = max(ctl[C_NEED], words + ctl[C_RESERVE])
        return -1
    ctl[C_TOP] = top + words
    return top


@jit
def give(heap, ctl, columns, size_class, offset):
    """Put a region on its free list."""
    heap[offset] = ctl[C_FREE + size_class]
    ctl[C_FREE + size_class] = offset
    ctl[C_SPARE] += columns * room_of(size_class)


@entry
def pack(heap, meta, ctl, columns, slots, packed):
    """Copy the regions of slots, which are all there are, to `packed`, one after another."""
    top = 0
    for x in range(len(slots)):
        slot = slots[x]
        cap = meta[slot, M_CAP]
        base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
        for c in range(columns):
            for j in range(meta[slot, M_LENGTH]):
                packed[top + c * cap + j] = heap[base + c * cap + j]
        meta[slot, M_OFFSET] = top
        meta[slot, M_HEAD] = 0
        top += columns * cap
    ctl[:C_FREE] = 0
    ctl[C_FREE:] = -1
    ctl[C_TOP] = top


@jit_inline
def make_room(heap, meta, ctl, columns, slot, rows):
    """Make sure that `rows` more rows fit behind a slot's last; False when the heap must grow first."""
    cap = meta[slot, M_CAP]
    head = meta[slot, M_HEAD]
    length = meta[slot, M_LENGTH]
    if head + length + rows <= cap:
        return True
    offset = meta[slot, M_OFFSET]
    if cap > 0 and head >= cap // 2 and length + rows <= cap:
        for c in range(columns):
            base = offset + c * cap
            for j in range(length):
                heap[base + j] = heap[base + head + j]
        meta[slot, M_HEAD] = 0
        return True
    size_class = class_of(length + rows)
    new_cap = room_of(size_class)
    new = take(heap, ctl, columns, size_class)
    if new < 0:
        return False
    for c in range(columns):
        source = offset + c * cap + head
        target = new + c * new_cap
        for j in range(length):
            heap[target + j] = heap[source + j]
    if cap > 0:
        give(heap, ctl, columns, class_of(cap), offset)
    meta[slot, M_OFFSET] = new
    meta[slot, M_CAP] = new_cap
    meta[slot, M_HEAD] = 0
    return True


@jit_inline
def rank(heap, base, cap, length, time, position):
    """Return how many rows of a log come at or before (time, position)."""
    j = length
    while j > 0 and length - j < 8:
        t = heap[base + j - 1]
        if t < time or (t == time and heap[base + cap + j - 1] <= position):
            return j
        j -= 1
    low = 0
    while low < j:
        middle = (low + j) >> 1
        t = heap[base + middle]
        if t < time or (t == time and heap[base + cap + middle] <= position):
            low = middle + 1
        else:
            j = middle
    return low


@jit_inline
def insert(heap, meta, columns, slot, time, position, values, i):
    """Insert column i of `values` as a row, in order; there must be room. Return its index."""
    cap = meta[slot, M_CAP]
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    length = meta[slot, M_LENGTH]
    at = rank(heap, base, cap, length, time, position)
    for c in range(columns):
        column = base + c * cap
        for j in range(column + length, column + at, -1):
            heap[j] = heap[j - 1]
    heap[base + at] = time
    heap[base + cap + at] = position
    for c in range(2, columns):
        heap[base + c * cap + at] = values[c - 2, i]
    meta[slot, M_LENGTH] = length + 1
    return at


@jit
def remove(heap, meta, columns, slot, at):
    """Take row `at` out again."""
    cap = meta[slot, M_CAP]
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    length = meta[slot, M_LENGTH] - 1
    for c in range(columns):
        column = base + c * cap
        for j in range(column + at, column + length):
            heap[j] = heap[j + 1]
    meta[slot, M_LENGTH] = length


@jit
def takes_part(heap, base, cap, bit, j):
    """Whether row j has participation bit `bit` (-1: every row)."""
    if bit < 0:
        return True
    return (heap[base + (2 + (bit >> 6)) * cap + j] >> (bit & 63)) & 1 == 1


@jit
def fold_row(heap, base, cap, j, life, start, lanes):
    """Add row j to its slot's lifetime accumulators, life[start:]; the result has no memory of order."""
    time = heap[base + j]
    position = heap[base + cap + j]
    for x in range(len(lanes)):
        o = lanes[x, L_LIFE]
        if o < 0 or not takes_part(heap, base, cap, lanes[x, L_BIT], j):
            continue
        o += start
        family = lanes[x, L_FAMILY]
        column = lanes[x, L_COLUMN]
        word = heap[base + column * cap + j] if column >= 0 else 0
        n = life[o]
        life[o] = n + 1
        if family == SUM_INT:
            life[o + 1], life[o + 2] = add_128(life[o + 1], life[o + 2], word, word >> 63)
        elif family == SUM_EXACT:
            super_add(life, o + 1, as_float(word), 1)
        elif family == PREVIOUS:
            if n == 0 or time > life[o + 1]:
                life[o + 1] = time
        elif family == ENDS:
            if n == 0 or time < life[o + 1] or (time == life[o + 1] and position < life[o + 2]):
                life[o + 1], life[o + 2], life[o + 3] = time, position, word
            if n == 0 or time > life[o + 4] or (time == life[o + 4] and position > life[o + 5]):
                life[o + 4], life[o + 5], life[o + 6] = time, position, word
        elif family != ROWS and (n == 0 or beats(family, word, life[o + 1])):
            life[o + 1] = word


@jit_inline
def drop_until(heap, meta, life, shape, lanes, slot, before):
    """Fold and drop a log's rows with time <= before; covers rises when there are any."""
    cap = meta[slot, M_CAP]
    base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
    length = meta[slot, M_LENGTH]
    dropped = 0
    while dropped < length and heap[base + dropped] <= before:
        if shape[S_LIFE] > 0:
            fold_row(heap, base, cap, dropped, life, slot * shape[S_LIFE], lanes)
        dropped += 1
    meta[slot, M_HEAD] += dropped
    meta[slot, M_LENGTH] = length - dropped
    meta[slot, M_BASE] += dropped
    covers = meta[slot, M_COVERS]
    if (dropped > 0 or covers != INT64_MIN) and before > covers:
        meta[slot, M_COVERS] = before


@jit
def horizon(meta, shape, slot):
    """Return newest - reach, saturating: rows at or before it are past a log's reach."""
    newest = meta[slot, M_NEWEST]
    reach = shape[S_REACH]
    if reach == REACH_INFINITE or newest < INT64_MIN + reach:
        return INT64_MIN
    return newest - reach


@entry
def export_rows(heap, meta, columns, slots, starts, flat):
    """Copy logs out, column-major, each at flat[starts[i]:starts[i + 1]]."""
    for i in range(len(slots)):
        slot = slots[i]
        cap = meta[slot, M_CAP]
        base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
        length = meta[slot, M_LENGTH]
        to = starts[i]
        for c in range(columns):
            for j in range(length):
                flat[to + c * length + j] = heap[base + c * cap + j]


@entry
def load_rows(heap, meta, ctl, columns, slots, flat, starts, first):
    """Copy logs in from log `first` on; return how many are done (fewer: the heap must grow)."""
    for i in range(first, len(slots)):
        slot = slots[i]
        length = (starts[i + 1] - starts[i]) // columns
        if length == 0:
            continue
        if not make_room(heap, meta, ctl, columns, slot, length):
            return i
        cap = meta[slot, M_CAP]
        base = meta[slot, M_OFFSET] + meta[slot, M_HEAD]
        for c in range(columns):
            for j in range(length):
                heap[base + c * cap + j] = flat[starts[i] + c * length + j]
        meta[slot, M_LENGTH] = length
        meta[slot, M_NEWEST] = heap[base + length - 1]
    return len(slots)


@entry
def free_regions(heap, meta, ctl, columns, slots):
    """Give the regions of slots back and leave their logs empty."""
    for i in range(len(slots)):
        slot = slots[i]
        if meta[slot, M_CAP] > 0:
            give(heap, ctl, columns, class_of(meta[slot, M_CAP]), meta[slot, M_OFFSET])
        meta[slot, M_OFFSET:M_NEWEST] = 0
        meta[slot, M_NEWEST] = INT64_MIN
        meta[slot, M_COVERS] = INT64_MIN
        meta[slot, M_HOT] = -1
        meta[slot, M_BASE] = 0
