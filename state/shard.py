"""One shard: its RocksDB, its views' caches, and the commit's steps 1 and 3.

    step 1  Apply         `ViewState.fresh` + `ViewState.apply`: rows at or below the applied offset are dropped
    step 2  Emit          not here: `dataflows.operators` sends values, with the served mark, to the store
    step 3  Commit state  `Shard.commit`: ONE synced batch of dirty rows, offsets, watermarks and the dirty set
    step 4  Commit epoch  not here: Bytewax stores the pointer that `Shard.pointer` returns, always after 3

The *dirty set* is every key emitted or refreshed since the last epoch that has proved durable; a restart emits it
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookback.windows.plan import ViewPlan
from state import faults, keys
from state.errors import StateRefused
from state.outbox import Outbox
from state.rocksdb import Database, Put
from state.timers import MOST_LATE_MS
from state.view import I64, ViewState

FORMAT = 1


@dataclass(frozen=True)
class ViewSpec:
    """One view as the state sees it."""

    name: str
    fingerprint: str
    plan: ViewPlan


def create_shard(path: Path, shard: int, shards: int, views: Sequence[ViewSpec]) -> None:
    """Make an empty shard at `path`; one that is there already is left as it is."""
    db = Database(path, create=True)
    try:
        if db.get(keys.META) is None:
            db.write([meta_record(shard, shards, {v.name: v.fingerprint for v in views})])
    finally:
        db.close()


def meta_record(shard: int, shards: int, views: Mapping[str, str]) -> Put:
    """Return what says which shard a database is. views: name -> fingerprint."""
    meta = {"format": FORMAT, "shard": shard, "shards": shards, "views": dict(views)}
    return keys.META, json.dumps(meta).encode()


class Shard:
    """An open shard."""

    def __init__(self, path: Path, shard: int, shards: int, views: Sequence[ViewSpec], db: Database) -> None:
        """Read what the last commit left. Raises StateRefused where it isn't this shard of this job."""
        self.path = path
        self.shard = shard
        self._db = db
        self._check(shard, shards, views)
        empty = db.get(keys.COMMIT) is None
        self.views = [ViewState(v.name, v.fingerprint, v.plan, db, empty=empty) for v in views]
        self.watermarks: dict[str, int] = {}
        self.dirty: list[set[str]] = [set() for _ in views]
        # Per view, the offsets whose values the online store has acknowledged for good: those before the dirty set's.
        self.durable: list[dict[str, int]] = [{} for _ in views]
        self._committed: list[dict[str, int]] = [{} for _ in views]
        self.epoch = 0
        self.outbox: Outbox | None = None  # what is still to be told, where the job has a change log
        self._outbox_kept: dict[str, Any] = {}
        self._writing: list[I64] = []  # the slots of each view that a commit under way writes
        self._restore()

    def _check(self, shard: int, shards: int, views: Sequence[ViewSpec]) -> None:
        raw = self._db.get(keys.META)
        if raw is None:
            raise StateRefused(
                f"{self.path} holds no shard: restore it from a backup, or name a fresh --state"
            )
        meta = json.loads(raw)
        if meta["format"] != FORMAT:
            raise StateRefused(
                f"{self.path} has state format {meta['format']}, this release reads {FORMAT}: "
                "use the release that wrote it"
            )
        if (meta["shard"], meta["shards"]) != (shard, shards):
            raise StateRefused(
                f"{self.path} is shard {meta['shard']} of {meta['shards']}, not {shard} of {shards}: "
                "the folder was moved or the shard count changed; put it back"
            )
        for view in views:
            if meta["views"].get(view.name, view.fingerprint) != view.fingerprint:
                raise StateRefused(
                    f"{self.path} holds view {view.name} in version {meta['views'][view.name][:12]}, the definition "
                    f"says {view.fingerprint[:12]}: name a fresh --state for the changed definition"
                )

    def _restore(self) -> None:
        raw = self._db.get(keys.COMMIT)
        if raw is None:
            return
        commit = json.loads(raw)
        self.epoch = commit["epoch"]
        self.watermarks = commit["watermarks"]
        self._outbox_kept = commit.get("outbox", {})
        for index, view in enumerate(self.views):
            known = commit["views"].get(view.name)
            if known is not None:
                view.applied = known["applied"]
                view.sequence = known["sequence"]
                view.counted = known.get("counted", view.sequence)
                self.dirty[index].update(known["dirty"])
                self.durable[index] = known.get("durable", {})
                view.timers.restore(known.get("timers", {}))

    def open_outbox(self) -> Outbox:
        """Let the next commits write what is to be told to a change log too."""
        self.outbox = Outbox(self._db, self._outbox_kept, [view.name for view in self.views])
        return self.outbox

    def pointer(self) -> tuple[int, int]:
        """Return what Bytewax stores for this shard in step 4: (shard, commits so far)."""
        return self.shard, self.epoch

    def check_pointer(self, pointer: tuple[int, int]) -> None:
        """Refuse a state that lacks a commit which Bytewax has recorded."""
        if pointer[0] != self.shard or pointer[1] > self.epoch:
            raise StateRefused(
                f"{self.path} is older than the job's recovery store (commit {self.epoch}, recorded {pointer[1]}): "
                "its disk was lost or rolled back; restore both from one backup, or name a fresh --state"
            )

    def commit(
        self,
        wait: Callable[[str], None] | None = None,
        settled_ms: int = -(2**62),
        entry: bytes | None = None,
    ) -> None:
        """Commit step 3: write dirty rows, offsets, watermarks and the dirty set as one synced batch.

        settled_ms: no event before it will be accepted any more; entities that nobody can need then go.
        wait: called while the disk is full (see `Database.write`). entry: what the outbox is to hold of this commit.
        """
        self.begin_commit(wait, settled_ms, entry)
        self.sync(wait)
        self.end_commit()

    def begin_commit(self, wait: Callable[[str], None] | None, settled_ms: int, entry: bytes | None) -> None:
        """Write the batch; it is durable after `sync`, which another thread may call, and counts after `end_commit`."""
        faults.reach("3-before", self.shard)
        puts: list[Put] = []
        self._writing = [view.dirty_slots() for view in self.views]
        for view, dirty in zip(self.views, self._writing, strict=True):
            puts.extend(view.puts(dirty))
            # What is still to be refreshed is needed until then.
            puts.extend(view.expired(min(settled_ms, view.timers.through_ms - MOST_LATE_MS)))
            puts.extend(view.timers.puts())
        if self.outbox is not None:
            puts.extend(self.outbox.puts(entry))
        if faults.off("synced_batch"):
            # A test's switch: rows and offsets apart, as a commit that isn't atomic would leave them.
            self._db.write(self._commit_record(), wait)
            faults.reach("3-torn", self.shard)
            self._db.write(puts, wait)
        else:
            self._db.begin([*puts, *self._commit_record()], wait)

    def sync(self, wait: Callable[[str], None] | None = None) -> None:
        """Make the batch durable."""
        self._db.finish(wait)

    def end_commit(self) -> None:
        """Take what was written as stored."""
        for view, dirty in zip(self.views, self._writing, strict=True):
            view.stored(dirty)
        self._writing = []
        faults.reach("3-after", self.shard)

    def _commit_record(self) -> list[Put]:
        self.epoch += 1
        commit: dict[str, Any] = {
            "epoch": self.epoch,
            "watermarks": self.watermarks,
            "views": {
                view.name: {
                    "applied": view.applied,
                    "sequence": view.sequence,
                    "counted": view.counted,
                    "dirty": sorted(dirty),
                    "durable": durable,
                    "timers": view.timers.to_json(),
                }
                for view, dirty, durable in zip(self.views, self.dirty, self.durable, strict=True)
            },
        }
        if self.outbox is not None:
            self._outbox_kept = self.outbox.to_json()
        if self._outbox_kept:  # of a job that has no change log just now it stays as it was
            commit["outbox"] = self._outbox_kept
        self._committed = [dict(view.applied) for view in self.views]
        return [commit_put(commit)]

    def proved_durable(self, emitted: Sequence[bool]) -> None:
        """Forget the dirty set: the first batch of an epoch proves that the one before is durable everywhere.

        emitted: view by view, whether its dirty keys went out; those that still wait for the served mark stay.
        """
        for index, gone in enumerate(emitted):
            if gone:
                self.dirty[index].clear()
                if self.outbox is not None:
                    self.outbox.told_ms[index].clear()
                self.durable[index] = self._committed[index]

    def evict(self, cache_bytes: int) -> None:
        """Free clean logs until the caches hold at most `cache_bytes`."""
        total = sum(view.log.nbytes for view in self.views)
        if total <= cache_bytes:
            return
        for view in self.views:
            view.evict(cache_bytes * view.log.nbytes // total)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the caches hold now."""
        return sum(view.log.nbytes for view in self.views)

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def commit_put(commit: Mapping[str, Any]) -> Put:
    """Return the write of a commit's JSON."""
    return keys.COMMIT, json.dumps(commit, ensure_ascii=False).encode()


def read_commit(path: Path) -> Mapping[str, Any]:
    """Return a shard's last commit as JSON, also while a job has it open (for `lookback status`)."""
    db = Database(path, read_only=True)
    try:
        raw = db.get(keys.COMMIT)
        return {} if raw is None else dict(json.loads(raw))
    finally:
        db.close()
