"""From entity keys to the slots of their logs, many at once.

Owns: the hash table of the keys in memory. Refuses: what lies in a slot, and keys twice in one call of `add`.

    table[h & mask], and on from there := the high half of a key's hash h, its slot | EMPTY | GONE
    places[slot] := where its bytes begin and end in `blob`; begin is -1 where the slot has no key

A dict of Python strings takes half a microsecond and 120 bytes a key; this takes a fifth of both.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookback.events import Keys
from lookback.windows.cache import entry, jit, jit_inline
from lookback.windows.numeric import prefetch

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

EMPTY, GONE = -1, -2
FEW = 64  # keys whose texts are made without Arrow, which costs more to ask
_LOW = 0xFFFFFFFF
_FAR, _NEAR = 16, 8  # how many keys ahead the table, and the place of what it holds, are fetched


@jit
def hash_key(data: U8, start: int, end: int, seed: int) -> Any:
    """Return a hash of bytes, 0 <= hash < 2**63."""
    h = np.uint64(seed) ^ np.uint64(end - start)
    for at in range(start, end, 8):
        word = np.uint64(0)
        for k in range(min(8, end - at)):
            word |= np.uint64(data[at + k]) << np.uint64(8 * k)
        h = (h ^ word) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(32)
    h *= np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(29)
    return np.int64(h >> np.uint64(1))


@jit_inline
def same(data: U8, start: int, end: int, blob: U8, begin: int, stop: int) -> Any:
    """Whether two keys are the same bytes."""
    if end - start != stop - begin:
        return False
    for k in range(end - start):  # noqa: SIM110 (Numba has no all())
        if data[start + k] != blob[begin + k]:
            return False
    return True


@jit_inline
def put(table: I64, hashed: int, slot: int) -> None:
    """Note a slot at the first free place of its hash; there is one."""
    mask = len(table) - 1
    at = hashed & mask
    while table[at] >= 0:
        at = (at + 1) & mask
    table[at] = (hashed >> 32) << 32 | slot


@entry
def find_keys(
    data: U8, offsets: I32, seed: int, table: I64, places: I64, blob: U8, hashed: I64, out: I64
) -> None:
    """Set each key's hash, and its slot in `out`: -1 where it has none. places: int64[2 * slots]."""
    mask = len(table) - 1
    for i in range(len(out)):
        hashed[i] = hash_key(data, offsets[i], offsets[i + 1], seed)
    for i in range(len(out)):
        if i + _FAR < len(out):
            prefetch(table, hashed[i + _FAR] & mask)
        if i + _NEAR < len(out):
            near = table[hashed[i + _NEAR] & mask]
            if near >= 0:
                prefetch(places, 2 * (near & _LOW))
        h = hashed[i]
        at = h & mask
        out[i] = -1
        while table[at] != EMPTY:
            held = table[at]
            if held >= 0 and held >> 32 == h >> 32:
                slot = held & _LOW
                if same(data, offsets[i], offsets[i + 1], blob, places[2 * slot], places[2 * slot + 1]):
                    out[i] = slot
                    break
            at = (at + 1) & mask


@entry
def add_keys(
    data: U8, offsets: I32, hashed: I64, which: I64, slots: I64, table: I64, places: I64, hashes: I64, blob: U8,
    top: int,
) -> None:  # fmt: skip
    """Add keys `which` under `slots`; their bytes go to blob[top:]."""
    for i in range(len(which)):
        key, slot = which[i], slots[i]
        start, end = offsets[key], offsets[key + 1]
        for k in range(end - start):
            blob[top + k] = data[start + k]
        places[2 * slot], places[2 * slot + 1] = top, top + end - start
        top += end - start
        hashes[slot] = hashed[key]
        put(table, hashed[key], slot)


@entry
def drop_keys(slots: I64, table: I64, places: I64, hashes: I64) -> None:
    """Take the keys of slots out; each has one."""
    mask = len(table) - 1
    for i in range(len(slots)):
        slot = slots[i]
        at = hashes[slot] & mask
        while table[at] < 0 or table[at] & _LOW != slot:
            at = (at + 1) & mask
        table[at] = GONE
        places[2 * slot] = -1


@entry
def fill_table(table: I64, places: I64, hashes: I64) -> None:
    """Note all keys in an empty table."""
    for slot in range(len(hashes)):
        if places[2 * slot] >= 0:
            put(table, hashes[slot], slot)


@entry
def copy_keys(slots: I64, places: I64, blob: U8, offsets: npt.NDArray[Any], out: U8) -> None:
    """Copy the keys of slots end to end, at their offsets."""
    for i in range(len(slots)):
        begin, to = places[2 * slots[i]], offsets[i]
        for k in range(offsets[i + 1] - to):
            out[to + k] = blob[begin + k]


class KeyTable:
    """The keys of the slots in memory.

    >>> table = KeyTable()
    >>> table.add(["a", "b"], np.array([4, 0])); table.find(["b", "c", "a"]).tolist()
    [0, -1, 4]
    """

    def __init__(self) -> None:
        # Drawn anew for each table: keys whose hashes meet cannot be made up from outside.
        self._seed = int.from_bytes(os.urandom(7), "little")
        self._table: I64 = np.full(64, EMPTY, np.int64)
        self._places: I64 = np.full(2 * 32, -1, np.int64)
        self._hashes: I64 = np.zeros(32, np.int64)
        self._blob: U8 = np.empty(512, np.uint8)
        self._top = 0
        self._taken = 0  # places of the table that are not EMPTY
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def slots(self) -> I64:
        """The slots that have a key."""
        return np.flatnonzero(self._places[::2] >= 0)

    def holds(self, slots: I64) -> npt.NDArray[np.bool_]:
        """Return which of these slots have a key."""
        held = np.zeros(len(slots), np.bool_)
        known = slots < len(self._hashes)
        held[known] = self._places[2 * slots[known]] >= 0
        return held

    def find(self, keys: Keys) -> I64:
        """Return each key's slot, -1 where it has none."""
        return self._find(*_bytes(keys))[0]

    def _find(self, data: U8, offsets: I32) -> tuple[I64, I64]:
        out, hashed = np.empty(len(offsets) - 1, np.int64), np.empty(len(offsets) - 1, np.int64)
        find_keys(data, offsets, self._seed, self._table, self._places, self._blob, hashed, out)
        return out, hashed

    def add(self, keys: Keys, slots: I64) -> None:
        """Give each of these keys, none of which is there, a slot that has none."""
        data, offsets = _bytes(keys)
        _, hashed = self._find(data, offsets)
        self._make_room(len(keys), int(slots.max(initial=-1)) + 1, int(offsets[-1] - offsets[0]))
        add_keys(
            data, offsets, hashed, np.arange(len(keys)), slots, self._table, self._places, self._hashes, self._blob,
            self._top,
        )  # fmt: skip
        self._top += int(offsets[-1] - offsets[0])
        self._taken += len(keys)
        self._count += len(keys)

    def texts(self, slots: I64) -> list[str]:
        """Return the keys of slots that have one."""
        places = self._places.reshape(-1, 2)[slots]
        offsets = np.zeros(len(slots) + 1, np.int32)
        np.cumsum(places[:, 1] - places[:, 0], out=offsets[1:])
        found = np.empty(offsets[-1], np.uint8)
        copy_keys(slots, self._places, self._blob, offsets, found)
        if len(slots) < FEW:
            data = found.tobytes()
            return [data[start:end].decode() for start, end in pairwise(offsets.tolist())]
        texts = pa.StringArray.from_buffers(len(slots), pa.py_buffer(offsets), pa.py_buffer(found))
        return list(texts.to_pylist())

    def drop(self, slots: I64) -> None:
        """Take the keys of slots out; those that have none are passed over."""
        held = np.unique(slots[self.holds(slots)])
        self._count -= len(held)
        drop_keys(held, self._table, self._places, self._hashes)

    def _make_room(self, keys: int, slots: int, size: int) -> None:
        if slots > len(self._hashes):
            more = max(slots, 2 * len(self._hashes)) - len(self._hashes)
            self._hashes = np.concatenate([self._hashes, np.zeros(more, np.int64)])
            self._places = np.concatenate([self._places, np.full(2 * more, -1, np.int64)])
        if self._top + size > len(self._blob):
            self._compact(size)
        if 2 * (self._taken + keys) > len(self._table):
            wanted = 64
            while wanted < 4 * (self._count + keys):
                wanted *= 2
            self._table = np.full(wanted, EMPTY, np.int64)
            fill_table(self._table, self._places, self._hashes)
            self._taken = self._count

    def _compact(self, size: int) -> None:
        """Leave the bytes of dropped keys behind, and make room for as many bytes again as are held."""
        slots = self.slots
        places = self._places.reshape(-1, 2)
        ends = np.cumsum(places[slots, 1] - places[slots, 0])
        top = int(ends[-1]) if len(ends) else 0
        blob = np.empty(2 * (top + size), np.uint8)
        offsets = np.append(0, ends).astype(np.int64)
        copy_keys(slots, self._places, self._blob, offsets, blob)
        places[slots, 0], places[slots, 1] = offsets[:-1], offsets[1:]
        self._blob, self._top = blob, top


def warm() -> None:
    """Compile what is compiled here, or load it where it was compiled before."""
    table = KeyTable()
    table.add([f"{n}" for n in range(100)], np.arange(100))
    table.drop(table.find(["1"]))
    table.texts(table.slots)


def _bytes(keys: Keys) -> tuple[U8, I32]:
    """Return the UTF-8 bytes of keys end to end, and int32[n + 1] where each begins."""
    texts = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    _, offsets, data = texts.buffers()
    if not len(keys):
        return np.zeros(1, np.uint8), np.zeros(1, np.int32)
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return content, np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
