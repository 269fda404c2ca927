"""The first pod of a job: it waits for the others, deals the shards to their volumes, and starts all workers together.

    1  Gather   every pod has said what it holds, and all shards are there
    2  Level    each shard is moved to the volume of the pod whose worker will have it (`shard_moves`)
    3  Claim    the online store is this round's: a worker of an earlier one that still runs somewhere is refused there
    4  Start    all pods reset their boards and start their workers

Owns: the state's state.json and Bytewax's recovery store, on its own volume; followers have shards alone.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dataflows.board import Board
from dataflows.pod_round import Round, failure, told
from dataflows.pods import Frame, Link, PeerLost, Pods, listen
from dataflows.say import say
from dataflows.settings import Settings
from dataflows.shard_moves import commits, give, held, let_go, missing, pod_of, take
from dataflows.state_folder import StateFolder, read_meta
from dataflows.telemetry.meters import MeterFile
from lookback.errors import RefusedError

LOOK_SECONDS = 0.2
HELLO_SECONDS = 5.0  # that a new connection has to say what it is
MISSING_SECONDS = (
    20.0  # that shards may be missing though all pods are there: another may be about to give them
)
SAY_SECONDS = 30.0


class Lead:
    """The leader's side. agreed: what all pods must be started with alike, by option."""

    def __init__(self, pods: Pods, state: Path, agreed: Mapping[str, str]) -> None:
        self.pods = pods
        self._state = state
        self._agreed = dict(agreed)
        self._links: dict[int, Link] = {}
        self._hellos: dict[int, Frame] = {}
        self._said = ("", 0.0)
        self._listener = listen(*pods.peers[0])

    def __enter__(self) -> Lead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            for link in self._links.values():
                with contextlib.suppress(PeerLost):
                    link.send("failed", **told(error))
        self.end_round()
        self._listener.close()

    # --- step 1 ------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Return once all pods are there, and with them all shards. Raises RefusedError where they do not fit."""
        self.end_round()
        missed_since: float | None = None
        while True:
            self._look()
            absent = [ordinal for ordinal in range(1, len(self.pods.peers)) if ordinal not in self._links]
            if absent:
                missed_since = None
                self._say(f"waiting for {_pods(absent)} of {len(self.pods.peers)}")
                continue
            lost = self._missing()
            if not lost:
                return
            missed_since = missed_since or time.monotonic()
            if time.monotonic() - missed_since > MISSING_SECONDS:
                raise RefusedError(
                    f"no pod holds shard {lost[0]} of the state ({len(lost)} are missing): start the pod whose volume "
                    "has it, also one beyond --peers, or begin anew on fresh volumes with --accept-lost-state"
                )

    def _look(self) -> None:
        """Take in who comes, and let go of who is gone."""
        waited: list[Any] = [self._listener, *self._links.values()]
        ready, _, _ = select.select(waited, [], [], LOOK_SECONDS)
        for ordinal, link in list(self._links.items()):
            if link in ready:
                try:
                    frame = link.poll()
                    if frame is not None and frame.kind == "failed":
                        raise failure(frame, link.who)
                except PeerLost:
                    self._drop_link(ordinal)
        if self._listener in ready:
            connection, address = self._listener.accept()
            try:
                self._greet(Link(connection, f"a pod at {address[0]}"))
            except (PeerLost, KeyError, TypeError, ValueError, OSError):
                connection.close()  # no pod of ours, or gone already

    def _greet(self, link: Link) -> None:
        hello = link.wait(HELLO_SECONDS)
        if hello.kind != "hello":
            raise PeerLost(f"{link.who} said no hello")
        ordinal, theirs = int(hello.facts["ordinal"]), dict(hello.facts["agreed"])
        link.who = f"pod {ordinal}"
        other = sorted(
            name for name in {*theirs, *self._agreed} if theirs.get(name) != self._agreed.get(name)
        )
        if other:
            self._say(f"pod {ordinal} was started with another {', '.join(other)} than pod 0: waiting for it")
            link.send("other", what=other)
            link.close()
            return
        if ordinal in self._links:
            self._drop_link(ordinal)
        self._links[ordinal], self._hellos[ordinal] = link, hello

    def _missing(self) -> list[int]:
        """Return the shards that no pod holds. Raises RefusedError where pods hold shards of different states."""
        there = [self._shards(ordinal) for ordinal in self._links]
        new = not (self._state / "state.json").exists()
        meta = None if new else read_meta(self._state)
        for ordinal, hello in self._hellos.items():
            if self._shards(ordinal) and (meta is None or hello.facts["id"] != meta["id"]):
                raise RefusedError(
                    f"pod {ordinal} holds shards of the state {hello.facts['id']}, and pod 0 "
                    f"{'no state' if meta is None else 'the state ' + meta['id']}: put pod 0's volume back, or begin "
                    "anew on fresh volumes with --accept-lost-state"
                )
        return [] if meta is None else missing(meta["shards"], [held(self._state), *there])

    def _shards(self, ordinal: int) -> list[int]:
        return list(self._hellos[ordinal].facts["shards"])

    def _say(self, text: str) -> None:
        before, at = self._said
        if text != before or time.monotonic() - at > SAY_SECONDS:
            say(text)
            self._said = text, time.monotonic()

    # --- steps 2 to 4 ------------------------------------------------------------------------------------

    def level(self, folder: StateFolder) -> None:
        """Move each shard to the pod whose worker will have it."""
        there = {0: held(folder.path), **{ordinal: self._shards(ordinal) for ordinal in self._links}}
        moved = 0
        for shard, key in enumerate(folder.keys):
            owner = pod_of(key, len(self.pods.peers), self.pods.workers)
            holders = [ordinal for ordinal, shards in there.items() if shard in shards]
            keep = self._newest(shard, holders, owner)
            for ordinal in holders:
                if ordinal != keep:
                    self._let_go(ordinal, shard)
            if keep != owner:
                self._move(keep, owner, shard)
                moved += 1
        if moved:
            say(f"moved {moved} shards between the pods' volumes")

    def _newest(self, shard: int, holders: list[int], owner: int) -> int:
        if len(holders) == 1:
            return holders[0]
        epochs = {ordinal: self._commits(ordinal, shard) for ordinal in holders}
        newest = [ordinal for ordinal in holders if epochs[ordinal] == max(epochs.values())]
        return owner if owner in newest else newest[0]

    def _commits(self, ordinal: int, shard: int) -> int:
        if ordinal == 0:
            return commits(self._state, shard)
        return int(self._links[ordinal].ask("commits", "commits", shard=shard).facts["commits"])

    def _move(self, giver: int, taker: int, shard: int) -> None:
        """Move a shard, by way of this pod's volume."""
        if giver != 0:
            self._links[giver].send("give", shard=shard)
            take(self._links[giver], self._state, shard)
            self._let_go(giver, shard)
        if taker != 0:
            link = self._links[taker]
            link.send("take", shard=shard)
            give(link, self._state, shard)
            link.expect("taken")
            self._let_go(0, shard)

    def _let_go(self, ordinal: int, shard: int) -> None:
        if ordinal == 0:
            let_go(self._state, shard)
        else:
            self._links[ordinal].ask("let_go", "let_go", shard=shard)

    def settings(self, settings: Settings) -> Settings:
        """Return the leader's own settings for this round: where all workers listen, and which are its own."""
        hosts = [str(self._hellos[ordinal].facts["host"]) for ordinal in range(1, len(self.pods.peers))]
        here = next((link.here for link in self._links.values()), "")
        alone = self.pods.total == 1
        addresses = () if alone else self.pods.addresses([here or self.pods.peers[0][0], *hosts])
        return replace(settings, workers=self.pods.total, addresses=addresses, pod_workers=self.pods.workers)

    def start(self, settings: Settings, board: Board, meters: MeterFile, meta: Mapping[str, Any]) -> Round:
        """Tell all pods to start their workers, once this one's board is reset."""
        facts: dict[str, Any] = {
            "parts": [asdict(part) for part in settings.parts],
            "shards": settings.shards,
            "generation": settings.generation,
            "start_ms": settings.start_ms,
            "job": settings.job,
            "addresses": list(settings.addresses),
            "meta": dict(meta),
        }
        members = {ordinal: link for ordinal, link in self._links.items() if ordinal < len(self.pods.peers)}
        for link in members.values():
            link.send("start", **facts)
        return Round(members, board, meters, self.pods.own(0), forward=True)

    def end_round(self) -> None:
        """Let go of all pods; they come again."""
        for ordinal in list(self._links):
            self._drop_link(ordinal)

    def _drop_link(self, ordinal: int) -> None:
        self._links.pop(ordinal).close()
        del self._hellos[ordinal]


def _pods(ordinals: list[int]) -> str:
    return f"pod{'s' if len(ordinals) > 1 else ''} {', '.join(map(str, ordinals))}"


def reach(host: str, port: int) -> Link | None:
    """Return a connection with the leader, None while there is none."""
    try:
        return Link(socket.create_connection((host, port), timeout=HELLO_SECONDS), "pod 0")
    except OSError:
        return None
