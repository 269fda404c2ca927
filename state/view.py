"""One view's logs in one shard: a write-back cache of `ViewLog` slots over RocksDB.

Owns: which entities are in memory, which rows are not yet stored, and how a log is cut into records.
A log of up to INLINE_ROWS rows is one record; a longer one seals its oldest rows into chunks, so that one event
rewrites the tail (or the one chunk it falls into), never the log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from lookback.windows.log import Values, ViewLog
from lookback.windows.plan import MAX_OFFSET, ROW_HEAD, Kind, ViewPlan
from state import codec, faults, keys
from state.errors import StateError
from state.rocksdb import Database, Put

I64 = npt.NDArray[np.int64]

INLINE_ROWS = 64
SWEEP_RECORDS = 32  # stored entities that a commit looks at, to drop those that nobody can need
_NO_REACH = 2**61  # beyond any reach but that of a view which keeps every row
_I64_MAX = np.iinfo(np.int64).max


class ViewState:
    """The logs of one view in one shard."""

    def __init__(self, name: str, fingerprint: str, plan: ViewPlan, db: Database) -> None:
        """Begin with an empty cache over `db`."""
        self.name = name
        self.fingerprint = fingerprint
        self.plan = plan
        self.log = ViewLog(plan)
        self.applied: dict[str, int] = {}
        self.sequence = 0
        self._db = db
        self._tag = keys.view_tag(fingerprint)
        self._text_columns = [plan.words + i for i, c in enumerate(plan.columns) if c.kind is Kind.TEXT]
        if self._text_columns:
            self.log.texts.intern([""])  # id 0: what a null text's word holds
        self._slot_of: dict[str, int] = {}
        self._key_of: list[str | None] = []
        self._chunks: dict[int, list[tuple[int, int]]] = {}
        self._sweep = b""
        # Per slot: earliest time changed since the last commit (max: clean), and when it was last used.
        self._dirty_from: I64 = np.empty(0, np.int64)
        self._used: I64 = np.empty(0, np.int64)
        self._over: npt.NDArray[np.bool_] = np.empty(
            0, bool
        )  # too long for the online store when last emitted
        self.over_rows = _I64_MAX  # what is too long
        self._tick = 0

    # --- finding -----------------------------------------------------------------------------------------

    def slots(self, texts: Sequence[str]) -> I64:
        """Return the slots of these entities, reading those not in memory; a new one gets an empty log."""
        get = self._slot_of.get
        found = [get(text, -1) for text in texts]
        slots = np.array(found, np.int64)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            slots[missing] = self._load([texts[i] for i in missing.tolist()])
        self._tick += 1
        self._used[slots] = self._tick
        return slots

    def known(self, texts: Sequence[str]) -> I64:
        """Return slots as `slots` does, but -1 for an entity that has no log anywhere."""
        result = np.full(len(texts), -1, np.int64)
        ask = []
        for i, text in enumerate(texts):
            slot = self._slot_of.get(text)
            if slot is None:
                ask.append(i)
            else:
                result[i] = slot
        if ask:
            records = self._db.get_many([keys.entity(self._tag, texts[i]) for i in ask])
            there = [i for i, record in zip(ask, records, strict=True) if record is not None]
            if there:
                result[there] = self._load([texts[i] for i in there])
        return result

    def keys_of(self, slots: Iterable[int]) -> list[str]:
        """Return the entity key texts of slots in memory."""
        return [self._key_of[s] for s in slots]  # type: ignore[misc]

    def all_keys(self) -> Iterable[str]:
        """Yield every stored entity's key text (committed ones)."""
        start = b"e" + self._tag
        for raw, _ in self._db.scan(start, keys.after(start)):
            yield keys.entity_text(raw)

    def _new_slots(self, texts: Sequence[str]) -> I64:
        slots = self.log.new_slots(len(texts))
        top = int(slots.max()) + 1
        if top > len(self._dirty_from):
            size = max(1024, 2 * top)
            grow = size - len(self._dirty_from)
            self._dirty_from = np.concatenate([self._dirty_from, np.full(grow, _I64_MAX, np.int64)])
            self._used = np.concatenate([self._used, np.zeros(grow, np.int64)])
            self._over = np.concatenate([self._over, np.zeros(grow, bool)])
            self._key_of.extend([None] * grow)
        for text, slot in zip(texts, slots.tolist(), strict=True):
            self._slot_of[text] = slot
            self._key_of[slot] = text
        self._dirty_from[slots] = _I64_MAX
        self._over[slots] = False
        return slots

    def _load(self, texts: Sequence[str]) -> I64:
        records = self._db.get_many([keys.entity(self._tag, text) for text in texts])
        slots = self._new_slots(texts)
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
            stored, rows = self._rows(texts[i], record, int(slots[i]))
            pieces.append(rows.reshape(-1))
            starts[n + 1] = starts[n] + rows.size
            life[n] = stored.life
            covers[n] = stored.covers_ms
        self.log.load(slots[there], np.concatenate(pieces), starts, life, covers)
        self._over[slots[there]] = self.log.lengths(slots[there]) > self.over_rows
        return slots

    def _rows(self, text: str, record: bytes, slot: int) -> tuple[codec.Stored, I64]:
        what = f"the record of {self.name} {text!r} in {self._db.path}"
        stored = codec.decode(record, self.plan.width, self.log.life_words, what)
        parts = []
        if stored.chunks:
            prefix = keys.chunk_prefix(self._tag, text)
            bounds = []
            for raw, value in self._db.scan(prefix, keys.after(prefix)):
                chunk = codec.decode(value, self.plan.width, 0, what)
                bounds.append(keys.read_place(raw))
                parts.append(self._with_texts(chunk))
            if len(parts) != stored.chunks:
                raise StateError(
                    f"{what} has {len(parts)} of {stored.chunks} chunks: restore this state from a backup"
                )
            if stored.rows.shape[1]:
                bounds.append((int(stored.rows[0, 0]), int(stored.rows[1, 0])))
            self._chunks[slot] = bounds
        parts.append(self._with_texts(stored))
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if stored.covers_ms > np.iinfo(np.int64).min and parts[0].shape[1]:
            # A chunk is dropped when all of it is past; until then it may begin with rows already folded.
            first = int(np.searchsorted(rows[0], stored.covers_ms, "right"))
            rows = rows[:, first:]
        return stored, rows

    def _with_texts(self, stored: codec.Stored) -> I64:
        if not (self._text_columns and stored.texts):
            return stored.rows
        ids = self.log.texts.intern(stored.texts)
        rows = stored.rows.copy()
        for column in self._text_columns:
            rows[ROW_HEAD + column] = ids[rows[ROW_HEAD + column]]
        return rows

    # --- changing ----------------------------------------------------------------------------------------

    def fresh(self, part: str, position: I64) -> slice:
        """Commit step 1: return which rows of this batch are above the applied offset, and record them applied.

        position: of one source partition, offsets increasing. The rows at or below it were counted before.
        """
        offset = position & MAX_OFFSET
        first = int(np.searchsorted(offset, self.applied.get(part, -1), "right"))
        if faults.off("offset_dedupe"):
            first = 0  # a test's switch: what was counted counts again
        if first < len(offset):
            self.applied[part] = max(self.applied.get(part, -1), int(offset[-1]))
            self.sequence += len(offset) - first
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
        pieces = [flat[a:b].reshape(columns, -1) for a, b in zip(bounds, bounds[1:], strict=False)]
        rows = np.concatenate(pieces, axis=1) if pieces else np.empty((columns, 0), np.int64)
        return rows, counts

    def fits_again(self, slots: I64, limit: int) -> npt.NDArray[np.bool_]:
        """Return which logs have at most `limit` rows now but had more when last asked (or when read)."""
        over = self.log.lengths(slots) > limit
        again = self._over[slots] & ~over
        self._over[slots] = over
        return again

    def intern(self, texts: Sequence[str], values: I64) -> I64:
        """Return `values` with indices into `texts` replaced by this log's text ids."""
        if not (self._text_columns and texts):
            return values
        ids = self.log.texts.intern(list(texts))
        values = values.copy()
        for column in self._text_columns:
            values[column] = ids[values[column]]
        return values

    # --- storing -----------------------------------------------------------------------------------------

    def puts(self, slots: I64) -> list[Put]:
        """Return the writes that store these logs, and mark them clean once `stored` is called."""
        if not len(slots):
            return []
        flat, starts, life, covers = self.log.export(slots)
        flat, texts, text_starts = self._local_texts(flat, starts)
        newest = self.log.newest_ms(slots)
        width = self.plan.width
        columns = ROW_HEAD + width
        life_bytes = life.tobytes()
        step = 8 * self.log.life_words
        out: list[Put] = []
        raw = memoryview(flat.data).cast("B")
        bounds = starts.tolist()
        covers_list, newest_list, slot_list = covers.tolist(), newest.tolist(), slots.tolist()
        for n, slot in enumerate(slot_list):
            a, b = bounds[n], bounds[n + 1]
            rows = (b - a) // columns
            key = self._key_of[slot]
            assert key is not None
            own = texts[text_starts[n] : text_starts[n + 1]] if texts else ()
            head = life_bytes[n * step : (n + 1) * step]
            if rows <= INLINE_ROWS and slot not in self._chunks:
                record = codec.encode(
                    codec.ENTITY,
                    raw[8 * a : 8 * b],
                    rows,
                    width,
                    own,
                    head,
                    0,
                    covers_list[n],
                    newest_list[n],
                )
                out.append((keys.entity(self._tag, key), record))
            else:
                matrix = flat[a:b].reshape(columns, rows)
                out.extend(self._chunked(slot, key, matrix, own, head, covers_list[n], newest_list[n]))
        return out

    def stored(self, slots: I64) -> None:
        """Mark logs clean: what `puts` returned for them is in the database."""
        self._dirty_from[slots] = _I64_MAX

    def _local_texts(self, flat: I64, starts: I64) -> tuple[I64, list[bytes], list[int]]:
        if not self._text_columns:
            return flat, [], []
        columns = ROW_HEAD + self.plan.width
        rows = np.diff(starts) // columns
        owner = np.repeat(np.arange(len(rows)), rows)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows, rows)
        base = np.repeat(starts[:-1], rows) + within
        length = np.repeat(rows, rows)
        places = np.concatenate([base + (ROW_HEAD + c) * length for c in self._text_columns])
        owners = np.tile(owner, len(self._text_columns))
        local, distinct, text_starts = codec.localize(flat[places], owners)
        flat = flat.copy()
        flat[places] = local
        full = np.full(len(rows) + 1, len(distinct), np.int64)
        full[: len(text_starts)] = text_starts
        return flat, [t.encode() for t in self.log.texts.get(distinct)], full.tolist()

    def _chunked(
        self, slot: int, key: str, rows: I64, texts: Sequence[bytes], life: bytes, covers: int, newest: int
    ) -> list[Put]:
        """Return the writes of a long log: chunks touched since the last commit, and the tail."""
        prefix = keys.chunk_prefix(self._tag, key)
        bounds = self._chunks.get(slot, [])
        out: list[Put] = []
        while len(bounds) > 1 and bounds[1][0] <= covers:  # all of the first chunk is past
            out.append((prefix + keys.place(*bounds.pop(0)), None))
        size = INLINE_ROWS if rows.shape[1] <= 16 * INLINE_ROWS else 4 * INLINE_ROWS
        # Rows before the first chunk (late ones) belong to it; a chunk reaches to the next one's bound.
        first_dirty = max(0, bisect_right(bounds, (int(self._dirty_from[slot]), -1)) - 1)
        cuts = [_row_at(rows, bound) for bound in bounds]
        tail = cuts[-1] if cuts else 0
        if cuts:
            cuts[0] = 0
        if rows.shape[1] - tail > 2 * size:  # seal all but the newest rows
            start = tail
            if bounds:
                start = cuts.pop()
                bounds.pop()
            while rows.shape[1] - start > size:
                bounds.append((int(rows[0, start]), int(rows[1, start])))
                cuts.append(start)
                start += size
            bounds.append((int(rows[0, start]), int(rows[1, start])))
            cuts.append(start)
        ends = [*cuts[1:], rows.shape[1]]
        self._chunks[slot] = bounds
        for n in range(first_dirty, len(bounds) - 1):
            out.append(
                (prefix + keys.place(*bounds[n]), self._record(codec.CHUNK, rows, cuts[n], ends[n], texts))
            )
        if len(bounds) <= 1:  # all fits the tail again
            cuts = [0]
            self._chunks.pop(slot, None)
        chunks = len(cuts) - 1
        record = self._record(
            codec.ENTITY, rows, cuts[-1], rows.shape[1], texts, life, chunks, covers, newest
        )
        out.append((keys.entity(self._tag, key), record))
        return out

    def _record(
        self,
        kind: int,
        rows: I64,
        start: int,
        end: int,
        texts: Sequence[bytes],
        life: bytes = b"",
        chunks: int = 0,
        covers: int = 0,
        newest: int = 0,
    ) -> bytes:
        part = np.ascontiguousarray(rows[:, start:end])
        if self._text_columns:
            places = [ROW_HEAD + c for c in self._text_columns]
            used, local = np.unique(part[places], return_inverse=True)
            part[places] = local.reshape(len(places), -1)
            texts = [texts[i] for i in used.tolist()]
        return codec.encode(
            kind, part.tobytes(), end - start, self.plan.width, texts, life, chunks, covers, newest
        )

    # --- bounding ----------------------------------------------------------------------------------------

    def evict(self, target_bytes: int) -> None:
        """Free clean logs, longest unused first, until the cache holds at most `target_bytes`."""
        if self.log.nbytes <= target_bytes:
            return
        if self.log.texts.nbytes > target_bytes // 2 and not len(self.dirty_slots()):
            self._begin_anew()  # texts leave the table only with all rows that may name them
            return
        live = np.fromiter(self._slot_of.values(), np.int64, len(self._slot_of))
        live = live[self._dirty_from[live] == _I64_MAX]
        live = live[np.argsort(self._used[live], kind="stable")]
        sizes = (self.log.lengths(live) + 4) * 8 * (ROW_HEAD + self.plan.width)
        excess = int(self.log.nbytes - target_bytes // 2)
        count = int(np.searchsorted(np.cumsum(sizes), excess)) + 1
        self.forget(live[:count])
        self.log.compact()

    def _begin_anew(self) -> None:
        """Drop the whole cache; nothing in it is dirty."""
        self.log = ViewLog(self.plan)
        if self._text_columns:
            self.log.texts.intern([""])
        self._slot_of.clear()
        self._chunks.clear()
        self._key_of = [None] * len(self._key_of)

    def expired(self, before_ms: int) -> list[Put]:
        """Return the deletes of some stored entities whose newest event lies at or before `before_ms` - reach.

        No accepted event can need their rows. Looks at SWEEP_RECORDS records a call, round after round.
        """
        if self.log.life_words or self.log.reach_ms >= _NO_REACH or before_ms < -_NO_REACH:
            return []
        limit_ms = before_ms - self.log.reach_ms
        first = b"e" + self._tag
        out: list[Put] = []
        seen = 0
        for raw, record in self._db.scan(max(self._sweep, first), keys.after(first)):
            seen += 1
            if seen > SWEEP_RECORDS:
                self._sweep = raw
                return out
            if codec.newest_of(record) <= limit_ms:
                out.extend(self._forgotten(raw))
        self._sweep = first
        return out

    def _forgotten(self, raw: bytes) -> list[Put]:
        """Return the deletes of one entity, unless it has rows that are not stored yet."""
        text = keys.entity_text(raw)
        slot = self._slot_of.get(text)
        if slot is not None:
            if self._dirty_from[slot] != _I64_MAX:
                return []
            self.forget(np.array([slot]))
        prefix = keys.chunk_prefix(self._tag, text)
        chunks = [(key, None) for key, _ in self._db.scan(prefix, keys.after(prefix))]
        return [(raw, None), *chunks]

    def forget(self, slots: I64) -> None:
        """Free the slots of clean logs."""
        for slot in slots.tolist():
            key = self._key_of[slot]
            if key is not None:
                del self._slot_of[key]
                self._key_of[slot] = None
                self._chunks.pop(slot, None)
        self.log.free_slots(slots)


def _row_at(rows: I64, bound: tuple[int, int]) -> int:
    """Return the index of the first row at or after `bound` = (time, position)."""
    low = int(np.searchsorted(rows[0], bound[0], "left"))
    high = int(np.searchsorted(rows[0], bound[0], "right"))
    return low + int(np.searchsorted(rows[1, low:high], bound[1], "left"))
