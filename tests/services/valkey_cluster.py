"""Valkey servers that stand in for one another: a cluster of masters with a replica each, and a master under sentinels.

Real processes on 127.0.0.1, with timeouts so short that a failover takes a second.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import redis
from redis.crc import key_slot

from tests.services.valkey import LIMIT_SECONDS, Valkey, binary, free_port

SLOTS = 16_384
MASTER = "features"
NODE_TIMEOUT_MS = "1500"
T = TypeVar("T")


def until(look: Callable[[], T], what: str) -> T:
    """Return what `look` gives once it gives something; a server that is away gives nothing."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            if found := look():
                return found
        except (redis.ConnectionError, redis.ResponseError):
            pass
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.02)


def _stop(servers: list[Valkey]) -> None:
    for server in servers:
        server.stop(signal.SIGKILL)


class ValkeyCluster:
    """Three masters that share the slots, and a replica of each; the lists tell their first roles."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, *, replicas: bool = True
    ) -> None:
        own = {
            "cluster-enabled": "yes", "repl-diskless-sync-delay": "0",
            # Where none is to take another's place, a machine that is slow must not make one miss another.
            "cluster-node-timeout": NODE_TIMEOUT_MS if replicas else "60000",
            "repl-ping-replica-period": "1", "cluster-replica-validity-factor": "0", **(settings or {}),
        }  # fmt: skip
        servers = [
            Valkey(folder / f"node-{i}", {**own, "cluster-port": str(free_port())})
            for i in range(6 if replicas else 3)
        ]
        self.masters, self.replicas = servers[:3], servers[3:]

    @property
    def servers(self) -> list[Valkey]:
        """Return all nodes."""
        return [*self.masters, *self.replicas]

    @property
    def uri(self) -> str:
        """Return the URI of the cluster as a store; one node in it is enough to find the others."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    @property
    def home(self) -> int:
        """Return which master begins with the store's own keys."""
        return key_slot(b"lookback") * len(self.masters) // SLOTS

    def start(self) -> None:
        """Start all nodes and make a cluster of them; return once every node knows that it works."""
        for server in self.servers:
            server.start()
        count = len(self.masters)
        first = self.masters[0]
        for i, server in enumerate(self.servers):
            with server.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
                if i < count:
                    client.execute_command(
                        "CLUSTER ADDSLOTSRANGE", SLOTS * i // count, SLOTS * (i + 1) // count - 1
                    )
                bus = first.settings["cluster-port"]
                client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, bus)
        for master, replica in zip(self.masters, self.replicas, strict=False):
            name = master.cli("CLUSTER", "MYID").strip()
            until(partial(self._knows, replica, name), "known to its replica")
            replica.cli("CLUSTER", "REPLICATE", name)
        self.whole()

    def whole(self) -> None:
        """Return once every node knows that the cluster works."""
        for server in self.servers:
            until(partial(self._knows_all, server), "a cluster")

    @staticmethod
    def _knows(server: Valkey, name: str) -> bool:
        return f"{name} 127.0.0.1" in server.cli("CLUSTER", "NODES")

    def _knows_all(self, server: Valkey) -> bool:
        """Return whether a node sees the cluster work, with a replica that has caught up behind each master."""
        with server.client() as client:
            if client.cluster("info")["cluster_state"] != "ok":
                return False
            told = client.execute_command("CLUSTER SLOTS")
            link = client.info("replication")
            return (
                sum(part[1] - part[0] + 1 for part in told) == SLOTS
                and all(len(part) == 4 for part in told if self.replicas)
                and link.get("master_link_status", "up") == "up"
            )

    def fail(self, index: int) -> None:
        """Kill a master; its replica takes its place once the others agree that it is gone."""
        self.masters[index].stop(signal.SIGKILL)

    def promoted(self, index: int) -> None:
        """Return once the replica has taken its master's place."""
        until(lambda: self.role(self.replicas[index]) == "master", "promoted")

    def hand_over(self, index: int) -> None:
        """Make a replica the master in agreement with it: no write is lost."""
        until(partial(self._hands_over, self.replicas[index]), "promoted")

    def lose(self, index: int) -> None:
        """Empty a master, and put another in its place that is as empty."""
        pair = [self.masters[index], self.replicas[index]]
        if self.role(pair[0]) != "master":  # on a slow machine the replica may have taken its place
            pair.reverse()
        with pair[0].client() as client:
            client.flushall()
        until(partial(self._hands_over, pair[1]), "promoted")

    def _hands_over(self, replica: Valkey) -> bool:
        replica.cli("CLUSTER", "FAILOVER")  # which forgets one that is under way: it has two seconds
        deadline = time.monotonic() + 2.0
        while self.role(replica) != "master" and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.role(replica) == "master"

    @staticmethod
    def role(server: Valkey) -> str:
        """Return `master` or `slave`."""
        with server.client() as client:
            return str(client.info("replication")["role"])

    def flush(self) -> None:
        """Empty it."""
        for server in self.servers:
            with server.client() as client:
                if self.role(server) == "master":
                    client.flushall()

    def keys(self, pattern: str) -> list[bytes]:
        """Return the keys of all masters, or of the nodes that took their place."""
        found: list[bytes] = []
        for server in self.servers:
            if server.runs and self.role(server) == "master":
                with server.client() as client:
                    found += client.keys(pattern)
        return found

    def stop(self) -> None:
        """Kill all nodes."""
        _stop(self.servers)


class Sentinels:
    """A master, its replica, and three sentinels that watch them; two of them decide."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        own = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1", **(settings or {})}
        self._folder = folder
        self.master = Valkey(folder / "master", own)
        self.replica = self.master
        self.watchers: list[Sentinel] = []

    @property
    def uri(self) -> str:
        """Return the URI of the master as a store."""
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{w.port}" for w in self.watchers) + f"/{MASTER}"

    def start(self, lines: str = "") -> None:
        """Start all; return once every sentinel knows the replica and its peers. lines: more of their settings."""
        self.master.start()
        self.replica = self.master.replica(self._folder / "replica")
        for i in range(3):
            self.watchers.append(Sentinel(self._folder / f"sentinel-{i}", self.master.port, lines))
            self.watchers[-1].start()
        for watcher in self.watchers:
            until(watcher.ready, "a sentinel that knows all")

    def fail(self) -> None:
        """Kill the master; the sentinels promote its replica."""
        self.master.stop(signal.SIGKILL)

    def promoted(self) -> None:
        """Return once the replica has taken its master's place."""
        until(lambda: ValkeyCluster.role(self.replica) == "master", "promoted")

    def hand_over(self) -> None:
        """Make the sentinels swap the two."""
        with self.watchers[0].client() as client:
            client.execute_command("SENTINEL FAILOVER", MASTER)
        self.promoted()

    def settled(self) -> None:
        """Return once the old master is the new one's replica."""
        until(lambda: ValkeyCluster.role(self.master) == "slave", "a replica")

    def stop(self) -> None:
        """Kill all."""
        _stop([*self.watchers, self.replica, self.master])


class Sentinel(Valkey):
    """One sentinel; it needs a file, which it writes to."""

    def __init__(self, folder: Path, master_port: int, lines: str) -> None:
        super().__init__(folder)
        self.settings = {}
        (folder / "sentinel.conf").write_text(
            f"port {self.port}\ndir {folder}\n{lines}"
            f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 1500\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )

    def command(self) -> list[str]:
        """Return what starts it."""
        return [str(binary("valkey-server")), str(self.folder / "sentinel.conf"), "--sentinel"]

    def ready(self) -> bool:
        """Return whether it knows the replica and the other sentinels."""
        with self.client() as client:
            (found,) = client.sentinel_masters().values()
        return bool(found["num-slaves"] == 1 and found["num-other-sentinels"] == 2)


@contextmanager
def running_cluster(
    folder: Path, settings: Mapping[str, str] | None = None, *, replicas: bool = True
) -> Iterator[ValkeyCluster]:
    """Give a cluster that runs while the block lasts."""
    cluster = ValkeyCluster(folder, settings, replicas=replicas)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def running_sentinels(
    folder: Path, settings: Mapping[str, str] | None = None, lines: str = ""
) -> Iterator[Sentinels]:
    """Give a master under sentinels while the block lasts."""
    sentinels = Sentinels(folder, settings)
    try:
        sentinels.start(lines)
        yield sentinels
    finally:
        sentinels.stop()
