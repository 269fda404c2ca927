"""The job's clock: as of when values are refreshed although no event came.

    event    the lowest watermark of the partitions that still have events to give; at their end the highest
    wall     the lowest over partitions of the wall clock when the partition was last seen to have nothing more; none
             before each has been, nor where the job is to end with its source

So the clock never runs past what a partition still has to give: while a job catches up it waits, or goes with the
events. It decides no event's value: a value as of the clock is that of the events applied by then, and one that comes
with an earlier time is evaluated as of the clock too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dataflows import board as b
from dataflows.board import NEVER, Board

WALL, EVENT = "wall", "event"


def steady_wall() -> Callable[[], int]:
    """Return a wall clock, ms, that a person who sets the machine's clock does not move while the process runs."""
    start = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
    return lambda: start + time.monotonic_ns() // 1_000_000


class JobClock:
    """The clock, read by a source partition from what all have written on the board."""

    def __init__(self, kind: str, board: Board, wall_ms: Callable[[], int] | None = None) -> None:
        self._kind = kind
        self._rows = board.rows
        self.wall_ms = wall_ms or steady_wall()

    def caught_up(self, row: int) -> None:
        """Note that a partition has nothing more to give now."""
        self._rows[row, b.CAUGHT_UP] = self.wall_ms()

    def read(self) -> tuple[int, bool]:
        """Return (the clock, NEVER if there is none yet; whether it stands still from here on)."""
        done = self._rows[:, b.DONE] == 1
        marks, caught_up = self._rows[:, b.EVENT_TIME], self._rows[:, b.CAUGHT_UP]
        if self._kind == EVENT:
            if done.all():
                return int(marks.max()), True
            # An empty topic's partition has no watermark, and holds no other's up.
            going = ~done & ((marks > NEVER) | (caught_up == NEVER))
            return int(marks[going].min()) if going.any() else NEVER, False
        return int(caught_up[~done].min(initial=self.wall_ms())) if not done.all() else NEVER, False
