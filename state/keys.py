"""Keys of one shard's RocksDB.

    meta   := "m"                                    what this shard is (JSON)
    commit := "c"                                    the last commit: offsets, sequences, watermarks, dirty set (JSON)
    entity := "e" view[6] key utf8                   an entity's record, with its newest rows
    chunk  := "r" view[6] length:u32be key utf8 time:u64be position:u64be
                                                     older rows; named by the first row's place when it was sealed
    timer  := "t" view[6] due:u64be key utf8         of an entity that isn't in memory (see `timers`)
    outbox := "l"                                    of a shard whose job has a change log (see `outbox`)
    entry  := "o" number:u64be
    view   := first 6 bytes of the view's fingerprint

Big-endian with the sign bit flipped, so that key order is (time, position) order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

META = b"m"
COMMIT = b"c"
OUTBOX = b"l"
ENTRY = b"o"
_PLACE = struct.Struct(">QQ")
_SIGN = 1 << 63
_MASK = (1 << 64) - 1


def view_tag(fingerprint: str) -> bytes:
    """Return the 6 bytes that stand for a view version."""
    return bytes.fromhex(fingerprint[:12])


def entity(tag: bytes, key: str) -> bytes:
    """Return the key of an entity's record."""
    return b"e" + tag + key.encode()


def entities(tag: bytes, texts: Sequence[str]) -> list[bytes]:
    """Return the keys of many entities' records."""
    prefix = b"e" + tag
    return [prefix + text.encode() for text in texts]


def entity_text(raw: bytes) -> str:
    """Return the entity key text in an entity record's key."""
    return raw[7:].decode()


def chunk_prefix(tag: bytes, key: str) -> bytes:
    """Return what the keys of all of an entity's chunks begin with."""
    text = key.encode()
    return b"r" + tag + len(text).to_bytes(4, "big") + text


def place(time_ms: int, position: int) -> bytes:
    """Return 16 bytes that sort as (time, position)."""
    return _PLACE.pack((time_ms + _SIGN) & _MASK, (position + _SIGN) & _MASK)


def timer_prefix(tag: bytes) -> bytes:
    """Return what the keys of a view's timers begin with."""
    return b"t" + tag


def timer(tag: bytes, due_ms: int, key: str) -> bytes:
    """Return the key of an entity's timer."""
    return b"t" + tag + ((due_ms + _SIGN) & _MASK).to_bytes(8, "big") + key.encode()


def read_timer(raw: bytes) -> tuple[int, str]:
    """Return (due, entity key text) of a timer's key."""
    return int.from_bytes(raw[7:15], "big") - _SIGN, raw[15:].decode()


def entry(number: int) -> bytes:
    """Return the key of an outbox's entry."""
    return ENTRY + number.to_bytes(8, "big")


def entry_number(raw: bytes) -> int:
    """Return the number in an entry's key."""
    return int.from_bytes(raw[1:], "big")


def owner(raw: bytes) -> bytes:
    """Return the entity key text, UTF-8, that a record's key is about; raise KeyError where it is about none.

    >>> tag = b"sixsix"
    >>> owner(entity(tag, "c1")), owner(timer(tag, -5, "c2")), owner(chunk_prefix(tag, "c3") + place(1, 2))
    (b'c1', b'c2', b'c3')
    """
    kind = raw[:1]
    if kind == b"e":
        return raw[7:]
    if kind == b"r":
        return raw[11 : 11 + int.from_bytes(raw[7:11], "big")]
    if kind == b"t":
        return raw[15:]
    raise KeyError(raw)


def read_place(raw: bytes) -> tuple[int, int]:
    """Return (time, position) of the last 16 bytes of a chunk's key."""
    time_ms, position = _PLACE.unpack(raw[-16:])
    return time_ms - _SIGN, position - _SIGN


def after(prefix: bytes) -> bytes:
    """Return the smallest key greater than all keys that begin with `prefix`."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1])
