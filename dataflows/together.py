"""Commit step 3 of all shards that a worker had at work in an epoch, at once: a disk syncs many files as one.

Bytewax asks one shard after the other for its snapshot. The first one asked commits them all: each writes its batch,
and while the next one writes, threads sync the logs of those before (32 of them, one after the other, take 25 to 60 ms
a commit in which no event is read; together some 8). A shard's pointer is returned only once its own batch is
durable, whatever the order: one that has been at work since commits for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

THREADS = 8  # that sync


class Committing(Protocol):
    """A shard, as far as its commit goes."""

    def begin_commit(self) -> Callable[[], None]:
        """Write the shard's batch; return what makes it durable, for another thread to call."""

    def end_commit(self) -> None:
        """Go on: the batch is durable."""


class Together:
    """One worker's; its methods are called by the dataflow's thread."""

    def __init__(self) -> None:
        self._at_work: dict[Committing, None] = {}
        self._threads: ThreadPoolExecutor | None = None

    def at_work(self, shard: Committing) -> None:
        """Note that a shard has something to commit."""
        self._at_work[shard] = None

    def commit(self, shard: Committing) -> None:
        """Return once all that this shard has is durable; so is then what the others have."""
        if shard not in self._at_work:
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "sync")
        syncs: list[tuple[Committing, Future[None]]] = []
        try:
            for one in self._at_work:
                syncs.append((one, self._threads.submit(one.begin_commit())))
        finally:
            for _, sync in syncs:
                sync.exception()  # no thread is left at work on a database, whatever failed
        for one, sync in syncs:
            sync.result()
            one.end_commit()
        self._at_work.clear()
