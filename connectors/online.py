"""The online store as a Bytewax sink: commit step 2, and the store's part of step 4.

A `FixedPartitionedSink`, since that holds the epoch open until all is written. Writes go out at once, with or after
the served marks that they include; the store is made durable before the epoch is. A store that can't take a write
just now is waited for: nothing is lost meanwhile, and the person is told.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from lookback.errors import StoreBusy
from lookback.stores.base import StoreWriter, ViewWrite

Step = Callable[[str], None]
T = TypeVar("T")
# Told why the store is waited for, None when it goes on; raises where the job is to end.
Waiting = Callable[[str | None], None]
WAIT_SECONDS = 0.25  # between tries of a store that is busy, less or more by half


def patiently(call: Callable[[], T], waiting: Waiting) -> T:
    """Return what the call returns, made again for as long as it says that the store is busy."""
    waited = False
    while True:
        try:
            found = call()
        except StoreBusy as busy:
            waited = True
            waiting(str(busy))
            time.sleep(WAIT_SECONDS * random.uniform(0.5, 1.5))
            continue
        if waited:
            waiting(None)
        return found


class OnlinePart(StatefulSinkPartition[ViewWrite, None]):
    """One worker's writer."""

    def __init__(
        self,
        writer: StoreWriter,
        step: Step,
        waiting: Waiting,
        closing: Callable[[], None],
        ended: Callable[[], None] | None,
    ) -> None:
        self._ended = ended
        self._writer = writer
        self._step = step
        self._waiting = waiting
        self._closing = closing

    def write_batch(self, values: list[ViewWrite]) -> None:
        """Write all of a wave; perhaps while the next one is computed."""
        self._step("2-before")
        patiently(lambda: self._writer.send(values), self._waiting)
        self._step("2-after")

    def snapshot(self) -> None:
        """Return once all that was written is durable."""
        self._closing()
        patiently(self._writer.flush, self._waiting)
        self._step("4-before")

    def close(self) -> None:
        """Let go of the store."""
        self._writer.close()
        if self._ended is not None:
            self._ended()


class OnlineSink(FixedPartitionedSink[ViewWrite, None]):
    """As many partitions as the job has workers."""

    def __init__(
        self,
        parts: int,
        open_writer: Callable[[], StoreWriter],
        step: Step,
        waiting: Waiting,
        closing: Callable[[], None],
        ended: Callable[[], None] | None = None,
    ) -> None:
        """Take what each writer tells; closing: that an epoch ends, before it is made durable; ended: the last one."""
        self._parts = parts
        self._open_writer = open_writer
        self._step = step
        self._waiting = waiting
        self._closing = closing
        self._ended = ended

    def list_parts(self) -> list[str]:
        """Return the partitions' names."""
        return [f"online-{i:02d}" for i in range(self._parts)]

    def part_fn(self, item_key: str) -> int:
        """Return the partition of a shard's key (it begins with the shard's number)."""
        return int(item_key.split("-")[0])

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> OnlinePart:
        """Open a writer."""
        return OnlinePart(self._open_writer(), self._step, self._waiting, self._closing, self._ended)
