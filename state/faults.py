"""Fault points for crash tests: absent from a run unless LOOKBACK_FAULT is set when the process starts.

LOOKBACK_FAULT      POINT[:COUNT[:pause]]  at the COUNT-th time (default 1) that POINT is reached, write POINT, shard
                                           and pid to LOOKBACK_FAULT_FILE, then SIGKILL this process; with `pause`
                                           stand there instead until LOOKBACK_FAULT_FILE with `.go` behind it exists
LOOKBACK_FAULT_OFF  NAME[,NAME]            switch a protection off (tests prove that each is needed):
                                           offset_dedupe, synced_batch, served_mark, generation, dirty_set,
                                           log_tail (what the change log has is not looked up);
                                           and, to measure what they cost, log: the state's batches are neither
                                           logged nor synced
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_POINT, _COUNT, _HOW = [*os.environ.get("LOOKBACK_FAULT", "").split(":"), "", ""][:3]
_OFF = frozenset(filter(None, os.environ.get("LOOKBACK_FAULT_OFF", "").split(",")))
_LOOK_SECONDS = 0.01
_left = int(_COUNT or 1)

POINTS = (
    "0-make",  # the parent has made a shard of a new state
    "0-claim",  # the parent has claimed the store
    "0-take",  # the parent is taking over what a state of other shards served: it owns it, has noted so, has marked it
    "r-copy",  # `lookback reshard` has copied an old shard
    "r-compare",  # it has compared one
    "r-end",  # all is there and compared, but the new state does not say so yet
    "r-done",  # it does
    "0-open",  # a shard is open and owns its part of the store
    *("1-before", "1-after", "2-before", "2-after", "3-before", "3-after"),
    "2-refresh",  # values that changed though no event came are about to go out
    "2-again",  # the served mark is passed; all that waited is about to go out
    "3-torn",  # between the two writes of a commit whose batch is switched off
    *("4-before", "4-after", "5-before", "5-after"),
    "l-before",  # updates that are committed are about to be sent to the change log
    "l-sent",  # the brokers have them, in a transaction that is still open
    "l-after",  # it is committed, and no shard knows yet
)


def reach(point: str, where: int = 0) -> None:
    """Die or stand here if this is the armed point and its count is up."""
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
        if _HOW != "pause":
            os.kill(os.getpid(), signal.SIGKILL)
        while not Path(f"{note}.go").exists():
            time.sleep(_LOOK_SECONDS)


def off(name: str) -> bool:
    """Return whether a test has switched this protection off."""
    return name in _OFF
