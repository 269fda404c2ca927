"""Names of shards that Bytewax spreads evenly over any number of workers.

Bytewax places a key on worker `SipHash-1-3(utf8(key) + 0xff) % workers` with a zero hash key. Names drawn so that the
hash is the shard's number modulo 840 = lcm(1..8) put 32 shards round-robin on 1 to 8 workers.
"""

from __future__ import annotations

from functools import cache

_MASK = (1 << 64) - 1
SPREAD = 840


def _rotate(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & _MASK


def siphash13(data: bytes) -> int:
    """Return SipHash-1-3 of `data` under a zero key (Aumasson and Bernstein 2012; as Rust's DefaultHasher)."""
    v0, v1, v2, v3 = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573

    def round_() -> None:
        nonlocal v0, v1, v2, v3
        v0 = (v0 + v1) & _MASK
        v2 = (v2 + v3) & _MASK
        v1 = _rotate(v1, 13) ^ v0
        v3 = _rotate(v3, 16) ^ v2
        v0 = _rotate(v0, 32)
        v2 = (v2 + v1) & _MASK
        v0 = (v0 + v3) & _MASK
        v1 = _rotate(v1, 17) ^ v2
        v3 = _rotate(v3, 21) ^ v0
        v2 = _rotate(v2, 32)

    padded = data + b"\0" * (7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v3 ^= word
        round_()
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        round_()
    return v0 ^ v1 ^ v2 ^ v3


def worker_of(key: str, workers: int) -> int:
    """Return the worker on which Bytewax places a key."""
    return siphash13(key.encode() + b"\xff") % workers


@cache
def shard_keys(shards: int) -> tuple[str, ...]:
    """Return one key a shard, `SS` then a suffix, balanced over 1 to 8 workers."""
    names = []
    for shard in range(shards):
        suffix = 0
        while siphash13(f"{shard:02d}-{suffix}".encode() + b"\xff") % SPREAD != shard % SPREAD:
            suffix += 1
        names.append(f"{shard:02d}-{suffix}")
    return tuple(names)
