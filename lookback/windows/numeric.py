"""Arithmetic whose bits are the same everywhere: powers, logarithms, 128-bit and exact float sums.

Owns: `ln`, `exp2_neg`, two-word integers, the superaccumulator behind lifetime float sums.
Refuses: libm. Numpy's and Numba's powers and logarithms differ in the last bit, and from machine to machine.

A 128-bit integer is two int64 words (low, high), two's complement.
A *superaccumulator* is `LIMBS` words: sum(limb[i] * 2**(32*i - 1074)), 0 <= limb[i] < 2**32 but for the
last, which holds the sign. It is exact, so neither order nor grouping of the additions shows.

Source: fdlibm (e_log.c, e_exp.c).
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import entry, jit

Words = npt.NDArray[np.int64]
INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
LIMBS = 68
_MASK32 = 0xFFFFFFFF


def as_float(word: Any) -> float:
    """Read an int64's bits as a float64 (one instruction in compiled code)."""
    return float(struct.unpack("<d", struct.pack("<q", word))[0])


def as_word(number: Any) -> int:
    """Read a float64's bits as an int64 (one instruction in compiled code)."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def prefetch(array: Any, index: int) -> None:
    """Ask the CPU to fetch array[index] (flat, C order) into its caches; any index is harmless."""


@jit
def ln1(x: float) -> float:
    """Return the natural logarithm of one float64: NaN below 0, -inf at 0. Error below 1 ulp."""
    if not x > 0.0:
        return -math.inf if x == 0.0 else math.nan
    if x == math.inf:
        return x
    k = 0
    bits = as_word(x)
    if bits < (1 << 52):  # subnormal
        k -= 54
        bits = as_word(x * 18014398509481984.0)
    k += (bits >> 52) - 1023
    bits &= (1 << 52) - 1
    # keep 1 + f in [sqrt(1/2), sqrt(2))
    up = (bits + 0x95F6400000000) & 0x10000000000000
    f = as_float(bits | (up ^ 0x3FF0000000000000)) - 1.0
    k += up >> 52
    dk = float(k)
    if f == 0.0:
        return dk * 6.93147180369123816490e-01 + dk * 1.90821492927058770002e-10
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    t1 = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01))
    t2 = z * (
        6.666666666666735130e-01
        + w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01))
    )
    hfsq = 0.5 * f * f
    return dk * 6.93147180369123816490e-01 - (
        (hfsq - (s * (hfsq + (t1 + t2)) + dk * 1.90821492927058770002e-10)) - f
    )


@entry
def _ln_into(x, out):
    for i in range(len(x)):
        out[i] = ln1(x[i])


def ln(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the natural logarithm of each element, the same bits on every machine.

    x: float64[n]. Below 0 gives NaN, 0 gives -inf.
    """
    flat = np.ascontiguousarray(x, dtype=np.float64).reshape(-1)
    out = np.empty(len(flat), dtype=np.float64)
    _ln_into(flat, out)
    return out.reshape(np.shape(x))


@jit
def exp2_neg(x: float) -> float:
    """Return 2**-x for x >= 0: exact for whole x, error below 1 ulp, 0 once below the smallest float."""
    if x >= 1080.0:
        return 0.0
    n = np.int64(x + 0.5)
    y = (float(n) - x) * 0.6931471805599453
    z = y * y
    c = y - z * (
        1.66666666666666019037e-01
        + z
        * (
            -2.77777777770155933842e-03
            + z
            * (
                6.61375632143793436117e-05
                + z * (-1.65339022054652515390e-06 + z * 4.13813679705723846039e-08)
            )
        )
    )
    power = 1.0 + (y * c / (2.0 - c) + y)
    if n <= 1000:
        return power * as_float((1023 - n) << 52)
    return power * as_float((1023 - 1000) << 52) * as_float((1023 - (n - 1000)) << 52)


@jit
def add_128(low, high, low2, high2):
    """Return (low, high) + (low2, high2), wrapping."""
    total = np.uint64(low) + np.uint64(low2)
    carry = 1 if total < np.uint64(low) else 0
    return np.int64(total), high + high2 + carry


@jit
def halves_128(lows, highs):
    """Return the 128-bit `highs * 2**32 + lows` of two int64 sums over 32-bit halves of words."""
    low = highs << 32
    high = highs >> 32
    return add_128(low, high, lows, lows >> 63)


@jit
def fits_64(low, high):
    """Whether a 128-bit integer fits int64."""
    return high == (low >> 63)


@jit
def float_128(low: int, high: int) -> float:
    """Return a 128-bit integer as the nearest float64 (ties to even)."""
    if fits_64(low, high):
        return float(low)
    negative = high < 0
    # the top 64 bits, the rest squeezed into the lowest as a sticky bit; 64 > 53 + 2, so it rounds right
    top = np.uint64(high)
    rest = np.uint64(low)
    if negative:  # in unsigned words, where to wrap is defined
        rest = ~rest + np.uint64(1)
        top = ~top + np.uint64(rest == 0)
    shift = 64
    while (top >> np.uint64(63)) == 0 and shift > 0:
        top = (top << np.uint64(1)) | (rest >> np.uint64(63))
        rest = rest << np.uint64(1)
        shift -= 1
    if rest != 0:
        top |= np.uint64(1)
    value = _float_of_top(top) * as_float(np.int64(1023 + shift) << 52)
    return -value if negative else value


@jit
def _float_of_top(top):
    """Return a uint64 as the nearest float64, through int64 (halved, the lost bit kept sticky)."""
    if (top >> np.uint64(63)) == 0:
        return float(np.int64(top))
    return float(np.int64((top >> np.uint64(1)) | (top & np.uint64(1)))) * 2.0


@jit
def super_add(limbs: Words, start: int, x: float, sign: int) -> None:
    """Add `sign * x` exactly to the superaccumulator at limbs[start:start + LIMBS]."""
    bits = as_word(x)
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & ((1 << 52) - 1)
    if exponent == 0:
        exponent = 1
    else:
        mantissa |= 1 << 52
    if bits < 0:
        sign = -sign
    place = exponent - 1
    limb = start + (place >> 5)
    shift = place & 31
    # 53 bits shifted by up to 31 span three limbs
    low = (mantissa << shift) & _MASK32
    middle = (mantissa >> (32 - shift)) & _MASK32
    high = mantissa >> (64 - shift) if shift > 11 else 0
    carry = limbs[limb] + sign * low
    limbs[limb] = carry & _MASK32
    carry = limbs[limb + 1] + sign * middle + (carry >> 32)
    limbs[limb + 1] = carry & _MASK32
    carry = sign * high + (carry >> 32)
    limb += 2
    last = start + LIMBS - 1
    while carry != 0 and limb < last:
        carry += limbs[limb]
        limbs[limb] = carry & _MASK32
        carry >>= 32
        limb += 1
    limbs[last] += carry


@jit
def super_value(limbs: Words, start: int) -> float:
    """Return the nearest float64 of a superaccumulator (infinite where it is out of range)."""
    last = start + LIMBS - 1
    sign = 1.0
    flip = limbs[last] < 0
    if flip:
        sign = -1.0
    # walk up once for the two's complement, remembering the three highest limbs in use
    top = -1
    a = b = c = np.uint64(0)
    sticky = False
    carry = 1
    for i in range(LIMBS):
        word = limbs[start + i]
        if flip:
            word = ((~word) & _MASK32) + carry if i < LIMBS - 1 else ~word + carry
            carry = word >> 32 if i < LIMBS - 1 else 0
            if i < LIMBS - 1:
                word &= _MASK32
        sticky = sticky or c != 0
        c = b
        b = a
        a = np.uint64(word)
        if word != 0:
            top = i
            keep_a, keep_b, keep_c, keep_s = a, b, c, sticky
    if top < 0:
        return 0.0
    if top >= LIMBS - 1 or top > 66:
        return sign * math.inf
    # window of 64 bits that starts at the highest bit set in keep_a
    high = (keep_a << np.uint64(32)) | keep_b
    rest = keep_c << np.uint64(32)
    exponent = 32 * (top - 1) - 1074
    while (high >> np.uint64(63)) == 0 and exponent > -1074:
        high = (high << np.uint64(1)) | (rest >> np.uint64(63))
        rest = rest << np.uint64(1)
        exponent -= 1
    if exponent < -1074:  # top limb is the lowest one: nothing lies below it
        high >>= np.uint64(-1074 - exponent)
        exponent = -1074
    if rest != 0 or keep_s:
        high |= np.uint64(1)
    value = _float_of_top(high)
    if exponent >= -1022:
        if exponent > 1023 - 53:
            return (
                sign
                * (value * as_float(np.int64(1023 + 900) << 52))
                * as_float(np.int64(1023 + exponent - 900) << 52)
            )
        return sign * (value * as_float(np.int64(exponent + 1023) << 52))
    return sign * (value * as_float(np.int64(1) << (exponent + 1074)))
