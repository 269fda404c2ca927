"""A replay's labels as a source partition of their own: instants to ask as of, in the order of their times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from bytewax.inputs import StatefulSourcePartition

from dataflows import board as b
from dataflows.board import Board
from dataflows.draining import draining
from dataflows.labels import LABELS, LabelBatch
from dataflows.route import Chunk, Item, Payload
from dataflows.settings import Settings


class LabelPart(StatefulSourcePartition[tuple[str, Payload], dict[str, Any] | None]):
    """Labels as a source of instants, in the order of their times."""

    def __init__(self, row: int, settings: Settings, batches: Iterator[LabelBatch], board: Board) -> None:
        self._row = board.rows[row]
        self._board = board
        self._settings = settings
        self._batches = batches
        self._next: LabelBatch | None = next(batches, None)
        self._ended = False
        self._awake: datetime | None = None

    def next_batch(self) -> Iterable[tuple[str, Payload]]:
        """Return the next labels once the slowest partition has reached them, so that few of them wait."""
        self._awake = None
        if draining() or self._ended:
            raise StopIteration
        batch = self._next
        mark = b.END
        chunks: list[list[Chunk]] = [[] for _ in range(self._settings.shards)]
        if batch is None:
            self._ended = True
        else:
            if batch.first_ms > self._board.slowest_ms():
                self._row[b.WATERMARK] = batch.first_ms
                self._awake = datetime.now(UTC) + timedelta(milliseconds=2)
                return []
            chunks, mark = batch.chunks, batch.last_ms - 1
            self._row[b.ROWS] += batch.rows
            self._next = next(self._batches, None)
        self._row[b.WATERMARK] = b.END if self._ended else mark
        self._row[b.EVENT_TIME] = b.END if self._ended else mark
        return [
            (key, Item(shard, LABELS.id, mark, mine))
            for shard, (key, mine) in enumerate(zip(self._settings.shard_keys, chunks, strict=True))
        ]

    def next_awake(self) -> datetime | None:
        """Return when to look again."""
        return self._awake

    def snapshot(self) -> None:
        """Keep nothing: a replay that was stopped begins anew."""
