"""A wall clock that goes back under a worker.

Bytewax ends epochs and wakes sources by the wall clock: set back by an hour, a worker reads and commits nothing for an
hour. So a worker whose clock goes back ends itself, as if it were killed, and the job starts its workers again.
"""

from __future__ import annotations

import os
import threading
import time

from dataflows import failures
from dataflows.show import duration
from lookback.errors import LookbackError

LOOK_SECONDS = 0.2
STEP_SECONDS = 1.0  # a smaller step is waited for


class ClockWentBack(LookbackError):
    """A worker's wall clock was set back; the job goes on with new workers."""


def watch() -> None:
    """Look after this process's clock from now on, and end the process when it goes back."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    ahead = _ahead()
    while True:
        time.sleep(LOOK_SECONDS)
        now = _ahead()
        if now < ahead - STEP_SECONDS:
            failures.note(ClockWentBack(f"the clock went back by {duration(round(1000 * (ahead - now)))}"))
            os._exit(ClockWentBack.exit_code)
        ahead = now


def _ahead() -> float:
    """Return by how many seconds the wall clock is ahead of the monotonic one, both read at one moment."""
    while True:
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        if after - before < STEP_SECONDS / 10:  # else the process was stopped in between
            return wall - after
