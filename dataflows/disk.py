"""A full disk under the state: how much room a commit keeps, what a person is told while the job waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataflows.board import Board
from dataflows.waits import WaitWatch
from lookback.errors import LookbackError

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


def ended_for_room(folder: Path) -> str:
    """Return the sentence for a job that could not wait for room."""
    return (
        f"no space left for the state at {folder}: make room and run the same command again; "
        "it goes on from the last epoch"
    )


@contextmanager
def room_at_start(folder: Path) -> Iterator[None]:
    """Turn whatever fails in the block for want of room into the sentence that says so."""
    try:
        yield
    except LookbackError:
        raise
    except Exception:  # of the operating system, RocksDB, SQLite: each has an error of its own for it
        with suppress(OSError):
            if free_bytes(folder) < ROOM_BYTES:
                raise LookbackError(ended_for_room(folder)) from None
        raise


def disk_watch(board: Board, folder: Path) -> WaitWatch:
    """Return what tells the person that workers wait for room."""
    return WaitWatch(
        board.waiting, lambda: no_room(folder), f"there is room again at {folder}: the job goes on"
    )
