"""The state folder of a live job: what it is, whose it is, whether it is whole.

DIR/state.json   what this state is; written last when it is made, so that a crash leaves nothing half made
DIR/lock         held while a job runs
DIR/shard-NN/    one RocksDB a shard
DIR/recovery/    Bytewax's recovery store: source offsets and pointers
DIR/reshard.json of a state that `lookback reshard` has not finished: no job runs on it
DIR/.moving-shard-NN/, .gone-shard-NN/   of a shard on its way to or from another pod's volume (`shard_moves`)
DIR/board, meters, settings.json, failure.json, pids, worker-N.log   of the running job; may be deleted when none runs
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bytewax.recovery import init_db_dir

from dataflows.board import SHARDS as MOST_SHARDS
from dataflows.placement import shard_keys
from dataflows.settings import SHARDS
from lookback.definition import Definition
from lookback.errors import LookbackError, RefusedError, UsageError
from state import faults
from state.shard import ViewSpec, create_shard

FORMAT = 1
HALF_MADE = "reshard.json"


class StateFolder:
    """A live job's state folder, locked while this object is open.

    id: of the state. job: of the state that it began as, before any `lookback reshard`; refused events bear it.
    resharded: of a state that was made from another: what it goes on from, and what those before it were.
    """

    def __init__(
        self,
        path: Path,
        definition: Definition,
        source: str,
        parts: Sequence[str],
        *,
        shards: int | None = None,
        elsewhere: bool = False,
    ) -> None:
        """Make the folder where there is none, else check it. Raises RefusedError where it doesn't fit.

        shards: how many there are to be; None: SHARDS in a new state, else as many as it has. elsewhere: shards may
        be on the volumes of other pods.
        """
        self.path = path
        self._elsewhere = elsewhere
        self._wanted = shards
        self.shards = shards or SHARDS
        self._views = {view.name: view.fingerprint for view in definition.views.values()}
        self._specs = [ViewSpec(v.name, v.fingerprint, v.plan) for v in definition.views.values()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LookbackError(
                f"can't make the state folder {path}: {error.strerror}; name another --state"
            ) from error
        self._lock = take_lock(path)
        self.id = self.job = uuid.uuid4().hex
        self.resharded: dict[str, Any] = {}
        try:
            check_finished(path)
            if (path / "state.json").exists():
                self._check(source, parts)
            else:
                self._make(source, parts)
        except BaseException:
            self._lock.close()
            raise
        self.keys = shard_keys(self.shards)

    def _make(self, source: str, parts: Sequence[str]) -> None:
        strangers = [p.name for p in self.path.iterdir() if not self._ours(p.name)]
        if strangers:
            raise RefusedError(
                f"{self.path} is not empty ({', '.join(sorted(strangers)[:3])}) and holds no state: "
                "name a fresh --state"
            )
        for left in self.path.glob("shard-*"):
            # What a crash while making left is not known to be whole: nothing was counted in it yet.
            shutil.rmtree(left)
        for shard in range(self.shards):
            create_shard(self.path / f"shard-{shard:02d}", shard, self.shards, self._specs)
            faults.reach("0-make", shard)
        recovery = self.path / "recovery"
        shutil.rmtree(recovery, ignore_errors=True)
        recovery.mkdir()
        init_db_dir(recovery, 1)
        self._write(source, parts)

    def _write(self, source: str, parts: Sequence[str]) -> None:
        meta = {
            "format": FORMAT,
            "id": self.id,
            "shards": self.shards,
            "views": self._views,
            "source": source,
            "parts": sorted(parts),
            **({"job": self.job, "resharded": self.resharded} if self.resharded else {}),
        }
        write_meta(self.path, meta)

    @staticmethod
    def _ours(name: str) -> bool:
        return name in {"lock", "recovery", "state.json.new"} or name.startswith("shard-")

    def _check(self, source: str, parts: Sequence[str]) -> None:
        meta = read_meta(self.path)
        shards, known = meta["shards"], set(meta["parts"])
        if self._wanted not in (None, shards):
            raise UsageError(
                f"--shards {self._wanted}: the state {self.path} has {shards}; leave the option out, or make a state "
                f"of {self._wanted} with `lookback reshard {self.path} --shards {self._wanted} --out NEW`"
            )
        self.shards, self.id = shards, meta["id"]
        self.job, self.resharded = meta.get("job", self.id), meta.get("resharded", {})
        self._check_views(meta["views"])
        if meta["source"] != source:
            raise RefusedError(
                f"the state {self.path} counts the events of {meta['source']}, not of {source}: "
                "give the source that it was started on, or name a fresh --state"
            )
        lost = sorted(known - set(parts))
        again = sorted(part for part in lost if _topic(part) in {_topic(now) for now in set(parts) - known})
        if again:
            raise RefusedError(
                f"the topic {_topic(again[0])} was deleted and made again: the state {self.path} counts the events of "
                "the old one, whose offsets mean nothing in the new; name a fresh --state and a fresh --store"
            )
        if lost:
            raise RefusedError(
                f"{source} has no partition {lost[0]} any more, whose events the state {self.path} counts: "
                "put its events back, or name a fresh --state"
            )
        check_whole(self.path, shards, elsewhere=self._elsewhere)
        if set(parts) != known:
            self._write(source, parts)

    def _check_views(self, views: dict[str, str]) -> None:
        changed = [name for name, fp in self._views.items() if views.get(name, fp) != fp]
        new = [name for name in self._views if name not in views]
        gone = [name for name in views if name not in self._views]
        what = [
            *(f"view {n} changed ({views[n][:12]} is now {self._views[n][:12]})" for n in changed),
            *(f"view {n} is new" for n in new),
            *(f"view {n} is gone" for n in gone),
        ]
        if what:
            raise RefusedError(
                f"the state {self.path} was made by another definition: {'; '.join(what)}. "
                "Name a fresh --state, so that the changed views are computed from the beginning"
            )

    @property
    def line(self) -> dict[str, Any]:
        """Return what this state was cut from (see `takeover.StateLine`)."""
        return {name: self.resharded[name] for name in ("origins", "applied") if self.resharded}

    def grow(self, source: str, parts: Sequence[str]) -> None:
        """Take further partitions in, which begin with the next start of the workers."""
        self._write(source, parts)

    def close(self) -> None:
        """Let another job have the folder."""
        self._lock.close()


def take_lock(path: Path) -> IO[bytes]:
    """Return the folder's lock, held until it is closed. Raises RefusedError where another job has it."""
    lock = (path / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RefusedError(
            f"another job runs on the state {path}: stop it first, or name another --state"
        ) from None
    return lock


def check_finished(path: Path) -> None:
    """Refuse what `lookback reshard` has not finished."""
    if not (path / HALF_MADE).exists() or (path / "state.json").exists():
        return
    try:
        made = json.loads((path / HALF_MADE).read_text())
        again = f"`lookback reshard {made['from']} --shards {made['shards']} --out {path}`"
    except (ValueError, KeyError):
        again = f"`lookback reshard OLD --shards N --out {path}`"
    raise RefusedError(
        f"the state {path} is half made: give {again} once more, which goes on with it, or start the job on the old one"
    )


def read_meta(path: Path) -> dict[str, Any]:
    """Return what a state folder says of itself. Raises RefusedError where this release can't go by it."""
    try:
        meta = dict(json.loads((path / "state.json").read_text()))
        version, shards = meta["format"], meta["shards"]
        _ = meta["id"], meta["views"], meta["source"], meta["parts"]
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"{path / 'state.json'} is damaged: restore the folder from a backup") from error
    if version != FORMAT:
        raise RefusedError(
            f"the state {path} has format {version}, this release reads {FORMAT}: "
            "use the release that wrote it"
        )
    if not 1 <= shards <= MOST_SHARDS:
        raise RefusedError(
            f"the state {path} has {shards} shards, this release takes up to {MOST_SHARDS}: "
            "use the release that wrote it"
        )
    return meta


def write_meta(path: Path, meta: Mapping[str, Any]) -> None:
    """Write what a state folder says of itself, whole or not at all."""
    temporary = path / "state.json.new"
    with temporary.open("w") as file:
        file.write(json.dumps(meta, indent=1))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path / "state.json")


def check_whole(path: Path, shards: int, recovery: Path | None = None, *, elsewhere: bool = False) -> None:
    """Refuse a state that lacks a shard or the recovery store, or whose recovery store is damaged.

    recovery: a copy of the recovery store to look into. elsewhere: shards may be on the volumes of other pods.
    """
    missing = [i for i in range(shards) if not (path / f"shard-{i:02d}" / "CURRENT").exists()]
    if missing and not elsewhere:
        raise RefusedError(
            f"shard {missing[0]} of {shards} is missing from the state {path}: "
            f"put {len(missing)} folder(s) back from a backup, or name a fresh --state (nothing was changed)"
        )
    more = sorted(set(path.glob("shard-*")) - {path / f"shard-{i:02d}" for i in range(shards)})
    if more:
        raise RefusedError(
            f"{path / 'state.json'} has {shards} shards, and there is {more[0].name}: put the state.json of this state "
            "back from a backup, or name a fresh --state (nothing was changed)"
        )
    files = sorted((recovery or path / "recovery").glob("part-*.sqlite3"))
    if not files:
        raise RefusedError(
            f"the recovery store of {path} is missing: put {path / 'recovery'} back from a backup, "
            "or name a fresh --state"
        )
    for file in files:
        try:
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
                answer = db.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            answer = str(error)
        if answer != "ok":
            raise RefusedError(
                f"the recovery store {path / 'recovery' / file.name} is damaged ({answer}): restore {path} from a "
                "backup, or name a fresh --state"
            )


def part_name(part: str) -> str:
    """Return a partition's id as a person reads it, without the topic's own id."""
    return f"{_topic(part)}/{part.rpartition('/')[2]}"


def _topic(part: str) -> str:
    """Return the topic's name in a partition's id."""
    return part.rpartition("/")[0].partition("@")[0]


def state_views(path: Path) -> tuple[int, Sequence[str]]:
    """Return (shards, view names) of a state folder, for `lookback status`."""
    meta = json.loads((path / "state.json").read_text())
    return meta["shards"], list(meta["views"])
