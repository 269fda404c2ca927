"""A running job as its words tell it: what the metrics, the probes and `lookback status --watch` all read.

Owns: what the words of the board and of the meters mean in seconds, bytes and counts. Refuses: writing any of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataflows import board as b
from dataflows.board import END, NEVER, Board
from dataflows.clock import WALL
from dataflows.placement import worker_of
from dataflows.settings import Part, Settings
from dataflows.telemetry import meters as m
from dataflows.telemetry.meters import MeterFile
from lookback.definition import Definition, load
from lookback.errors import LookbackError, UsageError

SIZE_SECONDS = 10.0  # between looks at the sizes of the state's files
REASONS = {"bad": b.BAD, "late": b.LATE, "ahead": b.AHEAD, "repeat": b.REPEAT}

_sizes: dict[Path, tuple[float, int]] = {}


@dataclass(frozen=True)
class Observed:
    """One start of a job's workers. views: by name, which partitions feed it."""

    settings: Settings
    views: Mapping[str, Sequence[int]]
    board: Board
    meters: MeterFile
    since_ms: int = field(default_factory=lambda: now_ms())

    @staticmethod
    def of(settings: Settings, definition: Definition, board: Board, meters: MeterFile) -> Observed:
        """Return the view of a job whose workers are about to start."""
        views = {
            view.name: [i for i, part in enumerate(settings.parts) if part.stream == view.stream.name]
            for view in definition.views.values()
        }
        return Observed(settings, views, board, meters)

    @staticmethod
    def at(state: Path) -> Observed:
        """Look at the running job of a state folder, from any process. Raises UsageError where there is none."""
        try:
            settings = Settings.from_json((state / "settings.json").read_text())
            definition = load(settings.definition)
            board = Board(state / "board", len(settings.parts))
            meters = MeterFile.open(state / m.FILE, len(definition.views))
        except (OSError, ValueError, KeyError, TypeError, LookbackError) as error:
            raise UsageError(f"no job of this release runs on {state} ({error}): start it first") from None
        return Observed.of(settings, definition, board, meters)

    # --- partitions --------------------------------------------------------------------------------------

    @property
    def parts(self) -> Iterator[tuple[int, Part]]:
        """Return each source partition with its row on the board."""
        return iter(enumerate(self.settings.parts))

    @property
    def told_parts(self) -> Iterator[tuple[int, Part]]:
        """Return those whose metrics are told here: of several pods the first one tells of all."""
        return self.parts if self.settings.first_worker == 0 else iter(())

    def lag_events(self, part: int) -> int:
        """Return how many offsets of a partition are still to be read, as far as its end is known."""
        row = self.board.rows[part]
        return 0 if row[b.DONE] else max(0, int(row[b.END_OFFSET] - row[b.OFFSET]))

    def lag_ms(self, part: int) -> int | None:
        """Return how long ago, by the broker, the newest event read came while others wait; 0 where none waits.

        None where events do not come as they happen (an archive), or nothing was read yet.
        """
        if self.settings.clock != WALL:
            return None
        if not self.lag_events(part):
            return 0
        read = int(self.board.rows[part, b.BROKER_TIME])
        return max(0, time.time_ns() // 1_000_000 - read) if NEVER < read < 1 << 61 else None

    # --- views -------------------------------------------------------------------------------------------

    def view_lag_ms(self, view: str) -> int | None:
        """Return the longest lag of the partitions that feed a view; None where none is known."""
        found = [lag for part in self.views[view] if (lag := self.lag_ms(part)) is not None]
        return max(found, default=None)

    def view_newest_ms(self, view: str) -> int | None:
        """Return the event time up to which a view's state has been committed, None before its first commit."""
        newest = int(self.meters.shards[:, self._index(view), m.NEWEST].max())
        return newest if newest > NEVER else None

    def view_sum(self, view: str, word: int) -> int:
        """Return the sum over all shards of one of a view's words."""
        return int(self.meters.shards[:, self._index(view), word].sum())

    def view_writes(self, view: str, word: int) -> int:
        """Return the sum over all workers of one of a view's words."""
        return int(self.meters.views[:, self._index(view), word].sum())

    def _index(self, view: str) -> int:
        return list(self.views).index(view)

    def samples(self, heard: dict[int, int]) -> Iterator[tuple[int, int]]:
        """Yield (kind, value) of all samples that are not yet in `heard`, a count by worker, and count them."""
        for worker in range(self.settings.workers):
            end = int(self.meters.workers[worker, m.NEXT])
            for at in range(max(heard.get(worker, 0), end - m.RING), end):
                kind, value = self.meters.samples[worker, at % m.RING].tolist()
                yield kind, value
            heard[worker] = end

    def spans(self, heard: dict[int, int]) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield (trace, kind, start, duration, rows) of all spans that are not yet in `heard`, as `samples` does."""
        for worker in range(self.settings.workers):
            end = int(self.meters.workers[worker, m.NEXT_SPAN])
            for at in range(max(heard.get(worker, 0), end - m.RING), end):
                trace, kind, start_ns, duration_ns, rows = self.meters.spans[worker, at % m.RING].tolist()
                yield trace, kind, start_ns, duration_ns, rows
            heard[worker] = end

    # --- the job -----------------------------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        """Epochs that were seen durable since the workers started; as the worker that saw most of them."""
        return int(self.meters.workers[:, m.EPOCHS].max())

    @property
    def epoch_age_ms(self) -> int:
        """Time since an epoch last proved durable on all workers; since the start where none has yet."""
        last = int(self.meters.workers[:, m.EPOCH].max()) or self.since_ms
        return max(0, now_ms() - last)

    @property
    def catching_up(self) -> int:
        """Shards of this pod not committed since the start, or silent until they have passed the served mark."""
        own, workers = self.settings.own_workers, self.settings.workers
        here = [at for at, key in enumerate(self.settings.shard_keys) if worker_of(key, workers) in own]
        words = self.meters.shards[here, :, m.OPEN]
        return int((words != m.READY).any(axis=1).sum())

    @property
    def away_ms(self) -> int:
        """For how long the source's servers have not answered; 0 while they do."""
        away = int(self.board.away[0])
        return max(1, time.time_ns() // 1_000_000 - away) if away else 0

    @property
    def waits(self) -> dict[str, int]:
        """How many workers wait for what."""
        return {"store": _count(self.board.store_waits), "disk": _count(self.board.waiting)}

    @property
    def log_waits(self) -> int:
        """How many workers the change log does not answer."""
        return _count(self.board.log_waits)

    @property
    def log_holds_up(self) -> bool:
        """Whether events wait for the change log: shards can't be opened without it, or it is too far behind."""
        behind = bool((self.board.log_bytes > b.LOG_BYTES).any())
        return bool(self.log_waits) and (behind or bool(self.catching_up))

    @property
    def registry_waits(self) -> int:
        """How many partitions wait for the schema registry."""
        return _count(self.board.rows[:, b.REGISTRY])

    @property
    def store_errors(self) -> int:
        """Calls that the store could not take."""
        return int(self.meters.workers[:, m.ERRORS].sum())

    @property
    def refresh_late_ms(self) -> int:
        """By how much refreshes are behind the job's clock."""
        return int(self.board.late.max())

    @property
    def state_bytes(self) -> int:
        """Size of the shards' files, looked at now and then."""
        folder = self.settings.folder
        seen, size = _sizes.get(folder, (float("-inf"), 0))
        if time.monotonic() - seen > SIZE_SECONDS:
            size = 0
            for path in folder.glob("shard-*/*"):
                try:
                    size += path.stat().st_size
                except OSError:  # a compaction took it away meanwhile
                    continue
            _sizes[folder] = (time.monotonic(), size)
        return size


def set_ends(board: Board, ends: Mapping[int, int]) -> None:
    """Note where partitions end now; an end never falls."""
    for row, offset in ends.items():
        board.rows[row, b.END_OFFSET] = max(board.rows[row, b.END_OFFSET], offset)


def event_time_ms(board: Board, part: int) -> int | None:
    """Return the newest event time read of a partition, None where there is none."""
    found = int(board.rows[part, b.EVENT_TIME])
    return found if NEVER < found < END else None


def now_ms() -> int:
    """Return the clock that workers note epochs by: no person sets it."""
    return time.monotonic_ns() // 1_000_000


def _count(words: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    return int((words != 0).sum())
