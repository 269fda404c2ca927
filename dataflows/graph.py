"""The one graph. A live job and a replay differ in the operator's logic and the sink, in nothing before them.

source ─ branch ┬ rows ─ stateful_batch (one key a shard) ─ online store | training rows
                └ dead letters ─ folder
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from connectors.dead_letters import DeadLetterSink
from connectors.online import OnlineSink, Waiting, patiently
from connectors.sources import KAFKA, open_schemas, open_source
from connectors.training_sink import TrainingSink
from dataflows.board import Board
from dataflows.failures import noting
from dataflows.ingest import Ingest, Use
from dataflows.jitter import part_class
from dataflows.label_rows import LabelRows
from dataflows.live import LiveShard
from dataflows.memory_budget import MemoryBudget
from dataflows.recovery_store import LETTER_PLACES, recorded
from dataflows.replay import ReplayShard
from dataflows.settings import Part, Settings
from dataflows.source import DEAD, EventSource
from dataflows.store_waits import store_waits
from dataflows.telemetry.meters import FILE as METERS
from dataflows.telemetry.meters import MeterFile, Meters
from dataflows.telemetry.trace import wanted
from dataflows.together import Together
from dataflows.training_rows import Rows, rows_of
from dataflows.unfenced import UnfencedWriter
from lookback.definition import Definition, View, load
from lookback.errors import RefusedError
from lookback.stores.base import StoreWriter, open_store
from state import faults
from state.rocksdb import block_cache
from state.shard import ViewSpec

if TYPE_CHECKING:
    from connectors.dead_letters_topic import DeadLetterTopicSink
    from dataflows.change_log import ChangeLog


def build(settings: Settings, worker: int) -> Dataflow:
    """Return the dataflow of this job, for one of its workers."""
    definition = load(settings.definition)
    if definition.fingerprint != settings.fingerprint:
        raise RefusedError(f"{settings.definition} changed while the job was starting: start it again")
    views = list(definition.views.values())
    rows = rows_of(definition, settings) if settings.out is not None else None
    meters = _meters(settings, views, worker)
    flow = Dataflow("lookback")
    items = op.input("source", flow, noting(_source(settings, definition, views, rows, meters)))
    split = op.branch("kind", items, lambda item: item[0].startswith(DEAD))
    if settings.dead_letters is not None:
        letters: Any = op.map("letters", split.trues, lambda item: (item[0][len(DEAD) :], item[1]))
        topics = [(part.topic, part.partition) for part in settings.parts]
        op.output("dead_letters", letters, noting(_letter_sink(settings, topics)))
    if rows is None:
        _live(settings, views, worker, split.falses, meters)
    else:
        _replay(settings, rows, split.falses)
    return flow


def specs(views: list[View]) -> list[ViewSpec]:
    """Return the views as the state sees them."""
    return [ViewSpec(view.name, view.fingerprint, view.plan) for view in views]


def _meters(settings: Settings, views: list[View], worker: int) -> Meters:
    if settings.out is not None:
        return Meters.unheard()
    file = MeterFile.open(settings.folder / METERS, len(views))
    return Meters(file, worker, [view.fingerprint for view in views], traces=wanted())


def _source(
    settings: Settings, definition: Definition, views: list[View], rows: Rows | None, meters: Meters
) -> EventSource:
    source = open_source(
        settings.source,
        definition.streams.values(),
        settings=_path(settings.source_settings),
        group=settings.group,
        ends={(part.topic, part.partition): part.end for part in settings.parts if part.end is not None},
        accept_loss=settings.accept_loss,
        readers=-(-len(settings.parts) // settings.workers),
    )

    schemas = open_schemas(definition.streams.values(), _path(settings.source_settings))

    def make(part: Part, state: dict[str, Any] | None) -> Ingest:
        stream = definition.streams[part.stream]
        own = [Use(i, view, view.encode) for i, view in enumerate(views) if view.stream.name == part.stream]
        if rows is None:
            own_views = [use.view for use in own]
            return Ingest(stream, part.topic, own, settings.shards, None, state, own_views, schemas)
        uses = rows.uses(part.stream)
        return Ingest(stream, part.topic, uses, settings.shards, rows.base_of, state, schemas=schemas)

    def stop_ms(part: Part) -> int | None:
        if settings.out is None or settings.to_ms is None:
            return None
        return settings.to_ms + definition.streams[part.stream].lateness_ms

    labels = rows.batches if isinstance(rows, LabelRows) else None
    return EventSource(settings, source, make, stop_ms, labels, part_class(), meters)


def _letter_sink(settings: Settings, topics: list[tuple[str, int]]) -> DeadLetterSink | DeadLetterTopicSink:
    place = settings.dead_letters
    assert place is not None
    if not place.startswith(KAFKA):
        return DeadLetterSink(place, topics, settings.job, recorded(settings.folder, LETTER_PLACES))
    from connectors.dead_letters_topic import DeadLetterTopicSink, letter_topic

    cluster, topic = letter_topic(place, _path(settings.source_settings))
    return DeadLetterTopicSink(cluster, topic, topics, settings.job)


def _live(settings: Settings, views: list[View], worker: int, items: Any, meters: Meters) -> None:
    board = Board(settings.folder / "board", len(settings.parts))
    budget = MemoryBudget(settings, block_cache(min(64 << 20, settings.cache_bytes // 4)))
    waits = store_waits(settings.folder, board, worker, meters.failed)
    open_writer = _writer(settings, views, waits, meters)
    lateness_ms = max(view.stream.lateness_ms for view in views)
    log = _change_log(settings, views, board, worker)
    together = Together()

    def shard(pointer: tuple[int, int] | None) -> LiveShard:
        return LiveShard(
            settings, specs(views), board, worker, open_writer, waits, budget, pointer, lateness_ms, meters, log,
            together,
        )  # fmt: skip

    values = op.stateful_batch("shard", items, shard)
    # The step's name holds the number of writers: Bytewax refuses a resumed step whose partitions are gone.
    ended = None if log is None else log.close
    sink = OnlineSink(settings.workers, open_writer, faults.reach, waits, meters.closing, ended)
    op.output(f"online_{settings.workers}", values, noting(sink))


def _change_log(settings: Settings, views: list[View], board: Board, worker: int) -> ChangeLog | None:
    if settings.change_log is None:
        return None
    from dataflows.change_log import ChangeLog

    return ChangeLog(settings, views, board, worker)


def _replay(settings: Settings, rows: Rows, items: Any) -> None:
    gives, ties = rows.gives_rows(), rows.ties_seen()

    def shard(_: None) -> ReplayShard:
        return ReplayShard(settings, rows.views, specs(rows.views), gives, ties, rows.base_columns)

    found = op.stateful_batch("shard", items, shard)
    streams = len(rows.views) * settings.shards
    op.output("training", found, noting(TrainingSink(rows.writer, streams, settings.folder)))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _writer(
    settings: Settings, views: list[View], waits: Waiting, meters: Meters
) -> Callable[[], StoreWriter]:
    plans = {view.fingerprint: view.plan for view in views}
    names = {view.fingerprint: view.name for view in views}

    def open_writer() -> StoreWriter:
        assert settings.store is not None
        writer = open_store(settings.store, write=True).writer(plans, settings.generation, names)
        writer.written = meters.written
        return UnfencedWriter(writer) if faults.off("generation") else writer

    @cache
    def open_once() -> StoreWriter:
        return patiently(open_writer, waits)

    return open_once
