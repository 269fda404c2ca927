"""A full disk under the state: how much room a commit keeps, what a person is told while the job waits."""

from __future__ import annotations

import os
from pathlib import Path

from dataflows.board import Board
from dataflows.waits import WaitWatch

ROOM_BYTES = 4 << 20  # left for Bytewax's recovery store and RocksDB's own files


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


def disk_watch(board: Board, folder: Path) -> WaitWatch:
    """Return what tells the person that workers wait for room."""
    return WaitWatch(
        board.waiting, lambda: no_room(folder), f"there is room again at {folder}: the job goes on"
    )
