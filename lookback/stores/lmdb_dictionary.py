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
from typing import TYPE_CHECKING

import lmdb
import numpy as np
import numpy.typing as npt

from lookback.stores.base import I64, Bool
from lookback.stores.lmdb_record import CHUNK_TEXTS, Layout, chunk_key, layout_of, pack_chunk, pack_rows
from lookback.stores.lmdb_tables import Databases, read_rows, read_texts
from lookback.stores.texts import StoredTexts
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


class Dictionaries:
    """The dictionaries of one view's entities, the recently used ones in memory."""

    def __init__(self) -> None:
        self._cache: dict[bytes, dict[str, int]] = {}
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
        starts = np.flatnonzero(np.diff(owner, prepend=-1)).tolist()
        ends = [*starts[1:], owner.size]
        columns = index.T.tolist()
        for start, end, i in zip(starts, ends, owner[starts].tolist(), strict=True):
            count = int(heads["texts"][i])
            rows_then = int(heads["rows_at_most"][i]) + end - start
            if count >= COMPACT_FROM and count > 4 * len(words) * rows_then:
                count = self._compact(txn, dbs, text_rows.layout, keys[i], count)
            ids = self._of(txn, dbs, keys[i], count)
            for row in range(start, end):
                columns[row] = [0 if t < 0 else ids.setdefault(texts[t], len(ids) + 1) for t in columns[row]]
            if len(ids) > count:
                self._cached_texts += len(ids) - count
                self._put(txn, dbs, keys[i], ids, count)
            heads["texts"][i] = len(ids)
        out[words] = np.array(columns, np.int64).T
        return out

    def _of(self, txn: Txn, dbs: Databases, key: bytes, count: int) -> dict[str, int]:
        ids = self._cache.get(key)
        if ids is None or len(ids) != count:
            if self._cached_texts > CACHED_TEXTS:
                self.forget()
            known = StoredTexts(read_texts(txn, dbs, key, count)) if count else ()
            ids = {text: i for i, text in enumerate(known) if i}
            self._cache[key] = ids
            self._cached_texts += len(ids) + 4
        return ids

    def _put(self, txn: Txn, dbs: Databases, key: bytes, ids: dict[str, int], count: int) -> None:
        """Write the chunks that hold the texts after the first `count`."""
        texts = list(ids)
        for chunk in range(count // CHUNK_TEXTS, -(-len(texts) // CHUNK_TEXTS)):
            part = texts[chunk * CHUNK_TEXTS : (chunk + 1) * CHUNK_TEXTS]
            txn.put(chunk_key(key, chunk), pack_chunk(part), db=dbs.texts)

    def _compact(self, txn: Txn, dbs: Databases, layout: Layout, key: bytes, count: int) -> int:
        """Write an entity's stored rows and dictionary anew with the texts still used; return how many."""
        known = StoredTexts(read_texts(txn, dbs, key, count))
        rows = read_rows(txn, dbs, layout, key)
        words = list(layout.texts.rows)
        used, place = np.unique(rows[words], return_inverse=True)
        first = 0 if used.size and used[0] == 0 else 1
        rows[words] = place.reshape(len(words), -1) + first
        self.drop(txn, dbs, key, count)
        txn.delete(key, db=dbs.rows)
        flat, size = pack_rows(rows), layout.row_bytes
        items = [(key, flat[at : at + size]) for at in range(0, len(flat), size)]
        txn.cursor(dbs.rows).putmulti(items, dupdata=True)
        ids = {known[i]: at + first for at, i in enumerate(used.tolist()) if i}
        self._cache[key] = ids
        self._put(txn, dbs, key, ids, 0)
        return len(ids)
