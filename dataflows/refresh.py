"""When a shard writes values again although no event came, and how many an instant.

What it costs is bounded twice. A row leaves each window once, and passings are noticed up to 1 % of the window late
(`state.timers`), so an entity is written at most once for each row and window, and at most a hundred times a window
however many rows leave it (windows under 100 s: once a second, over 100 min: once a minute). And a worker writes at
most so many entities a second: what is due longest goes first, what can't be is behind, and the progress line says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from dataflows.board import END, NEVER, Board
from dataflows.route import I64, Item
from dataflows.settings import Settings
from state.timers import NONE
from state.view import ViewState

KEEPING_UP_PER_SECOND = 20_000  # entities a worker refreshes at most while its clock is that of the wall,
BEHIND_PER_SECOND = 2_000  # and while it is behind, or runs through an archive: events go first
BEHIND_MS = 5_000
TICK_SECONDS = 0.5  # between two looks at what is due
BURST_SECONDS = 2.0  # what was not used counts for so long
PIECE = 4096  # entities a write holds
_NONE: I64 = np.empty(0, np.int64)


class Refresher:
    """One shard's."""

    def __init__(self, settings: Settings, board: Board) -> None:
        self._board = board
        self._share = settings.workers / settings.shards
        self._clock_ms = NEVER
        self._final = False
        self._next_look = 0.0
        self._filled = time.monotonic()
        self._left = 0.0

    def hear(self, items: Sequence[Item]) -> None:
        """Take the clock from what came."""
        self._clock_ms = max(self._clock_ms, *(item.clock_ms for item in items))
        self._final |= any(item.final for item in items)

    @property
    def is_time(self) -> bool:
        """Whether to look at what is due."""
        if self._clock_ms == NEVER or (not self._final and time.monotonic() < self._next_look):
            return False
        self._next_look = time.monotonic() + TICK_SECONDS
        return True

    def turns(self, view: ViewState) -> Iterator[I64]:
        """Yield the slots to write as of the clock, perhaps none, as many in all as may be written now.

        A store may hold values as of the view's floor already: until the clock has passed it, it waits.
        """
        clock_ms = self._clock_ms
        if clock_ms < view.timers.floor_ms:
            return
        self._fill()
        while view.rebuilding and self._left >= 1:
            self._left -= max(1, view.rebuild(int(min(PIECE, self._left))))
            yield _NONE  # the caller bounds the cache
        while self._left >= 1:
            slots = view.overdue(clock_ms, int(min(PIECE, self._left)))
            if not len(slots):
                break
            self._left -= len(slots)
            view.refreshed(slots, clock_ms)
            yield slots
        view.caught_up_to(clock_ms)

    def report(self, shard: int, views: Sequence[ViewState], waiting: bool) -> None:
        """Say on the board when this shard is to be woken, and how far behind it is."""
        dues = [view.timers.next_due_ms() for view in views]
        self._board.behind[shard] = int(waiting)
        if waiting:
            self._board.due[shard] = END
        elif any(view.rebuilding for view in views):
            self._board.due[shard] = NEVER
        else:
            self._board.due[shard] = min(dues)
        late = [self._clock_ms - due for due in dues if NEVER < due < NONE]
        self._board.late[shard] = max(0, *late) if late and not waiting else 0

    def _fill(self) -> None:
        """Let further entities be written, as time has passed."""
        if self._final:
            self._left = np.inf
            return
        now = time.monotonic()
        behind = time.time() * 1000 - self._clock_ms > BEHIND_MS
        rate = self._share * (BEHIND_PER_SECOND if behind else KEEPING_UP_PER_SECOND)
        self._left = min(self._left + rate * (now - self._filled), max(1.0, rate * BURST_SECONDS))
        self._filled = now
