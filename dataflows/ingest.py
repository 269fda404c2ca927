"""One source partition at work: read, decode, judge, encode per view, split by shard.

Owns: the order of these steps and the partition's counts. What it decides depends on the partition's own prefix
alone, so a live run, a replay and a run after a crash decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.batches import DeadLetter, RawBatch, Reason
from connectors.decode import Decoder, broker_time, raw_bytes
from dataflows.board import NEVER
from dataflows.route import Chunk, Judge, positions, split
from lookback.definition import Stream, View
from lookback.events import I64, EventBatch, ViewRows

BaseOf = Callable[[EventBatch], pa.RecordBatch]


@dataclass
class Counts:
    """What became of a partition's events so far."""

    rows: int = 0  # read, good or bad
    bytes: int = 0
    bad: int = 0
    late: int = 0
    ahead: int = 0
    no_key: int = 0  # event-view pairs left out for a null key


@dataclass(frozen=True)
class Use:
    """What a stream's batch is for, to one view."""

    index: int
    view: View
    encode: Callable[[EventBatch], ViewRows]
    instants: bool = False  # another stream's view is asked as of this stream's events
    base: bool = False  # the view whose rows carry the training row's own columns


class Ingest:
    """Steps between a partition's raw batches and the shards."""

    def __init__(
        self,
        stream: Stream,
        topic: str,
        uses: Sequence[Use],
        shards: int,
        base_of: BaseOf | None,
        state: dict[str, Any] | None,
    ) -> None:
        """Begin, or go on from the `state` of an earlier run."""
        self.stream = stream
        self.topic = topic
        self._uses = uses
        self._shards = shards
        self._base_of = base_of
        self._decoder = Decoder(stream)
        state = state or {}
        self.judge = Judge(stream.lateness_ms, stream.max_ahead_ms, state.get("watermark", NEVER))
        self.counts = Counts(**state.get("counts", {}))
        self.newest_ms = self.judge.watermark_ms

    def state(self) -> dict[str, Any]:
        """Return what a later run goes on from, apart from the reader's place."""
        return {"watermark": self.judge.watermark_ms, "counts": asdict(self.counts)}

    def take(self, raw: RawBatch) -> tuple[list[list[Chunk]], list[DeadLetter]]:
        """Return the chunks of each shard, and the batch's dead letters in offset order."""
        self.counts.rows += len(raw)
        self.counts.bytes += raw.nbytes
        decoded = self._decoder.decode(raw)
        self.counts.bad += len(decoded.dead)
        events, dead = self._judge(decoded.events, decoded.dead, raw)
        chunks: list[list[Chunk]] = [[] for _ in range(self._shards)]
        if not len(events):
            return chunks, dead
        position = positions(events)
        base = None
        for use in self._uses:
            if use.base:
                assert self._base_of is not None
                base = self._base_of(events)
            rows = use.encode(events)
            if len(rows.key_code) and rows.key_code.min() < 0:
                self.counts.no_key += int((rows.key_code < 0).sum())
            found = split(
                use.index,
                use.view,
                rows,
                position,
                self._shards,
                event_time_ms=events.event_time_ms,
                base=base if use.base else None,
                instants=use.instants,
            )
            for shard, chunk in found.items():
                chunks[shard].append(chunk)
        return chunks, dead

    def _judge(
        self, events: EventBatch, dead: list[DeadLetter], raw: RawBatch
    ) -> tuple[EventBatch, list[DeadLetter]]:
        late, ahead = self.judge.judge(events.event_time_ms, events.broker_time_ms)
        if late is None and ahead is None:
            return events, dead
        refused = np.zeros(len(events), bool)
        letters = list(dead)
        for mask, reason, bound in (
            (late, Reason.LATE, "older than the partition's watermark by more than the lateness"),
            (ahead, Reason.AHEAD, "further ahead of its broker time than max_ahead"),
        ):
            if mask is None:
                continue
            refused |= mask
            index = np.flatnonzero(mask)
            if reason is Reason.LATE:
                self.counts.late += len(index)
            else:
                self.counts.ahead += len(index)
            in_raw = np.searchsorted(raw.offset, events.offset[index])
            letters.extend(
                self._letter(events, i, raw, r, reason, bound)
                for i, r in zip(index.tolist(), in_raw.tolist(), strict=True)
            )
        letters.sort(key=lambda letter: letter.offset)
        return _keep(events, ~refused), letters

    def _letter(
        self, events: EventBatch, i: int, raw: RawBatch, in_raw: int, reason: Reason, bound: str
    ) -> DeadLetter:
        return DeadLetter(
            events.topic,
            events.partition,
            int(events.offset[i]),
            reason,
            bound,
            raw_bytes(raw, in_raw),
            int(events.event_time_ms[i]),
            broker_time(raw, in_raw),
            None if raw.key_of is None else raw.key_of(in_raw),
        )


def _keep(events: EventBatch, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> EventBatch:
    index: I64 = np.flatnonzero(mask)
    return EventBatch(
        events.stream,
        events.topic,
        events.partition,
        events.offset[index],
        events.event_time_ms[index],
        None if events.broker_time_ms is None else events.broker_time_ms[index],
        events.fields.take(pa.array(index)),
    )
