"""Writing to Redis: marks first, then the records in pieces, last the word that all of them are kept.

Owns: the order of a write, and what must be sent again. Refuses: what a script does with a record, which node has it.

    1  begin    every shard of the write is still this generation's and holds what was kept last, else nothing is
                written; the served marks rise
    2  write    piece after piece; a reader may see some records of a wave before others, each of them right:
                the mark says what any of them may include
    3  end      the shards' `kept` is now this write's mark

Each step may be repeated. A store that comes back with less than it acknowledged is noticed in step 1 of the
next write, within CHECK_SECONDS where nothing is written, or at the next start (`kept`), and all is written again
from the state.

On a cluster the marks are on one node and are acknowledged before any other node gets a record; what an older job still
sends there when a newer one takes over is thus within the mark that the newer one reads and waits for. In `mark` and
`kept` stands, as NODES, which masters there were: where one is another by now, nothing counts as kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from lookback.errors import StoreBusy, StoreLost
from lookback.stores.base import I64, ViewWrite, Written, row_limit, unheard
from lookback.stores.redis_connection import Connection, Script, Server, Session
from lookback.stores.redis_record import CLUSTER_HOME, VERSION, Layout, Packed, shard_key
from lookback.stores.redis_scripts import BEGIN, CHECK, END, TAKE, at_home, write_script
from lookback.windows.plan import ViewPlan

PIECE = 64  # records a script takes: under 2 ms, in which readers wait
AHEAD = 256  # pieces whose answers may wait to be read
_NONE: I64 = np.empty(0, np.int64)
NODES = "nodes"  # in a mark beside the offsets: the cluster's masters; no source part is named so
CHECK_SECONDS = 5.0  # between looks at a server that nothing is written to
Shard = tuple[str, int]


@dataclass(frozen=True)
class _View:
    """A view being written."""

    layout: Layout
    script: Script
    limit: int


class RedisWriter:
    """Writes the views of one job; see `StoreWriter`. One thread at a time."""

    def __init__(
        self,
        server: Server,
        plans: Mapping[str, ViewPlan],
        generation: int,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.written: Written = unheard
        self._server = server
        self._apart = server.home == CLUSTER_HOME  # records are on other nodes than their shard's key
        self._identity = {} if server.identity is None else {NODES: server.identity}
        self._generation = str(generation)
        self._now_ms = now_ms
        self._views = {fingerprint: _view(plan, self._apart) for fingerprint, plan in plans.items()}
        self._begin, self._check, self._end, self._taking = (
            Script(at_home(text, server.home)) for text in (BEGIN, CHECK, END, TAKE)
        )
        self._marks: dict[Shard, dict[str, int]] = {}  # of shards that this writer took
        self._kept: dict[Shard, str] = {}
        self._checked = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "redis-writer")
        self._waiting: Sequence[ViewWrite] = ()
        self._sending: Future[list[I64]] | None = None

    # ---- marks

    def marks(self, fingerprint: str, shard: int) -> dict[str, int] | None:
        """Take the shard over and return its served mark, None where the store knows nothing of it."""
        self._settle()
        self._take((fingerprint, shard))
        return dict(self._marks[fingerprint, shard]) or None

    def kept(self, fingerprint: str, shard: int) -> dict[str, int]:
        """Return the offsets whose values the store has all kept; of a shard that was taken."""
        text = self._kept[fingerprint, shard] or "{}"
        if json.loads(text).get(NODES) != self._identity.get(NODES):
            return {}
        return marks_in(text)

    def _take(self, shard: Shard) -> None:
        mark, kept = self._server.run(self._taking, self._generation, self._key(shard))
        self._marks[shard] = marks_in(mark or "{}")
        self._kept[shard] = (kept or b"").decode()

    def _key(self, shard: Shard) -> str:
        return shard_key(self._server.home, *shard)

    # ---- writing

    def write(self, writes: Sequence[ViewWrite]) -> list[I64]:
        """Write all; return for each the indices of entities whose record is stale."""
        self._settle()
        return self._write(writes)

    def send(self, writes: Sequence[ViewWrite]) -> None:
        """Begin to write all, once what was sent before is written."""
        self._settle()
        self._waiting = writes
        self._sending = self._thread.submit(self._write, writes)

    def flush(self) -> None:
        """Return once the server has acknowledged everything; how long it keeps that is its configuration.

        Now and then it looks whether the server still has it, and whose it is, though nothing is written.
        """
        self._settle()
        if time.monotonic() - self._checked >= CHECK_SECONDS and self._kept:
            self._checked = time.monotonic()
            steps = [word for shard, kept in self._kept.items() for word in (self._key(shard), kept, kept)]
            with suppress(StoreBusy):
                self._server.run(self._check, self._generation, *steps)
                self._server.check()

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    def _settle(self) -> None:
        """Return once what was sent is written; what failed is tried again by the next call."""
        if not self._waiting:
            return
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()
        else:
            self._write(self._waiting)
        self._waiting = ()

    def _write(self, writes: Sequence[ViewWrite]) -> list[I64]:
        began_ns = time.perf_counter_ns()
        shards = dict.fromkeys((write.fingerprint, write.shard) for write in writes)
        for shard in shards:
            if shard not in self._marks:
                self._take(shard)
        marks = {shard: dict(self._marks[shard]) for shard in shards}
        for write in writes:
            own = marks[write.fingerprint, write.shard]
            for part, offset in write.marks.items():
                own[part] = max(int(offset), own.get(part, int(offset)))
        texts = {shard: json.dumps({**own, **self._identity}, sort_keys=True) for shard, own in marks.items()}
        steps = [word for shard in shards for word in (self._key(shard), self._kept[shard], texts[shard])]
        try:
            with self._server.session() as session:
                session.home.run(self._begin, self._generation, *steps)
                stale = self._send(session, writes)
                session.home.run(self._end, self._generation, *steps)
        except StoreLost:
            if self._apart:  # what looks lost, a newer job may have taken over: then this refuses
                self._server.run(self._check, self._generation, *steps)
            raise
        self._marks.update(marks)
        self._kept.update(texts)
        self.written(writes, stale, began_ns)
        return stale

    def _send(self, session: Session, writes: Sequence[ViewWrite]) -> list[I64]:
        """Send all records; a server works on one write's while the next one's are packed."""
        stale: list[list[I64]] = [[] for _ in writes]
        unread: list[tuple[Connection, int, I64]] = []  # at -1: it tells nothing
        loaded: set[tuple[int, str]] = set()

        def read(leave: int) -> None:
            while len(unread) > leave:
                connection, at, places = unread.pop(0)
                answer = connection.answer()
                if at >= 0:
                    stale[at].append(places[np.array(answer, np.int64)])

        for at, write in enumerate(writes):
            view = self._views[write.fingerprint]
            order, routes = session.routes(view.layout, write.keys)
            ordered = write if order is None else _arranged(write, order)
            places = np.arange(len(write.keys)) if order is None else order
            packed = view.layout.pack(ordered, view.limit, self._now_ms())
            for route in routes:
                parts: list[bytes | memoryview] = []
                if (id(route.connection), write.fingerprint) not in loaded:
                    loaded.add((id(route.connection), write.fingerprint))
                    parts.append(_command((b"SCRIPT", b"LOAD", view.script.text)))
                    unread.append((route.connection, -1, _NONE))
                for start in range(route.start, route.end, PIECE):
                    end = min(start + PIECE, route.end)
                    parts += self._piece(view, write, packed, start, end)
                    unread.append((route.connection, at, places[start:end]))
                # In one go: between two sends this thread would wait for the interpreter, and the server for it.
                route.connection.send([b"".join(parts)])
            read(AHEAD)
        for connection, _, _ in unread:
            connection.flush()  # of each node of a cluster, before the first is waited for
        read(0)
        return [np.concatenate(found) if found else _NONE for found in stale]

    def _piece(
        self, view: _View, write: ViewWrite, packed: Packed, start: int, end: int
    ) -> list[bytes | memoryview]:
        shard = "" if self._apart else self._key((write.fingerprint, write.shard))
        words = (
            b"EVALSHA", view.script.sha, b"0", self._generation.encode(), shard.encode(), b"%d" % write.sequence,
            b"%d" % write.watermark_ms, b"1" if write.known else b"",
        )  # fmt: skip
        return [_command(words, end - start), packed.data[packed.ends[start] : packed.ends[end]]]


def marks_in(text: bytes | str) -> dict[str, int]:
    """Return the offsets of a mark as it is stored."""
    return {str(part): int(offset) for part, offset in json.loads(text).items() if part != NODES}


def _command(words: Sequence[bytes], more: int = 0) -> bytes:
    """Return words as a server takes them, the beginning of a command that has some more."""
    head = b"*%d\r\n" % (len(words) + more)
    return head + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _arranged(write: ViewWrite, order: I64) -> ViewWrite:
    """Return a write with its entities in another order."""
    counts = np.diff(write.row_starts)[order]
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.repeat(write.row_starts[order] - starts[:-1], counts) + np.arange(starts[-1])
    return replace(
        write, keys=[write.keys[at] for at in order.tolist()], event_time_ms=write.event_time_ms[order],
        as_of_ms=write.as_of_ms[order], words=write.words[:, order], status=write.status[:, order], row_starts=starts,
        rows=write.rows[:, rows], covers_from_ms=write.covers_from_ms[order], replace=write.replace[order],
        whole=write.whole[order], life=write.life[order],
    )  # fmt: skip


def _view(plan: ViewPlan, cluster: bool) -> _View:
    layout, limit = Layout(plan, cluster=cluster), row_limit(plan)
    text = write_script(
        [feature.name for feature in plan.features],
        first=layout.first,
        limit=limit,
        slack_ms=layout.reach_ms // 8,
        kept_ms=layout.kept_ms or 0,
        version=VERSION,
    )
    return _View(layout, Script(text), limit)
