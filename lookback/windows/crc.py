"""CRC-32 (that of zlib) within compiled code, for records that are packed many at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import jit

U8 = npt.NDArray[np.uint8]

_POLYNOMIAL = 0xEDB88320
_ALL = np.uint64(0xFFFFFFFF)
_LOW = np.uint64(0xFF)
_BYTE = np.uint64(8)


def _tables() -> npt.NDArray[np.uint32]:
    """Return what eight bytes at a time need: table[k][b] is byte b followed by k zero bytes."""
    table = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table[0, byte] = crc
    for k in range(1, 8):
        table[k] = table[k - 1] >> 8 ^ table[0][table[k - 1] & 255]
    return table


_TABLE = _tables()


@jit
def crc32(data: U8, start: int, end: int) -> int:
    """Return the CRC-32 of data[start:end]. Cost: about a nanosecond a byte."""
    crc = _ALL
    at = start
    while at + 8 <= end:
        word = np.uint64(0)
        for k in range(8):
            word |= np.uint64(data[at + k]) << np.uint64(8 * k)
        word ^= crc
        crc = np.uint64(0)
        for k in range(8):
            crc ^= np.uint64(_TABLE[7 - k, (word >> np.uint64(8 * k)) & _LOW])
        at += 8
    while at < end:
        crc = crc >> _BYTE ^ np.uint64(_TABLE[0, (crc ^ np.uint64(data[at])) & _LOW])
        at += 1
    return int(crc ^ _ALL)


@jit
def put_number(out: U8, at: int, value: int, size: int) -> int:
    """Write `size` bytes of a whole number, little-endian, at out[at]; return where they end."""
    for k in range(size):
        out[at + k] = value >> 8 * k & 255
    return at + size


@jit
def put_bytes(out: U8, at: int, data: U8, start: int, end: int) -> int:
    """Copy data[start:end] to out[at]; return where it ends."""
    for k in range(end - start):
        out[at + k] = data[start + k]
    return at + end - start
