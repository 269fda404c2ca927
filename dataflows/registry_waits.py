"""Waiting for a schema registry that does not answer: how a partition says so, how the person hears of it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dataflows import board as b
from dataflows.board import Board
from dataflows.waits import WaitWatch
from lookback.events import I64

FILE = "registry-waits"  # in the job's folder: why


def tell_wait(folder: Path, row: I64, reason: str | None) -> None:
    """Note in a partition's row of the board that it waits, and for the person why; None: it does not."""
    if reason is not None and not row[b.REGISTRY]:
        with suppress(OSError):  # on a full disk the person hears of that
            (folder / FILE).write_text(reason)
    row[b.REGISTRY] = reason is not None


def registry_watch(board: Board, folder: Path) -> WaitWatch:
    """Return what tells the person that partitions wait for the schema registry."""

    def why() -> str:
        reason = "the schema registry does not answer"
        with suppress(OSError):
            reason = (folder / FILE).read_text() or reason
        return f"{reason}; the job waits and then goes on"

    return WaitWatch(board.rows[:, b.REGISTRY], why, "the schema registry answers again: the job goes on")
