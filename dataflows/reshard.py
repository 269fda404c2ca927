"""`lookback reshard`: a state of another number of shards, made from one that no job runs on.

    1  Look      the old state is whole, no job runs on it, and it ends where its source goes on
    2  Copy      old shard by old shard, each record as it is; what is written for good is noted in reshard.json
    3  Commit    each new shard gets the merged commit (`state.reshard`)
    4  Compare   every record of the old state is read, and from its new place; both hold as many of each kind
    5  End       source places, dead letters, and last state.json, without which no job takes the folder

Killed anywhere, the same command goes on. The old state is opened for reading alone. What the online store is told is
the first start's business (`takeover`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bytewax.recovery import init_db_dir

from dataflows import recovery_store
from dataflows.arguments import within
from dataflows.board import SHARDS as MOST_SHARDS
from dataflows.progress import LINE_SECONDS, live_line
from dataflows.route import shard_of_utf8
from dataflows.state_folder import (
    FORMAT,
    HALF_MADE,
    check_finished,
    check_whole,
    part_name,
    read_meta,
    take_lock,
    write_meta,
)
from lookback.errors import LookbackError, RefusedError, UsageError
from state import faults, reshard
from state.errors import StateError
from state.outbox import is_settled
from state.reshard import Records
from state.rocksdb import Database, is_full
from state.shard import commit_put, meta_record, read_commit

if TYPE_CHECKING:
    from rich.live import Live

SAVE_BYTES = 256 << 20  # copied between two times that what is there is made durable
LETTERS = "dead-letters"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Old:
    """The state that is cut anew. offsets: by source partition, where the job goes on."""

    path: Path
    meta: dict[str, Any]
    commits: list[dict[str, Any]]
    places: dict[str, bytes]
    letters: dict[str, bytes]
    offsets: dict[str, int]

    @property
    def views(self) -> list[str]:
        """Return the names of its views."""
        return list(self.meta["views"])

    @property
    def mark(self) -> dict[str, Any]:
        """Return what tells this state from itself at another time."""
        return {
            "id": self.meta["id"],
            "commits": [c.get("epoch", 0) for c in self.commits],
            "ends": self.offsets,
        }


def run(old_path: Path, shards: int, new_path: Path, *, quiet: bool) -> dict[str, Any]:
    """Make the new state, or go on with what an earlier call left of it; return what it holds."""
    within("--shards", shards, 1, MOST_SHARDS)
    if not (old_path / "state.json").exists():
        check_finished(old_path)
        raise UsageError(f"{old_path} is no state folder: give the --state of a job")
    one, other = old_path.resolve(), new_path.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise UsageError(f"--out {new_path}: name a folder of its own, apart from {old_path}")
    _open_many_files()
    with contextlib.ExitStack() as held, _room(new_path):
        held.enter_context(contextlib.closing(take_lock(old_path)))
        old = look(old_path, shards)
        held.enter_context(contextlib.closing(_folder(new_path)))
        return _Reshard(old, shards, new_path, quiet=quiet).run()


def look(path: Path, shards: int) -> Old:
    """Return what the old state is. Raises RefusedError where it can't be cut as it stands."""
    meta = read_meta(path)
    if meta["shards"] == shards:
        raise UsageError(f"--shards {shards}: {path} has as many already")
    with tempfile.TemporaryDirectory() as folder:  # SQLite writes beside what it reads
        copy = Path(folder) / "state"
        copy.mkdir()
        if (path / "recovery").is_dir():
            shutil.copytree(path / "recovery", copy / "recovery")
        check_whole(path, meta["shards"], recovery=copy / "recovery")
        found = {
            step: recovery_store.resumed(copy / "recovery", step)
            for step in (recovery_store.SOURCE, recovery_store.SHARD, recovery_store.LETTERS)
        }
    before = meta.get("resharded", {})
    places = {**_raw(before, recovery_store.PLACES), **found[recovery_store.SOURCE]}
    letters = {**_raw(before, recovery_store.LETTER_PLACES), **found[recovery_store.LETTERS]}
    commits = [dict(read_commit(path / f"shard-{i:02d}")) for i in range(meta["shards"])]
    offsets = {key: int(recovery_store.unpickled(raw)["offset"]) for key, raw in places.items()}
    old = Old(path, meta, commits, places, letters, offsets)
    _check_end(old, [recovery_store.unpickled(raw) for raw in found[recovery_store.SHARD].values()])
    return old


def _raw(resharded: dict[str, Any], what: str) -> dict[str, bytes]:
    return {key: base64.b64decode(text) for key, text in resharded.get(what, {}).items()}


def _check_end(old: Old, pointers: Sequence[tuple[int, int]]) -> None:
    """Refuse a state that is behind its recovery store, or that was killed within a commit."""
    for shard, epoch in pointers:
        if epoch > old.commits[shard].get("epoch", 0):
            raise RefusedError(
                f"shard {shard} of {old.path} is older than the recovery store beside it: its disk was lost or rolled "
                "back; restore both from one backup"
            )
    for shard, commit in enumerate(old.commits):
        if not is_settled(old.path / f"shard-{shard:02d}", commit.get("outbox", {})):
            raise RefusedError(
                f"shard {shard} of {old.path} holds updates that the change log may not have: start the job once more "
                "with its --change-log and stop it with SIGTERM or Ctrl-C, then reshard (nothing was changed)"
            )
    found = reshard.ahead(old.commits, old.offsets)
    if found is not None:
        shard, part, offset = found
        raise RefusedError(
            f"the job on {old.path} was killed within a commit (shard {shard} has counted {part_name(part)} up to "
            f"{offset}, the job goes on from {old.offsets.get(part, 0)}): start it once more and stop it with SIGTERM "
            "or Ctrl-C, then reshard (nothing was changed)"
        )


def _folder(path: Path) -> IO[bytes]:
    """Make the new folder where there is none; return its lock."""
    path.mkdir(parents=True, exist_ok=True)
    names = {p.name for p in path.iterdir()}
    if not names & {HALF_MADE, "state.json"} and names - {"lock", f"{HALF_MADE}.new"}:
        raise RefusedError(f"{path} is not empty and holds no state: name a fresh --out")
    return take_lock(path)


def sentence(found: dict[str, Any]) -> str:
    """Return what `run` found, as a person reads it."""
    return (
        f"done: {found['out']} holds {found['entities']:,} entities in {found['shards']} shards, as {found['from']} in "
        f"{found['shards_before']} ({found['bytes'] / 1e6:,.1f} MB compared); start the job with --state "
        f"{found['out']}, and keep the old state until it runs"
    )


class _Reshard:
    """One call at work."""

    def __init__(self, old: Old, shards: int, path: Path, *, quiet: bool) -> None:
        self._old = old
        self._shards = shards
        self._path = path
        self._place = partial(shard_of_utf8, shards=shards)
        self._quiet = quiet
        self._said = time.monotonic()
        self._line: Live | None = None
        self._wanted = {"from": str(old.path), "shards": shards, "mark": old.mark}

    def run(self) -> dict[str, Any]:
        """Return what the new state holds."""
        if (self._path / "state.json").exists():
            return self._there()
        copied = self._begin()
        if sys.stderr.isatty() and not self._quiet:
            self._line = live_line()
        try:
            return self._make(copied)
        finally:
            if self._line is not None:
                self._line.__exit__(None, None, None)

    def _make(self, copied: list[int]) -> dict[str, Any]:
        for group in self._groups(copied):
            with self._new(durable=False) as new:
                for shard in group:
                    self._each("copy", shard, new, reshard.copy)
                    faults.reach("r-copy", shard)
                for db in new:
                    db.flush()
            copied += group
            self._note(copied)
        commits = reshard.merged(
            self._old.commits, self._old.offsets, self._old.views, self._shards, self._place
        )
        with self._new() as new:
            for shard, commit in enumerate(commits):
                new[shard].write([commit_put(commit)])
        records = self._compare(commits)
        self._end(records)
        return self._summary(records)

    # --- where an earlier call ended ---------------------------------------------------------------------

    def _there(self) -> dict[str, Any]:
        """Return what a finished state holds, if it is the one asked for."""
        made = read_meta(self._path).get("resharded", {})
        if made.get("made") != {**self._wanted, "from": made.get("made", {}).get("from")}:
            raise RefusedError(f"{self._path} holds a state already: name a fresh --out")
        (self._path / HALF_MADE).unlink(missing_ok=True)
        return self._summary(Records(**made["records"]))

    def _begin(self) -> list[int]:
        """Return the old shards that are copied for good; where those are not of this state as it is, begin anew."""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            found = json.loads((self._path / HALF_MADE).read_text())
            if (found["shards"], found["mark"]) != (self._shards, self._old.mark):
                self._say(f"{self._path} was begun from another state or count: beginning anew", now=True)
            elif found["copied"]:
                self._say(
                    f"going on with {self._path}: {len(found['copied'])} old shards are copied", now=True
                )
                return list(found["copied"])
        self._note([])
        for path in [*self._path.glob("shard-*"), self._path / "recovery", self._path / LETTERS]:
            shutil.rmtree(path, ignore_errors=True)
        for shard in range(self._shards):
            db = Database(self._shard(shard), create=True)
            db.write([meta_record(shard, self._shards, self._old.meta["views"])])
            db.close()
        return []

    def _note(self, copied: list[int]) -> None:
        temporary = self._path / f"{HALF_MADE}.new"
        with temporary.open("w") as file:
            json.dump({**self._wanted, "copied": copied}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._path / HALF_MADE)

    # --- the work ----------------------------------------------------------------------------------------

    def _groups(self, copied: list[int]) -> Iterator[list[int]]:
        """Yield the old shards still to be copied, as many together as are made durable together."""
        group: list[int] = []
        size = 0
        for shard in sorted(set(range(len(self._old.commits))) - set(copied)):
            group.append(shard)
            folder = self._old.path / f"shard-{shard:02d}"
            size += sum(file.stat().st_size for file in folder.iterdir())
            if size >= SAVE_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _each(self, verb: str, shard: int, new: Sequence[Database], work: Callable[..., Records]) -> Records:
        """Do the work with one old shard, saying how far it is."""
        total = len(self._old.commits)

        def tick(seen: Records) -> None:
            self._say(f"reshard: {verb} old shard {shard + 1} of {total}, {seen.entities:,} entities of it")

        db = Database(self._old.path / f"shard-{shard:02d}", read_only=True)
        try:
            return work(db, new, self._place, tick)
        finally:
            db.close()

    def _compare(self, commits: Sequence[dict[str, Any]]) -> Records:
        """Read everything back from both; return how much it is. Raises StateError where anything differs."""
        old, there = Records(), Records()
        with self._new(read_only=True) as new:
            for shard in range(len(self._old.commits)):
                old.merge(self._each("compare", shard, new, reshard.compare))
                faults.reach("r-compare", shard)
            for shard, db in enumerate(new):
                there.merge(reshard.count(db, shard, self._place))
        if old != there:
            raise StateError(f"{self._old.path} holds {old}, {self._path} {there}: {_AGAIN}")
        for shard, commit in enumerate(commits):
            if read_commit(self._shard(shard)) != commit:
                raise StateError(f"the commit of {self._shard(shard)} is not what was written: {_AGAIN}")
        return old

    def _end(self, records: Records) -> None:
        """Make the rest, and last what makes it a state."""
        recovery = self._path / "recovery"
        shutil.rmtree(recovery, ignore_errors=True)
        recovery.mkdir()
        init_db_dir(recovery, 1)
        if (self._old.path / LETTERS).is_dir():
            shutil.rmtree(self._path / LETTERS, ignore_errors=True)
            shutil.copytree(self._old.path / LETTERS, self._path / LETTERS)
        for path in (recovery, self._path / LETTERS):
            _sync(path)
        faults.reach("r-end")
        write_meta(self._path, self._meta(records))
        faults.reach("r-done")
        (self._path / HALF_MADE).unlink()

    def _meta(self, records: Records) -> dict[str, Any]:
        meta, before = self._old.meta, self._old.meta.get("resharded", {})
        durable = reshard.durable_offsets(self._old.commits, self._old.views)
        origin = {"id": meta["id"], "shards": meta["shards"], "durable": durable}
        first = read_commit(self._shard(0)).get("views", {})
        return {
            "format": FORMAT,
            "id": uuid.uuid4().hex,
            "job": meta.get("job", meta["id"]),
            "shards": self._shards,
            "views": meta["views"],
            "source": meta["source"],
            "parts": meta["parts"],
            "resharded": {
                "made": self._wanted,
                "records": asdict(records),
                "origins": [*before.get("origins", []), origin],
                "applied": {name: view["applied"] for name, view in first.items()},
                recovery_store.PLACES: _texts(self._old.places),
                recovery_store.LETTER_PLACES: _texts(self._old.letters),
            },
        }

    def _summary(self, records: Records) -> dict[str, Any]:
        return {
            "from": str(self._old.path),
            "out": str(self._path),
            "shards_before": self._old.meta["shards"],
            "shards": self._shards,
            **asdict(records),
        }

    def _shard(self, shard: int) -> Path:
        return self._path / f"shard-{shard:02d}"

    @contextlib.contextmanager
    def _new(self, *, durable: bool = True, read_only: bool = False) -> Iterator[list[Database]]:
        """Open all new shards."""
        with contextlib.ExitStack() as held:
            yield [
                held.enter_context(
                    contextlib.closing(Database(self._shard(shard), durable=durable, read_only=read_only))
                )
                for shard in range(self._shards)
            ]

    def _say(self, text: str, *, now: bool = False) -> None:
        if self._quiet:
            return
        if self._line is not None and not now:
            self._line.update(text)
        elif now or time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            print(text, file=sys.stderr, flush=True)


_AGAIN = "delete the new folder and reshard again; where it fails once more, look to the disk's health"


def _sync(folder: Path) -> None:
    """Make a folder's files durable."""
    for path in [*folder.glob("*"), folder] if folder.is_dir() else []:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _texts(places: dict[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(raw).decode() for key, raw in places.items()}


def _open_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each shard takes some."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def _room(path: Path) -> Iterator[None]:
    """Say what to do where the new state's disk is full."""
    try:
        yield
    except (OSError, StateError) as error:
        if is_full(error.__cause__ or error) or is_full(error):
            raise LookbackError(
                f"no space left for {path}: make room and give the same command again, which goes on"
            ) from error
        if isinstance(error, OSError):
            raise LookbackError(
                f"can't write {path}: {error.strerror or error}; name another --out"
            ) from error
        raise
