"""A full disk under the state: how much room a commit keeps, what a person is told while the job waits."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dataflows.board import Board

ROOM_BYTES = 4 << 20  # left for Bytewax's recovery store and RocksDB's own files
SAY_SECONDS = 10.0


def free_bytes(folder: Path) -> int:
    """Return how many bytes this user may still write on the folder's disk."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def no_room(folder: Path) -> str:
    """Return the sentence for a disk that is (nearly) full."""
    return (
        f"no space left for the state at {folder} (a commit keeps {ROOM_BYTES >> 20} MiB free): make room; "
        "the job waits and then goes on"
    )


class DiskWatch:
    """Tells the person, from the parent, that workers wait for room and that they go on."""

    def __init__(self, board: Board, folder: Path) -> None:
        self._board = board
        self._folder = folder
        self._said = float("-inf")
        self._waits = False

    def tick(self) -> None:
        """Say when a worker waits, again every SAY_SECONDS, and when none does any more."""
        waits = bool(self._board.waiting.any())
        if waits and time.monotonic() - self._said > SAY_SECONDS:
            self._said = time.monotonic()
            print(no_room(self._folder), file=sys.stderr, flush=True)
        if self._waits and not waits:
            self._said = float("-inf")
            print(f"there is room again at {self._folder}: the job goes on", file=sys.stderr, flush=True)
        self._waits = waits
