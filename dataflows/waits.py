"""Telling the person that workers wait for something, and that they go on."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dataflows.say import say

SAY_SECONDS = 10.0


class WaitWatch:
    """Looks, from the parent, at the words of the board that are not 0 while a worker waits."""

    def __init__(self, waiting: npt.NDArray[np.int64], why: Callable[[], str], again: str) -> None:
        self._waiting = waiting
        self._why = why
        self._again = again
        self._said = float("-inf")
        self._waits = False

    def tick(self) -> None:
        """Say why when a worker waits, again every SAY_SECONDS, and when none does any more."""
        waits = bool(self._waiting.any())
        if waits and time.monotonic() - self._said > SAY_SECONDS:
            self._said = time.monotonic()
            say(self._why(), "warning")
        if self._waits and not waits:
            self._said = float("-inf")
            say(self._again)
        self._waits = waits
