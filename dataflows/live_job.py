"""`lookback run`: prepare a live job, start its workers, say how it went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.batches import PartitionInfo
from connectors.sources import KAFKA, Source, check_settings, open_source
from dataflows.beginning import beginning
from dataflows.board import Board
from dataflows.clock_watch import ClockWentBack
from dataflows.disk import room_at_start
from dataflows.live_round import (
    LiveOptions,
    Outcome,
    agreed_by,
    check_several_pods,
    endless,
    group_of,
    live_settings,
    run_round,
    work_done,
)
from dataflows.lost_state import check_state_is_there
from dataflows.pod_follow import follow
from dataflows.pod_lead import Lead
from dataflows.pods import AskedToStop, PeerLost, Pods, raising_on_signals
from dataflows.progress import COUNTS
from dataflows.recovery_store import source_places
from dataflows.say import say
from dataflows.settings import Part, Settings
from dataflows.state_folder import StateFolder, check_finished, read_meta
from dataflows.takeover import StateLine, check_line, take_over
from dataflows.telemetry.export import Telemetry, telemetry
from dataflows.telemetry.meters import FILE as METERS
from dataflows.telemetry.meters import MeterFile
from dataflows.telemetry.observed import set_ends
from dataflows.unfenced import GENERATION
from lookback.definition import Definition
from lookback.errors import SourceError, StoreBusy, StoreLost, UsageError
from lookback.stores.base import open_store
from state import faults

if TYPE_CHECKING:
    from dataflows.topic_watch import TopicWatch

WAIT_SECONDS = 0.25  # between tries of a store that is away


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
        if options.pods is None:
            return _run(definition, options, told)
        return _run_pod(definition, options, options.pods, told)


def _run_pod(definition: Definition, options: LiveOptions, pods: Pods, told: Telemetry) -> Outcome:
    """Run one pod of a job on several machines."""
    check_several_pods(options)
    agreed = agreed_by(definition, options, pods)
    try:
        with raising_on_signals():
            if not pods.leads:
                return follow(definition, options, pods, agreed, told)
            with Lead(pods, options.state, agreed) as lead:
                while True:
                    try:
                        lead.gather()
                        return _run(definition, options, told, lead)
                    except PeerLost as lost:
                        _missed(lost)
    except AskedToStop:
        return Outcome(True, 0, dict.fromkeys(COUNTS, 0))


def _missed(lost: PeerLost) -> None:
    say(f"{lost}: the workers of all pods start again together", "warning")


def _run(definition: Definition, options: LiveOptions, told: Telemetry, lead: Lead | None = None) -> Outcome:
    group = group_of(definition)
    source = open_source(
        options.source, definition.streams.values(), settings=options.source_settings, group=group
    )
    found = source.partitions()
    _check_outputs(definition, options)
    parts = parts_of(definition, found, to_end=options.until_end)
    check_finished(options.state)
    if not options.accept_lost_state:
        check_state_is_there(definition, options.store, options.state, parts)
    folder = StateFolder(
        options.state, definition, source.identity, [part.id for part in parts],
        shards=options.shards, elsewhere=lead is not None,
    )  # fmt: skip
    try:
        if lead is not None:
            lead.level(folder)
        generation = _claim(definition, options, folder)
        faults.reach("0-claim")
        settings = live_settings(
            definition,
            options,
            parts=parts,
            shards=folder.shards,
            job=folder.job,
            generation=generation,
            start_ms=_start_ms(definition, options, found),
        )
        _warn(definition, source, options)
        while True:
            try:
                outcome, grown = _until_end_or_growth(
                    settings, definition, source, found, folder.path, options, told, lead
                )
            except ClockWentBack as back:
                say(f"{back}: the workers start again", "warning")
                settings = _again(settings, definition, options, folder, told, lead)
                continue
            except StoreLost as lost:
                say(f"{lost}: all values are written again from the state", "warning")
                if lead is None:
                    settings = replace(settings, generation=_claim_again(definition, options, folder))
                settings = _again(settings, definition, options, folder, told, lead)
                continue
            except PeerLost as missed:
                _missed(missed)
                settings = _again(settings, definition, options, folder, told, lead)
                continue
            if not grown and outcome is not None:
                _publish(source, folder.path, settings.parts)
                return outcome
            if grown:
                found = source.partitions()
                settings = replace(settings, parts=parts_of(definition, found, to_end=options.until_end))
                folder.grow(source.identity, [part.id for part in settings.parts])
            settings = _again(settings, definition, options, folder, told, lead)
    finally:
        folder.close()


def _again(
    settings: Settings,
    definition: Definition,
    options: LiveOptions,
    folder: StateFolder,
    told: Telemetry,
    lead: Lead | None,
) -> Settings:
    """Return the settings of the next start of the workers; of several pods, once all are there again."""
    while lead is not None:
        told.leave()
        try:
            lead.gather()
            lead.level(folder)
            # A pod that was given up may still run somewhere: the store refuses it from here on.
            return replace(settings, generation=_claim_again(definition, options, folder))
        except PeerLost as lost:
            _missed(lost)
    return settings


def _claim_again(definition: Definition, options: LiveOptions, folder: StateFolder) -> int:
    """Claim a store that has lost something, others of whose servers may still be away."""
    told = False
    while True:
        try:
            return _claim(definition, options, folder)
        except StoreBusy as busy:
            if not told:
                say(f"{busy}; the job waits and then goes on", "warning")
            told = True
            time.sleep(WAIT_SECONDS)


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
    lead: Lead | None,
) -> tuple[Outcome | None, bool]:
    """Run the workers; return how it went, and whether they were drained for partitions that are new.

    Of several pods: no outcome where they were drained for another one that was asked to stop.
    """
    if lead is not None:
        settings = lead.settings(settings)
    board = Board.reset(settings.folder / "board", len(settings.parts))
    meters = MeterFile.reset(settings.folder / METERS, len(definition.views))
    ends = {(info.topic, info.partition): info.end_offset for info in found}
    set_ends(board, {i: ends[part.topic, part.partition] for i, part in enumerate(settings.parts)})
    watch = _watch(source, settings, board)

    def grown() -> bool:
        return endless(options) and watch is not None and watch.grown

    total = 0 if endless(options) else sum(info.rows for info in found)
    if settings.change_log is not None:
        from dataflows.change_log import fence_past

        fence_past(settings, lambda text: say(text, "warning"))
    ticks = [] if watch is None else [watch.tick]
    pods = None if lead is None else lead.start(settings, board, meters, read_meta(folder))
    outcome = run_round(
        settings, definition, options, telling, board, meters, *ticks, pods=pods, until=grown, total=total
    )
    over = lead is None or outcome.stopped or work_done(options, board)
    return (outcome if over else None), grown() and not outcome.stopped


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
