"""A cluster of Redis or Valkey servers: which node has which record, and whether all nodes still have what they took.

Owns: the map of slots, one connection a node and write, the masters' replication ids. Refuses: what a write is
(`redis_writer`), what an error means (`redis_connection`).

    records          on the node of their entity's slot; a hash and its rows share it
    the store's own  owners, marks, versions, claims: `{lookback}:…`, on one node, so they change in one step
    identity         a number made of all masters' replication ids. A master that restarts or is promoted takes a new
                     one, so a node that may have lost something is noticed by every writer, at once or at its start
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lookback.errors import StoreBusy, StoreError, StoreLost
from lookback.stores.base import I64
from lookback.stores.redis_connection import Connection, Route, Script, Server, Session
from lookback.stores.redis_record import CLUSTER_HOME, Layout
from lookback.stores.redis_uri import SERVER_HOW, Address
from lookback.stores.redis_values import Strings

SLOTS = 16_384
TRIES = 6
WAIT_SECONDS = 0.1  # before a reader asks again, more each time, less or more by half
T = TypeVar("T")


def _crc_table() -> npt.NDArray[np.uint16]:
    table = np.arange(256) << 8
    for _ in range(8):
        table = ((table << 1) ^ np.where(table & 0x8000, 0x1021, 0)) & 0xFFFF
    return table.astype(np.uint16)


_CRC = _crc_table()


def slots_of(tags: Strings) -> I64:
    """Return int64[n]: the slot of each text between braces, which is not empty; the CRC-16 of XMODEM.

    >>> slots_of((np.frombuffer(b"123456789c1", np.uint8), np.array([0, 9, 11]))).tolist()
    [12739, 12820]
    """
    data, ends = tags
    starts, lengths = ends[:-1], np.diff(ends)
    crc = np.zeros(len(lengths), np.uint16)
    for at in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > at)
        last = crc[longer]
        crc[longer] = (last << 8) ^ _CRC[(last >> 8) ^ data[starts[longer] + at]]
    return crc.astype(np.int64) % SLOTS


@dataclass(frozen=True)
class Map:
    """Which node has which slot: nodes[owner[slot]]."""

    nodes: list[Any]
    owner: I64

    def of(self, slot: int) -> Any:
        """Return the node of a slot."""
        return self.nodes[self.owner[slot]]


class Cluster(Server):
    """The nodes of a cluster; see `Server`."""

    home = CLUSTER_HOME

    def _open(self, address: Address) -> None:
        from redis import cluster as redis_cluster

        self._client: Any = None
        self._lock = threading.Lock()
        self._stale = False  # the map of slots may be out of date
        self._map: Map | None = None
        self._known: frozenset[str] | None = None
        self._home_slot = int(slots_of((np.frombuffer(b"lookback", np.uint8), np.array([0, 8])))[0])
        options = {**self._options(), **address.options}
        if address.tls:
            options["ssl"] = True
            options.pop("connection_class", None)
        self._redis.Redis(**options).close()  # not connected: it looks at the options
        module: Any = redis_cluster

        def connect() -> Any:
            nodes = [module.ClusterNode(host, port) for host, port in address.nodes]
            return module.RedisCluster(startup_nodes=nodes, **options)

        self._connect = connect

    # ---- which node

    def map(self) -> Map:
        """Return the map of slots, asking the cluster where it may have changed."""
        with self.errors(), self._lock:
            if self._map is not None and not self._stale:
                return self._map
            error = self._redis.exceptions
            try:
                if self._client is None:
                    self._client = self._connect()
                else:
                    self._client.nodes_manager.initialize()
            except error.RedisClusterException as failed:
                raise self._unknown(failed) from None
            cache = self._client.nodes_manager.slots_cache
            if len(cache) < SLOTS:
                raise StoreBusy(
                    f"the online store {self.name} takes no writes just now ({SLOTS - len(cache)} slots have no master)"
                )
            owners = [cache[slot][0] for slot in range(SLOTS)]
            nodes = sorted(set(owners), key=lambda node: str(node.name))
            number = {node: i for i, node in enumerate(nodes)}
            self._map = Map(nodes, np.array([number[node] for node in owners]))
            self._stale = False
            return self._map

    def _unknown(self, failed: Exception) -> BaseException:
        """Return why nobody could be asked for the map of slots: redis-py wraps what went wrong with the last node."""
        why = failed.__cause__ or failed
        if "Cluster mode is not enabled" not in str(why):
            return (
                why
                if isinstance(why, self._redis.exceptions.RedisError)
                else StoreBusy(f"the online store {self.name} doesn't answer ({why})")
            )
        refused: BaseException | None = why.__context__
        denied = isinstance(refused, self._redis.exceptions.NoPermissionError)
        if denied and refused is not None:
            return refused
        return StoreError(f"{self.name} is no cluster: write {SERVER_HOW}.")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what redis-py raises into an error of ours; what is busy may have moved."""
        try:
            with super().errors():
                yield
        except StoreBusy:
            self._stale = True
            raise

    def _elsewhere(self, failed: Exception) -> StoreError:
        return StoreBusy(f"the online store {self.name} takes no writes just now (slots have moved)")

    def to(self, node: Any) -> AbstractContextManager[Connection]:
        """Give a connection to a node."""
        return self._from(self._client.get_redis_connection(node).connection_pool)

    @contextmanager
    def connection(self, key: bytes | str = b"") -> Iterator[Connection]:
        """Give a connection to the node that has the store's own keys."""
        with self.to(self.map().of(self._home_slot)) as connection:
            yield connection

    # ---- all nodes

    def infos(self) -> list[dict[str, str]]:
        """Return what each master tells of itself."""
        found = []
        for node in self.map().nodes:
            with self.to(node) as connection:
                found.append(connection.info())
        return found

    @property
    def identity(self) -> int:
        """Return a number for all masters as they were when this was first asked for: 48 bits, not 0."""
        digest = sha256(" ".join(sorted(self.known())).encode()).digest()
        return int.from_bytes(digest[:6], "big") | 1

    def known(self) -> frozenset[str]:
        """Return the masters' replication ids as they were when this was first asked for."""
        if self._known is None:
            self._known = self._ids()
        return self._known

    def _ids(self) -> frozenset[str]:
        return frozenset(info["master_replid"] for info in self.infos())

    def check(self) -> None:
        """Look whether every master is the one it was. Raises StoreLost."""
        if self._ids() != self.known():
            raise self.replaced()

    def replaced(self) -> StoreLost:
        """Return what is said where a master is another one."""
        return StoreLost(
            f"a master of the online store {self.name} has restarted or was replaced, and may "
            "lack what it had acknowledged"
        )

    # ---- many records

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give what a write needs: connections to those nodes that it goes to, each of them known."""
        with ExitStack() as stack:
            yield _ClusterSession(self, stack, self.map(), self._home_slot)

    def call(self, key: bytes | str, *words: bytes | str | int) -> Any:
        """Run a command about a key of the store's own; return its answer."""
        return self._again(lambda: super(Cluster, self).call(key, *words))

    def run(self, script: Script, *arguments: bytes | str | int) -> Any:
        """Run a script about the store's own keys; return its answer."""
        return self._again(lambda: super(Cluster, self).run(script, *arguments))

    def ask(self, script: Script, keys: Sequence[bytes], words: Sequence[bytes]) -> list[Any]:
        """Run a script over records, each with its word: one round trip, to all nodes at once."""
        return self._again(lambda: self._ask(script, keys, words))

    def _ask(self, script: Script, keys: Sequence[bytes], words: Sequence[bytes]) -> list[Any]:
        from redis.crc import key_slot

        with ExitStack() as stack:
            found = self.map()
            places: dict[Any, list[int]] = {}
            for at, key in enumerate(keys):
                places.setdefault(found.of(key_slot(key)), []).append(at)
            asked = []
            for node, own in places.items():
                arguments = [part for at in own for part in (keys[at], words[at])]
                connection = stack.enter_context(self.to(node))
                connection.ask(script, *arguments)
                asked.append((connection, own, arguments))
            out: list[Any] = [None] * len(keys)
            for connection, own, arguments in asked:
                for at, answer in zip(own, connection.told(script, *arguments), strict=True):
                    out[at] = answer
            return out

    def _again(self, call: Callable[[], T]) -> T:
        """Return what a call returns, made again a few times while nodes are busy or slots move."""
        for tried in range(1, TRIES):
            try:
                return call()
            except StoreBusy:
                time.sleep(WAIT_SECONDS * tried * random.uniform(0.5, 1.5))
        return call()

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.disconnect_connection_pools()


class _ClusterSession(Session):
    """The connections of one write."""

    def __init__(self, cluster: Cluster, stack: ExitStack, found: Map, home_slot: int) -> None:
        self._cluster = cluster
        self._stack = stack
        self._map = found
        self._opened: dict[Any, Connection] = {}
        super().__init__(self._to(found.of(home_slot)))

    def _to(self, node: Any) -> Connection:
        """Return the connection to a node, which must be one that was known."""
        if node not in self._opened:
            connection = self._stack.enter_context(self._cluster.to(node))
            if connection.info("replication")["master_replid"] not in self._cluster.known():
                raise self._cluster.replaced()
            self._opened[node] = connection
        return self._opened[node]

    def routes(self, layout: Layout, keys: Sequence[str]) -> tuple[I64 | None, list[Route]]:
        """Return the order in which records of one node follow one another, and the nodes."""
        owner = self._map.owner[slots_of(layout.tags(keys))]
        order = np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[order], np.arange(len(self._map.nodes) + 1)).tolist()
        return order, [
            Route(self._to(node), start, end)
            for node, start, end in zip(self._map.nodes, ends, ends[1:], strict=False)
            if end > start
        ]
