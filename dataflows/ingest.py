"""One source partition at work: read, decode, judge, encode per view, split by shard.

Owns: the order of these steps and the partition's counts. What it decides depends on the partition's own prefix
alone, so a live run, a replay and a run after a crash decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from connectors.batches import DeadLetter, RawBatch, Reason
from connectors.decode import Decoder, broker_time, raw_bytes
from dataflows.board import NEVER, Counts
from dataflows.lateness import Lateness
from dataflows.repeats import Repeats
from dataflows.route import Bools, Chunk, Judge, Judged, either, positions, split
from lookback.definition import Stream, View
from lookback.events import I64, EventBatch, ViewRows

if TYPE_CHECKING:
    from connectors.schema_registry import Schemas

AHEAD = "further ahead of its broker time than max_ahead"

BaseOf = Callable[[EventBatch], pa.RecordBatch]


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
        lateness_of: Sequence[View] | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        """Begin, or go on from the `state` of an earlier run.

        lateness_of: the views for which is counted how far behind events come; None: not even for the stream.
        schemas: of the stream's messages, where its format needs them.
        """
        self.stream = stream
        self.topic = topic
        self._uses = uses
        self._shards = shards
        self._base_of = base_of
        self._decoder = Decoder(stream, schemas)
        state = state or {}
        self.judge = Judge(stream.lateness_ms, stream.max_ahead_ms, state.get("watermark", NEVER))
        self._repeats = self._rung = None
        if stream.drop_repeats_ms is not None:
            self._repeats = Repeats(stream.drop_repeats_ms, state.get("repeats"))
            self._rung = self._repeats.recall_from(self.judge.watermark_ms)
            if self._rung is not None:
                self._judge_then = Judge(stream.lateness_ms, stream.max_ahead_ms, self._rung[1])
        self.lateness = None if lateness_of is None else Lateness(lateness_of, state.get("lateness"))
        self.counts = Counts(**state.get("counts", {}))
        self.newest_ms = self.judge.watermark_ms

    def ready(self, raw: RawBatch) -> bool:
        """Return whether a batch can be taken or recalled now (see `Decoder.ready`)."""
        return self._decoder.ready(raw)

    @property
    def most_bytes(self) -> int | None:
        """How much to read at once at most, where that is less than usual."""
        return self._decoder.most_bytes

    @property
    def waiting(self) -> str | None:
        """What is waited for while a batch is not ready, once that takes long."""
        return self._decoder.waiting

    def state(self) -> dict[str, Any]:
        """Return what a later run goes on from, apart from the reader's place."""
        kept = {"repeats": self._repeats, "lateness": self.lateness}
        more = {name: one.state() for name, one in kept.items() if one is not None}
        return {"watermark": self.judge.watermark_ms, "counts": asdict(self.counts), **more}

    @property
    def recall_offset(self) -> int | None:
        """From where rows that are counted must be given to `recall` before any other; None: from nowhere."""
        return None if self._rung is None else self._rung[0]

    def recall(self, raw: RawBatch) -> None:
        """Remember the ids of rows that an earlier run has counted."""
        assert self._repeats is not None
        for piece in self._decoder.pieces(raw):
            events = self._decoder.decode(piece).events
            if len(events):
                judged = self._judge_then.judge(events.event_time_ms, events.broker_time_ms)
                self._repeats.recall(*self._seen(events, judged))

    def recall_end(self, *, accept_loss: bool) -> None:
        """Go on to rows that are not counted. Raises RefusedError where some to recall were gone."""
        assert self._repeats is not None and self._rung is not None
        self._repeats.recall_end(self._rung, self.topic, accept_loss=accept_loss)

    def _seen(self, events: EventBatch, judged: Judged) -> tuple[pa.Array, I64, I64, I64, Bools | None]:
        ids = events.fields.column(self.stream.event_id)
        return ids, events.offset, events.event_time_ms, judged.watermark_ms, judged.refused

    def take(self, raw: RawBatch) -> tuple[list[list[Chunk]], list[DeadLetter]]:
        """Return the chunks of each shard, and the batch's dead letters in offset order."""
        self.counts.bytes += raw.nbytes
        if self._repeats is not None:
            self._repeats.begin(int(raw.offset[0]), self.judge.watermark_ms)
        chunks: list[list[Chunk]] = [[] for _ in range(self._shards)]
        dead: list[DeadLetter] = []
        for piece in self._decoder.pieces(raw):
            dead += self._take(piece, chunks)
        return chunks, dead

    def _take(self, raw: RawBatch, chunks: list[list[Chunk]]) -> list[DeadLetter]:
        """Add rows to the chunks of each shard; return their dead letters."""
        self.counts.rows += len(raw)
        decoded = self._decoder.decode(raw)
        self.counts.bad += len(decoded.dead)
        events, dead = self._judge(decoded.events, decoded.dead, raw)
        if not len(events):
            return dead
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
        return dead

    def _judge(
        self, events: EventBatch, dead: list[DeadLetter], raw: RawBatch
    ) -> tuple[EventBatch, list[DeadLetter]]:
        """Return the events that count, and the letters of the others among those of bad ones."""
        if not len(events):
            return events, dead
        judged = self.judge.judge(events.event_time_ms, events.broker_time_ms)
        before = None if self._repeats is None else self._repeats.find(*self._seen(events, judged))
        repeat = None if before is None else before >= 0
        if self.lateness is not None:
            self.lateness.add(events, judged, either(judged.ahead, repeat))
        refused = either(judged.refused, repeat)
        if refused is None:
            return events, dead
        letters = list(dead)
        if judged.late is not None:
            self.counts.late += self._refuse(
                letters, events, raw, judged.late, Reason.LATE, lambda i: self._late(events, judged, i)
            )
        if judged.ahead is not None:
            self.counts.ahead += self._refuse(
                letters, events, raw, judged.ahead, Reason.AHEAD, lambda _: AHEAD
            )
        if before is not None:
            self.counts.repeat += self._refuse(
                letters,
                events,
                raw,
                before >= 0,
                Reason.REPEAT,
                lambda i: f"its id came at offset {before[i] >> raw.row_bits}",
            )
        letters.sort(key=lambda letter: letter.offset)
        return _keep(events, ~refused), letters

    def _late(self, events: EventBatch, judged: Judged, i: int) -> str:
        behind_ms = int(judged.watermark_ms[i] - events.event_time_ms[i])
        allowed_ms = self.stream.lateness_ms
        return f"{behind_ms} ms behind the partition's watermark, more than the lateness of {allowed_ms} ms"

    def _refuse(
        self,
        letters: list[DeadLetter],
        events: EventBatch,
        raw: RawBatch,
        mask: Bools,
        reason: Reason,
        detail: Callable[[int], str],
    ) -> int:
        """Add the letters of the masked events; return how many they are."""
        index = np.flatnonzero(mask)
        in_raw = np.searchsorted(raw.offset, events.offset[index])
        letters.extend(
            self._letter(events, i, raw, r, reason, detail(i))
            for i, r in zip(index.tolist(), in_raw.tolist(), strict=True)
        )
        return len(index)

    def _letter(
        self, events: EventBatch, i: int, raw: RawBatch, in_raw: int, reason: Reason, detail: str
    ) -> DeadLetter:
        offset, where = raw.place(in_raw)
        return DeadLetter(
            events.topic,
            events.partition,
            offset,
            reason,
            where + detail,
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
