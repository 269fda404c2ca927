"""Writing to LMDB: the fence, the set of rows, the trim and the marks, in one transaction.

Owns: what becomes of the stored record of each entity in a `ViewWrite`. Refuses: opening files, the bytes.

Of each entity, in this order, all or nothing:

    1  fence    the write's values are taken where sequence >= stored and as_of_ms >= stored
    2  covers   taken: max(stored, given); else as stored
    3  rows     those later than covers are put, a row that is there already stays as it is; a taken write
                with `replace` deletes what was there before
    4  limit    more rows than the view's limit: all are deleted and the record turns stale
    5  trim     rows at or before covers are deleted, once the oldest is a good deal older (a reader
                leaves them out anyway)
    6  record   written with the values taken, or with the stored ones
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

import lmdb
import numpy as np
import numpy.typing as npt

from lookback.errors import RefusedError
from lookback.stores.base import I64, NEVER, Bool, ViewWrite, Written, row_limit, unheard
from lookback.stores.lmdb_dictionary import Dictionaries, TextRows
from lookback.stores.lmdb_environment import META, Environment
from lookback.stores.lmdb_group import Group, groups
from lookback.stores.lmdb_record import (
    HASHED,
    HEAD,
    STALE,
    VERSION,
    Layout,
    check_version,
    layout_of,
    pack_keys,
    pack_records,
    split_rows,
)
from lookback.stores.lmdb_tables import U64, Databases, claim_key, databases, shard_key
from lookback.windows.plan import Status, ViewPlan

ALWAYS = int(np.iinfo(np.int64).max)
_SIGN = 1 << 63
_NONE: I64 = np.empty(0, np.int64)
Heads = npt.NDArray[np.void]
if TYPE_CHECKING:
    Txn = lmdb.Transaction[bytes]


@dataclass
class _View:
    """A view being written: constants of its plan, and its open databases."""

    fingerprint: str
    layout: Layout
    limit: int
    slack_ms: int  # rows older than covers by less than this are not worth a seek
    text_rows: TextRows
    list_outputs: tuple[tuple[int, int], ...]  # (first, end) output columns of lists of texts
    dbs: Databases
    dictionaries: Dictionaries = field(default_factory=Dictionaries)


class LmdbWriter:
    """Writes the views of one job; see `StoreWriter`. One thread at a time."""

    def __init__(self, env: Environment, plans: Mapping[str, ViewPlan], generation: int) -> None:
        self.written: Written = unheard
        self._env = env
        self._generation = generation
        self._meta = env.database(META, create=True)
        self._views: dict[str, _View] = {}
        for fingerprint, plan in plans.items():
            dbs = databases(env, fingerprint, create=True)
            assert dbs is not None
            self._views[fingerprint] = _view(fingerprint, plan, dbs)
        self._growth = 0  # bytes that the last write added to the file: the next one is likely to be alike
        self._text_words = {name: view.layout.texts for name, view in self._views.items()}
        self._settled = True  # the dictionaries in memory are those of the last commit

    def marks(self, fingerprint: str, shard: int) -> dict[str, int] | None:
        """Take the shard over and return its served mark, None where the store knows nothing of it."""

        def work(txn: Txn) -> dict[str, int] | None:
            self._own(txn, fingerprint, shard)
            raw = txn.get(shard_key(b"mark", fingerprint, shard), db=self._meta)
            return None if raw is None else {str(k): int(v) for k, v in json.loads(raw).items()}

        return self._env.writing(work)

    def kept(self, fingerprint: str, shard: int) -> dict[str, int]:
        """Return the offsets whose values the store has: the served mark, which is of the same transaction."""
        return self.marks(fingerprint, shard) or {}

    def send(self, writes: Sequence[ViewWrite]) -> None:
        """Write all."""
        self.write(writes)

    def write(self, writes: Sequence[ViewWrite]) -> list[I64]:
        """Write all in one transaction; return for each the indices of entities whose record is stale."""
        began_ns = time.perf_counter_ns()
        packed = [pack_keys(write.keys) for write in writes]
        joined = list(groups(writes, packed, self._text_words))

        def work(txn: Txn) -> list[I64]:
            if not self._settled:  # an earlier try was rolled back
                for view in self._views.values():
                    view.dictionaries.forget()
            self._settled = False
            for write in writes:
                self._own(txn, write.fingerprint, write.shard)
            stale: list[I64] = [_NONE] * len(writes)
            for group in joined:
                places = group.split(_write_view(txn, self._views[group.fingerprint], group))
                for at, found in places:
                    stale[at] = found
            for write in writes:
                self._mark(txn, write)
            return stale

        self._env.make_room(2 * self._growth)
        used = self._env.used_bytes
        stale = self._env.writing(work)
        self._growth = self._env.used_bytes - used
        self._settled = True
        self.written(writes, stale, began_ns)
        return stale

    def flush(self) -> None:
        """Return once everything written is on the disk."""
        self._env.sync()
        self._env.check_readers()

    def close(self) -> None:
        """Forget what is cached; the store stays open."""
        self._views.clear()

    def _own(self, txn: Txn, fingerprint: str, shard: int) -> None:
        key = shard_key(b"owner", fingerprint, shard)
        owner = U64.unpack(txn.get(key, U64.pack(0), db=self._meta))[0]
        if owner > self._generation:
            job = (txn.get(claim_key(owner), b"?", db=self._meta) or b"?").decode()
            raise RefusedError(
                f"the job {job!r} has taken over the online store {self._env.path} (shard {shard} of view "
                f"{fingerprint[:12]}): stop one of the two jobs."
            )
        if owner < self._generation:
            txn.put(key, U64.pack(self._generation), db=self._meta)

    def _mark(self, txn: Txn, write: ViewWrite) -> None:
        key = shard_key(b"mark", write.fingerprint, write.shard)
        raw = txn.get(key, db=self._meta)
        marks: dict[str, int] = json.loads(raw) if raw else {}
        for part, offset in write.marks.items():
            marks[part] = max(int(offset), marks.get(part, int(offset)))
        txn.put(key, json.dumps(marks, sort_keys=True).encode(), db=self._meta)


def _view(fingerprint: str, plan: ViewPlan, dbs: Databases) -> _View:
    layout = layout_of(plan)
    lists = tuple(
        (start, end)
        for feature, start, end in zip(plan.features, plan.out_starts, plan.out_starts[1:], strict=False)
        if feature.is_list and start + 1 in layout.texts.outputs
    )
    reach = max((f.window_ms + f.delay_ms for f in plan.features if f.window_ms is not None), default=0)
    return _View(fingerprint, layout, row_limit(plan), reach // 8, TextRows(plan), lists, dbs)


def _write_view(txn: Txn, view: _View, write: Group) -> I64:
    """Carry out steps 1 to 6 for every entity of the group; return the stale ones."""
    keys = write.keys
    texts = view.dictionaries.begin(write.texts) if view.layout.texts.any else _NONE
    old, raw = _stored(txn, view, keys)
    taken = (write.sequence >= old["sequence"]) & (write.as_of_ms >= old["as_of_ms"])
    heads = np.zeros(len(keys), HEAD)
    covers = np.where(taken, np.maximum(old["covers_from_ms"], write.covers_from_ms), old["covers_from_ms"])
    replace = write.replace & taken
    heads["version"] = VERSION
    heads["flags"] = np.where(replace, 0, old["flags"] & STALE)
    heads["outputs"] = view.layout.outputs
    heads["lives"] = write.life.shape[1]
    heads["rows_at_most"] = np.where(replace, 0, old["rows_at_most"])
    heads["texts"] = np.where(replace, 0, old["texts"])
    heads["oldest_ms"] = np.where(replace, ALWAYS, old["oldest_ms"])
    heads["event_time_ms"] = write.event_time_ms
    heads["as_of_ms"] = write.as_of_ms
    heads["sequence"] = write.sequence
    heads["watermark_ms"] = write.watermark_ms
    heads["covers_from_ms"] = covers
    for i in np.flatnonzero(replace & (old["rows_at_most"] > 0)).tolist():
        txn.delete(keys[i], db=view.dbs.rows)
    for i in np.flatnonzero(replace & (old["texts"] > 0)).tolist():
        view.dictionaries.drop(txn, view.dbs, keys[i], int(old["texts"][i]))
    _put_rows(txn, view, write, keys, heads, texts)
    _limit_and_trim(txn, view, keys, heads)
    _put_records(txn, view, write, keys, heads, texts, taken, old, raw)
    return np.flatnonzero(heads["flags"] & STALE).astype(np.int64)


def _stored(txn: Txn, view: _View, keys: list[bytes]) -> tuple[Heads, dict[int, bytes]]:
    """Return the stored heads, HEAD[n], and by index the stored records; an unknown entity's is lowest."""
    found = txn.cursor(view.dbs.values).getmulti(keys)
    heads = np.zeros(len(keys), HEAD)
    for name in ("event_time_ms", "as_of_ms", "sequence", "covers_from_ms"):
        heads[name] = NEVER
    heads["oldest_ms"] = ALWAYS
    if not found:
        return heads, {}
    size = HEAD.itemsize
    stored = np.frombuffer(b"".join([raw[:size] for _, raw in found]), np.uint8)
    if stored.size != size * len(found):
        raise _damaged(view, "cut off")
    table = stored.view(HEAD)
    for version in np.unique(table["version"]).tolist():
        check_version(version)
    if (table["outputs"] != view.layout.outputs).any():
        raise _damaged(view, "damaged")
    if len(found) == len(keys):
        return table, {i: raw for i, (_, raw) in enumerate(found)}
    at, where = 0, []
    for key, _ in found:  # in the order of `keys`, with gaps
        while keys[at] != key:
            at += 1
        where.append(at)
        at += 1
    heads[where] = table
    return heads, {i: raw for i, (_, raw) in zip(where, found, strict=True)}


def _damaged(view: _View, how: str) -> RefusedError:
    return RefusedError(
        f"a record of view {view.fingerprint[:12]} in the online store is {how}: move the store's folder away and "
        "start the job with an empty one, it writes the values again."
    )


def _put_rows(txn: Txn, view: _View, write: Group, keys: list[bytes], heads: Heads, texts: I64) -> None:
    """Step 3, and the half of step 4 that needs no count: more new rows than the limit."""
    given = np.diff(write.row_starts)
    over = given > view.limit
    heads["flags"] |= np.where(over, STALE, 0).astype(np.uint8)
    owner = np.repeat(np.arange(len(keys)), given)
    keep = (write.rows[0] > heads["covers_from_ms"][owner]) & (heads["flags"][owner] & STALE == 0)
    rows = write.rows
    if not keep.all():
        rows, owner = rows[:, keep], owner[keep]
    if not owner.size:
        return
    if view.layout.texts.rows:
        rows = view.dictionaries.translate(txn, view.dbs, view.text_rows, keys, owner, rows, texts, heads)
    items = zip([keys[i] for i in owner.tolist()], split_rows(rows), strict=True)
    txn.cursor(view.dbs.rows).putmulti(list(items), dupdata=True)
    counts = np.bincount(owner, minlength=len(keys))
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    there = owner[starts]
    heads["rows_at_most"] += counts.astype(np.uint32)
    heads["oldest_ms"][there] = np.minimum(heads["oldest_ms"][there], np.minimum.reduceat(rows[0], starts))


def _limit_and_trim(txn: Txn, view: _View, keys: list[bytes], heads: Heads) -> None:
    """Carry out steps 4 and 5.

    `rows_at_most` counts a row put twice: only beyond the limit is it worth counting them.
    """
    full = heads["rows_at_most"] > view.limit
    floor = np.maximum(heads["covers_from_ms"], NEVER + view.slack_ms + 1) - view.slack_ms
    old = (heads["oldest_ms"] < floor) & (heads["covers_from_ms"] > NEVER)
    which = np.flatnonzero(full | old)
    if which.size:
        cursor = txn.cursor(view.dbs.rows)
        bounds = split_rows(heads["covers_from_ms"][which][None])
        rows, oldest = heads["rows_at_most"][which].tolist(), []
        for n, i in enumerate(which.tolist()):
            gone, first = _trim(cursor, keys[i], bounds[n])
            rows[n] = max(0, rows[n] - gone)
            oldest.append(first)
            if full[i]:
                rows[n] = cursor.count() if cursor.set_key(keys[i]) else 0
                if rows[n] > view.limit:
                    heads["flags"][i] |= STALE
        heads["rows_at_most"][which], heads["oldest_ms"][which] = rows, oldest
    for i in np.flatnonzero(heads["flags"] & STALE).tolist():
        head = heads[i]
        txn.delete(keys[i], db=view.dbs.rows)
        if head["texts"]:
            view.dictionaries.drop(txn, view.dbs, keys[i], int(head["texts"]))
        head["rows_at_most"], head["texts"], head["oldest_ms"] = 0, 0, ALWAYS


def _trim(cursor: lmdb.Cursor[bytes], key: bytes, bound: bytes) -> tuple[int, int]:
    """Delete an entity's rows up to time `bound`; return how many, and the oldest time then (ALWAYS: none)."""
    gone = 0
    if cursor.set_key(key):
        owner, row = cursor.item()
        while owner == key:
            if row[:8] > bound:
                return gone, int.from_bytes(row[:8], "big") - _SIGN
            cursor.delete()
            gone += 1
            owner, row = cursor.item()
    return gone, ALWAYS


def _put_records(
    txn: Txn, view: _View, write: Group, keys: list[bytes], heads: Heads,
    texts: I64, taken: Bool, old: Heads, raw: dict[int, bytes],
) -> None:  # fmt: skip
    """Step 6."""
    words, life, own = write.words, write.life, np.empty((len(keys), 0), np.int64)
    if view.layout.texts.outputs or view.layout.texts.lives:
        words, life, own = _own_texts(view, write, texts)
    counts = np.full(len(keys), own.shape[1])
    tails = own.reshape(-1)
    hashed = np.array([i for i, key in enumerate(keys) if key[0] == 2], np.int64)
    if len(hashed):
        heads["flags"][hashed] |= HASHED
        names = view.dictionaries.texts.intern([write.names[i] for i in write.order[hashed].tolist()])
        tails = np.insert(tails, own.shape[1] * (hashed + 1), names)
        counts[hashed] += 1
    firsts = np.concatenate([[0], np.cumsum(counts)])
    table = view.dictionaries.texts
    records = pack_records(heads, words, life, write.status, tails, firsts, table)
    if not taken.all():
        for i in np.flatnonzero(~taken).tolist():
            records[i] = _kept(heads[i], old[i], raw[i])
    txn.cursor(view.dbs.values).putmulti(list(zip(keys, records, strict=True)))


def _kept(head: np.void, old: np.void, raw: bytes) -> bytes:
    """Return a stored record whose values stay, with what is now known of its rows."""
    kept = old.copy()
    for name in ("rows_at_most", "texts", "oldest_ms"):
        kept[name] = head[name]
    kept["flags"] |= head["flags"] & STALE
    body = kept.tobytes() + raw[HEAD.itemsize : -4]
    return body + crc32(body).to_bytes(4, "little")


def _own_texts(view: _View, write: Group, texts: I64) -> tuple[I64, I64, I64]:
    """Return words and life with their text ids numbered within the record, and its texts, int64[n, texts].

    texts: numbers in the view's table of the texts that the ids index; -1: the record has none there.
    """
    columns = list(view.layout.texts.outputs)
    outputs = write.words[columns].copy()
    there = write.status[columns] == Status.OK
    for start, end in view.list_outputs:
        for column in range(start + 1, end):
            there[columns.index(column)] = write.words[start] > column - start - 1
    outputs[~there] = -1
    words, life = write.words.copy(), write.life.copy()
    words[columns] = np.arange(len(columns))[:, None]
    ids = [outputs]
    for at, (counts, holds) in enumerate(view.layout.texts.lives, len(columns)):
        ids.append(np.where(life[:, counts] > 0, life[:, holds], -1)[None])
        life[:, holds] = at
    table = np.concatenate(ids)
    return words, life, np.ascontiguousarray(np.append(texts, -1)[table].T)
