"""One view's logs in one shard: a write-back cache of `ViewLog` slots over RocksDB.

Owns: which entities are in memory, which rows are not yet stored, what leaves memory. Refuses: how a log is cut into
records (see `records`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookback.events import Keys, key_texts
from lookback.windows.log import Values, ViewLog
from lookback.windows.plan import MAX_OFFSET, ROW_HEAD, ViewPlan
from lookback.windows.text_words import TextWords, text_words
from state import codec, faults, keys, pack
from state.key_table import KeyTable
from state.records import INLINE_ROWS, Records
from state.rocksdb import Database, Put
from state.timers import MOST_LATE_MS, NONE, Timers

I64 = npt.NDArray[np.int64]

SWEEP_RECORDS = 32  # stored entities that a commit looks at, to drop those that nobody can need
REBUILD_RECORDS = 4096  # stored entities that one look for those without timers passes
_NO_REACH = 2**61  # beyond any reach but that of a view which keeps every row
_I64_MAX = np.iinfo(np.int64).max


class ViewState:
    """The logs of one view in one shard."""

    def __init__(
        self, name: str, fingerprint: str, plan: ViewPlan, db: Database, *, empty: bool = False
    ) -> None:
        """Begin with an empty cache over `db`; `empty`: nothing of this view is in it yet, so nothing is read."""
        self.name = name
        self.fingerprint = fingerprint
        self.plan = plan
        self.log = ViewLog(plan)
        self.applied: dict[str, int] = {}
        self.sequence = 0  # never falls, not even for an entity that comes from another shard
        self.counted = 0  # rows that this shard applied
        self._db = db
        self._tag = keys.view_tag(fingerprint)
        self._words = text_words(plan)
        if self._words.rows:
            self.log.texts.intern([""])  # id 0: what a null text's word holds
        self._keys = KeyTable()
        self._records = self._new_records()
        self._sweep = b""
        self._complete = empty  # all that is stored of this view is in memory too
        self.lookups = self.misses = 0  # entities looked up, and those of them that were not in memory
        self.evictions = 0  # how often slots were given up: a slot looked up before may be another log's now
        # Per slot: earliest time changed since the last commit (max: clean), and when it was last used.
        self._dirty_from: I64 = np.empty(0, np.int64)
        self._used: I64 = np.empty(0, np.int64)
        self._over: npt.NDArray[np.bool_] = np.empty(
            0, bool
        )  # too long for the online store when last emitted
        self.timers = Timers(self.log.layout, db, self._tag)
        self._rebuilt: bytes | None = (
            None if empty else b"e" + self._tag
        )  # stored entities from here on lack timers
        self.over_rows = _I64_MAX  # rows beyond which it is; the live job sets what its store takes
        self._tick = 0

    def _new_records(self) -> Records:
        return Records(self.name, self._tag, self.plan, self._words, self.log.life_words)

    # --- finding -----------------------------------------------------------------------------------------

    def slots(self, texts: Keys) -> I64:
        """Return the slots of these entities, reading those not in memory; a new one gets an empty log.

        An entity may be named more than once.
        """
        slots = self._keys.find(texts)
        missing = np.flatnonzero(slots < 0)
        self.lookups += len(slots)
        self.misses += len(missing)
        if len(missing):
            new = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
            each = new.take(pa.array(missing)).dictionary_encode()
            slots[missing] = self._load(each.dictionary)[each.indices.to_numpy()]
        self._tick += 1
        self._used[slots] = self._tick
        return slots

    @property
    def text_words(self) -> TextWords:
        """Which words of this view are text ids."""
        return self._words

    def keys_of(self, slots: Sequence[int] | I64) -> list[str]:
        """Return the entity key texts of slots in memory."""
        return self._keys.texts(np.asarray(slots, np.int64))

    def all_keys(self) -> Iterable[str]:
        """Yield every stored entity's key text (committed ones)."""
        start = b"e" + self._tag
        for raw, _ in self._db.scan(start, keys.after(start)):
            yield keys.entity_text(raw)

    def _new_slots(self, texts: pa.StringArray) -> I64:
        slots = self.log.new_slots(len(texts))
        top = int(slots.max()) + 1
        if top > len(self._dirty_from):
            size = max(1024, 2 * top)
            grow = size - len(self._dirty_from)
            self._dirty_from = np.concatenate([self._dirty_from, np.full(grow, _I64_MAX, np.int64)])
            self._used = np.concatenate([self._used, np.zeros(grow, np.int64)])
            self._over = np.concatenate([self._over, np.zeros(grow, bool)])
        self._keys.add(texts, slots)
        self._dirty_from[slots] = _I64_MAX
        self._over[slots] = False
        self.timers.begin(slots)
        return slots

    def _load(self, new: pa.StringArray) -> I64:
        slots = self._new_slots(new)
        if self._complete:
            return slots
        texts = key_texts(new)
        records = self._db.get_many(keys.entities(self._tag, texts))
        there = [i for i, record in enumerate(records) if record is not None]
        if not there:
            return slots
        pieces: list[I64] = []
        starts = np.zeros(len(there) + 1, np.int64)
        life = np.zeros((len(there), self.log.life_words), np.int64)
        covers = np.empty(len(there), np.int64)
        for n, i in enumerate(there):
            record = records[i]
            assert record is not None
            rows, life[n], covers[n] = self._records.read(
                self._db, texts[i], record, int(slots[i]), self.log.texts
            )
            pieces.append(rows.reshape(-1))
            starts[n + 1] = starts[n] + rows.size
        self.log.load(slots[there], np.concatenate(pieces), starts, life, covers)
        self._over[slots[there]] = self.log.lengths(slots[there]) > self.over_rows
        return slots

    # --- changing ----------------------------------------------------------------------------------------

    def fresh(self, part: str, position: I64) -> slice:
        """Commit step 1: return which rows of this batch are above the applied offset, and record them applied.

        position: of one source partition, offsets increasing. The rows at or below it were counted before.
        """
        applied = self.applied.get(part, -1)
        first, count = 0, len(position)
        if count and int(position[0]) & MAX_OFFSET <= applied:
            first = int(np.searchsorted(position & MAX_OFFSET, applied, "right"))
        if faults.off("offset_dedupe"):
            first = 0  # a test's switch: what was counted counts again
        if first < count:
            self.applied[part] = max(applied, int(position[-1]) & MAX_OFFSET)
            self.sequence += count - first
            self.counted += count - first
        return slice(first, None)

    def apply(self, slots: I64, time_ms: I64, position: I64, values: I64) -> None:
        """Insert rows and mark their logs dirty."""
        self.log.apply(slots, time_ms, position, values)
        np.minimum.at(self._dirty_from, slots, time_ms)

    def apply_evaluate(
        self,
        slots: I64,
        time_ms: I64,
        position: I64,
        values: I64,
        including: bool,
        insert: npt.NDArray[np.bool_] | None,
    ) -> Values:
        """Insert rows in order and evaluate as of each (see `ViewLog.apply_evaluate`); mark their logs dirty."""
        found = self.log.apply_evaluate(slots, time_ms, position, values, including=including, insert=insert)
        np.minimum.at(self._dirty_from, slots, time_ms)
        return found

    def dirty_slots(self) -> I64:
        """Return the slots with rows not yet stored."""
        return np.flatnonzero(self._dirty_from != _I64_MAX)

    def rows_of(self, slots: I64) -> tuple[I64, I64]:
        """Return all rows of these logs, one log after the other, int64[2 + width, m], and how many each has."""
        flat, starts, _, _ = self.log.export(slots)
        columns = ROW_HEAD + self.plan.width
        counts = np.diff(starts) // columns
        bounds = starts.tolist()
        pieces = [flat[a:b].reshape(columns, -1) for a, b in pairwise(bounds)]
        rows = np.concatenate(pieces, axis=1) if pieces else np.empty((columns, 0), np.int64)
        return rows, counts

    def fits_again(self, slots: I64) -> npt.NDArray[np.bool_]:
        """Return which logs have at most `over_rows` rows now but had more when last asked (or when read)."""
        over = self.log.lengths(slots) > self.over_rows
        again = self._over[slots] & ~over
        self._over[slots] = over
        return again

    def intern(self, texts: Sequence[str], values: I64) -> I64:
        """Return `values` with indices into `texts` replaced by this log's text ids."""
        if not (self._words.rows and texts):
            return values
        ids = self.log.texts.intern(list(texts))
        values = values.copy()
        for column in self._words.rows:
            values[column - ROW_HEAD] = ids[values[column - ROW_HEAD]]
        return values

    # --- refreshing --------------------------------------------------------------------------------------

    def as_of_ms(self, slots: I64) -> I64:
        """Return the instant that each log's values are sent as of: of its newest row or the last refresh."""
        return np.maximum(self.log.newest_ms(slots), self.timers.as_of_ms[slots])

    def sent(self, slots: I64, as_of_ms: I64) -> None:
        """Note that values as of these instants go out: the next change after them is due next."""
        self.timers.set(slots, self.log.next_changes(slots, as_of_ms, self.timers.slack_ms))

    def overdue(self, clock_ms: int, most: int) -> I64:
        """Return at most so many slots whose values have changed though no event came, the longest due first."""
        names, dues = self.timers.woken(clock_ms, most)
        if names:
            slots = self.slots(names)
            fresh = (self.timers.due_ms[slots] == NONE) & (self.log.lengths(slots) > 0)
            self.timers.set(slots[fresh], dues[fresh])
        return self.timers.overdue(clock_ms, most)

    def refreshed(self, slots: I64, clock_ms: int) -> None:
        """Note that these logs' values are sent as of the clock."""
        self.timers.as_of_ms[slots] = clock_ms
        self.timers.latest_ms = max(self.timers.latest_ms, clock_ms)

    @property
    def rebuilding(self) -> bool:
        """Whether stored entities still lack timers: those of before the last start."""
        return self._rebuilt is not None

    def rebuild(self, most: int) -> int:
        """Give timers to some of the stored entities that have none since the start; return how many were read."""
        if self._rebuilt is None:
            return 0
        past_ms = self.timers.through_ms - MOST_LATE_MS
        first, self._rebuilt = self._rebuilt, None
        names: list[str] = []
        for seen, (raw, record) in enumerate(self._db.scan(first, keys.after(b"e" + self._tag))):
            if len(names) == most or seen == REBUILD_RECORDS:
                self._rebuilt = raw
                break
            if self.log.reach_ms >= _NO_REACH or codec.newest_of(record) > past_ms - self.log.reach_ms:
                names.append(keys.entity_text(raw))  # else it has nothing more to lose
        if names:
            slots = self.slots(names)
            slots = slots[self.timers.due_ms[slots] == NONE]
            self.sent(slots, np.maximum(self.log.newest_ms(slots), past_ms))
        return len(names)

    def caught_up_to(self, clock_ms: int) -> None:
        """Note that what was due before the first timer left has been sent."""
        self.timers.look(clock_ms)
        if not self.rebuilding:
            through_ms = min(clock_ms, self.timers.next_due_ms() - 1)
            self.timers.through_ms = max(self.timers.through_ms, through_ms)

    # --- storing -----------------------------------------------------------------------------------------

    def puts(self, slots: I64) -> list[Put]:
        """Return the writes that store these logs, and mark them clean once `stored` is called."""
        if not len(slots):
            return []
        flat, starts, life, covers = self.log.export(slots)
        columns = ROW_HEAD + self.plan.width
        parts = np.zeros((len(slots), pack.PART_WORDS), np.int64)
        parts[:, pack.BASE] = starts[:-1]
        parts[:, pack.ROWS] = parts[:, pack.END] = np.diff(starts) // columns
        parts[:, pack.KIND] = codec.ENTITY
        parts[:, pack.LIFE] = np.arange(len(slots))
        parts[:, pack.COVERS] = covers
        parts[:, pack.NEWEST] = self.log.newest_ms(slots)
        long = (parts[:, pack.ROWS] > INLINE_ROWS) | np.isin(slots, self._records.long_slots())
        names, deletes = self.keys_of(slots[~long]), []
        out = keys.entities(self._tag, names)
        pieces = [parts[~long]]
        for n in np.flatnonzero(long).tolist():
            past, own, which = self._cut(int(slots[n]), flat, parts[n])
            deletes += past
            out += own
            pieces.append(which)
        records = self._encode(flat, columns, np.concatenate(pieces), life)
        return [*((key, None) for key in deletes), *zip(out, records, strict=True)]

    def _cut(self, slot: int, flat: I64, log: I64) -> tuple[list[bytes], list[bytes], I64]:
        """Return (keys to delete, keys to write, parts int64[n, PART_WORDS]) of a long log, given as one part."""
        base, rows = int(log[pack.BASE]), int(log[pack.ROWS])
        (key,) = self.keys_of([slot])
        past, pieces = self._records.cut(
            slot, key, flat[base : base + rows], flat[base + rows : base + 2 * rows],
            int(log[pack.COVERS]), int(self._dirty_from[slot]),
        )  # fmt: skip
        parts = np.tile(log, (len(pieces), 1))
        parts[:, pack.FIRST] = [piece.first for piece in pieces]
        parts[:, pack.END] = [piece.end for piece in pieces]
        parts[-1, pack.CHUNKS] = pieces[-1].chunks
        parts[:-1, pack.KIND], parts[:-1, pack.LIFE] = codec.CHUNK, -1
        parts[:-1, [pack.COVERS, pack.NEWEST]] = 0
        return past, [piece.key for piece in pieces], parts

    def _encode(self, flat: I64, columns: int, parts: I64, life: I64) -> list[bytes]:
        """Return the records of parts of exported logs; text ids in flat and life become the records' own."""
        words, texts = self._words, self.log.texts
        id_starts = np.zeros(len(parts) + 1, np.int64)
        ids = np.empty(0, np.int64)
        if words.rows or words.lives:
            owner, own = np.full(len(texts), -1, np.int64), np.empty(len(texts), np.int64)
            most = len(words.rows) * int((parts[:, pack.END] - parts[:, pack.FIRST]).sum())
            ids = np.empty(most + len(words.lives) * len(parts), np.int64)
            rows = np.array(words.rows, np.int64)
            lives = np.array(words.lives, np.int64).reshape(-1, 2)
            pack.number_texts(flat, life, parts, rows, lives, owner, own, ids, id_starts)
        return codec.encode(flat, columns, parts, life, ids, id_starts, texts)

    def stored(self, slots: I64) -> None:
        """Mark logs clean: what `puts` returned for them is in the database."""
        self._dirty_from[slots] = _I64_MAX

    # --- bounding ----------------------------------------------------------------------------------------

    def evict(self, target_bytes: int) -> None:
        """Free clean logs, longest unused first, until the cache holds at most `target_bytes`."""
        if self.log.nbytes <= target_bytes:
            return
        if self.log.texts.nbytes > target_bytes // 2 and not len(self.dirty_slots()):
            self._begin_anew()  # texts leave the table only with all rows that may name them
            return
        live = self._keys.slots
        live = live[self._dirty_from[live] == _I64_MAX]
        live = live[np.argsort(self._used[live], kind="stable")]
        sizes = (self.log.lengths(live) + 4) * 8 * (ROW_HEAD + self.plan.width)
        excess = int(self.log.nbytes - target_bytes // 2)
        count = int(np.searchsorted(np.cumsum(sizes), excess)) + 1
        self.forget(live[:count])
        self.log.compact()

    def _begin_anew(self) -> None:
        """Drop the whole cache; nothing in it is dirty."""
        live = self._keys.slots
        self.timers.leave(live, self.keys_of)
        self.timers.end(live)
        self.evictions += 1
        self._complete = False
        self.log = ViewLog(self.plan)
        if self._words.rows:
            self.log.texts.intern([""])
        self._keys = KeyTable()
        self._records = self._new_records()

    def expired(self, before_ms: int) -> list[Put]:
        """Return the deletes of some stored entities whose newest event lies at or before `before_ms` - reach.

        No accepted event can need their rows. Looks at SWEEP_RECORDS records a call, round after round.
        """
        if self.log.life_words or self.log.reach_ms >= _NO_REACH or before_ms < -_NO_REACH:
            return []
        limit_ms = before_ms - self.log.reach_ms
        first = b"e" + self._tag
        out: list[Put] = []
        for seen, (raw, record) in enumerate(self._db.scan(max(self._sweep, first), keys.after(first))):
            if seen == SWEEP_RECORDS:
                self._sweep = raw
                return out
            if codec.newest_of(record) <= limit_ms:
                out.extend(self._forgotten(raw))
        self._sweep = first
        return out

    def _forgotten(self, raw: bytes) -> list[Put]:
        """Return the deletes of one entity, unless it has rows that are not stored yet."""
        text = keys.entity_text(raw)
        slot = int(self._keys.find([text])[0])
        if slot >= 0:
            if self._dirty_from[slot] != _I64_MAX:
                return []
            self._drop(np.array([slot]))  # nothing of it stays stored either
        prefix = keys.chunk_prefix(self._tag, text)
        chunks = [(key, None) for key, _ in self._db.scan(prefix, keys.after(prefix))]
        return [(raw, None), *chunks]

    def forget(self, slots: I64) -> None:
        """Free the slots of clean logs."""
        self._complete = False
        held = slots[self._keys.holds(slots)]
        self.timers.leave(held, self.keys_of)
        self._drop(slots)

    def _drop(self, slots: I64) -> None:
        self.evictions += 1
        for slot in slots[self._keys.holds(slots)].tolist():
            self._records.forget(slot)
        self._keys.drop(slots)
        self.timers.end(slots)
        self.log.free_slots(slots)
