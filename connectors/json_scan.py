"""Find the wanted values of many JSON messages at once: where each one's text lies, and what it is.

Owns: the JSON grammar over bytes. Refuses: what values mean (see `json_values`), and every message that is
not plain: it is left to `decode_message`, which rules on it. So a message is never refused here, and one
that passes here is valid JSON (UTF-8 included) for certain.

Left over: broken messages; an escaped key, or an escape other than one character in a string; nesting
beyond 60 levels. Cost: one pass, about a nanosecond a byte.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import entry, jit

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]

MISSING, NULL, FALSE, TRUE, WHOLE, NUMBER, TEXT, ESCAPED, NESTED = range(9)
LEFT_OVER = -1
MAX_DEPTH = 60
MAX_KEYS = 256

_PLAIN, _QUOTE, _BACKSLASH, _CONTROL, _HIGH = range(5)


def _classes() -> U8:
    table = np.zeros(256, np.uint8)
    table[:32] = _CONTROL
    table[ord('"')], table[ord("\\")] = _QUOTE, _BACKSLASH
    table[128:] = _HIGH
    return table


CLASS = _classes()


@jit
def skip_blank(data: U8, at: int, end: int) -> int:
    """Return the first byte from `at` on that is no JSON white space."""
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@jit
def utf8_length(data: U8, at: int, end: int) -> int:
    """Return the bytes of the non-ASCII character at `at`, 0 where it is no valid UTF-8."""
    first = data[at]
    length = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if first < 0xC2 or first > 0xF4 or at + length > end:
        return 0
    for step in range(1, length):
        if data[at + step] & 0xC0 != 0x80:
            return 0
    second = data[at + 1]
    if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
        return 0
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
        return 0
    return length


@jit
def string_end(data: U8, at: int, end: int) -> tuple[int, bool]:
    """Return where the closing quote of the string that begins at `at` is, and if it has escapes."""
    escaped = False
    while at < end:
        kind = CLASS[data[np.uint64(at)]]  # unsigned: no check for an index from the end
        if kind == 0:
            at += 1
        elif kind == 1:
            return at, escaped
        elif kind == 2:
            escaped = True
            if at + 1 >= end:
                return LEFT_OVER, escaped
            char = data[at + 1]  # " \ / b f n r t
            if not (
                char == 34
                or char == 92
                or char == 47
                or char == 98
                or char == 102
                or char == 110
                or char == 114
                or char == 116
            ):
                return LEFT_OVER, escaped
            at += 2
        elif kind == 4:
            length = utf8_length(data, at, end)
            if length == 0:
                return LEFT_OVER, escaped
            at += length
        else:
            return LEFT_OVER, escaped
    return LEFT_OVER, escaped


@jit
def number_end(data: U8, at: int, end: int) -> tuple[int, int]:
    """Return the end of the number at `at` and its tag (WHOLE: digits only)."""
    tag = WHOLE
    if data[at] == 45:
        at += 1
    if at >= end or data[at] < 48 or data[at] > 57:
        return LEFT_OVER, tag
    if data[at] == 48:
        at += 1
    else:
        while at < end and 48 <= data[at] <= 57:
            at += 1
    if at < end and data[at] == 46:
        tag = NUMBER
        at += 1
        if at >= end or data[at] < 48 or data[at] > 57:
            return LEFT_OVER, tag
        while at < end and 48 <= data[at] <= 57:
            at += 1
    if at < end and (data[at] == 101 or data[at] == 69):
        tag = NUMBER
        at += 1
        if at < end and (data[at] == 43 or data[at] == 45):
            at += 1
        if at >= end or data[at] < 48 or data[at] > 57:
            return LEFT_OVER, tag
        while at < end and 48 <= data[at] <= 57:
            at += 1
    return at, tag


@jit
def word_end(data: U8, at: int, end: int) -> tuple[int, int]:
    """Return the end and the tag of true, false or null at `at`."""
    if (
        at + 4 <= end
        and data[at] == 116
        and data[at + 1] == 114
        and data[at + 2] == 117
        and data[at + 3] == 101
    ):
        return at + 4, TRUE
    if (
        at + 4 <= end
        and data[at] == 110
        and data[at + 1] == 117
        and data[at + 2] == 108
        and data[at + 3] == 108
    ):
        return at + 4, NULL
    if (
        at + 5 <= end
        and data[at] == 102
        and data[at + 1] == 97
        and data[at + 2] == 108
        and data[at + 3] == 115
        and data[at + 4] == 101
    ):
        return at + 5, FALSE
    return LEFT_OVER, MISSING


@jit
def scalar_end(data: U8, at: int, end: int) -> tuple[int, int]:
    """Return the end and the tag of the string, number or word at `at`; a string's end includes its quote."""
    if data[at] == 34:
        close, escaped = string_end(data, at + 1, end)
        return (LEFT_OVER if close < 0 else close + 1), (ESCAPED if escaped else TEXT)
    if data[at] == 45 or 48 <= data[at] <= 57:
        return number_end(data, at, end)
    return word_end(data, at, end)


@jit
def nested_end(data: U8, at: int, end: int) -> int:
    """Return the end of the object or array at `at`."""
    # bit 0 of `inside` says whether the innermost container is an object; one bit a level
    inside = np.uint64(0)
    one = np.uint64(1)
    depth = 0
    expect_value = True
    while True:
        at = skip_blank(data, at, end)
        if at >= end:
            return LEFT_OVER
        if expect_value:
            opening = data[at]
            if opening == 123 or opening == 91:
                if depth >= MAX_DEPTH:
                    return LEFT_OVER
                depth += 1
                inside = (inside << one) | (one if opening == 123 else np.uint64(0))
                at = skip_blank(data, at + 1, end)
                if at >= end:
                    return LEFT_OVER
                if data[at] == (125 if opening == 123 else 93):
                    expect_value = False
                elif opening == 123:
                    at = key_end(data, at, end)
                    if at < 0:
                        return LEFT_OVER
                continue
            at, _ = scalar_end(data, at, end)
            if at < 0:
                return LEFT_OVER
            expect_value = False
            continue
        is_object = (inside & one) == one
        char = data[at]
        at += 1
        if char == (125 if is_object else 93):
            inside >>= one
            depth -= 1
            if depth == 0:
                return at
        elif char == 44:
            if is_object:
                at = key_end(data, skip_blank(data, at, end), end)
                if at < 0:
                    return LEFT_OVER
            expect_value = True
        else:
            return LEFT_OVER


@jit
def key_end(data: U8, at: int, end: int) -> int:
    """Return the byte after the colon of the key at `at`."""
    if at >= end or data[at] != 34:
        return LEFT_OVER
    at, _ = string_end(data, at + 1, end)
    if at < 0:
        return LEFT_OVER
    at = skip_blank(data, at + 1, end)
    if at >= end or data[at] != 58:
        return LEFT_OVER
    return at + 1


@jit
def is_name(data: U8, start: int, end: int, names: U8, name_starts: I32, slot: int) -> bool:
    """Whether the bytes [start, end) are a slot's name."""
    first = name_starts[slot]
    if end - start != name_starts[slot + 1] - first:
        return False
    for step in range(end - start):  # noqa: SIM110 (Numba has no all())
        if data[start + step] != names[first + step]:
            return False
    return True


@jit
def find_slot(data: U8, start: int, end: int, names: U8, name_starts: I32, guess: int) -> int:
    """Return the slot whose name the bytes are, -1 if none; `guess` is tried first."""
    if guess >= 0 and is_name(data, start, end, names, name_starts, guess):
        return guess
    for slot in range(len(name_starts) - 1):
        if is_name(data, start, end, names, name_starts, slot):
            return slot
    return -1


@jit
def scan_message(
    data: U8,
    at: int,
    end: int,
    names: U8,
    name_starts: I32,
    guesses: I32,
    enough: int,
    row: int,
    tags: U8,
    starts: I32,
    ends: I32,
) -> bool:
    """Scan one message into column `row`, until `enough` keys are found; False where it is left over."""
    at = skip_blank(data, at, end)
    if at >= end or data[at] != 123:
        return False
    at = skip_blank(data, at + 1, end)
    if at < end and data[at] == 125:
        return skip_blank(data, at + 1, end) == end
    key, found = 0, 0
    while at < end:
        if data[at] != 34:
            return False
        close, escaped = string_end(data, at + 1, end)
        if close < 0 or escaped:
            return False
        slot = find_slot(data, at + 1, close, names, name_starts, guesses[key])
        guesses[key] = slot
        key = min(key + 1, MAX_KEYS - 1)
        at = skip_blank(data, close + 1, end)
        if at >= end or data[at] != 58:
            return False
        at = skip_blank(data, at + 1, end)
        if at >= end:
            return False
        begin = at
        if data[at] == 123 or data[at] == 91:
            at, tag = nested_end(data, at, end), NESTED
        else:
            at, tag = scalar_end(data, at, end)
        if at < 0:
            return False
        if slot >= 0:
            inner = 1 if tag == TEXT else 0
            found += tags[slot, row] == MISSING
            tags[slot, row], starts[slot, row], ends[slot, row] = tag, begin + inner, at - inner
            if found == enough:
                return True
        at = skip_blank(data, at, end)
        if at >= end:
            return False
        if data[at] == 125:
            return skip_blank(data, at + 1, end) == end
        if data[at] != 44:
            return False
        at = skip_blank(data, at + 1, end)
    return False


@entry
def scan(
    data: U8,
    offsets: I32,
    names: U8,
    name_starts: I32,
    guesses: I32,
    enough: int,
    tags: U8,
    starts: I32,
    ends: I32,
    left: npt.NDArray[np.bool_],
) -> None:
    """Scan messages [offsets[i], offsets[i+1]) of `data`.

    names, name_starts: the wanted keys end to end. guesses: int32[MAX_KEYS] of -1, scratch. enough: a message
    is not read beyond that many keys, nor is the rest checked (-1: it is read to its end). tags, starts,
    ends: [slots, n], zeroed; starts and ends leave a string's quotes out. left: bool[n], set where a message
    is left over.
    """
    for row in range(len(offsets) - 1):
        if not scan_message(
            data, offsets[row], offsets[row + 1], names, name_starts, guesses, enough, row, tags, starts, ends
        ):
            left[row] = True
