"""Progress of a job: rows, rate, event time reached, time left. A line that renews itself on a terminal, plain
lines elsewhere.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dataflows import board as b
from dataflows.board import Board
from dataflows.say import is_json, say

if TYPE_CHECKING:
    from rich.live import Live

LINE_SECONDS = 2.0  # between plain lines
QUIET_SECONDS = 30.0  # between plain lines while no row is read, such as when the last ones are committed
FRAME_SECONDS = 0.2
LATE_MS = 5_000  # refreshes that are later, of the job's clock, are said to be behind
COUNTS = {
    "rows": b.ROWS, "bytes": b.BYTES, "bad": b.BAD, "late": b.LATE, "ahead": b.AHEAD, "no_key": b.NO_KEY,
    "repeat": b.REPEAT, "first": b.FIRST,
}  # fmt: skip


class Progress:
    """Says how far a job is, on stderr."""

    def __init__(self, verb: str, board: Board, total_rows: int, *, quiet: bool = False) -> None:
        self._verb = verb
        self._board = board
        self._total = total_rows
        self._quiet = quiet
        self._start = time.monotonic()
        self._last_said = 0.0
        self._rows_said = 0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def tick(self) -> None:
        """Say where the job is, when it is time to."""
        now = time.monotonic()
        if self._live is None and sys.stderr.isatty() and not (self._quiet or is_json()):
            self._live = live_line()
        period = FRAME_SECONDS if self._live is not None else LINE_SECONDS
        if self._quiet or now - self._last_said < period:
            return
        rows = self._rows()
        if self._live is None and rows == self._rows_said and now - self._last_said < QUIET_SECONDS:
            return
        self._last_said, self._rows_said = now, rows
        text = self.line(now - self._start)
        if text is None:
            return
        if self._live is not None:
            self._live.update(text)
        else:
            say(text)

    def _rows(self) -> int:
        return int(self._board.rows[:, b.ROWS].sum())

    def line(self, seconds: float) -> str | None:
        """Return the sentence that says where the job is; None before the first row."""
        rows = self._rows()
        if rows == 0:
            return None
        rate = (rows - int(self._board.rows[:, b.FIRST].sum())) / seconds if seconds > 0 else 0.0
        parts = [f"{self._verb}: {rows:,} rows"]
        if self._total:
            parts[0] += f" of {self._total:,} ({100 * rows // self._total} %)"
        parts.append(f"{rate:,.0f}/s")
        reached = [int(t) for t in self._board.rows[:, b.EVENT_TIME] if b.NEVER < t < b.END]
        if reached:
            parts.append(f"at {instant(min(reached))}")
        late_ms = int(self._board.late.max())
        if late_ms > LATE_MS:
            parts.append(f"refreshes {late_ms / 1000:,.0f} s behind")
        if self._total and rate > 0 and rows < self._total:
            parts.append(f"{(self._total - rows) / rate:,.0f} s left")
        return ", ".join(parts)

    def totals(self) -> dict[str, int]:
        """Return the sums of all partitions' counts."""
        return {name: int(self._board.rows[:, column].sum()) for name, column in COUNTS.items()}


def live_line() -> Live:
    """Start a line that renews itself.

    Not before the workers run: it has a thread of its own, and they may be forks of this process.
    """
    from rich.console import Console
    from rich.live import Live

    live = Live(
        console=Console(stderr=True, highlight=False, markup=False), refresh_per_second=5, transient=True
    )
    live.__enter__()
    return live


def instant(ms: int) -> str:
    """Return an event time as a person reads it, in UTC.

    >>> instant(0)
    '1970-01-01 00:00:00Z'
    """
    try:
        moment = datetime.fromtimestamp(ms / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")
