"""Read scanned JSON values as columns, digit by digit.

Owns: numbers, times and texts from bytes, in the common forms. Refuses: every value that is rare or does not
fit: its row is left to `decode_message`. What passes here has the value that `decode_message` gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import entry, jit

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# as in json_scan: MISSING, NULL, FALSE, TRUE, WHOLE, NUMBER, TEXT
_NULL, _FALSE, _TRUE, _WHOLE, _NUMBER, _TEXT = 1, 2, 3, 4, 5, 6
NUMBERS, TEXT_NUMBERS, ISO_TIMES = 1, 2, 4  # what `read_scaled` may read: a set of bits

POWERS = np.array([10**n for n in range(19)], np.int64)
FLOAT_POWERS = np.array([10.0**n for n in range(23)], np.float64)
MONTH_DAYS = np.array([31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
DAY_MS = 86_400_000
MOST_BEFORE_DIGIT = 922_337_203_685_477_579  # ten times this and any digit still fit int64


@jit
def read_digits(data: U8, at: int, end: int) -> tuple[bool, bool, int, int]:
    """Return (read, negative, digits as an integer, power of ten) of a number whose digits fit int64.

    The grammar is JSON's; what ends before `end` is not read.
    """
    negative = at < end and data[at] == 45
    if negative:
        at += 1
    mantissa, fraction, power = 0, 0, 0
    start = at
    while at < end and 48 <= data[at] <= 57:
        if mantissa > MOST_BEFORE_DIGIT:
            return False, negative, 0, 0
        mantissa = mantissa * 10 + (data[at] - 48)
        at += 1
    if at == start or (at - start > 1 and data[start] == 48):
        return False, negative, 0, 0
    if at < end and data[at] == 46:
        at += 1
        start = at
        while at < end and 48 <= data[at] <= 57:
            if mantissa > MOST_BEFORE_DIGIT:
                return False, negative, 0, 0
            mantissa = mantissa * 10 + (data[at] - 48)
            at += 1
        fraction = at - start
        if fraction == 0:
            return False, negative, 0, 0
    if at < end and (data[at] == 101 or data[at] == 69):
        at += 1
        minus = at < end and data[at] == 45
        if minus or (at < end and data[at] == 43):
            at += 1
        start = at
        while at < end and 48 <= data[at] <= 57 and at - start < 4:
            power = power * 10 + (data[at] - 48)
            at += 1
        if at == start:
            return False, negative, 0, 0
        if minus:
            power = -power
    return at == end, negative, mantissa, power - fraction


@jit
def two_digits(data: U8, at: int) -> Any:
    """Return the number of two digits, -1000 where they are none."""
    high, low = np.int64(data[at]) - 48, np.int64(data[at + 1]) - 48
    if high < 0 or high > 9 or low < 0 or low > 9:
        return -1000
    return high * 10 + low


@jit
def days_from_civil(year: Any, month: Any, day: Any) -> Any:
    """Return the days since 1970-01-01 of a date of the Gregorian calendar."""
    if month <= 2:
        year -= 1
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@jit
def read_iso(data: U8, at: int, end: int) -> tuple[bool, int]:
    """Return (read, epoch ms) of `YYYY-MM-DDThh:mm:ss[.fff][Z|+hh:mm]`."""
    if end - at < 19:
        return False, 0
    if data[at + 4] != 45 or data[at + 7] != 45 or data[at + 13] != 58 or data[at + 16] != 58:
        return False, 0
    if data[at + 10] != 84 and data[at + 10] != 32:
        return False, 0
    century, year = two_digits(data, at), two_digits(data, at + 2)
    month, day = two_digits(data, at + 5), two_digits(data, at + 8)
    hour, minute, second = two_digits(data, at + 11), two_digits(data, at + 14), two_digits(data, at + 17)
    if century < 0 or year < 0 or hour < 0 or hour > 23 or minute < 0 or minute > 59:
        return False, 0
    if second < 0 or second > 59:
        return False, 0
    year += century * 100
    if year < 1 or month < 1 or month > 12 or day < 1 or day > MONTH_DAYS[month - 1]:
        return False, 0
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if month == 2 and day == 29 and not leap:
        return False, 0
    ms = days_from_civil(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000
    at += 19
    if at < end and data[at] == 46:
        at += 1
        start, weight = at, 100
        while at < end and 48 <= data[at] <= 57:
            ms += (np.int64(data[at]) - 48) * weight
            weight //= 10
            at += 1
        if at == start or at - start > 9:
            return False, 0
    if at == end or (at + 1 == end and data[at] == 90):
        return True, ms
    if at + 6 == end and (data[at] == 43 or data[at] == 45) and data[at + 3] == 58:
        hours, minutes = two_digits(data, at + 1), two_digits(data, at + 4)
        if 0 <= hours <= 23 and 0 <= minutes <= 59:
            away = (hours * 60 + minutes) * 60_000
            return True, ms + away if data[at] == 45 else ms - away
    return False, 0


@jit
def scale(mantissa: int, power: int, negative: bool, floor: bool) -> tuple[bool, int]:
    """Return (fits, mantissa * 10**power): exactly, or its floor."""
    if mantissa == 0:
        return True, 0
    if power >= 0:
        if power > 18 or mantissa > 9_223_372_036_854_775_807 // POWERS[power]:
            return False, 0
        value = mantissa * POWERS[power]
        return True, -value if negative else value
    if power < -18:
        return False, 0
    unit = POWERS[-power]
    value = mantissa // unit
    if value * unit != mantissa:
        if not floor:
            return False, 0
        if negative:
            value += 1
    return True, -value if negative else value


@entry
def read_scaled(
    data: U8,
    tags: U8,
    starts: I32,
    ends: I32,
    allowed: int,
    shift: int,
    floor: bool,
    least: int,
    most: int,
    number_limit: int,
    nullable: bool,
    out: I64,
    valid: Mask,
    left: Mask,
) -> None:
    """Read a column of numbers times 10**shift, or of times in ms, within [least, most].

    number_limit: a JSON number must lie within (-number_limit, number_limit) as well.
    out int64[n], valid bool[n] (False for a null); a row that does not fit is set in `left`.
    """
    for row in range(len(out)):
        tag = tags[row]
        if left[row]:
            valid[row] = False
            continue
        if tag <= _NULL:
            valid[row] = False
            left[row] = not nullable
            continue
        read, value = False, 0
        is_number = tag in (_WHOLE, _NUMBER)
        if (is_number and allowed & NUMBERS) or (tag == _TEXT and allowed & TEXT_NUMBERS):
            read, negative, mantissa, power = read_digits(data, starts[row], ends[row])
            if read:
                read, value = scale(mantissa, power + shift, negative, floor)
            if is_number and (value >= number_limit or value <= -number_limit):
                read = False
        elif tag == _TEXT and allowed & ISO_TIMES:
            read, value = read_iso(data, starts[row], ends[row])
        if not read or value < least or value > most:
            left[row] = True
        out[row], valid[row] = value, read


@entry
def read_floats(
    data: U8, tags: U8, starts: I32, ends: I32, nullable: bool, out: F64, valid: Mask, hard: Mask, left: Mask
) -> None:
    """Read a column of float64s; numbers that need more than one exact operation are set in `hard`."""
    for row in range(len(out)):
        tag = tags[row]
        if left[row] or tag <= _NULL:
            valid[row] = False
            left[row] = left[row] or not nullable
        elif tag in (_WHOLE, _NUMBER):
            valid[row] = True
            read, negative, mantissa, power = read_digits(data, starts[row], ends[row])
            if not read or mantissa > 9_007_199_254_740_992 or power > 22 or power < -22:
                hard[row] = True
            else:
                value = float(mantissa)
                value = value * FLOAT_POWERS[power] if power >= 0 else value / FLOAT_POWERS[-power]
                out[row] = -value if negative and mantissa != 0 else value
        else:
            valid[row] = False
            left[row] = True


@entry
def read_bools(tags: U8, nullable: bool, out: Mask, valid: Mask, left: Mask) -> None:
    """Read a column of true and false."""
    for row in range(len(out)):
        tag = tags[row]
        valid[row] = tag in (_TRUE, _FALSE)
        out[row] = tag == _TRUE
        if not valid[row] and not (nullable and tag <= _NULL):
            left[row] = True


@entry
def text_offsets(
    tags: U8, starts: I32, ends: I32, nullable: bool, offsets: I32, valid: Mask, left: Mask
) -> None:
    """Set offsets int32[n + 1] of a column of strings laid end to end."""
    total = 0
    offsets[0] = 0
    for row in range(len(valid)):
        tag = tags[row]
        valid[row] = tag == _TEXT and not left[row]
        if valid[row]:
            total += ends[row] - starts[row]
        elif not (nullable and tag <= _NULL):
            left[row] = True
        offsets[row + 1] = total


@entry
def copy_texts(data: U8, starts: I32, offsets: I32, out: U8) -> None:
    """Copy the bytes of a column of strings to their offsets."""
    for row in range(len(offsets) - 1):
        begin, source = offsets[row], starts[row]
        for step in range(offsets[row + 1] - begin):
            out[begin + step] = data[source + step]
