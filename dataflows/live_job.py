"""`lookback run`: prepare a live job, start its workers, say how it went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from connectors.archive import Archive, PartitionInfo
from dataflows.beginning import beginning
from dataflows.board import Board
from dataflows.disk import DiskWatch
from dataflows.processes import run_workers
from dataflows.progress import Progress
from dataflows.settings import Part, Settings
from dataflows.state_folder import StateFolder
from lookback.definition import Definition
from lookback.errors import UsageError
from lookback.stores.base import open_store
from state import faults

SCHEME = "archive:"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. counts are those of the source partitions since the state was made."""

    stopped: bool
    new_rows: int
    counts: dict[str, int]


def archive_of(source: str, definition: Definition) -> Archive:
    """Open the archive that a source URI names."""
    if not source.startswith(SCHEME) or source == SCHEME:
        raise UsageError(f"{source!r} is no source this release reads: write archive:PATH")
    return Archive(source.removeprefix(SCHEME), definition.streams.values())


def parts_of(definition: Definition, found: list[PartitionInfo]) -> tuple[Part, ...]:
    """Return the source partitions of all streams, streams of one topic each with their own."""
    return tuple(
        Part(stream.name, info.topic, info.partition)
        for stream in definition.streams.values()
        for info in found
        if info.topic == stream.topic
    )


@dataclass(frozen=True)
class LiveOptions:
    """What `lookback run` was asked."""

    source: str
    store: str
    state: Path
    workers: int = 1
    epoch_ms: int = 1000
    cache_bytes: int = 256 << 20
    dead_letters: Path | None = None
    start_ms: int | None = None
    quiet: bool = False


def run(definition: Definition, options: LiveOptions) -> Outcome:
    """Run the live job to the end of the archive, or until it is stopped."""
    archive = archive_of(options.source, definition)
    found = archive.partitions()
    parts = parts_of(definition, found)
    _one_stream_a_topic(definition)
    source = SCHEME + str(Path(options.source.removeprefix(SCHEME)).resolve())
    folder = StateFolder(options.state, definition, source, [part.id for part in parts])
    try:
        store = open_store(options.store, write=True)
        generation = store.claim(str(options.state))
        store.close()
        faults.reach("0-claim")
        settings = Settings(
            definition=str(Path(definition.path).resolve()),
            fingerprint=definition.fingerprint,
            source=source,
            parts=parts,
            work=str(options.state),
            shards=folder.shards,
            shard_keys=folder.keys,
            workers=options.workers,
            epoch_ms=options.epoch_ms,
            cache_bytes=options.cache_bytes,
            dead_letters=str(options.dead_letters or options.state / "dead-letters"),
            job=folder.id,
            start_ms=None
            if options.start_ms is None
            else beginning(definition, list(definition.views.values()), found, options.start_ms),
            store=options.store,
            generation=generation,
        )
        board = Board.reset(settings.folder / "board", len(parts))
        total = sum(info.rows for info in found)
        with Progress("run", board, total, quiet=options.quiet) as progress:
            watch = DiskWatch(board, folder.path)
            stopped = run_workers(settings, progress.tick, watch.tick)
            counts = progress.totals()
    finally:
        folder.close()
    return Outcome(stopped, counts["rows"] - counts["first"], counts)


def _one_stream_a_topic(definition: Definition) -> None:
    topics: dict[str, str] = {}
    for stream in definition.streams.values():
        if stream.topic in topics:
            raise UsageError(
                f"streams {topics[stream.topic]} and {stream.name} read one topic, {stream.topic}: "
                "declare it once and put all views on that stream"
            )
        topics[stream.topic] = stream.name
