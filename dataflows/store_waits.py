"""Waiting for an online store that can't take a write just now: how a worker says so, how the person hears of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dataflows.board import Board
from dataflows.draining import draining
from dataflows.waits import WaitWatch
from lookback.errors import StoreError

FILE = "store-waits"  # in the state folder: why


def store_waits(
    folder: Path, board: Board, worker: int, failed: Callable[[], None]
) -> Callable[[str | None], None]:
    """Return what a worker calls while it waits for the store, with the reason, and with None when it goes on.

    failed: told of each call that the store could not take.

    What is returned raises StoreError where the job was asked to stop: what the store has not taken is in the state.
    """

    def waits(reason: str | None) -> None:
        if reason is not None:
            failed()
            if draining():
                raise StoreError(
                    f"{reason}; the job was stopped while it waited: start it again, nothing is lost"
                )
            if not board.store_waits[worker]:
                with suppress(OSError):  # on a full disk the person hears of that
                    (folder / FILE).write_text(reason)
        board.store_waits[worker] = reason is not None

    return waits


def store_watch(board: Board, folder: Path) -> WaitWatch:
    """Return what tells the person that workers wait for the store."""

    def why() -> str:
        reason = "the online store takes no writes"
        with suppress(OSError):
            reason = (folder / FILE).read_text() or reason
        return f"{reason}; the job waits and then goes on"

    return WaitWatch(board.store_waits, why, "the online store takes writes again: the job goes on")
