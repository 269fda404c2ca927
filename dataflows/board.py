"""What the sources of a job tell one another and the screen: a memory-mapped file, reset at each start.

The board decides no value. It bounds memory (a source too far ahead of the slowest waits, a shard under pressure
makes sources wait) and feeds progress; a torn read costs a little waiting, nothing else.

    board := header row[parts]      int64 each
    header := pressure{WORKERS} waiting{WORKERS} store_waits{WORKERS} away stop due{SHARDS} late{SHARDS} behind{SHARDS}
              log_bytes{WORKERS} log_waits{WORKERS} log_sent{WORKERS}
    pressure[i] is worker i's bytes in dirty logs over its limit; waiting[i] is 1 while it waits for disk room,
    store_waits[i] while it waits for the online store; away is the wall clock, in ms, since when the source's servers
    do not answer, 0 while they do; stop is 1 once a worker was asked to stop; due[s] is the clock at which shard s
    wants to be woken (END: not at all), late[s] by how many ms of the clock it is behind with its refreshes, behind[s]
    is 1 while it waits for the served mark and so wants to hear from every partition how far it has come; log_bytes[i]
    are in worker i's updates that the change log has not taken yet, log_waits[i] is 1 while it does not answer,
    log_sent[i] the updates that it took since the start
    row := COLUMNS                  see the names below; END_OFFSET, where the partition ends as far as the parent
    knows, and BROKER_TIME, that of the newest event read, are for those who watch alone
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

WORKERS = 64
SHARDS = 64
DUE = 3 * WORKERS + 2
LOG = DUE + 3 * SHARDS
HEADER = LOG + 3 * WORKERS
(
    WATERMARK,
    OFFSET,
    ROWS,
    BYTES,
    LATE,
    AHEAD,
    BAD,
    NO_KEY,
    DONE,
    END_OFFSET,
    EVENT_TIME,
    FIRST,
    LOST,
    REPEAT,
) = range(14)
CAUGHT_UP, BROKER_TIME = 14, 15
REGISTRY = 16  # 1 while the partition waits for a schema registry that does not answer
COLUMNS = 17
LOG_BYTES = (
    64 << 20
)  # of updates that a worker has still to tell the change log: beyond it nothing more is read
NEVER = -(2**62)
END = np.iinfo(np.int64).max


@dataclass
class Counts:
    """What became of a partition's events so far."""

    rows: int = 0  # read, good or bad
    bytes: int = 0
    bad: int = 0
    late: int = 0
    ahead: int = 0
    repeat: int = 0
    no_key: int = 0  # event-view pairs left out for a null key


class Board:
    """A job's board, opened by each of its processes."""

    def __init__(self, path: Path, parts: int) -> None:
        """Map the board at `path` for `parts` source partitions."""
        words = np.memmap(path, dtype=np.int64, mode="r+", shape=(HEADER + parts * COLUMNS,))
        self.words: npt.NDArray[np.int64] = words
        self.pressure: npt.NDArray[np.int64] = words[:WORKERS]
        self.waiting: npt.NDArray[np.int64] = words[WORKERS : 2 * WORKERS]
        self.store_waits: npt.NDArray[np.int64] = words[2 * WORKERS : 3 * WORKERS]
        self.away: npt.NDArray[np.int64] = words[3 * WORKERS : 3 * WORKERS + 1]
        self.stop: npt.NDArray[np.int64] = words[3 * WORKERS + 1 : 3 * WORKERS + 2]
        self.due: npt.NDArray[np.int64] = words[DUE : DUE + SHARDS]
        self.late: npt.NDArray[np.int64] = words[DUE + SHARDS : DUE + 2 * SHARDS]
        self.behind: npt.NDArray[np.int64] = words[DUE + 2 * SHARDS : LOG]
        log = words[LOG:HEADER].reshape(3, WORKERS)
        self.log_bytes: npt.NDArray[np.int64] = log[0]
        self.log_waits: npt.NDArray[np.int64] = log[1]
        self.log_sent: npt.NDArray[np.int64] = log[2]
        self.rows: npt.NDArray[np.int64] = words[HEADER:].reshape(parts, COLUMNS)

    @staticmethod
    def reset(path: Path, parts: int) -> Board:
        """Make an empty board at `path` and map it."""
        words = np.zeros(HEADER + parts * COLUMNS, np.int64)
        words[HEADER:].reshape(parts, COLUMNS)[:, (WATERMARK, EVENT_TIME, CAUGHT_UP, BROKER_TIME)] = NEVER
        words[DUE : DUE + SHARDS] = END
        path.parent.mkdir(parents=True, exist_ok=True)
        words.tofile(path)
        return Board(path, parts)

    def slowest_ms(self) -> int:
        """Return the lowest watermark of all partitions (END for those done)."""
        return int(self.rows[:, WATERMARK].min())
