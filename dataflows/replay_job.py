"""`lookback replay`: prepare a replay, start its workers, write the manifest last."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from connectors.batches import PartitionInfo
from connectors.sources import Source, absolute, check_settings, open_source
from connectors.training import OutputFolder
from connectors.training_sink import written
from dataflows import board as b
from dataflows.beginning import beginning
from dataflows.board import Board
from dataflows.clock_watch import ClockWentBack
from dataflows.label_rows import labelled_views
from dataflows.labels import LABELS, TIME, read_labels
from dataflows.live_job import parts_of
from dataflows.placement import shard_keys
from dataflows.processes import run_workers
from dataflows.progress import Progress
from dataflows.registry_waits import registry_watch
from dataflows.settings import Settings
from dataflows.training_rows import joined_views, row_stream
from lookback.definition import Definition
from lookback.errors import LookbackError
from lookback.training import CoveredOffsets, Manifest


@dataclass(frozen=True)
class ReplayOptions:
    """What `lookback replay` was asked. Times in ms; from inclusive, to exclusive."""

    source: str
    out: Path
    from_ms: int
    to_ms: int | None = None
    including: bool = True
    stream: str | None = None
    workers: int = 1
    cache_bytes: int = 1 << 30
    labels: Path | None = None
    overwrite: bool = False
    source_settings: Path | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Replayed:
    """What a replay wrote. left_out: views that the rows' stream carries no key for."""

    manifest: Manifest
    counts: dict[str, int]
    left_out: list[str]


def replay(definition: Definition, options: ReplayOptions) -> Replayed:
    """Write the training rows of [from, to). Raises LookbackError where a person stopped it."""
    check_settings(options.source_settings, definition.streams.values(), options.source)
    source = open_source(options.source, definition.streams.values(), settings=options.source_settings)
    if options.labels is not None:
        names = [name for name in read_labels(options.labels).column_names if name != TIME]
        stream_name = ""
        views, left_out = labelled_views(definition, names)
        needed = {view.stream.name for view in views}
    else:
        stream_name = row_stream(definition, options.stream).name
        views, left_out = joined_views(definition, definition.streams[stream_name])
        needed = {view.stream.name for view in views} | {stream_name}
    found = source.partitions()
    parts = tuple(part for part in parts_of(definition, found, to_end=True) if part.stream in needed)
    infos = [info for info in found if info.topic in {part.topic for part in parts}]
    start_ms = beginning(definition, views, infos, options.from_ms) if views else None
    folder = OutputFolder.prepare(options.out, overwrite=options.overwrite)
    work = options.out / ".work"
    settings = Settings(
        definition=str(Path(definition.path).resolve()),
        fingerprint=definition.fingerprint,
        source=absolute(options.source),
        source_settings=None if options.source_settings is None else str(options.source_settings.resolve()),
        parts=parts if options.labels is None else (*parts, LABELS),
        labels=None if options.labels is None else str(options.labels.resolve()),
        work=str(work),
        shards=options.workers,
        shard_keys=shard_keys(options.workers),
        workers=options.workers,
        epoch_ms=500,
        cache_bytes=options.cache_bytes,
        start_ms=start_ms,
        out=str(options.out),
        stream=stream_name,
        from_ms=options.from_ms,
        to_ms=options.to_ms,
        including=options.including,
    )
    board = Board.reset(work / "board", len(settings.parts))
    try:
        with Progress("replay", board, sum(info.rows for info in infos), quiet=options.quiet) as progress:
            in_fork = None if source.has_threads else folder.release
            waits = registry_watch(board, work)
            stopped = run_workers(settings, progress.tick, waits.tick, in_fork=in_fork)
        files = written(work)
        if stopped or files is None:
            raise LookbackError("the replay was stopped before its end: run it again, it begins anew")
        manifest = Manifest(
            definition_fingerprint=definition.fingerprint,
            view_fingerprints={view.name: view.fingerprint for view in views},
            stream=stream_name,
            from_ms=options.from_ms,
            to_ms=options.to_ms,
            as_of="including" if options.including else "before",
            clock="event",
            created_by=f"lookback {version('lookback')}",
            offsets=_offsets(board, settings, source, found, start_ms),
            final_until_ms=_final_until(definition, board, settings),
        )
        manifest = folder.finish(manifest, [files])
    except ClockWentBack as back:
        raise LookbackError(f"{back} under the replay: run it again, it begins anew") from None
    finally:
        folder.release()
    return Replayed(manifest, progress.totals(), [view.name for view in left_out])


def _offsets(
    board: Board, settings: Settings, source: Source, found: list[PartitionInfo], start_ms: int | None
) -> list[CoveredOffsets]:
    first = {(info.topic, info.partition): info.first_offset for info in found}
    covered = []
    for i, part in enumerate(settings.parts):
        if part == LABELS:
            continue
        begin = first[part.topic, part.partition]
        if start_ms is not None:
            begin = source.start_offset(part.topic, part.partition, start_ms)
        covered.append(
            CoveredOffsets(part.topic, part.partition, begin, max(begin, int(board.rows[i, b.OFFSET])))
        )
    return covered


def _final_until(definition: Definition, board: Board, settings: Settings) -> int | None:
    """Return the last safe time: rows at or before it can't change any more, later ones are provisional."""
    safe = []
    for row, part in zip(board.rows, settings.parts, strict=True):
        if part != LABELS:
            if row[b.EVENT_TIME] <= b.NEVER:
                return None
            safe.append(int(row[b.EVENT_TIME]) - definition.streams[part.stream].lateness_ms - 1)
    return min(safe)
