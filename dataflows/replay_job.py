"""`lookback replay`: prepare a replay, start its workers, write the manifest last."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from connectors.archive import PartitionInfo
from connectors.training import Manifest, begin_output, finish_output
from dataflows import board as b
from dataflows.board import Board
from dataflows.live_job import SCHEME, archive_of, parts_of
from dataflows.placement import shard_keys
from dataflows.processes import run_workers
from dataflows.progress import Progress, instant
from dataflows.settings import Settings
from dataflows.training_rows import joined_views, row_stream
from lookback.definition import Definition, Stream, View
from lookback.errors import LookbackError, RefusedError
from lookback.windows.layout import REACH_INFINITE, reach_ms


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
    overwrite: bool = False
    quiet: bool = False


def replay(definition: Definition, options: ReplayOptions) -> Manifest:
    """Write the training rows of [from, to). Raises LookbackError where a person stopped it."""
    archive = archive_of(options.source, definition)
    stream = row_stream(definition, options.stream)
    views, left_out = joined_views(definition, stream)
    needed = {view.stream.name for view in views} | {stream.name}
    found = archive.partitions()
    parts = tuple(part for part in parts_of(definition, found) if part.stream in needed)
    infos = [info for info in found if info.topic in {part.topic for part in parts}]
    start_ms = _start(definition, views, infos, options.from_ms)
    begin_output(options.out, overwrite=options.overwrite)
    work = options.out / ".work"
    settings = Settings(
        definition=str(Path(definition.path).resolve()),
        fingerprint=definition.fingerprint,
        source=SCHEME + str(Path(options.source.removeprefix(SCHEME)).resolve()),
        parts=parts,
        work=str(work),
        shards=options.workers,
        shard_keys=shard_keys(options.workers),
        workers=options.workers,
        epoch_ms=500,
        cache_bytes=options.cache_bytes,
        batch_rows=65_536,
        start_ms=start_ms,
        out=str(options.out),
        stream=stream.name,
        from_ms=options.from_ms,
        to_ms=options.to_ms,
        including=options.including,
    )
    board = Board.reset(work / "board", len(parts))
    with Progress("replay", board, sum(info.rows for info in infos), quiet=options.quiet) as progress:
        stopped = run_workers(settings, progress.tick)
        counts = progress.totals()
    if stopped:
        shutil.rmtree(work, ignore_errors=True)
        raise LookbackError("the replay was stopped before its end: nothing was written; run it again")
    return finish_output(
        options.out,
        definition={"path": definition.path, "fingerprint": definition.fingerprint},
        views={view.name: view.fingerprint for view in views},
        left_out=[view.name for view in left_out],
        stream=stream.name,
        from_ms=options.from_ms,
        to_ms=options.to_ms,
        as_of="including" if options.including else "before",
        offsets={part.id: int(board.rows[i, b.OFFSET]) for i, part in enumerate(parts)},
        final_until_ms=_final_until(definition, board, settings),
        counts=counts,
    )


def _final_until(definition: Definition, board: Board, settings: Settings) -> int | None:
    """Return the last safe time: rows at or before it can't change any more, later ones are provisional."""
    safe = [
        int(board.rows[i, b.EVENT_TIME]) - definition.streams[part.stream].lateness_ms - 1
        for i, part in enumerate(settings.parts)
        if board.rows[i, b.EVENT_TIME] > b.NEVER
    ]
    return min(safe) if len(safe) == len(settings.parts) else None


def _start(
    definition: Definition, views: list[View], infos: list[PartitionInfo], from_ms: int
) -> int | None:
    """Return the broker time to read from so as to be exact at FROM; None: from the beginning.

    An event's broker time is never below its event time minus `max_ahead`, so no event that counts lies before
    FROM - longest reach - max_ahead. Raises RefusedError where the source begins later than that.
    """
    reach = max(reach_ms(view.plan) for view in views)
    if reach == REACH_INFINITE or any(f.window_ms is None for view in views for f in view.features):
        return None
    streams: dict[str, Stream] = {s.topic: s for s in definition.streams.values()}
    ahead = max(streams[info.topic].max_ahead_ms for info in infos)
    if any(info.first_broker_time_ms is None for info in infos):
        return None
    start = from_ms - reach - ahead
    for info in infos:
        first = info.first_broker_time_ms
        if info.first_offset > 0 and first is not None and first > start:
            raise RefusedError(
                f"{info.topic}/{info.partition} begins at offset {info.first_offset}, {instant(first)}: events before that "
                f"are gone, and features as of {instant(from_ms)} need them; the earliest exact --from is "
                f"{instant(first + reach + ahead)}"
            )
    return start
