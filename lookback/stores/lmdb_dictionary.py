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
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, TypeVar

import lmdb
import numpy as np
import numpy.typing as npt

from lookback.stores import lmdb_pack as pack
from lookback.stores.base import I64, Bool
from lookback.stores.lmdb_pack import I32
from lookback.stores.lmdb_record import (
    CHUNK_TEXTS,
    HEAD,
    Layout,
    chunk_key,
    layout_of,
    pack_chunks,
    pack_records,
    split_rows,
)
from lookback.stores.lmdb_tables import Databases, read_rows, read_texts
from lookback.stores.texts import StoredTexts, TextBlock, decode
from lookback.windows.plan import ROW_HEAD, ViewPlan
from lookback.windows.texts import TextTable

N = TypeVar("N", bound=np.generic)

CACHED_TEXTS = 1_000_000  # of all dictionaries: 50 MB at most,
CACHED_BYTES = 64 << 20  # and their texts
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
    """The dictionaries of one view's entities, those that came by lately in memory.

    `texts` holds each text once, whatever entities have it; a dictionary is a *slot* that lists numbers of it.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop what is in memory: it is too much, or was never committed."""
        self.texts = TextTable()
        self._slot_of: dict[bytes, int] = {}
        self._counts: I64 = np.zeros(1024, np.int64)  # by slot: texts,
        self._last: I64 = np.zeros(1024, np.int64)  # and the newest one's place in the lists below
        self._text_of: I32 = np.empty(1024, np.int32)
        self._before: I32 = np.empty(1024, np.int32)
        self._used = 0
        self._slots = 0
        self._cells: I64 = np.full(4096, pack.FREE, np.int64)
        self._ids: I32 = np.empty(4096, np.int32)

    def begin(self, texts: Sequence[str]) -> I64:
        """Return the numbers that a write's texts have in `texts`, until the next call."""
        if self._used > CACHED_TEXTS or self.texts.nbytes > CACHED_BYTES:
            self.forget()
        return self.texts.intern(texts)

    def drop(self, txn: Txn, dbs: Databases, key: bytes, count: int) -> None:
        """Delete an entity's dictionary of `count` texts."""
        self._slot_of.pop(key, None)
        for chunk in range(-(-count // CHUNK_TEXTS)):
            txn.delete(chunk_key(key, chunk), db=dbs.texts)

    def translate(
        self, txn: Txn, dbs: Databases, text_rows: TextRows, keys: Sequence[bytes], owner: I64,
        rows: I64, texts: I64, heads: npt.NDArray[np.void],
    ) -> I64:  # fmt: skip
        """Return rows with their entity's ids in place of indices of `texts`, unknown texts added.

        owner: int64[m] sorted, the entity (index of keys and heads) of each row. texts: numbers that `begin` gave.
        heads: their `texts` and `rows_at_most` are read, `texts` is brought up to date.
        """
        words = list(text_rows.layout.texts.rows)
        out = rows.copy()
        index = rows[words]
        for at, word in enumerate(words):
            index[at][~text_rows.means(word, rows)] = -1
        index = np.append(texts, -1)[index]
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        sizes = np.diff(starts, append=owner.size)
        whose = owner[starts]
        own = [keys[i] for i in whose.tolist()]
        held = heads["texts"][whose].astype(np.int64)
        slots = self._find(txn, dbs, own, held)
        spare = (held >= COMPACT_FROM) & (held > 4 * len(words) * (heads["rows_at_most"][whose] + sizes))
        for n in np.flatnonzero(spare).tolist():
            slots[n] = self._compact(txn, dbs, text_rows.layout, own[n], int(held[n]))
            held[n] = 0  # all of it is to be written
        found = np.empty_like(index)
        self._give(np.repeat(slots, sizes), index, found)
        counts = self._counts[slots]
        grown = np.flatnonzero(counts > held)
        self._put(txn, dbs, [own[n] for n in grown.tolist()], slots[grown], held[grown])
        heads["texts"][whose] = counts
        out[words] = found
        return out

    def _find(self, txn: Txn, dbs: Databases, keys: list[bytes], held: I64) -> I64:
        """Return the slots of dictionaries of `held` texts, those not in memory read. int64[n]."""
        slots = np.fromiter(map(self._slot_of.get, keys, repeat(-1)), np.int64, len(keys))
        wrong = np.flatnonzero((slots < 0) | (self._counts[slots] != held))
        if not wrong.size:
            return slots
        slots[wrong] = self._new_slots([keys[n] for n in wrong.tolist()])
        texts: list[str] = []
        stored = wrong[held[wrong] > 0]
        for n in stored.tolist():
            texts += _texts(read_texts(txn, dbs, keys[n], int(held[n])))
        numbers = self.texts.intern(texts)[None]
        self._give(np.repeat(slots[stored], held[stored]), numbers, np.empty_like(numbers))
        return slots

    def _new_slots(self, keys: list[bytes]) -> I64:
        first, self._slots = self._slots, self._slots + len(keys)
        self._slot_of.update(zip(keys, range(first, self._slots), strict=True))
        self._counts = _longer(self._counts, self._slots)
        self._last = _longer(self._last, self._slots)
        return np.arange(first, self._slots)

    def _give(self, slots: I64, texts: I64, out: I64) -> None:
        """Put the ids of texts, int64[w, m], in the dictionaries slots[m] into out, new ones given."""
        most = self._used + texts.size
        self._text_of, self._before = _longer(self._text_of, most), _longer(self._before, most)
        if 2 * most > len(self._cells):
            size = 1 << (4 * most).bit_length() - 1
            cells, ids = np.full(size, pack.FREE, np.int64), np.empty(size, np.int32)
            pack.move_cells(self._cells, self._ids, cells, ids)
            self._cells, self._ids = cells, ids
        self._used = pack.give_ids(
            slots, texts, self._cells, self._ids, self._counts, self._last, self._text_of, self._before,
            self._used, out,
        )  # fmt: skip

    def _put(self, txn: Txn, dbs: Databases, keys: list[bytes], slots: I64, held: I64) -> None:
        """Write the chunks of these dictionaries that hold texts after the first `held`."""
        whole = held // CHUNK_TEXTS
        lengths = self._counts[slots] - whole * CHUNK_TEXTS
        starts = np.concatenate([[0], np.cumsum(lengths)])
        texts = np.empty(int(starts[-1]), np.int64)
        pack.newest_texts(slots, starts, self._last, self._text_of, self._before, texts)
        chunks = -(-lengths // CHUNK_TEXTS)
        owner = np.repeat(np.arange(len(keys)), chunks)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        firsts = np.append(starts[owner] + nth * CHUNK_TEXTS, len(texts))
        packed = pack_chunks(texts, firsts, self.texts)
        numbers = (whole[owner] + nth).tolist()
        names = [chunk_key(keys[i], at) for i, at in zip(owner.tolist(), numbers, strict=True)]
        txn.cursor(dbs.texts).putmulti(list(zip(names, packed, strict=True)))

    def _compact(self, txn: Txn, dbs: Databases, layout: Layout, key: bytes, count: int) -> int:
        """Write an entity's rows anew, with ids of the texts still used alone; return its new dictionary's slot.

        The dictionary of `count` texts that was stored is deleted.
        """
        known = StoredTexts(read_texts(txn, dbs, key, count))
        rows = read_rows(txn, dbs, layout, key)
        words = list(layout.texts.rows)
        used, place = np.unique(rows[words], return_inverse=True)
        first = 0 if used.size and used[0] == 0 else 1
        rows[words] = place.reshape(len(words), -1) + first
        self.drop(txn, dbs, key, count)
        txn.delete(key, db=dbs.rows)
        txn.cursor(dbs.rows).putmulti([(key, row) for row in split_rows(rows)], dupdata=True)
        slots = self._new_slots([key])
        numbers = self.texts.intern([known[i] for i in used.tolist() if i])[None]
        self._give(np.repeat(slots, numbers.size), numbers, np.empty_like(numbers))
        return int(slots[0])


def _longer(array: npt.NDArray[N], size: int) -> npt.NDArray[N]:
    """Return the array, or one that has room for `size`, zeros behind."""
    if size <= len(array):
        return array
    longer = np.zeros(max(size, 2 * len(array)), array.dtype)
    longer[: len(array)] = array
    return longer


def _texts(blocks: Sequence[TextBlock]) -> list[str]:
    """Return the texts of a dictionary's chunks."""
    texts: list[str] = []
    for block in blocks:
        utf8 = bytes(block.utf8)
        ends = block.lengths.cumsum().tolist()
        bounds = pairwise([0, *ends])
        if utf8.isascii():
            text = utf8.decode()
            texts += [text[a:b] for a, b in bounds]
        else:
            texts += [decode(utf8[a:b]) for a, b in bounds]
    return texts


def warm() -> None:
    """Compile what packs a write, or load it where it was compiled before."""
    none, starts, table = np.empty(0, np.int64), np.zeros(1, np.int64), TextTable()
    matrix, status = np.empty((0, 0), np.int64), np.empty((0, 0), np.uint8)
    Dictionaries()._give(none, np.empty((0, 0), np.int64), matrix)
    pack.move_cells(none, np.empty(0, np.int32), none, np.empty(0, np.int32))
    pack.newest_texts(none, starts, none, np.empty(0, np.int32), np.empty(0, np.int32), none)
    pack_chunks(none, starts, table)
    pack_records(np.empty(0, HEAD), matrix, matrix, status, none, starts, table)
