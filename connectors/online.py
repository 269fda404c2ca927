"""The online store as a Bytewax sink: commit step 2, and the store's part of step 4.

A `FixedPartitionedSink`, since that holds the epoch open until all is written. Writes go out at once, in one
transaction with the served marks that they include; the store is made durable before the epoch is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from lookback.stores.base import StoreWriter, ViewWrite

Step = Callable[[str], None]


class OnlinePart(StatefulSinkPartition[ViewWrite, None]):
    """One worker's writer."""

    def __init__(self, writer: StoreWriter, step: Step) -> None:
        self._writer = writer
        self._step = step

    def write_batch(self, values: list[ViewWrite]) -> None:
        """Write all of a wave in one transaction."""
        self._step("2-before")
        self._writer.write(values)
        self._step("2-after")

    def snapshot(self) -> None:
        """Return once all that was written is durable."""
        self._writer.flush()
        self._step("4-before")

    def close(self) -> None:
        """Let go of the store."""
        self._writer.close()


class OnlineSink(FixedPartitionedSink[ViewWrite, None]):
    """As many partitions as the job has workers."""

    def __init__(self, parts: int, open_writer: Callable[[], StoreWriter], step: Step) -> None:
        self._parts = parts
        self._open_writer = open_writer
        self._step = step

    def list_parts(self) -> list[str]:
        """Return the partitions' names."""
        return [f"online-{i:02d}" for i in range(self._parts)]

    def part_fn(self, item_key: str) -> int:
        """Return the partition of a shard's key (it begins with the shard's number)."""
        return int(item_key.split("-")[0])

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> OnlinePart:
        """Open a writer."""
        return OnlinePart(self._open_writer(), self._step)
