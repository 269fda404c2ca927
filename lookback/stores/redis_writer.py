"""Writing to Redis: marks first, then the records in pieces, last the word that all of them are kept.

Owns: the order of a write, and what must be sent again. Refuses: what a script does with a record.

    1  begin    every shard of the write is still this generation's and holds what was kept last, else nothing is
                written; the served marks rise
    2  write    piece after piece; a reader may see some records of a wave before others, each of them right:
                the mark says what any of them may include
    3  end      the shards' `kept` is now this write's mark

Each step may be repeated. A store that comes back with less than it acknowledged is noticed in step 1 of the
next write, within CHECK_SECONDS where nothing is written, or at the next start (`kept`), and all is written again
from the state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from lookback.errors import StoreBusy
from lookback.stores.base import I64, ViewWrite, Written, row_limit, unheard
from lookback.stores.redis_connection import Connection, Script, Server
from lookback.stores.redis_record import VERSION, Layout, Packed, shard_key
from lookback.stores.redis_scripts import BEGIN, CHECK, END, TAKE, write_script
from lookback.windows.plan import ViewPlan

PIECE = 64  # records a script takes: under 2 ms, in which readers wait
AHEAD = 256  # pieces whose answers may wait to be read
_NONE: I64 = np.empty(0, np.int64)
_TAKE, _BEGIN, _CHECK, _END = Script(TAKE), Script(BEGIN), Script(CHECK), Script(END)
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
        self._generation = str(generation)
        self._now_ms = now_ms
        self._views = {fingerprint: _view(plan) for fingerprint, plan in plans.items()}
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
        text = self._kept[fingerprint, shard]
        return {str(part): int(offset) for part, offset in json.loads(text or "{}").items()}

    def _take(self, shard: Shard) -> None:
        with self._server.connection() as connection:
            mark, kept = connection.run(_TAKE, self._generation, shard_key(*shard))
        self._marks[shard] = json.loads(mark or b"{}")
        self._kept[shard] = (kept or b"").decode()

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
            steps = [word for shard, kept in self._kept.items() for word in (shard_key(*shard), kept, kept)]
            with suppress(StoreBusy), self._server.connection() as connection:
                connection.run(_CHECK, self._generation, *steps)

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
        texts = {shard: json.dumps(own, sort_keys=True) for shard, own in marks.items()}
        steps = [word for shard in shards for word in (shard_key(*shard), self._kept[shard], texts[shard])]
        with self._server.connection() as connection:
            connection.run(_BEGIN, self._generation, *steps)
            stale = self._send(connection, writes)
            connection.run(_END, self._generation, *steps)
        self._marks.update(marks)
        self._kept.update(texts)
        self.written(writes, stale, began_ns)
        return stale

    def _send(self, connection: Connection, writes: Sequence[ViewWrite]) -> list[I64]:
        """Send all records; the server works on one write's while the next one's are packed."""
        for fingerprint in {write.fingerprint for write in writes}:
            connection.load(self._views[fingerprint].script)
        stale: list[list[I64]] = [[] for _ in writes]
        open_pieces: list[tuple[int, int]] = []

        def read(leave: int) -> None:
            while len(open_pieces) > leave:
                at, start = open_pieces.pop(0)
                stale[at].append(np.array(connection.answer(), np.int64) + start)

        for at, write in enumerate(writes):
            view = self._views[write.fingerprint]
            packed = view.layout.pack(write, view.limit, self._now_ms())
            parts: list[bytes | memoryview] = []
            for start in range(0, len(write.keys), PIECE):
                parts += self._piece(view, write, packed, start)
                open_pieces.append((at, start))
            # In one go: between two sends this thread would wait for the interpreter, and the server for it.
            connection.send([b"".join(parts)])
            read(AHEAD)
        read(0)
        return [np.concatenate(found) if found else _NONE for found in stale]

    def _piece(self, view: _View, write: ViewWrite, packed: Packed, start: int) -> list[bytes | memoryview]:
        end = min(start + PIECE, len(write.keys))
        words = (
            b"EVALSHA", view.script.sha, b"0", self._generation.encode(),
            shard_key(write.fingerprint, write.shard).encode(), b"%d" % write.sequence, b"%d" % write.watermark_ms,
            b"1" if write.known else b"",
        )  # fmt: skip
        head = b"*%d\r\n" % (len(words) + end - start)
        head += b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
        return [head, packed.data[packed.ends[start] : packed.ends[end]]]


def _view(plan: ViewPlan) -> _View:
    layout, limit = Layout(plan), row_limit(plan)
    text = write_script(
        [feature.name for feature in plan.features],
        first=layout.first,
        limit=limit,
        slack_ms=layout.reach_ms // 8,
        kept_ms=layout.kept_ms or 0,
        version=VERSION,
    )
    return _View(layout, Script(text), limit)
