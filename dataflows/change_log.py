"""Telling the change log: one worker's updates, from the outboxes of its shards, in a thread beside the dataflow.

    on_batch ─ updates ─▶ snapshot ─ step 3: rows and entry, one batch ─▶ thread ─ one transaction ─▶ topic
                                         ▲                                              │
                                         └──────── later commits delete the entry ◀─────┘

Nothing here holds an epoch up: an entry is durable with the state that it tells of, and is sent after that. Where the
brokers don't take them, entries wait in the state and in memory, up to `board.LOG_BYTES`, then sources wait.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from connectors.change_log import LogTopic
from connectors.kafka_settings import parse_uri, read_settings
from connectors.online import patiently
from connectors.updates import Updates, ViewMessages, from_entry, join, to_entry
from dataflows import failures
from dataflows.board import Board
from dataflows.draining import draining
from dataflows.settings import Settings
from dataflows.waits import WaitWatch
from lookback.definition import View
from lookback.errors import StoreError
from lookback.stores.base import I64, ViewWrite
from state import faults
from state.outbox import Outbox
from state.shard import Shard
from state.timers import MOST_LATE_MS
from state.view import ViewState

FILE = "log-waits"  # in the state folder: why
SENDERS = "log-senders"  # there too: who may have transactions open (JSON)
GATHER_SECONDS = 0.1  # so long after the first entry of an epoch, those of all shards go in one transaction
MOST_BYTES = 8 << 20  # of entries in one transaction, unless one is larger
ENDS_SECONDS = 10.0  # between two looks at where the topic ends: after a crash it is read from there
PATIENCE_SECONDS = 10.0  # of a job that is to stop, for a log that takes nothing


class ChangeLog:
    """One worker's.

    `open`, `entry` and `committed` are called by its shards, `close` at its end; all by the dataflow's thread.
    """

    def __init__(self, settings: Settings, views: Sequence[View], board: Board, worker: int) -> None:
        self._topic = _topic(settings, _sender(settings, worker))
        self._messages = {view.fingerprint: ViewMessages(view) for view in views}
        self._board, self._worker, self._folder = board, worker, settings.folder
        # By a sender that was fenced: from where on the tail was read then, and what it said.
        self._tails: dict[str, tuple[dict[int, int], dict[str, int]]] = {}
        self._outboxes: list[Outbox] = []
        self._queue: deque[tuple[Outbox, int, bytes]] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._give_up = float("inf")
        self._ends: dict[str, int] = {}
        self._looked = float("-inf")
        self._thread: threading.Thread | None = None

    # --- what the shards call ----------------------------------------------------------------------------

    def open(self, shard: Shard) -> Teller:
        """Return what tells of a shard that was opened; what its outbox holds and the log lacks goes out first."""
        patiently(self._topic.open, self._waits)
        outbox = shard.open_outbox()
        before = outbox.begin(self._topic.sender)
        entries = outbox.entries()
        if before and not faults.off("log_tail"):
            outbox.skip_to(self._newest(before, outbox))
        self._outboxes.append(outbox)
        for number, entry in entries:
            if number > outbox.sent:
                self._put(outbox, number, entry)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="change-log", daemon=True)
            self._thread.start()
        return Teller(self, outbox, len(shard.views))

    def _newest(self, sender: str, outbox: Outbox) -> int:
        """Return the newest number of an outbox that the log has, now that its last sender sends no more."""
        starts = {int(number): at for number, at in outbox.ends.items()}
        if sender not in self._tails and sender != self._topic.sender:
            patiently(lambda: self._topic.fence(sender), self._waits)
        read_from, found = self._tails.get(sender, ({}, {}))
        if sender not in self._tails or any(starts.get(n, 0) < at for n, at in read_from.items()):
            found = patiently(lambda: self._topic.newest(starts), self._waits)
            self._tails[sender] = starts, found
        return found.get(outbox.id, 0)

    def entry(self, updates: Sequence[Sequence[Updates]]) -> bytes | None:
        """Return what an outbox keeps of an epoch's updates, view by view; None where there are none."""
        views = [join(of, self._messages[of[0].fingerprint].text_outputs) for of in updates if of]
        return to_entry(views) if any(view.keys for view in views) else None

    def committed(self, outbox: Outbox, entry: bytes) -> None:
        """Send an entry that a commit has just made durable, once it is its turn."""
        self._put(outbox, outbox.number, entry)

    def close(self) -> None:
        """Return once the log has everything; a job that is to stop gives it some seconds."""
        if self._thread is None:
            return
        self._closing.set()
        with self._changed:
            self._changed.notify()
        while self._thread.is_alive():
            if draining() and self._give_up == float("inf"):
                self._give_up = time.monotonic() + PATIENCE_SECONDS
            self._thread.join(0.05)
        for outbox in self._outboxes:
            outbox.forget_sent()

    def _put(self, outbox: Outbox, number: int, entry: bytes) -> None:
        with self._changed:
            self._queue.append((outbox, number, entry))
            self._board.log_bytes[self._worker] += len(entry)
            self._changed.notify()

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._closing.is_set())
                    if not self._queue:
                        return
                self._closing.wait(GATHER_SECONDS)
                self._send(self._some())
        except _GivenUp:
            return
        except BaseException as error:
            # The dataflow may be waiting for this very thread. To end at once is what a crash does: nothing is lost.
            failures.note(error)
            os._exit(1)

    def _some(self) -> list[tuple[Outbox, int, bytes]]:
        """Return the next entries to send; they stay in the queue until they are sent."""
        with self._changed:
            sizes = np.cumsum([len(entry) for _, _, entry in self._queue])
            count = max(1, int(np.searchsorted(sizes, MOST_BYTES, "right")))
            return [self._queue[i] for i in range(count)]

    def _send(self, entries: Sequence[tuple[Outbox, int, bytes]]) -> None:
        faults.reach("l-before")
        if time.monotonic() - self._looked > ENDS_SECONDS:
            self._ends = {
                str(number): end for number, end in patiently(self._topic.ends, self._waits).items()
            }
            self._looked = time.monotonic()
        keys, values = self._of(entries)
        self._topic.send(keys, values, self._waits)
        faults.reach("l-after")
        for outbox, number, _ in entries:
            outbox.sent, outbox.ends = number, self._ends
        with self._changed:
            for _, _, entry in entries:
                self._queue.popleft()
                self._board.log_bytes[self._worker] -= len(entry)
        self._board.log_sent[self._worker] += len(keys)

    def _of(self, entries: Sequence[tuple[Outbox, int, bytes]]) -> tuple[list[bytes], list[bytes]]:
        """Return the messages of some entries, those of an entity in their order."""
        by_view: dict[str, tuple[list[str], list[Updates]]] = {}
        for outbox, number, entry in entries:
            first = 0
            for updates in from_entry(entry):
                ids, parts = by_view.setdefault(updates.fingerprint, ([], []))
                ids += [f"{outbox.id}-{number}-{first + i}" for i in range(len(updates.keys))]
                parts.append(updates)
                first += len(updates.keys)
        keys: list[bytes] = []
        values: list[bytes] = []
        for fingerprint, (ids, parts) in by_view.items():
            writer = self._messages[fingerprint]
            found = writer.messages(join(parts, writer.text_outputs), ids)
            keys += found[0]
            values += found[1]
        return keys, values

    def _waits(self, reason: str | None) -> None:
        """Say on the board why the log is waited for, None that it isn't any more."""
        if reason is not None:
            if time.monotonic() > self._give_up:
                raise _GivenUp
            if threading.current_thread() is not self._thread and draining():
                raise StoreError(
                    f"{reason}; the job was stopped while it waited: start it again, nothing is lost"
                )
            if not self._board.log_waits[self._worker]:
                with suppress(OSError):
                    (self._folder / FILE).write_text(reason)
        self._board.log_waits[self._worker] = reason is not None


class Teller:
    """One shard's part: what of its writes is an update that was not told before."""

    def __init__(self, log: ChangeLog, outbox: Outbox, views: int) -> None:
        self._log = log
        self._outbox = outbox
        self._updates: list[list[Updates]] = [[] for _ in range(views)]
        self._entry: bytes | None = None  # of a commit that is under way

    def held(self, index: int, keys: Iterable[str]) -> None:
        """Note that rows of these entities are in the state, and nothing is written before the mark is passed."""
        self._outbox.untold[index].update(keys)

    def wrote(self, index: int, write: ViewWrite) -> None:
        """Take the updates of a write."""
        self._tell(index, Updates.of(write))

    def wrote_again(self, index: int, view: ViewState, slots: I64, write: ViewWrite) -> None:
        """Take a write of what may have been told before: only entities with new rows are updates.

        Of the others, values that have aged since they were told are due to be refreshed, and told then.
        """
        untold, told_ms = self._outbox.untold[index], self._outbox.told_ms[index]
        new = np.array([key in untold for key in write.keys], bool)
        past = np.maximum(write.event_time_ms, view.timers.through_ms - MOST_LATE_MS)
        before = [told_ms.get(key, least) for key, least in zip(write.keys, past.tolist(), strict=True)]
        view.sent(slots, np.where(new, write.as_of_ms, np.minimum(before, write.as_of_ms)))
        updates = Updates.of(write, new)
        self._tell(index, updates)
        untold.difference_update(updates.keys)

    def _tell(self, index: int, updates: Updates) -> None:
        self._updates[index].append(updates)
        told_ms = self._outbox.told_ms[index]
        if told_ms:
            for key in told_ms.keys() & set(updates.keys):
                del told_ms[key]
        for i in np.flatnonzero(updates.as_of_ms > updates.event_time_ms).tolist():
            told_ms[updates.keys[i]] = int(updates.as_of_ms[i])

    def entry(self) -> bytes | None:
        """Return what the outbox is to keep of what was written since the last commit."""
        self._entry = self._log.entry(self._updates)
        self._updates = [[] for _ in self._updates]
        return self._entry

    def committed(self) -> None:
        """Send that entry: it is durable."""
        if self._entry is not None:
            self._log.committed(self._outbox, self._entry)
        self._entry = None


def fence_past(settings: Settings, say: Callable[[str], None]) -> None:
    """End what workers of the last start left open on the topic, before those of this one look what is there.

    A shard has its own last sender fenced when it is opened; but one worker's tail can't be read to its end while a
    transaction of another one, long dead, is open before it. Says why where the brokers don't answer.
    """
    path = settings.folder / SENDERS
    past = json.loads(path.read_text()) if path.exists() else []
    topic = _topic(settings, "")

    def waiting(reason: str | None) -> None:
        if reason is not None:
            say(f"{reason}; the job waits and then goes on")

    for sender in past:
        patiently(lambda sender=sender: topic.fence(sender), waiting)  # type: ignore[misc]
    path.write_text(json.dumps([_sender(settings, worker) for worker in range(settings.workers)]))


def _sender(settings: Settings, worker: int) -> str:
    return f"lookback-{settings.job}-{settings.generation}-{worker}"


def _topic(settings: Settings, sender: str) -> LogTopic:
    assert settings.change_log is not None
    servers, topic = parse_uri(settings.change_log, topic=True)
    path = None if settings.source_settings is None else Path(settings.source_settings)
    return LogTopic(read_settings(servers, path), topic, sender, faults.reach)


class _GivenUp(Exception):
    """The job is to stop, and what the log has not taken waits in the state."""


def log_watch(board: Board, folder: Path) -> WaitWatch:
    """Return what tells the person that workers wait for the change log."""

    def why() -> str:
        reason = "the change log takes no updates"
        with suppress(OSError):
            reason = (folder / FILE).read_text() or reason
        waiting = int(board.log_bytes.sum()) >> 20
        return f"{reason}; {waiting} MiB of updates wait in the state, and the job goes on"

    return WaitWatch(board.log_waits, why, "the change log takes updates again")
