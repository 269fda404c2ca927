"""A server that is slowed down: its process runs a small share of the time, and stands still for the rest."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PERIOD_SECONDS = 0.5


@contextmanager
def slowed(pid: int, share: float) -> Iterator[None]:
    """Let a process run for `share` of the time while the block lasts; connections stay open."""
    done = threading.Event()

    def turn() -> None:
        while not done.is_set():
            os.kill(pid, signal.SIGSTOP)
            done.wait(PERIOD_SECONDS * (1 - share))
            os.kill(pid, signal.SIGCONT)
            done.wait(PERIOD_SECONDS * share)

    turning = threading.Thread(target=turn, name="slowed")
    turning.start()
    try:
        yield
    finally:
        done.set()
        turning.join()
