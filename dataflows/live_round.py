"""What a live job was asked, and one start of its workers on this machine, whether it has others or not.

Owns: the options, what the workers are told of them, watching the workers to their end. Refuses: deciding what a new
start goes on with (`live_job`, `pod_follow`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from connectors.sources import KAFKA, absolute
from dataflows.board import Board
from dataflows.clock import EVENT, WALL
from dataflows.disk import disk_watch
from dataflows.lost_state import public
from dataflows.placement import shard_keys
from dataflows.pod_round import Round
from dataflows.pods import Pods
from dataflows.processes import WorkerFailed, run_workers
from dataflows.progress import Progress
from dataflows.registry_waits import registry_watch
from dataflows.say import know, say
from dataflows.settings import Settings
from dataflows.store_waits import store_watch
from dataflows.telemetry.export import Telemetry
from dataflows.telemetry.meters import MeterFile
from dataflows.telemetry.observed import Observed
from lookback.definition import Definition
from lookback.errors import UsageError


@dataclass(frozen=True)
class Outcome:
    """How a run ended. counts are those of the source partitions since the state was made."""

    stopped: bool
    new_rows: int
    counts: dict[str, int]


@dataclass(frozen=True)
class LiveOptions:
    """What `lookback run` was asked. start_ms: where a new state begins to be exact; None: at the beginning."""

    source: str
    store: str
    state: Path
    workers: int = 1
    shards: int | None = None  # of a new state; None: SHARDS, or as many as there are
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
    pods: Pods | None = None  # of a job on several machines


def live_settings(definition: Definition, options: LiveOptions, *, shards: int, **facts: Any) -> Settings:
    """Return what the workers are told. facts: what the options do not say."""
    given = {
        "definition": str(Path(definition.path).resolve()),
        "fingerprint": definition.fingerprint,
        "source": absolute(options.source),
        "work": str(options.state),
        "shards": shards,
        "shard_keys": shard_keys(shards),
        "workers": options.workers,
        "epoch_ms": options.epoch_ms,
        "cache_bytes": options.cache_bytes,
        "dead_letters": str(options.dead_letters or options.state / "dead-letters"),
        "source_settings": None
        if options.source_settings is None
        else str(options.source_settings.resolve()),
        "group": group_of(definition),
        "accept_loss": options.accept_loss,
        "store": options.store,
        "change_log": options.change_log,
        "clock": options.clock or (WALL if options.source.startswith(KAFKA) else EVENT),
    }
    return Settings(**{**given, **facts})


def group_of(definition: Definition) -> str:
    """Return the consumer group that offsets are published to."""
    return f"lookback.{Path(definition.path).stem}"


def check_several_pods(options: LiveOptions) -> None:
    """Refuse what is one machine's own."""
    if options.store.startswith("lmdb:"):
        raise UsageError(
            f"--store {options.store}: several pods need a store that all reach: redis://HOST:PORT"
        )
    if not str(options.dead_letters).startswith(KAFKA):
        raise UsageError(
            "several pods need a topic for refused events: --dead-letters kafka://HOST:PORT/TOPIC"
        )


def agreed_by(definition: Definition, options: LiveOptions, pods: Pods) -> dict[str, str]:
    """Return what the pods of one job must have alike, with no secret in it."""
    return {
        "release": version("lookback"),
        "definition": definition.fingerprint,
        "--source": public(options.source),
        "--store": public(options.store),
        "--dead-letters": public(str(options.dead_letters)),
        "--change-log": public(str(options.change_log)),
        "--peers": ",".join(f"{host}:{port}" for host, port in pods.peers),
        "--workers": str(pods.workers),
        "--shards": str(options.shards),
        "--epoch": str(options.epoch_ms),
        "--cache-bytes": str(options.cache_bytes),
        "--clock": str(options.clock),
        "--until-end": str(options.until_end),
        "--accept-loss": str(options.accept_loss),
    }


def endless(options: LiveOptions) -> bool:
    """Return whether the job goes on until it is stopped."""
    return options.source.startswith(KAFKA) and not options.until_end


def work_done(options: LiveOptions, board: Board) -> bool:
    """Return whether workers that have ended did so because there is nothing more to do."""
    return not endless(options) and not board.stop[0]


def run_round(
    settings: Settings,
    definition: Definition,
    options: LiveOptions,
    telling: Telemetry,
    board: Board,
    meters: MeterFile,
    *ticks: Callable[[], None],
    pods: Round | None = None,
    until: Callable[[], bool] = lambda: False,
    total: int = 0,
) -> Outcome:
    """Run this machine's workers to their end, once board and meters are reset. pods: whom they run with."""
    folder = settings.folder
    observed = Observed.of(settings, definition, board, meters)
    telling.watch(observed)
    know(job=settings.job, state=str(folder), epoch=lambda: observed.epochs)
    with Progress("run", board, total, quiet=options.quiet) as progress:
        own = [progress.tick, telling.tick, disk_watch(board, folder).tick, store_watch(board, folder).tick]
        own += [registry_watch(board, folder).tick, *_log_watch(settings, board), *ticks]
        if pods is None:
            stopped = run_workers(settings, *own, until=until, told=lambda: bool(board.stop[0]))
        else:
            with _among(pods):
                stopped = run_workers(
                    settings,
                    pods.tick,
                    *own,
                    until=lambda: until() or pods.draining,
                    drained=pods.drained,
                )
        counts = progress.totals()
    if board.log_bytes.any():
        say(
            "updates that the change log has not taken wait in the state: the next start sends them",
            "warning",
        )
    return Outcome(stopped, counts["rows"] - counts["first"], counts)


def _log_watch(settings: Settings, board: Board) -> list[Callable[[], None]]:
    if settings.change_log is None:
        return []
    from dataflows.change_log import log_watch

    return [log_watch(board, settings.folder).tick]


@contextlib.contextmanager
def _among(pods: Round) -> Iterator[None]:
    """Tell a failure that another pod is the cause of from one of this pod's own."""
    try:
        yield
    except WorkerFailed as failed:
        if not failed.sure:
            pods.settle()
        raise
    pods.ended()
