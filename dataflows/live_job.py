"""`lookback run`: prepare a live job, start its workers, say how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.batches import PartitionInfo
from connectors.sources import KAFKA, Source, absolute, check_settings, open_source
from dataflows.beginning import beginning
from dataflows.board import Board
from dataflows.clock import EVENT, WALL
from dataflows.clock_watch import ClockWentBack
from dataflows.disk import disk_watch, room_at_start
from dataflows.lost_state import check_state_is_there
from dataflows.processes import run_workers
from dataflows.progress import Progress
from dataflows.recovery_store import source_places
from dataflows.registry_waits import registry_watch
from dataflows.say import know, say
from dataflows.settings import Part, Settings
from dataflows.state_folder import StateFolder, check_finished
from dataflows.store_waits import store_watch
from dataflows.takeover import StateLine, check_line, take_over
from dataflows.telemetry.export import Telemetry, telemetry
from dataflows.telemetry.meters import FILE as METERS
from dataflows.telemetry.meters import MeterFile
from dataflows.telemetry.observed import Observed, set_ends
from dataflows.unfenced import GENERATION
from lookback.definition import Definition
from lookback.errors import SourceError, StoreLost, UsageError
from lookback.stores.base import open_store
from state import faults

if TYPE_CHECKING:
    from dataflows.topic_watch import TopicWatch


@dataclass(frozen=True)
class Outcome:
    """How a run ended. counts are those of the source partitions since the state was made."""

    stopped: bool
    new_rows: int
    counts: dict[str, int]


def parts_of(definition: Definition, found: list[PartitionInfo], *, to_end: bool) -> tuple[Part, ...]:
    """Return the source partitions of all streams, streams of one topic each with their own.

    to_end: each ends where its topic ends now; else it goes on for ever where its source does.
    """
    return tuple(
        Part(stream.name, info.topic, info.partition, info.topic_id, info.end_offset if to_end else None)
        for stream in definition.streams.values()
        for info in found
        if info.topic == stream.topic
    )


@dataclass(frozen=True)
class LiveOptions:
    """What `lookback run` was asked. start_ms: where a new state begins to be exact; None: at the beginning."""

    source: str
    store: str
    state: Path
    workers: int = 1
    epoch_ms: int = 1000
    cache_bytes: int = 256 << 20
    dead_letters: str | Path | None = None  # a folder, or a topic as kafka://HOST:PORT/TOPIC
    change_log: str | None = None  # a topic, likewise; None: updates are told to nobody
    start_ms: int | None = None
    until_end: bool = False
    source_settings: Path | None = None
    accept_loss: bool = False
    accept_lost_state: bool = False
    clock: str | None = None  # wall or event; None: wall where events come as they happen
    quiet: bool = False
    metrics: tuple[str, int] | None = None  # host and port to serve them at


def run(definition: Definition, options: LiveOptions) -> Outcome:
    """Run the live job to the end of its source, or until it is stopped."""
    _one_stream_a_topic(definition)
    check_settings(
        options.source_settings,
        definition.streams.values(),
        options.source,
        str(options.dead_letters),
        options.change_log or "",
    )
    with room_at_start(options.state), telemetry(options.metrics, say) as told:
        return _run(definition, options, told)


def _run(definition: Definition, options: LiveOptions, told: Telemetry) -> Outcome:
    group = f"lookback.{Path(definition.path).stem}"
    source = open_source(
        options.source, definition.streams.values(), settings=options.source_settings, group=group
    )
    found = source.partitions()
    _check_outputs(definition, options)
    parts = parts_of(definition, found, to_end=options.until_end)
    check_finished(options.state)
    if not options.accept_lost_state:
        check_state_is_there(definition, options.store, options.state, parts)
    folder = StateFolder(options.state, definition, source.identity, [part.id for part in parts])
    try:
        generation = _claim(definition, options, folder)
        faults.reach("0-claim")
        settings = Settings(
            definition=str(Path(definition.path).resolve()),
            fingerprint=definition.fingerprint,
            source=absolute(options.source),
            parts=parts,
            work=str(options.state),
            shards=folder.shards,
            shard_keys=folder.keys,
            workers=options.workers,
            epoch_ms=options.epoch_ms,
            cache_bytes=options.cache_bytes,
            dead_letters=str(options.dead_letters or options.state / "dead-letters"),
            job=folder.job,
            start_ms=_start_ms(definition, options, found),
            source_settings=None
            if options.source_settings is None
            else str(options.source_settings.resolve()),
            group=group,
            accept_loss=options.accept_loss,
            store=options.store,
            generation=generation,
            change_log=options.change_log,
            clock=options.clock or (WALL if options.source.startswith(KAFKA) else EVENT),
        )
        _warn(definition, source, options)
        while True:
            try:
                outcome, grown = _until_end_or_growth(
                    settings, definition, source, found, folder.path, options, told
                )
            except ClockWentBack as back:
                say(f"{back}: the workers start again", "warning")
                continue
            except StoreLost as lost:
                say(f"{lost}: all values are written again from the state", "warning")
                settings = replace(settings, generation=_claim(definition, options, folder))
                continue
            if not grown:
                _publish(source, folder.path, settings.parts)
                return outcome
            found = source.partitions()
            settings = replace(settings, parts=parts_of(definition, found, to_end=options.until_end))
            folder.grow(source.identity, [part.id for part in settings.parts])
    finally:
        folder.close()


def _claim(definition: Definition, options: LiveOptions, folder: StateFolder) -> int:
    """Claim the store for a new generation, and take over what a state of other shards served there."""
    if faults.off("generation"):
        return GENERATION
    line = StateLine(str(options.state), folder.id, folder.shards, **folder.line)
    store = open_store(options.store, write=True)
    try:
        if not options.accept_lost_state:
            check_line(store, definition, line)
        generation = store.claim(str(options.state))
        take_over(store, definition, line, generation)
        return generation
    finally:
        store.close()


def _start_ms(definition: Definition, options: LiveOptions, found: list[PartitionInfo]) -> int | None:
    """Return the broker time that a new state's partitions are read from; None: all that there is.

    A state that has places goes on from them, whatever its source has lost before, and reads new partitions whole.
    """
    if options.start_ms is None or source_places(options.state):
        return None
    return beginning(definition, list(definition.views.values()), found, options.start_ms)


def _until_end_or_growth(
    settings: Settings,
    definition: Definition,
    source: Source,
    found: list[PartitionInfo],
    folder: Path,
    options: LiveOptions,
    telling: Telemetry,
) -> tuple[Outcome, bool]:
    """Run the workers; return how it went, and whether they were drained for partitions that are new."""
    board = Board.reset(settings.folder / "board", len(settings.parts))
    meters = MeterFile.reset(settings.folder / METERS, len(definition.views))
    ends = {(info.topic, info.partition): info.end_offset for info in found}
    set_ends(board, {i: ends[part.topic, part.partition] for i, part in enumerate(settings.parts)})
    observed = Observed.of(settings, definition, board, meters)
    telling.watch(observed)
    know(job=settings.job, state=str(settings.folder), epoch=lambda: observed.epochs)
    endless = options.source.startswith(KAFKA) and not options.until_end
    watch = _watch(source, settings, board)

    def grown() -> bool:
        return endless and watch is not None and watch.grown

    total = 0 if endless else sum(info.rows for info in found)
    with Progress("run", board, total, quiet=options.quiet) as progress:
        ticks = [progress.tick, telling.tick, disk_watch(board, folder).tick, store_watch(board, folder).tick]
        ticks.append(registry_watch(board, settings.folder).tick)
        ticks += _log_ticks(settings, board)
        ticks += [] if watch is None else [watch.tick]
        stopped = run_workers(settings, *ticks, until=grown, told=lambda: bool(board.stop[0]))
        counts = progress.totals()
    if board.log_bytes.any():
        say(
            "updates that the change log has not taken wait in the state: the next start sends them",
            "warning",
        )
    return Outcome(stopped, counts["rows"] - counts["first"], counts), grown() and not stopped


def _log_ticks(settings: Settings, board: Board) -> list[Callable[[], None]]:
    """Begin with the change log, if there is one; return what is to be called now and then."""
    if settings.change_log is None:
        return []
    from dataflows.change_log import fence_past, log_watch

    fence_past(settings, lambda text: say(text, "warning"))
    return [log_watch(board, settings.folder).tick]


def _watch(source: Source, settings: Settings, board: Board) -> TopicWatch | None:
    """Return what looks after topics that are not in files."""
    if not settings.source.startswith(KAFKA):
        return None
    from connectors.kafka import KafkaSource
    from dataflows.topic_watch import TopicWatch

    assert isinstance(source, KafkaSource)
    return TopicWatch(source, settings.parts, board)


def _warn(definition: Definition, source: Source, options: LiveOptions) -> None:
    """Say what the topics' settings can do to this job."""
    if not options.source.startswith(KAFKA):
        return
    from connectors.kafka import KafkaSource
    from dataflows.topic_warnings import topic_warnings

    assert isinstance(source, KafkaSource)
    for text in topic_warnings(definition, source):
        say(f"warning: {text}", "warning")


def _publish(source: Source, state: Path, parts: Sequence[Part]) -> None:
    """Publish where the last epoch ended, which no worker lived to do; nothing depends on it."""
    places = source_places(state)
    offsets = {(part.topic, part.partition): places[part.id]["offset"] for part in parts if part.id in places}
    try:
        source.publish(offsets)
    except SourceError as error:
        say(f"{error}; the events are counted all the same", "warning")


def _check_outputs(definition: Definition, options: LiveOptions) -> None:
    """Raise where dead letters or updates are to go to a topic that is not there, or that has other uses."""
    used = {stream.topic: "the job reads" for stream in definition.streams.values()}
    if not options.source.startswith(KAFKA):
        used = {}
    for option, place, what in (
        ("--dead-letters", str(options.dead_letters), "dead letters have"),
        ("--change-log", options.change_log, "updates have"),
    ):
        if place is None or (option == "--dead-letters" and not place.startswith(KAFKA)):
            continue
        from connectors.dead_letters_topic import check_topic, letter_topic

        cluster, topic = letter_topic(place, options.source_settings)
        if topic in used:
            raise UsageError(f"{option} {place}: {used[topic]} this topic; name another one")
        used[topic] = f"{option.removeprefix('--').replace('-', ' ')} go to"
        check_topic(cluster, topic, what)


def _one_stream_a_topic(definition: Definition) -> None:
    topics: dict[str, str] = {}
    for stream in definition.streams.values():
        if stream.topic in topics:
            raise UsageError(
                f"streams {topics[stream.topic]} and {stream.name} read one topic, {stream.topic}: "
                "declare it once and put all views on that stream"
            )
        topics[stream.topic] = stream.name
