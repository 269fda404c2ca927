"""Fault points for crash tests: absent from a run unless LOOKBACK_FAULT is set when the process starts.

LOOKBACK_FAULT      POINT[:COUNT]          at the COUNT-th time (default 1) that POINT is reached, SIGKILL this
                                           process, after writing POINT to LOOKBACK_FAULT_FILE
LOOKBACK_FAULT_OFF  NAME[,NAME]            switch a protection off (tests prove that each is needed):
                                           offset_dedupe, synced_batch, served_mark
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_POINT, _, _COUNT = os.environ.get("LOOKBACK_FAULT", "").partition(":")
_OFF = frozenset(filter(None, os.environ.get("LOOKBACK_FAULT_OFF", "").split(",")))
_left = int(_COUNT or 1)

POINTS = (
    "0-make",  # the parent has made a shard of a new state
    "0-claim",  # the parent has claimed the store
    "0-open",  # a shard is open and owns its part of the store
    *("1-before", "1-after", "2-before", "2-after", "3-before", "3-after"),
    "2-refresh",  # values that changed though no event came are about to go out
    "2-again",  # the served mark is passed; all that waited is about to go out
    "3-torn",  # between the two writes of a commit whose batch is switched off
    *("4-before", "4-after"),
)


def reach(point: str, where: int = 0) -> None:
    """Die here by SIGKILL if this is the armed point and its count is up."""
    global _left
    if point != _POINT:
        return
    _left -= 1
    if _left == 0:
        note = os.environ.get("LOOKBACK_FAULT_FILE")
        if note:
            with Path(note).open("a") as file:
                file.write(f"{point} {where} {os.getpid()}\n")
                file.flush()
                os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)


def off(name: str) -> bool:
    """Return whether a test has switched this protection off."""
    return name in _OFF
