"""What a view of a shard waits for after a start, before it may write to the store again (docs/commit.md)."""

from __future__ import annotations

from collections.abc import Mapping

from state import faults
from state.view import ViewState


class Catchup:
    """What a view waits for after a start."""

    def __init__(self, marks: dict[str, int] | None, sequence: int, *, lost: bool) -> None:
        self.marks = {} if faults.off("served_mark") else dict(marks or {})
        self.sequence = (
            sequence  # that of another state of this job may be ahead of what this one has counted
        )
        self.lost = lost  # the store lacks what it once had: all of the shard goes out again

    def passed(self, view: ViewState, through: Mapping[str, int]) -> bool:
        """Whether all rows up to the marks are in: those of the shard itself, or the partition has come past them.

        Where the shards were cut anew, or events are gone, the row at a mark may never come to this shard.
        """
        return all(
            max(view.applied.get(part, -1), through.get(part, -1)) >= offset
            for part, offset in self.marks.items()
        )
