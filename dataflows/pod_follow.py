"""A pod that follows: it says what it holds, moves shards as it is told, runs its workers with all others'.

It waits for the leader as long as it takes, and comes back to it after each round.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from dataflows.board import Board
from dataflows.clock_watch import ClockWentBack
from dataflows.live_round import LiveOptions, Outcome, live_settings, run_round, work_done
from dataflows.pod_lead import SAY_SECONDS, reach
from dataflows.pod_round import Round, failure, told
from dataflows.pods import TRY_SECONDS, Frame, Link, PeerLost, Pods
from dataflows.say import say
from dataflows.settings import Part
from dataflows.shard_moves import commits, give, held, let_go, take
from dataflows.state_folder import take_lock, write_meta
from dataflows.telemetry.export import Telemetry
from dataflows.telemetry.meters import FILE as METERS
from dataflows.telemetry.meters import MeterFile
from lookback.definition import Definition
from lookback.errors import LookbackError, StoreLost
from state.errors import StateError


def follow(
    definition: Definition, options: LiveOptions, pods: Pods, agreed: Mapping[str, str], telling: Telemetry
) -> Outcome:
    """Take part in round after round, until this pod is asked to stop or the work is done."""
    options.state.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(take_lock(options.state)):
        while True:
            telling.leave()
            link = _reach(pods)
            try:
                outcome = _round(definition, options, pods, agreed, telling, link)
                if outcome is not None:
                    return outcome
            except PeerLost as lost:
                say(f"{lost}: the workers of all pods start again together", "warning")
            except (ClockWentBack, StoreLost) as error:
                _tell(link, error)
            except (LookbackError, StateError) as error:
                _tell(link, error)
                raise
            finally:
                link.close()
            time.sleep(TRY_SECONDS)


def _reach(pods: Pods) -> Link:
    said = float("-inf")
    while (link := reach(*pods.peers[0])) is None:
        if time.monotonic() - said > SAY_SECONDS:
            say(f"waiting for pod 0 at {pods.peers[0][0]}:{pods.peers[0][1]}")
            said = time.monotonic()
        time.sleep(TRY_SECONDS)
    return link


def _tell(link: Link, error: Exception) -> None:
    with contextlib.suppress(PeerLost):
        link.send("failed", **told(error))


def _round(
    definition: Definition,
    options: LiveOptions,
    pods: Pods,
    agreed: Mapping[str, str],
    telling: Telemetry,
    link: Link,
) -> Outcome | None:
    """Take part in one round; return how the job ended, None where there will be another round."""
    start = _until_start(options.state, pods, agreed, link)
    facts = start.facts
    write_meta(options.state, facts["meta"])
    (options.state / "recovery").mkdir(exist_ok=True)
    settings = live_settings(
        definition,
        options,
        parts=tuple(Part(**part) for part in facts["parts"]),
        shards=facts["shards"],
        job=facts["job"],
        generation=facts["generation"],
        start_ms=facts["start_ms"],
        workers=pods.total,
        addresses=tuple(facts["addresses"]),
        first_worker=pods.own(pods.ordinal).start,
        pod_workers=pods.workers,
    )
    board = Board.reset(settings.folder / "board", len(settings.parts))
    meters = MeterFile.reset(settings.folder / METERS, len(definition.views))
    together = Round({0: link}, board, meters, pods.own(pods.ordinal))
    outcome = run_round(settings, definition, options, telling, board, meters, pods=together)
    return outcome if outcome.stopped or work_done(options, board) else None


def _until_start(state: Path, pods: Pods, agreed: Mapping[str, str], link: Link) -> Frame:
    """Say what this volume holds, and move shards until the workers are to start."""
    shards = held(state)
    own = None
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        own = json.loads((state / "state.json").read_text())["id"]
    link.send("hello", ordinal=pods.ordinal, id=own, shards=shards, host=link.here, agreed=dict(agreed))
    while (frame := link.wait()).kind != "start":
        shard = int(frame.facts.get("shard", -1))
        if frame.kind == "give":
            give(link, state, shard)
        elif frame.kind == "take":
            take(link, state, shard)
            link.send("taken")
        elif frame.kind == "let_go":
            let_go(state, shard)
            link.send("let_go")
        elif frame.kind == "commits":
            link.send("commits", commits=commits(state, shard))
        elif frame.kind == "failed":
            raise failure(frame, link.who)
        elif frame.kind == "other":
            raise PeerLost(f"this pod was started with another {', '.join(frame.facts['what'])} than pod 0")
    return frame
