"""The embedded online store: one LMDB folder, read by any number of processes while the job writes.

Owns: claims, marks and reading. Refuses: where things lie (`lmdb_tables`), the bytes of a record
(`lmdb_record`), writing (`lmdb_writer`), files and maps (`lmdb_environment`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import lmdb
import numpy as np

from lookback.errors import RefusedError, StoreError, UsageError
from lookback.stores.base import Lookup, Record
from lookback.stores.lmdb_environment import FIRST_MAP_BYTES, META, Environment
from lookback.stores.lmdb_record import STALE, Layout, layout_of, pack_key, unpack_record
from lookback.stores.lmdb_tables import (
    GENERATION,
    U64,
    Databases,
    claim_key,
    databases,
    note_key,
    read_rows,
    read_texts,
    shard_key,
    view_key,
)
from lookback.stores.lmdb_writer import LmdbWriter
from lookback.stores.texts import StoredTexts, TextBlock
from lookback.windows.plan import ViewPlan

NO_TEXTS = StoredTexts()


class LmdbStore:
    """An online store in a folder; see `OnlineStore`."""

    def __init__(
        self, path: str | Path, *, write: bool = False, first_map_bytes: int = FIRST_MAP_BYTES
    ) -> None:
        self.path = Path(path).expanduser()
        self.env = Environment.acquire(self.path, write=write, first_map_bytes=first_map_bytes)
        self._writable = write
        self._opened = 0
        self._views: dict[str, tuple[Databases, Layout]] = {}
        self._closed = False

    # ---- who writes

    def claim(self, job: str) -> int:
        """Return a new generation for this run of `job`."""
        meta = self._meta(create=True)

        def work(txn: lmdb.Transaction[bytes]) -> int:
            generation = U64.unpack(txn.get(GENERATION, U64.pack(0), db=meta))[0] + 1
            txn.put(GENERATION, U64.pack(generation), db=meta)
            txn.put(claim_key(generation), job.encode(), db=meta)
            return int(generation)

        return self.env.writing(work)

    def writer(self, plans: Mapping[str, ViewPlan], generation: int, names: Mapping[str, str]) -> LmdbWriter:
        """Open for writing the views of `plans`."""
        meta = self._meta(create=True)

        def work(txn: lmdb.Transaction[bytes]) -> None:
            for fingerprint in plans:
                txn.put(view_key(fingerprint), names.get(fingerprint, "").encode(), db=meta)

        self.env.writing(work)
        return LmdbWriter(self.env, plans, generation)

    def _meta(self, *, create: bool) -> lmdb._Database:
        if create and not self._writable:
            raise UsageError(f"the online store {self.path} was opened for reading: open it with write=True.")
        meta = self.env.database(META, create=create)
        if meta is None:
            raise StoreError(f"the online store {self.path} is empty: start `lookback run` with it first.")
        return meta

    # ---- what is there

    def marks(self, fingerprint: str, shard: int) -> dict[str, int] | None:
        """Return the shard's served mark, None where the store knows nothing of it."""
        meta = self._meta(create=self._writable)
        with self.env.reading() as txn:
            raw = txn.get(shard_key(b"mark", fingerprint, shard), db=meta)
            return None if raw is None else {str(k): int(v) for k, v in json.loads(bytes(raw)).items()}

    def note(self, fingerprint: str) -> str | None:
        """Return what the last job noted of how it shards the view; None where none did."""
        meta = self._meta(create=self._writable)
        with self.env.reading() as txn:
            raw = txn.get(note_key(fingerprint), db=meta)
            return None if raw is None else str(raw, "utf-8")

    def put_note(self, fingerprint: str, text: str) -> None:
        """Note how a view is sharded."""
        meta = self._meta(create=True)
        self.env.writing(lambda txn: txn.put(note_key(fingerprint), text.encode(), db=meta))

    def versions(self) -> dict[str, str]:
        """Return fingerprint -> view name of all views that were ever written here."""
        meta = self._meta(create=self._writable)
        found: dict[str, str] = {}
        with self.env.reading() as txn:
            cursor = txn.cursor(meta)
            if cursor.set_range(b"view"):
                for key, name in cursor:
                    if bytes(key[:4]) != b"view":
                        break
                    found[str(key[4:], "utf-8")] = str(name, "utf-8")
        return found

    def entities(self, fingerprint: str) -> int:
        """Return how many entities of a view have a record."""
        dbs = databases(self.env, fingerprint, create=False)
        if dbs is None:
            return 0
        with self.env.reading() as txn:
            return int(txn.stat(dbs.values)["entries"])

    # ---- reading

    def read(self, lookups: Sequence[Lookup]) -> list[Record | None]:
        """Return each record as of one moment, None where the entity is unknown."""
        env = self.env
        while True:
            views = [self._view(lookup) for lookup in lookups]
            txn = env.begin_read()
            try:
                if self._opened == env.opened:
                    return [
                        self._one(txn, *view, lookup) for view, lookup in zip(views, lookups, strict=True)
                    ]
                # another thread opened the files anew just now: the handles belong to the old ones
            except lmdb.Error as error:
                raise env.failed(error) from None
            finally:
                env.end_read(txn)

    def _one(
        self, txn: lmdb.Transaction[memoryview], dbs: Databases, layout: Layout, lookup: Lookup
    ) -> Record | None:
        try:
            return _read(txn, dbs, layout, lookup)
        except (StoreError, RefusedError) as error:
            raise type(error)(
                f"the online store {self.path} can't give entity {lookup.key!r} of view "
                f"{lookup.fingerprint[:12]}: {error}"
            ) from None

    def _view(self, lookup: Lookup) -> tuple[Databases, Layout]:
        """Return a view's open databases and layout; raises StoreError for one never written."""
        if self._opened != self.env.opened:  # handles belong to one opening of the files
            self._views.clear()
            self._opened = self.env.opened
        known = self._views.get(lookup.fingerprint)
        if known is None:
            dbs = databases(self.env, lookup.fingerprint, create=False)
            if dbs is None:
                raise StoreError(
                    f"the online store {self.path} has never seen a view with fingerprint "
                    f"{lookup.fingerprint[:12]}: run the job with this definition."
                )
            known = self._views[lookup.fingerprint] = (dbs, layout_of(lookup.plan))
        return known

    def close(self) -> None:
        """Let go of the folder."""
        if not self._closed:
            self._closed = True
            self.env.release()


def _read(txn: lmdb.Transaction[memoryview], dbs: Databases, layout: Layout, lookup: Lookup) -> Record | None:
    key = pack_key(lookup.key)
    raw = txn.get(key, db=dbs.values)
    if raw is None:
        return None
    head = unpack_record(raw, layout, lookup.key, lookup.values)
    blocks: list[TextBlock] = []
    if head.flags & STALE:
        rows = np.empty((layout.row_words, 0), np.int64)
    else:
        rows = read_rows(txn, dbs, layout, key)
        if rows.size and rows[0, 0] <= head.covers_from_ms:  # trimmed, but not deleted yet
            rows = rows[:, int(rows[0].searchsorted(head.covers_from_ms, side="right")) :]
        if head.dictionary and lookup.texts:
            blocks = read_texts(txn, dbs, key, head.dictionary)
    if head.texts is not None:
        own = 1 + sum(len(block.lengths) for block in blocks)
        if head.words.size:
            head.words[list(layout.texts.outputs)] += own
        for _, word in layout.texts.lives:
            head.life[word] += own
        blocks.append(head.texts)
    return Record(
        head.event_time_ms, head.as_of_ms, head.sequence, head.watermark_ms, head.covers_from_ms,
        bool(head.flags & STALE), head.words, head.status, rows, head.life,
        StoredTexts(blocks) if blocks else NO_TEXTS,
    )  # fmt: skip
