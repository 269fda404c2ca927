"""Each entity's dictionary of texts in LMDB: the ids that its stored rows hold.

Owns: giving out ids, keeping them the same for a row that comes again, dropping those no row uses.
Refuses: texts of outputs (they lie in the record itself).

An id is the text's place in the dictionary, counted from 1; 0 is null. Ids are per entity and never given
twice, so a row put again has the same bytes and the set of rows stays a set. A row's word is 0 wherever no
feature that looks at the column takes the row in: what a job holds there says nothing, and may differ from
one run to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from struct import pack
from typing import TYPE_CHECKING

import lmdb
import numpy as np
import numpy.typing as npt

from lookback.stores.base import I64, Bool
from lookback.stores.lmdb_record import CHUNK_TEXTS, Layout, chunk_key, layout_of, seal_chunk, split_rows
from lookback.stores.lmdb_tables import Databases, read_rows, read_texts
from lookback.stores.texts import StoredTexts, TextBlock, decode, encode
from lookback.windows.plan import ROW_HEAD, ViewPlan

CACHED_TEXTS = 500_000  # about 50 MB
COMPACT_FROM = 64  # texts: smaller dictionaries are left as they are
if TYPE_CHECKING:
    Txn = lmdb.Transaction[bytes]


class TextRows:
    """Which words of a view's rows are text ids, and in which rows they mean anything."""

    def __init__(self, plan: ViewPlan) -> None:
        self.layout: Layout = layout_of(plan)
        self._bits: dict[int, list[int]] = {word: [] for word in self.layout.texts.rows}
        for feature in plan.features:
            for term in (feature.term, feature.other):
                word = ROW_HEAD + plan.words + term.column if term is not None else -1
                if term is not None and term.column >= 0 and word in self._bits:
                    self._bits[word].append(term.bit)

    def means(self, word: int, rows: I64) -> Bool:
        """Return bool[m]: some feature looks at this word of the row."""
        bits = self._bits[word]
        if -1 in bits:
            return np.ones(rows.shape[1], np.bool_)
        seen = np.zeros(rows.shape[1], np.bool_)
        for bit in bits:
            seen |= (rows[ROW_HEAD + bit // 64] >> np.int64(bit % 64)) & 1 == 1
        return seen


class _Dictionary:
    """One entity's dictionary in memory.

    ids: what a row holds for a text, None (no text) -> 0 first. lengths, utf8: of the last chunk, if it has room.
    """

    __slots__ = ("ids", "lengths", "utf8")

    def __init__(self, ids: dict[str | None, int], lengths: bytes, utf8: bytes) -> None:
        self.ids = ids
        self.lengths = lengths
        self.utf8 = utf8


class Dictionaries:
    """The dictionaries of one view's entities, the recently used ones in memory."""

    def __init__(self) -> None:
        self._cache: dict[bytes, _Dictionary] = {}
        self._cached_texts = 0

    def forget(self) -> None:
        """Drop what is in memory: it was never committed."""
        self._cache.clear()
        self._cached_texts = 0

    def drop(self, txn: Txn, dbs: Databases, key: bytes, count: int) -> None:
        """Delete an entity's dictionary of `count` texts."""
        self._cache.pop(key, None)
        for chunk in range(-(-count // CHUNK_TEXTS)):
            txn.delete(chunk_key(key, chunk), db=dbs.texts)

    def translate(
        self, txn: Txn, dbs: Databases, text_rows: TextRows, keys: Sequence[bytes], owner: I64,
        rows: I64, texts: Sequence[str], heads: npt.NDArray[np.void],
    ) -> I64:  # fmt: skip
        """Return rows with their entity's ids in place of indices of `texts`, unknown texts added.

        owner: int64[m] sorted, the entity (index of keys and heads) of each row. heads: their `texts` and
        `rows_at_most` are read, `texts` is brought up to date.
        """
        words = list(text_rows.layout.texts.rows)
        out = rows.copy()
        index = rows[words]
        for at, word in enumerate(words):
            index[at][~text_rows.means(word, rows)] = -1
        table = [*texts, None]  # -1: no text
        cells = [table[t] for t in index.T.reshape(-1).tolist()]
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        ends = np.append(starts[1:], owner.size)
        whose = owner[starts]
        counts = heads["texts"][whose].astype(np.int64)
        rows_then = heads["rows_at_most"][whose] + (ends - starts)
        spare = (counts >= COMPACT_FROM) & (counts > 4 * len(words) * rows_then)
        bounds = (starts * len(words)).tolist(), (ends * len(words)).tolist()
        held, found = counts.tolist(), []
        puts: list[tuple[bytes, bytes]] = []
        for n, (start, end, i) in enumerate(zip(*bounds, whose.tolist(), strict=True)):
            key, count = keys[i], held[n]
            if spare[n]:
                count = self._compact(txn, dbs, text_rows.layout, key, count, puts)
            one = self._of(txn, dbs, key, count)
            ids = one.ids
            found += [ids.setdefault(text, len(ids)) for text in cells[start:end]]
            held[n] = len(ids) - 1
            if held[n] > count:
                self._cached_texts += held[n] - count
                _put(puts, key, one, count)
        heads["texts"][whose] = held
        txn.cursor(dbs.texts).putmulti(puts)
        out[words] = np.array(found, np.int64).reshape(-1, len(words)).T
        return out

    def _of(self, txn: Txn, dbs: Databases, key: bytes, count: int) -> _Dictionary:
        one = self._cache.get(key)
        if one is None or len(one.ids) != count + 1:
            self._keep_bounds()
            one = _dictionary(read_texts(txn, dbs, key, count) if count else ())
            self._cache[key] = one
            self._cached_texts += count + 4
        return one

    def _keep_bounds(self) -> None:
        """Drop the dictionaries longest in memory where there are too many texts."""
        if self._cached_texts > CACHED_TEXTS:
            for key in list(islice(self._cache, 1 + len(self._cache) // 4)):
                del self._cache[key]
            self._cached_texts = sum(len(one.ids) + 3 for one in self._cache.values())

    def _compact(
        self, txn: Txn, dbs: Databases, layout: Layout, key: bytes, count: int,
        puts: list[tuple[bytes, bytes]],
    ) -> int:  # fmt: skip
        """Write an entity's stored rows and dictionary anew with the texts still used; return how many."""
        known = StoredTexts(read_texts(txn, dbs, key, count))
        rows = read_rows(txn, dbs, layout, key)
        words = list(layout.texts.rows)
        used, place = np.unique(rows[words], return_inverse=True)
        first = 0 if used.size and used[0] == 0 else 1
        rows[words] = place.reshape(len(words), -1) + first
        self.drop(txn, dbs, key, count)
        txn.delete(key, db=dbs.rows)
        txn.cursor(dbs.rows).putmulti([(key, row) for row in split_rows(rows)], dupdata=True)
        one = _dictionary(())
        for i in used.tolist():
            if i:
                one.ids[known[i]] = len(one.ids)
        self._cache[key] = one
        _put(puts, key, one, 0)
        return len(one.ids) - 1


def _dictionary(blocks: Sequence[TextBlock]) -> _Dictionary:
    """Return the dictionary that these chunks hold."""
    ids: dict[str | None, int] = {None: 0}
    lengths = utf8 = b""
    for block in blocks:
        utf8 = bytes(block.utf8)
        ends = block.lengths.cumsum().tolist()
        starts = [0, *ends[:-1]]
        if utf8.isascii():
            text = utf8.decode()
            texts = [text[a:b] for a, b in zip(starts, ends, strict=True)]
        else:
            texts = [decode(utf8[a:b]) for a, b in zip(starts, ends, strict=True)]
        ids.update(zip(texts, range(len(ids), len(ids) + len(texts)), strict=True))
        lengths = block.lengths.astype("<u4").tobytes()
    return _Dictionary(ids, lengths, utf8)


def _put(puts: list[tuple[bytes, bytes]], key: bytes, one: _Dictionary, count: int) -> None:
    """Add the writes of the chunks that hold the texts after the first `count`."""
    fresh = [encode(text) for text in islice(one.ids, count + 1, None) if text is not None]
    lengths, utf8 = (one.lengths, one.utf8) if count % CHUNK_TEXTS else (b"", b"")
    at, chunk = 0, count // CHUNK_TEXTS
    while at < len(fresh):
        part = fresh[at : at + CHUNK_TEXTS - len(lengths) // 4]
        lengths, utf8 = lengths + pack(f"<{len(part)}I", *map(len, part)), utf8 + b"".join(part)
        puts.append((chunk_key(key, chunk), seal_chunk(lengths, utf8)))
        at, chunk = at + len(part), chunk + 1
        if len(lengths) == 4 * CHUNK_TEXTS:
            lengths = utf8 = b""
    one.lengths, one.utf8 = lengths, utf8
