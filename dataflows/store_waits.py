"""Waiting for an online store that can't take a write just now: how a worker says so, how the person hears of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dataflows.board import Board
from dataflows.source import draining
from lookback.errors import StoreError

FILE = "store-waits"  # in the state folder: why
SAY_SECONDS = 10.0


def store_waits(folder: Path, board: Board, worker: int) -> Callable[[str | None], None]:
    """Return what a worker calls while it waits for the store, with the reason, and with None when it goes on.

    That raises StoreError where the job was asked to stop: what the store has not taken is in the state.
    """

    def waits(reason: str | None) -> None:
        if reason is not None:
            if draining():
                raise StoreError(
                    f"{reason}; the job was stopped while it waited: start it again, nothing is lost"
                )
            if not board.store_waits[worker]:
                with suppress(OSError):  # on a full disk the person hears of that
                    (folder / FILE).write_text(reason)
        board.store_waits[worker] = reason is not None

    return waits


class StoreWatch:
    """Tells the person, from the parent, that workers wait for the store and that they go on."""

    def __init__(self, board: Board, folder: Path) -> None:
        self._board = board
        self._folder = folder
        self._said = float("-inf")
        self._waits = False

    def tick(self) -> None:
        """Say when a worker waits, again every SAY_SECONDS, and when none does any more."""
        waits = bool(self._board.store_waits.any())
        if waits and time.monotonic() - self._said > SAY_SECONDS:
            self._said = time.monotonic()
            reason = "the online store takes no writes"
            with suppress(OSError):
                reason = (self._folder / FILE).read_text() or reason
            print(f"{reason}; the job waits and then goes on", file=sys.stderr, flush=True)
        if self._waits and not waits:
            self._said = float("-inf")
            print("the online store takes writes again: the job goes on", file=sys.stderr, flush=True)
        self._waits = waits
