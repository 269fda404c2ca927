"""The bytes of an entity in LMDB: its key, its record, its rows and its dictionary.

Owns the grammar below (spelled out byte by byte in docs/online-record.md) and the refusal of a record that
breaks it. Refuses: transactions, fences, limits.

    key    := 0x01 utf8            entity key text of at most MAX_KEY_TEXT bytes
            | 0x02 sha256          a longer one; its text is kept in the record and compared
    record := head word{outputs} life{lives} status{outputs} texts crc32
    texts  := length:u32{n} utf8{n}      one each of the view's text outputs, of its text lives, [key text]
    row    := word{2 + width}      each big-endian with its sign bit flipped, so bytes sort as numbers do
    chunk  := version:u8 0:u8 crc32 n:u16 texts      up to CHUNK_TEXTS texts of an entity's dictionary

Everything else is little-endian. A record is broken when it is shorter than its counts say, has counts other
than its view's, a checksum that differs, or another key's text; it is refused when its version is newer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from struct import Struct, unpack_from
from zlib import crc32

import numpy as np
import numpy.typing as npt

from lookback.errors import RefusedError, StoreError
from lookback.stores import lmdb_pack as pack
from lookback.stores.base import I64, U8
from lookback.stores.texts import TextBlock, encode
from lookback.windows.plan import ROW_HEAD, ViewPlan
from lookback.windows.text_words import TextWords, text_words
from lookback.windows.texts import TextTable

VERSION = 1
MAX_KEY_TEXT = 480  # LMDB's keys end at 511 bytes
CHUNK_TEXTS = 64
STALE = 1  # flag: rows were dropped
HASHED = 2  # flag: the key's text follows

HEAD = np.dtype(
    [
        ("version", "u1"),
        ("flags", "u1"),
        ("outputs", "<u2"),
        ("lives", "<u2"),
        ("reserved", "<u2"),
        ("rows_at_most", "<u4"),
        ("texts", "<u4"),
        ("event_time_ms", "<i8"),
        ("as_of_ms", "<i8"),
        ("sequence", "<i8"),
        ("watermark_ms", "<i8"),
        ("covers_from_ms", "<i8"),
        ("oldest_ms", "<i8"),
    ]
)
HEAD_STRUCT = Struct("<BBHHHIIqqqqqq")
assert HEAD.itemsize == HEAD_STRUCT.size == 64
_SIGN = np.int64(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class Layout:
    """What of a plan decides the bytes of its records."""

    outputs: int
    row_words: int
    texts: TextWords
    own_texts: int  # of a record: its text outputs', then its text accumulators'

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return 8 * self.row_words


def layout_of(plan: ViewPlan) -> Layout:
    """Return the layout of a plan's records."""
    words = text_words(plan)
    own = len(words.outputs) + len(words.lives)
    return Layout(plan.out_starts[-1], ROW_HEAD + plan.width, words, own)


def pack_key(text: str) -> bytes:
    r"""Return the LMDB key of an entity key text.

    >>> pack_key("c1")
    b'\x01c1'
    """
    raw = encode(text)
    return b"\x01" + raw if len(raw) <= MAX_KEY_TEXT else b"\x02" + sha256(raw).digest()


def chunk_key(key: bytes, chunk: int) -> bytes:
    """Return the LMDB key of an entity's dictionary chunk."""
    return key + chunk.to_bytes(4, "big")


def pack_keys(texts: Sequence[str]) -> list[bytes]:
    """Return the LMDB keys of entity key texts."""
    joined = "".join(texts)
    if joined.isascii() and (not texts or max(map(len, texts)) <= MAX_KEY_TEXT):
        return [b"\x01" + text.encode() for text in texts]
    return [pack_key(text) for text in texts]


def split_rows(rows: I64) -> list[bytes]:
    """Return rows int64[row_words, m] as a list of m stored rows."""
    item = np.dtype(f"V{8 * rows.shape[0]}")
    stored: list[bytes] = np.frombuffer(pack_rows(rows), item).tolist()
    return stored


def pack_rows(rows: I64) -> bytes:
    """Return rows int64[row_words, m] as m stored rows, one after the other."""
    return np.ascontiguousarray((rows ^ _SIGN).T, dtype=">i8").tobytes()


def unpack_rows(raw: bytes | memoryview, key_bytes: int, row_words: int) -> I64:
    """Return int64[row_words, m], C-contiguous, of m stored rows with `key_bytes` before each."""
    item = key_bytes + 8 * row_words
    if len(raw) % item:
        raise StoreError(f"{len(raw)} bytes of rows are no multiple of {item}.")
    if not raw:
        return np.empty((row_words, 0), np.int64)
    table = np.ndarray((row_words, len(raw) // item), ">i8", raw, key_bytes, (8, item))
    out = table.astype(np.int64, order="C")
    out ^= _SIGN
    return out


def unpack_block(raw: bytes | memoryview, count: int, start: int, end: int) -> TextBlock:
    """Return `count` texts that fill raw[start:end]; raises StoreError where they don't."""
    first = start + 4 * count
    if first > end:
        raise StoreError("the lengths of its texts are cut off.")
    lengths = np.frombuffer(raw, "<u4", count, start)
    if first + np.add.reduce(lengths) != end:
        raise StoreError("its texts are cut off.")
    return TextBlock(lengths, raw[first:end])


def pack_chunks(texts: I64, firsts: I64, table: TextTable) -> list[bytes]:
    """Return dictionary chunks, the n-th of the table's texts[firsts[n]:firsts[n + 1]]."""
    places = _places(texts, firsts, table, 8)
    out = np.empty(int(places[-1]), np.uint8)
    pack.pack_chunks(VERSION, texts, firsts, table.blob, table.ends, places, out)
    return _cut(out, places)


def unpack_chunk(raw: bytes | memoryview) -> TextBlock:
    """Return the texts of a dictionary chunk; raises StoreError when it is damaged."""
    if len(raw) < 8:
        raise StoreError("a chunk of its dictionary is cut off.")
    check_version(raw[0])
    if crc32(raw[6:]) != unpack_from("<I", raw, 2)[0]:
        raise StoreError("the checksum of a chunk of its dictionary differs.")
    return unpack_block(raw, unpack_from("<H", raw, 6)[0], 8, len(raw))


def check_version(version: int) -> None:
    """Refuse a record of a layout that this release doesn't know."""
    if version == 0:
        raise StoreError("the record has version 0, which no release writes.")
    if version > VERSION:
        raise RefusedError(
            f"the online store holds records of layout {version}, this release reads up to {VERSION}: "
            "use the release that wrote it, or name another store."
        )


def pack_records(
    heads: npt.NDArray[np.void], words: I64, life: I64, status: U8, texts: I64, firsts: I64, table: TextTable
) -> list[bytes]:
    """Return one record an entity.

    heads: HEAD[n]. words: int64[outputs, n], life: int64[n, L], status: uint8[outputs, n]. What follows the status
    of record i are the table's texts[firsts[i]:firsts[i + 1]], -1 meaning none.
    """
    n, lives = life.shape
    places = _places(texts, firsts, table, HEAD.itemsize + 9 * len(words) + 8 * lives + 4)
    out = np.empty(int(places[-1]), np.uint8)
    raw = heads.view(np.uint8).reshape(n, HEAD.itemsize)
    pack.pack_records(
        raw, np.ascontiguousarray(words), np.ascontiguousarray(life), np.ascontiguousarray(status),
        texts, firsts, table.blob, table.ends, places, out,
    )  # fmt: skip
    return _cut(out, places)


def _places(texts: I64, firsts: I64, table: TextTable, fixed: int) -> I64:
    """Return where each packed thing begins that has `fixed` bytes beside its texts. int64[n + 1]."""
    ends = table.ends
    lengths = np.zeros(len(texts) + 1, np.int64)
    lengths[1:] = np.where(texts < 0, 0, ends[texts + 1] - ends[texts]) + 4
    return np.cumsum(lengths)[firsts] + fixed * np.arange(len(firsts))


def _cut(packed: U8, places: I64) -> list[bytes]:
    """Return packed[places[n]:places[n + 1]], each as bytes."""
    sizes = np.diff(places)
    if len(sizes) and sizes[0] == sizes.min() == sizes.max():
        alike: list[bytes] = packed.view(f"V{sizes[0]}").tolist()
        return alike
    raw, bounds = packed.tobytes(), places.tolist()
    return [raw[start:end] for start, end in pairwise(bounds)]


_NO_WORDS: I64 = np.empty(0, np.int64)
_NO_STATUS: U8 = np.empty(0, np.uint8)


@dataclass(slots=True)
class Unpacked:
    """One record, checked; `texts` are those of its text outputs, then of its lifetime accumulators."""

    flags: int
    rows_at_most: int
    dictionary: int
    event_time_ms: int
    as_of_ms: int
    sequence: int
    watermark_ms: int
    covers_from_ms: int
    words: I64
    status: U8
    life: I64
    texts: TextBlock | None


def unpack_record(raw: bytes | memoryview, layout: Layout, key_text: str, values: bool = True) -> Unpacked:
    """Return a record, checked against its view and its key; without `values` its head and life alone.

    Raises: StoreError when it is damaged, RefusedError when its version is newer.
    """
    if not raw:
        raise StoreError("the record is empty.")
    check_version(raw[0])
    if len(raw) < HEAD_STRUCT.size + 4 or crc32(raw[:-4]) != unpack_from("<I", raw, len(raw) - 4)[0]:
        raise StoreError("the record's checksum differs.")
    _, flags, outputs, lives, _, rows, dictionary, event, as_of, sequence, watermark, covers, _ = (
        HEAD_STRUCT.unpack_from(raw)
    )
    end = HEAD_STRUCT.size + 9 * outputs + 8 * lives
    if outputs != layout.outputs or end + 4 > len(raw):
        raise StoreError(f"the record has {outputs} outputs, the view {layout.outputs}.")
    words, status, life = _NO_WORDS, _NO_STATUS, _NO_WORDS
    if values or flags & STALE:
        words = np.frombuffer(raw, "<i8", outputs, HEAD_STRUCT.size).astype(np.int64)
        status = np.frombuffer(raw, np.uint8, outputs, end - outputs).copy()
    if lives:
        life = np.frombuffer(raw, "<i8", lives, HEAD_STRUCT.size + 8 * outputs).astype(np.int64)
    texts = None
    count = layout.own_texts + (1 if flags & HASHED else 0)
    if words.size or lives or flags & HASHED or not count:  # else they are those of words not asked for
        texts = unpack_block(raw, count, end, len(raw) - 4) if count or len(raw) > end + 4 else None
    if flags & HASHED and texts is not None:
        own = len(texts.utf8) - int(texts.lengths[-1])
        if texts.utf8[own:] != encode(key_text):
            raise StoreError("the record belongs to another entity of the same hash.")
        texts = TextBlock(texts.lengths[:-1], texts.utf8[:own])
    return Unpacked(
        flags, rows, dictionary, event, as_of, sequence, watermark, covers,
        words, status, life, texts if words.size or lives else None,
    )  # fmt: skip
