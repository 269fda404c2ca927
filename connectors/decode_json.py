"""JSON messages to columns, whole batches at once.

Owns: running the kernels of `json_scan` and `json_values` over a batch. Refuses: ruling on messages that they
leave over (see `decode`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import json_scan, json_values
from connectors.decode_message import (
    EXACT_LIMIT,
    INT64_MAX,
    INT64_MIN,
    MAX_EVENT_TIME_MS,
    MIN_EVENT_TIME_MS,
    UNIT_SHIFT,
    Target,
)
from connectors.json_values import ISO_TIMES, NUMBERS, TEXT_NUMBERS

Mask = npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]


def buffers(messages: pa.BinaryArray) -> tuple[U8, I32]:
    """Return the bytes of an array's messages, and int32[n + 1] where each begins; nothing is copied."""
    _, offsets, data = messages.buffers()
    content = np.frombuffer(b"\0" if data is None or data.size == 0 else data, np.uint8)
    if len(messages) == 0 or offsets is None:
        starts = np.zeros(1, np.int32)
    else:
        starts = np.frombuffer(offsets, np.int32)[messages.offset : messages.offset + len(messages) + 1]
    content.flags.writeable = starts.flags.writeable = False  # one type for the kernels, one compilation
    return content, starts


class JsonColumns:
    """Decode messages into the targets' columns, as far as they are plain.

    whole: whether a message must be valid to its end; else it is read until all targets are found.
    """

    def __init__(self, wanted: Sequence[Target], whole: bool = True) -> None:
        self._targets = tuple(wanted)
        sources = list(dict.fromkeys(target.source for target in wanted))
        self._slots = [sources.index(target.source) for target in wanted]
        self._enough = -1 if whole else len(sources)
        encoded = [source.encode("utf-8") for source in sources]
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._name_starts = np.cumsum([0, *map(len, encoded)]).astype(np.int32)

    def decode(self, messages: pa.BinaryArray) -> tuple[list[pa.Array], Mask]:
        """Return a column a target (types as in `FINAL_TYPES`), and bool[n], the rows left over.

        A row that is left over is undefined in the columns, but for its place.
        """
        rows, slots = len(messages), len(self._name_starts) - 1
        data, offsets = buffers(messages)
        tags = np.zeros((slots, rows), np.uint8)
        starts, ends = np.zeros((slots, rows), np.int32), np.zeros((slots, rows), np.int32)
        left = np.zeros(rows, np.bool_)
        if messages.null_count:
            left |= ~np.asarray(messages.is_valid().to_numpy(zero_copy_only=False))
        guesses = np.full(json_scan.MAX_KEYS, -1, np.int32)
        names, name_starts = self._names, self._name_starts
        json_scan.scan(data, offsets, names, name_starts, guesses, self._enough, tags, starts, ends, left)
        columns = [
            _column(target, data, tags[slot], starts[slot], ends[slot], left)
            for target, slot in zip(self._targets, self._slots, strict=True)
        ]
        return columns, left


def _column(target: Target, data: U8, tags: U8, starts: I32, ends: I32, left: Mask) -> pa.Array:
    """Return one target's column; rows that it can't read are set in `left`."""
    rows, nullable = len(tags), target.nullable
    valid = np.empty(rows, np.bool_)
    if target.kind == "string":
        offsets = np.empty(rows + 1, np.int32)
        json_values.text_offsets(tags, starts, ends, nullable, offsets, valid, left)
        texts = np.empty(offsets[-1], np.uint8)
        json_values.copy_texts(data, starts, offsets, texts)
        return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(texts), _bitmap(valid))
    if target.kind == "bool":
        bools = np.empty(rows, np.bool_)
        json_values.read_bools(tags, nullable, bools, valid, left)
        return pa.Array.from_buffers(pa.bool_(), rows, [_bitmap(valid), pa.py_buffer(_bits(bools))])
    if target.kind == "float64":
        return _floats(target, data, tags, starts, ends, valid, left)
    values = np.empty(rows, np.int64)
    allowed, shift, floor, least, most, limit = _reading(target)
    json_values.read_scaled(
        data, tags, starts, ends, allowed, shift, floor, least, most, limit, nullable, values, valid, left
    )
    return pa.Array.from_buffers(pa.int64(), rows, [_bitmap(valid), pa.py_buffer(values)])


def _reading(target: Target) -> tuple[int, int, bool, int, int, int]:
    """Return (allowed, shift, floor, least, most, number_limit) for `read_scaled`."""
    if target.kind == "decimal":
        most = 10**target.precision - 1
        return NUMBERS | TEXT_NUMBERS, target.scale, False, -most, most, EXACT_LIMIT
    if target.kind == "timestamp":
        return NUMBERS | ISO_TIMES, 0, True, INT64_MIN, INT64_MAX, INT64_MAX
    if target.kind == "event_time":
        iso = target.unit == "iso"
        shift = 0 if iso else UNIT_SHIFT[target.unit]
        allowed = ISO_TIMES if iso else NUMBERS
        return allowed, shift, True, MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS, INT64_MAX
    return NUMBERS, 0, False, INT64_MIN, INT64_MAX, INT64_MAX


def _floats(target: Target, data: U8, tags: U8, starts: I32, ends: I32, valid: Mask, left: Mask) -> pa.Array:
    rows = len(tags)
    values, hard = np.zeros(rows, np.float64), np.zeros(rows, np.bool_)
    json_values.read_floats(data, tags, starts, ends, target.nullable, values, valid, hard, left)
    if hard.any():
        at = np.flatnonzero(hard)
        offsets = np.zeros(len(at) + 1, np.int32)
        np.cumsum(ends[at] - starts[at], out=offsets[1:])
        texts = np.empty(offsets[-1], np.uint8)
        json_values.copy_texts(data, np.ascontiguousarray(starts[at]), offsets, texts)
        found = pa.StringArray.from_buffers(len(at), pa.py_buffer(offsets), pa.py_buffer(texts))
        numbers = found.cast(pa.float64()).to_numpy() + 0.0  # correctly rounded; no -0.0
        values[at] = numbers
        left[at[~np.isfinite(numbers)]] = True
    return pa.Array.from_buffers(pa.float64(), rows, [_bitmap(valid), pa.py_buffer(values)])


def _bits(mask: Mask) -> npt.NDArray[np.uint8]:
    return np.packbits(mask, bitorder="little")


def _bitmap(valid: Mask) -> pa.Buffer | None:
    return None if valid.all() else pa.py_buffer(_bits(valid))


def warm() -> None:
    """Compile all kernels, or load them where they were compiled before."""
    kinds = ("int64", "decimal", "bool", "string", "timestamp", "float64")
    wanted = [Target("", "", kind, True, 18, 2) for kind in kinds]
    JsonColumns([*wanted, Target("", "", "event_time", unit="ms")]).decode(
        pa.array([b'{"": 0.123456789012345678}', b'{"": "2024-01-01T00:00:00Z"}'], pa.binary())
    )
