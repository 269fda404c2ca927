"""The Bytewax source: one partition each of a source's topics, stopping at its byte budget for an epoch.

Emits `("dead", letters)` and `(shard key, Item)`. At a partition's fixed end each shard gets the watermark END once,
again after each restart, never on a drain.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.batches import DeadLetter, RawBatch
from connectors.dead_letters import part_name
from connectors.sources import KAFKA, Reader, Source
from dataflows import board as b
from dataflows.board import NEVER, Board
from dataflows.clock import JobClock
from dataflows.draining import draining
from dataflows.ingest import Ingest
from dataflows.label_part import LabelPart
from dataflows.labels import LABELS, LabelBatch
from dataflows.recovery_store import PLACES, recorded
from dataflows.registry_waits import tell_wait
from dataflows.route import Chunk, Item, Payload
from dataflows.settings import Part, Settings
from dataflows.telemetry.meters import PUBLISH, Meters
from state import faults

AHEAD_ROWS = 500_000  # how many rows a replay's partition may be ahead of the slowest one
LOG_BYTES = (
    64 << 20
)  # of updates that a worker has still to tell the change log: beyond it nothing more is read
FULL_SECONDS = 0.002  # between looks at whether an epoch's budget is there again
# A partition that gave nothing, or less than FEW rows as they happen, is looked at again at the next tick, which is one
# for all partitions: what they have then goes through the shards together, at a fraction of the cost.
READ_SECONDS = 0.02
FEW = 4096
DEAD = "dead:"
LOOK_SECONDS = 5.0  # between looks at the store where no event comes
TICK_SECONDS = 0.5  # between two looks for shards that have values to refresh
MANY = 8  # a piece of at least such a part of a batch is joined to the next


class EpochBudget:
    """Bytes that all of a worker's partitions together may read in an epoch.

    They begin an epoch one after the other, so the epochs are counted apart, by their numbers since the start.
    """

    def __init__(self, settings: Settings) -> None:
        parts = max(1, -(-len(settings.parts) // settings.workers))
        self._bytes = settings.worker_epoch_bytes
        self.turn_bytes = max(1 << 20, self._bytes // parts)  # at once, so that every partition has its turn
        self._read: dict[int, int] = {}

    def left(self, epoch: int) -> int:
        """Return how many bytes may still be read."""
        return self._bytes - self._read.get(epoch, 0)

    def spend(self, epoch: int, size: int) -> None:
        """Count what was read."""
        self._read[epoch] = self._read.get(epoch, 0) + size
        self._read.pop(epoch - 2, None)  # no partition is two epochs behind another


class SourcePart(StatefulSourcePartition[tuple[str, Payload], dict[str, Any] | None]):
    """One partition at work."""

    def __init__(
        self,
        part: Part,
        row: int,
        settings: Settings,
        ingest: Ingest,
        reader: Reader,
        board: Board,
        stop_ms: int | None,
        budget: EpochBudget,
        counted: int = 0,
        meters: Meters | None = None,
    ) -> None:
        self._part = part
        self._budget = budget
        self._epoch = 0  # since the start
        self._counted = counted  # rows before it are read for the ids that they had, if at all
        self._recalling = ingest.recall_offset is not None
        self._index = row
        self._row = board.rows[row]
        self._board = board
        self._clock = JobClock(settings.clock, board)
        self._next_tick = 0.0
        self._next_look = time.monotonic() + LOOK_SECONDS
        # A shard of each of the store's writers.
        writers = {
            int(key.split("-")[0]) % settings.workers: at for at, key in enumerate(settings.shard_keys)
        }
        self._lookers = set(writers.values())
        self._ticked = False  # in this epoch: what is not taken must not pile up
        self._settings = settings
        self._ingest = ingest
        self._reader = reader
        self._stop_ms = stop_ms  # a replay ends a partition once its watermark has passed this
        self._replay = settings.out is not None
        self._follows = settings.source.startswith(KAFKA) and part.end is None  # events come as they happen
        self._left = settings.epoch_bytes
        self._started = False
        self._ended = False
        self._awake: datetime | None = None
        self._held: RawBatch | None = None  # read, and can't be taken yet
        self._published = -1
        self._committing: int | None = None  # the offset of the epoch that is being committed
        self._meters = meters or Meters.unheard()
        self._closed = False  # an epoch was, and is being made durable
        self._rows_sent: deque[tuple[int, int]] = deque()  # (watermark, rows so far) of batches ahead

    def next_batch(self) -> Iterable[tuple[str, Payload]]:
        """Return the next batch's items, or nothing while the epoch's budget is spent."""
        self._awake = None
        if draining():
            self._board.stop[0] = 1  # whoever asked this process alone: the job stops as a whole
            raise StopIteration
        if self._ended:
            raise StopIteration
        if self._committing is not None:
            # Bytewax asks for nothing of an epoch before the last one is durable on all workers.
            faults.reach("5-before")
            began_ns = time.perf_counter_ns()
            self._reader.publish(self._committing)
            self._committing = None
            faults.reach("5-after")
            self._meters.since(PUBLISH, began_ns)
        if self._closed:
            self._closed = False
            self._meters.durable()
        if self._started and (self._spent() or self._pressed() or (self._replay and self._far_ahead())):
            self._awake = datetime.now(UTC) + timedelta(seconds=FULL_SECONDS)
            return []
        began_ns = time.perf_counter_ns()
        out: list[tuple[str, Payload]] = []
        chunks: list[list[Chunk]] = [[] for _ in range(self._settings.shards)]
        dead: list[DeadLetter] = []
        most = self._settings.batch_rows
        rows = read = self._take(most, chunks, dead)
        # A live job writes each entity once a batch, so large pieces of a file are joined to one.
        while not self._replay and read * MANY > most and rows < most and not self._spent():
            read = self._take(most - rows, chunks, dead)
            rows += read
        if self._reader.at_end and self._part.end is None and self._held is None:
            self._clock.caught_up(self._index)
        if (not rows or (self._follows and rows < FEW)) and not self._ended:
            now = time.time()
            self._awake = datetime.fromtimestamp(now - now % READ_SECONDS + READ_SECONDS, UTC)
            if not rows and self._started:
                self._row[b.OFFSET] = self._place
                return list(self._items(chunks))
        if dead:
            out.append((DEAD + part_name(self._part.topic, self._part.partition), dead))
        self._report()
        out.extend(self._items(chunks, self._meters.fetched(began_ns, rows) if rows else 0))
        self._started = True
        return out

    def _take(self, most: int, chunks: list[list[Chunk]], dead: list[DeadLetter]) -> int:
        """Read at most about `most` rows, add what they give; return how many they were."""
        raw = self._read(most)
        if raw is not None and len(raw) and not self._can_take(raw):
            return 0
        read = 0 if raw is None else len(raw)
        if self._recalling:
            raw = self._recall(raw)
        if raw is None:
            self._ended = True
            return 0
        self._left -= raw.nbytes
        self._budget.spend(self._epoch, raw.nbytes)
        if len(raw):
            if raw.broker_time_ms is not None:
                self._row[b.BROKER_TIME] = raw.broker_time_ms[-1]
            found, bad = self._ingest.take(raw)
            dead += bad
            for mine, more in zip(chunks, found, strict=True):
                mine += more
        return read

    def _read(self, most: int) -> RawBatch | None:
        """Return the batch that could not be taken, else the next one; None at the end."""
        held, self._held = self._held, None
        if held is not None or self._past_stop():
            return held
        most_bytes = self._turn_bytes()
        return self._reader.read(most, min(most_bytes, self._ingest.most_bytes or most_bytes))

    def _can_take(self, raw: RawBatch) -> bool:
        """Return whether a batch can be taken now; if not, hold it: nothing behind it is read meanwhile."""
        ready = self._ingest.ready(raw)
        if not ready:
            self._held = raw
        tell_wait(self._settings.folder, self._row, None if ready else self._ingest.waiting)
        return ready

    def _recall(self, raw: RawBatch | None) -> RawBatch | None:
        """Let rows that are counted be remembered; return the others."""
        if raw is not None and len(raw):
            past, raw = raw.cut(int(np.searchsorted(raw.offset, self._counted)))
            if len(past):
                self._ingest.recall(past)
        if raw is None or self._reader.next_offset >= self._counted:
            self._ingest.recall_end(accept_loss=self._settings.accept_loss)
            self._recalling = False
        return raw

    @property
    def _place(self) -> int:
        """The offset before which all is counted."""
        read = self._reader.next_offset if self._held is None else int(self._held.offset[0])
        return max(read, self._counted)

    def _items(self, chunks: list[list[Chunk]], trace: int = 0) -> Iterable[tuple[str, Item]]:
        # Each shard hears of a start (it opens and emits what is dirty) and, in a replay, of every watermark.
        everyone = self._replay or not self._started or self._ended
        clock_ms, final = (NEVER, False) if self._replay else self._clock.read()
        ticks = not self._replay and self._is_tick()
        woken = self._woken(clock_ms) if ticks and clock_ms > NEVER else set()
        lookers = self._looking() if ticks else set()
        mark = self._ingest.judge.watermark_ms
        if self._replay:
            mark = b.END if self._ended else max(b.NEVER, mark - self._ingest.stream.lateness_ms - 1)
        behind = self._board.behind[: self._settings.shards].tolist()
        through = self._place - 1
        for shard, (key, mine) in enumerate(zip(self._settings.shard_keys, chunks, strict=True)):
            if mine or everyone or behind[shard] or shard in woken or shard in lookers:
                yield (
                    key,
                    Item(
                        shard,
                        self._part.id,
                        mark,
                        mine,
                        clock_ms,
                        final,
                        trace if mine else 0,
                        shard in lookers,
                        through,
                    ),
                )

    def _is_tick(self) -> bool:
        """Whether to look for shards to wake now, at most once an epoch; the first partition that isn't done does."""
        now = time.monotonic()
        if self._ticked or now < self._next_tick or self._board.store_waits.any():
            return False
        self._next_tick = now + TICK_SECONDS
        return int(np.argmin(self._board.rows[:, b.DONE])) == self._index

    def _woken(self, clock_ms: int) -> set[int]:
        """Return the shards that have values to refresh."""
        found = set(np.flatnonzero(self._board.due[: self._settings.shards] <= clock_ms).tolist())
        self._ticked |= bool(found)
        return found

    def _looking(self) -> set[int]:
        """Return the shards that are to look whether the store is still as it was."""
        now = time.monotonic()
        if now < self._next_look:
            return set()
        self._next_look = now + LOOK_SECONDS
        self._ticked = True
        return self._lookers

    def _past_stop(self) -> bool:
        return self._stop_ms is not None and self._ingest.judge.watermark_ms > self._stop_ms

    def _spent(self) -> bool:
        return self._left <= 0 or self._budget.left(self._epoch) <= 0

    def _turn_bytes(self) -> int:
        return max(1, min(self._left, self._budget.turn_bytes))

    def _pressed(self) -> bool:
        workers = self._settings.workers
        board = self._board
        return bool(board.pressure[:workers].any() or (board.log_bytes[:workers] > b.LOG_BYTES).any())

    def _far_ahead(self) -> bool:
        slowest = self._board.slowest_ms()
        while self._rows_sent and self._rows_sent[0][0] <= slowest:
            self._rows_sent.popleft()
        if not self._rows_sent:
            return False
        return self._ingest.counts.rows - self._rows_sent[0][1] > AHEAD_ROWS

    def _report(self) -> None:
        counts, judge = self._ingest.counts, self._ingest.judge
        row = self._row
        (row[b.ROWS], row[b.BYTES], row[b.BAD], row[b.LATE], row[b.AHEAD], row[b.REPEAT], row[b.NO_KEY]) = (
            astuple(counts)
        )
        row[b.EVENT_TIME] = judge.watermark_ms
        row[b.OFFSET] = self._place
        row[b.LOST] = self._reader.lost
        row[b.DONE] = int(self._ended)
        row[b.WATERMARK] = b.END if self._ended else judge.watermark_ms
        if self._replay:
            self._rows_sent.append((judge.watermark_ms, counts.rows))

    def next_awake(self) -> datetime | None:
        """Return when to look again."""
        return self._awake

    def snapshot(self) -> dict[str, Any]:
        """Return the partition's place; a new epoch begins, with a new budget."""
        self._left = self._settings.epoch_bytes
        self._epoch += 1
        self._ticked = False
        self._closed = True
        offset = self._place
        if offset != self._published and not self._replay:
            self._committing = self._published = offset
        return {**self._ingest.state(), "offset": offset}

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


MakeIngest = Callable[[Part, dict[str, Any] | None], Ingest]


class EventSource(FixedPartitionedSource[tuple[str, Payload], dict[str, Any] | None]):
    """All partitions of a job's source."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        make: MakeIngest,
        stop_ms: Callable[[Part], int | None],
        labels: Callable[[], Iterator[LabelBatch]] | None = None,
        part_class: type[SourcePart] = SourcePart,
        meters: Meters | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._make = make
        self._stop_ms = stop_ms
        self._labels = labels
        self._part_class = part_class
        self._meters = meters
        self._budget = EpochBudget(settings)
        self._board = Board(settings.folder / "board", len(settings.parts))
        self._index = {part.id: i for i, part in enumerate(settings.parts)}
        self._recorded = recorded(settings.folder, PLACES)

    def list_parts(self) -> list[str]:
        """Return the ids of all partitions."""
        return list(self._index)

    def build_part(
        self, step_id: str, for_part: str, resume_state: dict[str, Any] | None
    ) -> SourcePart | LabelPart:
        """Open one partition where the last durable epoch left it."""
        index = self._index[for_part]
        part = self._settings.parts[index]
        if part == LABELS:
            assert self._labels is not None
            return LabelPart(index, self._settings, self._labels(), self._board)
        offset = None
        resume_state = resume_state or self._recorded.get(for_part)
        if resume_state is not None:
            offset = resume_state["offset"]
        elif self._settings.start_ms is not None:
            offset = self._source.start_offset(part.topic, part.partition, self._settings.start_ms)
        ingest = self._make(part, resume_state)
        first = offset if ingest.recall_offset is None else ingest.recall_offset
        reader = self._source.open(part.topic, part.partition, first, counted=offset)
        # Where this run begins, for progress: rows that earlier runs had read.
        self._board.rows[index, (b.ROWS, b.FIRST)] = ingest.counts.rows
        own = (ingest, reader, self._board, self._stop_ms(part), self._budget, offset or 0, self._meters)
        return self._part_class(part, index, self._settings, *own)
