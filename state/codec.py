"""Bytes of one entity's log in RocksDB.

Grammar (little-endian; golden files in tests/format hold it):

    record  := crc:u32 version:u8 kind:u8 width:u16 life:u16 texts:u16|0xFFFF rows:u32 chunks:u32
               covers:i64 newest:i64 life_word:i64{life} [texts:u32] text{texts} column{2 + width}
    text    := length:u32 utf8{length}
    column  := i64{rows}                      time, position, participation words, values
    kind    := 0 (an entity: its newest rows) | 1 (a sealed chunk of older rows)

`crc` is the CRC-32 of all that follows it. TEXT columns hold indices into the record's own texts, so that a
record can be read alone. `chunks` of an entity is how many sealed chunks it has; of a chunk it is 0.
A record counts as broken when its crc, version, width, life or length is not what it must be.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lookback.windows.texts import TextTable
from state import pack
from state.errors import StateRefused

VERSION = 1
ENTITY, CHUNK = 0, 1
_HEAD = struct.Struct("<BBHHHIIqq")
_CRC = struct.Struct("<I")
_U32 = struct.Struct("<I")

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stored:
    """One decoded record. rows: int64[2 + width, n]; texts of its TEXT columns; life: int64[life]."""

    kind: int
    rows: I64
    texts: list[str]
    life: I64
    chunks: int
    covers_ms: int
    newest_ms: int


def encode(
    flat: I64, columns: int, parts: I64, life: I64, ids: I64, id_starts: I64, texts: TextTable
) -> list[bytes]:
    """Return the records of parts of logs.

    flat: words of logs, each `columns` of as many words as the log has rows. parts: int64[n, PART_WORDS], see
    `pack`. life: int64[m, L]. texts[ids[id_starts[i]:id_starts[i + 1]]] are those of record i.
    """
    bounds = np.zeros(len(parts) + 1, np.int64)
    pack.sizes(parts, columns, life.shape[1], ids, id_starts, texts.ends, bounds[1:])
    np.cumsum(bounds, out=bounds)
    out = np.empty(int(bounds[-1]), np.uint8)
    words, lives = flat.view(np.uint8), np.ascontiguousarray(life).reshape(-1).view(np.uint8)
    pack.pack(
        VERSION,
        words,
        columns,
        parts,
        lives,
        life.shape[1],
        ids,
        id_starts,
        texts.blob,
        texts.ends,
        bounds,
        out,
    )
    packed, places = out.tobytes(), bounds.tolist()
    return [packed[start:end] for start, end in pairwise(places)]


def decode(data: bytes, width: int, life: int, what: str) -> Stored:
    """Return the record in `data`; `what` names it in errors.

    Raises StateRefused for a newer version or a broken record (restore the shard, or name a
    fresh --state and replay).
    """
    if len(data) < 4 + _HEAD.size or _CRC.unpack_from(data)[0] != zlib.crc32(memoryview(data)[4:]):
        raise StateRefused(f"{what} is damaged (checksum): restore this state folder from a backup")
    version, kind, got_width, got_life, texts, rows, chunks, covers, newest = _HEAD.unpack_from(data, 4)
    if version != VERSION:
        raise StateRefused(
            f"{what} has format {version}, this release reads {VERSION}: use the newer release"
        )
    if got_width != width or got_life != life:
        raise StateRefused(
            f"{what} has {got_width} words a row and {got_life} of lifetime, not {width} and {life}: "
            "it belongs to another definition; name a fresh --state"
        )
    at = 4 + _HEAD.size
    life_words = np.frombuffer(data, np.int64, life, at)
    at += 8 * life
    if texts == pack.LONG:
        texts = _U32.unpack_from(data, at)[0]
        at += 4
    found = []
    for _ in range(texts):
        length = _U32.unpack_from(data, at)[0]
        found.append(data[at + 4 : at + 4 + length].decode("utf-8", "surrogatepass"))
        at += 4 + length
    if len(data) - at != 8 * rows * (2 + width):
        raise StateRefused(f"{what} is damaged (length): restore this state folder from a backup")
    matrix = np.frombuffer(data, np.int64, rows * (2 + width), at).reshape(2 + width, rows)
    return Stored(kind, matrix, found, life_words, chunks, covers, newest)


def newest_of(data: bytes) -> int:
    """Return an entity record's newest event time without decoding its rows."""
    return int(_HEAD.unpack_from(data, 4)[8])


def warm() -> None:
    """Compile what packs records, or load it where it was compiled before."""
    none, table = np.empty(0, np.int64), TextTable()
    parts, life, starts = (
        np.empty((0, pack.PART_WORDS), np.int64),
        np.empty((0, 0), np.int64),
        np.zeros(1, np.int64),
    )
    pack.number_texts(none, life, parts, none, life, none, none, none, starts)
    encode(none, 2, parts, life, none, starts, table)
