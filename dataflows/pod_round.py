"""One round of a job's pods: from the start of all workers to their end, as both leader and followers see it.

Owns: the exchange of words, whose failure ends which pods, when a pod that is gone is missed. In a round that ends (its
work is done, or a pod was asked to stop and so all are drained) pods go one after the other, and none is missed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from dataflows.board import Board
from dataflows.clock_watch import ClockWentBack
from dataflows.pods import Frame, Link, PeerLost
from dataflows.shared_words import SharedWords
from dataflows.telemetry import meters as m
from dataflows.telemetry.meters import MeterFile
from dataflows.telemetry.observed import now_ms
from lookback.errors import LookbackError, RefusedError, StoreLost, UsageError

TELL_SECONDS = 0.1  # between two exchanges of words
END_SECONDS = (
    30.0  # that a round's end takes at most from the first pod to the last, which may have a log to fill
)
SETTLE_SECONDS = 2.0  # in which the cause of a worker's end comes to light, where it is another pod

# What goes by kind to all pods; any other failure is its own pod's alone, and the others wait for it to come back.
_SHARED: Mapping[str, type[LookbackError]] = {
    kind.__name__: kind for kind in (RefusedError, UsageError, ClockWentBack, StoreLost)
}


class Round:
    """One pod's part. members: connections that the round needs; forward: hand on what one tells to the others."""

    def __init__(
        self, members: dict[int, Link], board: Board, meters: MeterFile, own: range, *, forward: bool = False
    ) -> None:
        self._members = members
        self._board = board
        self._words = SharedWords(board.words)
        self._meters = meters
        self._own = own
        self._forward = forward
        self._next = 0.0
        self._ends_at: float | None = None
        self._over: set[int] = set()  # members whose workers have ended

    def drained(self) -> None:
        """Note that this pod's workers are asked to stop; those of all pods are to."""
        self._board.stop[0] = 1

    @property
    def draining(self) -> bool:
        """Whether a pod was asked to stop."""
        return bool(self._board.stop[0])

    def tick(self) -> None:
        """Exchange words where it is time to. Raises PeerLost, or what another pod failed with."""
        now = time.monotonic()
        if self._ends_at is not None and now > self._ends_at:
            raise PeerLost("a pod has not ended with the others")
        if now < self._next:
            return
        self._next = now + TELL_SECONDS
        for ordinal in list(self._members):
            self._alive(ordinal, self._hear)
        news, facts = self._words.news(), self._epoch()
        for ordinal in list(self._members):
            self._alive(ordinal, lambda ordinal: self._members[ordinal].send("words", news, **facts))

    def settle(self) -> None:
        """Wait a moment for the cause of a failure, where it is another pod. Raises PeerLost or that pod's failure."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            self.tick()
            time.sleep(TELL_SECONDS)

    def ended(self) -> None:
        """Tell the others that this pod's workers have ended as they should; return once theirs have.

        A connection that is closed before all of it is read takes along what was sent last.
        """
        self._end_soon()
        for ordinal in list(self._members):
            self._alive(ordinal, lambda ordinal: self._members[ordinal].send("ended"))
        with contextlib.suppress(LookbackError):
            while self._members.keys() - self._over:
                for ordinal in list(self._members):
                    self._alive(ordinal, self._hear)
                if time.monotonic() > (self._ends_at or 0.0):
                    break
                time.sleep(0.02)

    def _alive(self, ordinal: int, call: Any) -> None:
        try:
            call(ordinal)
        except PeerLost:
            del self._members[ordinal]
            if not self.draining and self._ends_at is None:
                raise
            self._end_soon()

    def _hear(self, ordinal: int) -> None:
        for frame in _frames(self._members[ordinal]):
            if frame.kind == "ended":
                self._end_soon()
                self._over.add(ordinal)
            elif frame.kind == "failed":
                raise failure(frame, self._members[ordinal].who)
            elif frame.kind == "words":
                self._take(frame)
                for other, link in self._members.items() if self._forward else ():
                    if other != ordinal:
                        link.send("words", frame.body, **_told(frame))

    def _take(self, frame: Frame) -> None:
        self._words.take(frame.body)
        row = self._meters.workers[int(frame.facts["worker"])]
        if frame.facts["epochs"] > row[m.EPOCHS]:
            row[m.EPOCHS], row[m.EPOCH] = frame.facts["epochs"], now_ms() - frame.facts["age_ms"]

    def _epoch(self) -> dict[str, int]:
        """Return what this pod's own workers know of durable epochs; a clock means nothing on another machine."""
        rows = self._meters.workers[self._own.start : self._own.stop]
        newest = int(rows[:, m.EPOCH].max())
        return {
            "worker": self._own.start,
            "epochs": int(rows[:, m.EPOCHS].max()),
            "age_ms": now_ms() - newest,
        }

    def _end_soon(self) -> None:
        self._ends_at = self._ends_at or time.monotonic() + END_SECONDS


def told(error: Exception) -> dict[str, Any]:
    """Return a failure as the other pods are told it."""
    return {"error": type(error).__name__, "message": str(error)}


def failure(frame: Frame, who: str) -> LookbackError:
    """Return what another pod's failure is to this one."""
    kind = _SHARED.get(str(frame.facts["error"]), PeerLost)
    message = str(frame.facts["message"])
    return PeerLost(f"{who}: {message}") if kind is PeerLost else kind(message)


def _frames(link: Link) -> Iterator[Frame]:
    while (frame := link.poll()) is not None:
        yield frame


def _told(frame: Frame) -> dict[str, Any]:
    return {name: frame.facts[name] for name in ("worker", "epochs", "age_ms")}
