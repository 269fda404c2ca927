"""An entity in Redis: its keys, its fields, its rows, and how a reply becomes a `Record`.

Owns the grammar below (spelled out in docs/online-record-redis.md) and the refusal of what breaks it.
Refuses: who may write what (`redis_scripts`), the text of a value (`redis_values`).

    record  := HASH    at  "lookback:" view ":" fingerprint[:12] ":{" entity "}"
    rows    := ZSET    at  that key ":rows"          score: event time, ms;  member: row
    entity  := key text, "%" "{" "}" as "%25" "%7B" "%7D";  over MAX_KEY_BYTES: "%sha256:" hex, text in `_key`;
               an empty one on a cluster: "%", since "{}" would say nothing of a slot
    row     := word{2 + width} utf8*     int64 each, big-endian with the sign bit flipped, so bytes sort as
               numbers do; a text column's word is 0, or 1 + the bytes of its text, which follow in order
    _life   := word{lives} (length:u32 utf8)*    little-endian; one text for each of the view's text lives
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from struct import pack, unpack_from
from typing import Any

import numpy as np
import numpy.typing as npt

from lookback.errors import RefusedError, StoreError
from lookback.stores import redis_pack
from lookback.stores.base import I64, NEVER, Lookup, Record, ViewWrite
from lookback.stores.redis_values import Strings, ValueTexts, strings_of, text_strings
from lookback.stores.texts import StoredTexts, TextBlock, decode, encode
from lookback.windows.layout import build_layout
from lookback.windows.plan import LIFETIME, ROW_HEAD, ViewPlan
from lookback.windows.text_words import text_words

VERSION = "1"
PREFIX = "lookback:"
HOME, CLUSTER_HOME = (
    PREFIX,
    "{lookback}:",
)  # what keys that are no record's begin with; on a cluster one node has them
FORMAT, VIEWS, SHARDING = "format", "views", "sharding"  # their names after that
EMPTY_TAG = b"%"  # of an entity whose key is empty, on a cluster; no other key's text is escaped to it
MAX_KEY_BYTES = 200
MARGIN_MS = 3_600_000  # a record is kept this much longer than anything in it can matter
_pack: Callable[..., int] = redis_pack.pack
_SIGN = np.int64(np.iinfo(np.int64).min)
_NO_TEXTS = StoredTexts()
_NO_STRINGS = strings_of([])


def shard_key(home: str, fingerprint: str, shard: int) -> str:
    """Return the key of a shard's owner and marks."""
    return f"{home}shard:{fingerprint[:12]}:{shard}"


def entity_part(text: str) -> bytes:
    r"""Return what stands between the braces of an entity's key.

    >>> entity_part("c1"), entity_part("a{b}%")
    (b'c1', b'a%7Bb%7D%25')
    """
    raw = encode(text)
    if len(raw) > MAX_KEY_BYTES:
        return b"%sha256:" + sha256(raw).hexdigest().encode()
    return raw.replace(b"%", b"%25").replace(b"{", b"%7B").replace(b"}", b"%7D")


def is_long(text: str) -> bool:
    """Return whether an entity's key text is hashed."""
    return len(text) > MAX_KEY_BYTES // 4 and len(encode(text)) > MAX_KEY_BYTES


def key_prefix(view: str, fingerprint: str) -> bytes:
    """Return what all record keys of a view begin with."""
    return f"{PREFIX}{view}:{fingerprint[:12]}:{{".encode()


@dataclass(frozen=True)
class Packed:
    """Records ready to be sent: those of one `ViewWrite`, in its order."""

    data: memoryview
    ends: list[int]


class Layout:
    """What of a view decides the bytes of its records."""

    def __init__(self, plan: ViewPlan, *, cluster: bool = False) -> None:
        self.plan = plan
        self._empty_tag = EMPTY_TAG if cluster else b""
        self.values = ValueTexts(plan)
        self.texts = text_words(plan)
        self.row_words = ROW_HEAD + plan.width
        self._life_words = build_layout(plan).life_words
        self.first = redis_pack.HEAD_STRINGS + len(plan.features) + 1  # of the rows, counted from 1
        self._text_rows = np.array(self.texts.rows, np.int64)
        self._bits = [_bits_of(plan, word) for word in self.texts.rows]
        endless = any(feature.window_ms is LIFETIME for feature in plan.features)
        self.reach_ms = max(
            (f.window_ms + f.delay_ms for f in plan.features if f.window_ms is not None), default=0
        )
        # None: something in a record may matter for ever, so it never expires.
        self.kept_ms = None if endless or self.reach_ms > 2**40 else self.reach_ms + MARGIN_MS

    def tag(self, key: str) -> bytes:
        """Return what stands between the braces of an entity's key."""
        return entity_part(key) or self._empty_tag

    # ---- writing

    def tags(self, keys: Sequence[str]) -> Strings:
        """Return what stands between the braces of each key."""
        joined = "".join(keys)
        plain = joined.isascii() and not any(char in joined for char in "%{}")
        sizes = np.fromiter(map(len, keys), np.int64, len(keys))
        if plain and sizes.max(initial=0) <= MAX_KEY_BYTES and (sizes.min(initial=1) or not self._empty_tag):
            ends = np.zeros(len(keys) + 1, np.int64)
            np.cumsum(sizes, out=ends[1:])
            blob: npt.NDArray[np.uint8] = np.frombuffer(bytearray(joined.encode() + b"\0"), np.uint8)
            return blob, ends
        return strings_of([self.tag(key) for key in keys])

    def pack(self, write: ViewWrite, limit: int, now_ms: int) -> Packed:
        """Return the records of a write; more rows than `limit` are not sent."""
        n = len(write.keys)
        given = np.diff(write.row_starts)
        flags = np.where(write.replace, redis_pack.REPLACE, 0) | np.where(write.whole, redis_pack.WHOLE, 0)
        flags = (flags | np.where(given > limit, redis_pack.STALE, 0)).astype(np.uint8)
        heads = np.array(
            [
                write.event_time_ms,
                write.as_of_ms,
                write.covers_from_ms,
                self._expires(write.event_time_ms, now_ms),
            ]
        )
        keys, long_texts = self.tags(write.keys), _long_texts(write.keys)
        life, texts = self._lives(write), text_strings(write.texts)
        pool = self.values.pool(write)
        cells = self._cells(write.rows)
        room = self._room(write, (keys, long_texts, life, texts, pool), cells)
        out, ends = np.empty(room, np.uint8), np.empty(n + 1, np.int64)
        prefix = np.frombuffer(bytearray(key_prefix(write.view, write.fingerprint)), np.uint8)
        size = _pack(
            out, ends, prefix, *keys, *long_texts, heads, flags, *life,
            self.values.spec, np.ascontiguousarray(write.words), np.ascontiguousarray(write.status),
            *self.values.empties, *texts, *pool,
            write.row_starts, np.ascontiguousarray(write.rows), self._text_rows, cells,
        )  # fmt: skip
        assert size <= room
        return Packed(out.data[:size], ends.tolist())

    def _expires(self, newest_ms: I64, now_ms: int) -> I64:
        """Return when each record expires, NONE where it doesn't: the view is endless, or its events are old.

        Where a job reads an archive, an event's time says nothing of when it is asked for.
        """
        if self.kept_ms is None:
            return np.full(len(newest_ms), redis_pack.NONE, np.int64)
        step = max(1, self.kept_ms // 8)  # in steps, so that few writes move it
        at = (np.clip(newest_ms, -(2**60), 2**60) + self.kept_ms) // step * step + step
        return np.where((at > now_ms) & (at < redis_pack.MAX_EXACT), at, redis_pack.NONE)

    def _cells(self, rows: I64) -> I64:
        """Return int64[texts a row, m]: the text of each text word, -1 where no feature looks at it."""
        cells = rows[self._text_rows]
        for at, bits in enumerate(self._bits):
            if -1 in bits:
                continue
            seen = np.zeros(rows.shape[1], np.bool_)
            for bit in bits:
                seen |= (rows[ROW_HEAD + bit // 64] >> np.int64(bit % 64)) & 1 == 1
            cells[at][~seen] = -1
        return cells

    def _lives(self, write: ViewWrite) -> Strings:
        if not write.life.shape[1]:
            return _NO_STRINGS[0], np.zeros(len(write.keys) + 1, np.int64)
        life = write.life.astype("<i8")
        ids = [
            np.where(life[:, counts] > 0, life[:, holds], -1).tolist() for counts, holds in self.texts.lives
        ]
        for at, (_, holds) in enumerate(self.texts.lives):
            life[:, holds] = at
        raw = [row.tobytes() for row in life]
        for column in ids:
            found = [encode(write.texts[i]) if i >= 0 else b"" for i in column]
            raw = [one + pack("<I", len(text)) + text for one, text in zip(raw, found, strict=True)]
        return strings_of(raw)

    def _room(self, write: ViewWrite, strings: Sequence[Strings], cells: I64) -> int:
        """Return bytes that the records can't exceed."""
        n, m, features = len(write.keys), write.rows.shape[1], len(self.plan.features)
        texts = np.diff(strings[3][1])
        own = list(self.texts.outputs)
        shown = held = 0
        if len(texts) and own:  # where there is no value the index means nothing
            shown = int(texts[np.clip(write.words[own], 0, len(texts) - 1)].sum())
        if len(texts) and cells.size:
            held = int(texts[cells[cells >= 0]].sum())
        given = sum([int(ends[-1]) for at, (_, ends) in enumerate(strings) if at != 3])
        number = redis_pack.NUMBER_BYTES + redis_pack.STRING_HEAD
        a_value = number + redis_pack.STRING_HEAD + int(np.diff(self.values.empties[1]).max(initial=0)) + 1
        a_row = number + redis_pack.STRING_HEAD + 8 * self.row_words
        a_record = redis_pack.RECORD_HEAD + 10 * number + features * a_value
        prefix = len(key_prefix(write.view, write.fingerprint))
        return int(n * (a_record + prefix) + m * a_row + shown + held + given + 64)

    # ---- reading

    def read(self, reply: list[Any], lookup: Lookup) -> Record:
        """Return the record of a reply of the read script.

        Raises: StoreError when it is damaged, RefusedError when its version is newer.
        """
        version, event, as_of, sequence, watermark, covers, stale, long_text, life_raw = reply[0]
        _check_version(version)
        if long_text is not None and long_text != encode(lookup.key):
            raise StoreError("the record belongs to another entity of the same hash.")
        texts: list[str] = []
        words, status = np.empty(0, np.int64), np.empty(0, np.uint8)
        if reply[1]:
            fields = dict(zip(reply[1][::2], reply[1][1::2], strict=True))
            found = [fields.get(feature.name.encode()) for feature in self.plan.features]
            words, status = self.values.words(found, (fields.get(b"_status") or b"").decode(), texts)
        covers_ms = int(covers) if covers else NEVER
        rows, block = self._rows(reply[2])
        if rows.size and rows[0, 0] <= covers_ms:  # trimmed, but not deleted yet
            rows = rows[:, int(rows[0].searchsorted(covers_ms, side="right")) :]
        life = self._life(life_raw, texts)
        blocks = [] if block is None else [block]
        if texts:
            own = 1 + (0 if block is None else len(block.lengths))
            if words.size:
                words[list(self.texts.outputs)] += own
            for _, holds in self.texts.lives:
                life[holds] += own
            raw = [encode(text) for text in texts]
            blocks.append(TextBlock(np.array([len(one) for one in raw], np.uint32), b"".join(raw)))
        return Record(
            int(event), int(as_of), int(sequence), int(watermark), covers_ms, stale == b"1",
            words, status, rows, life, StoredTexts(blocks) if blocks else _NO_TEXTS,
        )  # fmt: skip

    def _rows(self, raw: bytes | list[bytes]) -> tuple[I64, TextBlock | None]:
        """Return int64[row_words, m] and the texts that its words index, counted from 1."""
        size = 8 * self.row_words
        if isinstance(raw, list):
            heads = b"".join([row[:size] for row in raw])
            if len(heads) != size * len(raw):
                raise StoreError("one of its rows is cut off.")
        else:
            heads = raw
            if len(heads) % size:
                raise StoreError(f"{len(heads)} bytes of rows are no multiple of {size}.")
        table = np.ndarray((self.row_words, len(heads) // size), ">i8", heads, 0, (8, size))
        rows = table.astype(np.int64, order="C")
        rows ^= _SIGN
        if not isinstance(raw, list) or not raw:
            return rows, None
        return rows, self._row_texts(raw, rows)

    def _row_texts(self, raw: list[bytes], rows: I64) -> TextBlock:
        """Return the texts after each row's words, each once, and put their places into the rows."""
        lengths = rows[self._text_rows]
        table: dict[bytes | None, int] = {None: 0}
        places = []
        for row, sizes in zip(raw, lengths.T.tolist(), strict=True):
            at = 8 * self.row_words
            for size in sizes:
                end = at + max(size - 1, 0)
                places.append(table.setdefault(row[at:end] if size else None, len(table)))
                at = end
            if at != len(row):
                raise StoreError("the texts of one of its rows are cut off.")
        rows[self._text_rows] = np.array(places, np.int64).reshape(len(raw), -1).T
        del table[None]
        found = [text for text in table if text is not None]
        return TextBlock(np.array([len(text) for text in found], np.uint32), b"".join(found))

    def _life(self, raw: bytes | None, texts: list[str]) -> I64:
        if raw is None:
            return np.empty(0, np.int64)
        if len(raw) < 8 * self._life_words:
            raise StoreError("its lifetime accumulators are cut off.")
        words = np.frombuffer(raw, "<i8", self._life_words).astype(np.int64)
        at = 8 * len(words)
        for _, holds in self.texts.lives:
            (size,) = unpack_from("<I", raw, at)
            words[holds] = len(texts)
            texts.append(decode(raw[at + 4 : at + 4 + size]))
            at += 4 + size
        return words


def warm() -> None:
    """Compile the kernel that packs records, or load it where it was compiled before."""
    layout = Layout(ViewPlan(columns=(), bits=0, features=()))
    none = np.empty(0, np.int64)
    write = ViewWrite(
        view="v", fingerprint="0", shard=0, keys=[], event_time_ms=none, as_of_ms=none, sequence=0, watermark_ms=0,
        words=np.empty((0, 0), np.int64), status=np.empty((0, 0), np.uint8), row_starts=np.zeros(1, np.int64),
        rows=np.empty((2, 0), np.int64), covers_from_ms=none, replace=np.empty(0, np.bool_),
        whole=np.empty(0, np.bool_), life=np.empty((0, 0), np.int64), texts=[], marks={},
    )  # fmt: skip
    layout.pack(write, 1, 0)


def _check_version(version: bytes) -> None:
    if not version.isdigit():
        raise StoreError(f"the record has version {version!r}, which no release writes.")
    if int(version) > int(VERSION):
        raise RefusedError(
            f"the online store holds records of layout {int(version)}, this release reads up to {VERSION}: "
            "use the release that wrote it, or name another store."
        )


def _bits_of(plan: ViewPlan, word: int) -> list[int]:
    """Return the participation bits of the terms that look at this word of a row; -1: every row takes part."""
    return [
        term.bit
        for feature in plan.features
        for term in (feature.term, feature.other)
        if term is not None and term.column >= 0 and ROW_HEAD + plan.words + term.column == word
    ]


def _long_texts(keys: Sequence[str]) -> Strings:
    """Return the texts of those keys that are hashed."""
    longest = max(map(len, keys), default=0)
    if longest <= MAX_KEY_BYTES // 4 or (longest <= MAX_KEY_BYTES and "".join(keys).isascii()):
        return _NO_STRINGS[0], np.zeros(len(keys) + 1, np.int64)
    return strings_of([encode(key) if is_long(key) else b"" for key in keys])
