"""Find the wanted values of many Avro messages at once.

Owns: Avro's binary encoding. Refuses: schemas (see `avro_schema`) and what values mean (see `decode_avro`).

A message that passes here is one whole record of its schema, to its last byte. Cost: one pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import entry, jit

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

HEAD = 5  # bytes before the record: 0, and the schema's id in four
MAX_DEPTH = 64  # records, arrays and maps within each other
FEW = 1024  # items of an array of nulls, which takes no bytes: more than the bytes left is no true count
LEFT_OVER = -1  # a fault: bytes behind the record

# as in avro_schema
_NULL, _BOOL, _INT, _LONG, _FLOAT, _DOUBLE, _BYTES, _STRING, _FIXED, _ENUM, _RECORD, _UNION = range(12)
_MAP = 13
_NO_SIGN = 0x7FFF_FFFF_FFFF_FFFF


@jit
def read_long(data: U8, at: Any, end: Any) -> tuple[Any, Any]:
    """Return (where it ends, value) of a zigzag varint; the first is -1 where there is none."""
    bits = np.int64(0)
    for step in range(10):
        if at >= end:
            return -1, 0
        byte = np.int64(data[at])
        at += 1
        if step == 9 and byte > 1:
            return -1, 0
        bits |= (byte & 127) << (7 * step)
        if byte < 128:
            return at, ((bits >> 1) & _NO_SIGN) ^ -(bits & 1)
    return -1, 0


@jit
def read_leaf(data: U8, at: Any, end: Any, kind: Any, size: Any) -> tuple[Any, Any, Any]:
    """Return (where it ends, word, bytes) of a value that holds no other; the first is -1 where there is none.

    word: the number; the bits of a float; where the bytes of a text begin.
    """
    if kind == _NULL:
        return at, 0, 0
    if kind == _BOOL:
        if at >= end or data[at] > 1:
            return -1, 0, 0
        return at + 1, np.int64(data[at]), 0
    if kind in (_FLOAT, _DOUBLE):
        width = 4 if kind == _FLOAT else 8
        if end - at < width:
            return -1, 0, 0
        bits = np.int64(0)
        for step in range(width):
            bits |= np.int64(data[at + step]) << (8 * step)
        return at + width, bits, 0
    if kind == _FIXED:
        if end - at < size:
            return -1, 0, 0
        return at + size, at, size
    at, value = read_long(data, at, end)
    if at < 0:
        return -1, 0, 0
    if kind in (_BYTES, _STRING):
        if value < 0 or value > end - at:
            return -1, 0, 0
        return at + value, at, value
    if kind == _INT and (value < -2_147_483_648 or value > 2_147_483_647):
        return -1, 0, 0
    if kind == _ENUM and (value < 0 or value >= size):
        return -1, 0, 0
    return at, value, 0


@jit
def skip(data: U8, at: Any, end: Any, node: Any, nodes: I64, kids: I64, stack: I64) -> Any:
    """Return where a value of any type ends, -1 where there is none.

    stack: int64[2 * MAX_DEPTH]; of each record, array and map around the value, its node and, in turn, which child
    comes next or how many items are left of a block.
    """
    depth, current = 0, node
    while True:
        if current >= 0:
            kind, first, count = nodes[current, 0], nodes[current, 1], nodes[current, 2]
            if kind < _RECORD:
                at, _, _ = read_leaf(data, at, end, kind, first)
                if at < 0:
                    return -1
                current = -1
            elif kind == _UNION:
                at, branch = read_long(data, at, end)
                if at < 0 or branch < 0 or branch >= count:
                    return -1
                current = kids[first + branch]
            else:
                if depth == MAX_DEPTH:
                    return -1
                stack[2 * depth], stack[2 * depth + 1] = current, 0
                depth += 1
                current = -1
            continue
        if depth == 0:
            return at
        top, state = stack[2 * depth - 2], stack[2 * depth - 1]
        kind, first, count = nodes[top, 0], nodes[top, 1], nodes[top, 2]
        if kind == _RECORD:
            if state == count:
                depth -= 1
            else:
                stack[2 * depth - 1] = state + 1
                current = kids[first + state]
        elif state > 0:
            stack[2 * depth - 1] = state - 1
            if kind == _MAP:
                at, _, _ = read_leaf(data, at, end, _STRING, 0)
                if at < 0:
                    return -1
            current = first
        else:
            at, items = read_long(data, at, end)
            if at < 0:
                return -1
            if items == 0:
                depth -= 1
            elif items < 0:  # a block that says how many bytes it has
                at, size = read_long(data, at, end)
                if at < 0 or size < 0 or size > end - at:
                    return -1
                at += size
            elif items > end - at + FEW:
                return -1
            else:
                stack[2 * depth - 1] = items


@entry
def scan(
    data: U8,
    offsets: I32,
    rows: I64,
    nodes: I64,
    kids: I64,
    slots: I64,
    stack: I64,
    words: I64,
    sizes: I32,
    branches: U8,
    faults: I32,
) -> None:
    """Read the record's wanted fields of some messages.

    rows: int64[n], the messages. slots: int64[fields], where a field's values go, -1: nowhere. words, sizes, branches
    [slots, n]: see `read_leaf`; which type of a union it is, 0 of any other. faults[n]: 0, or 1 + the field at which
    a message is broken, or LEFT_OVER.
    """
    first = nodes[0, 1]
    for row in range(len(rows)):
        at: Any = np.int64(offsets[rows[row]]) + HEAD
        end = np.int64(offsets[rows[row] + 1])
        for field in range(len(slots)):
            node, slot = kids[first + field], slots[field]
            if slot < 0:
                at = skip(data, at, end, node, nodes, kids, stack)
            else:
                if nodes[node, 0] == _UNION:
                    at, branch = read_long(data, at, end)
                    if at < 0 or branch < 0 or branch >= nodes[node, 2]:
                        faults[row] = field + 1
                        break
                    branches[slot, row] = branch
                    node = kids[nodes[node, 1] + branch]
                if nodes[node, 0] < _RECORD:
                    at, word, size = read_leaf(data, at, end, nodes[node, 0], nodes[node, 1])
                    words[slot, row], sizes[slot, row] = word, size
                else:
                    at = skip(data, at, end, node, nodes, kids, stack)
            if at < 0:
                faults[row] = field + 1
                break
        if faults[row] == 0 and at != end:
            faults[row] = LEFT_OVER


@entry
def read_decimals(data: U8, starts: I64, sizes: I32, out: I64, fits: U8) -> None:
    """Read big-endian two's complement integers as int64[n, 2], low word first; fits[n] is 0 where it needs more."""
    for row in range(len(starts)):
        at, size = starts[row], np.int64(sizes[row])
        low, high = np.int64(0), np.int64(0)
        sign = np.int64(0)
        if size > 0 and data[at] > 127:
            sign = low = high = np.int64(-1)
        fits[row] = 1
        extra = size - 16
        for step in range(extra):
            if np.int64(data[at + step]) != (sign & 255):
                fits[row] = 0
        begin = at + max(np.int64(0), extra)
        if extra > 0 and ((np.int64(data[begin]) >> 7) & 1) != (sign & 1):
            fits[row] = 0
        for step in range(at + size - begin):
            high = (high << 8) | ((low >> 56) & 255)
            low = (low << 8) | np.int64(data[begin + step])
        out[row, 0], out[row, 1] = low, high
