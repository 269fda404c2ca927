"""The stores that the contract suite runs on: one function a store gives the URI of a new, empty one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.valkey import Valkey
from tests.services.valkey_cluster import Sentinels, ValkeyCluster


def lmdb(request: pytest.FixtureRequest) -> str:
    """Return a folder of this test's own."""
    path: Path = request.getfixturevalue("tmp_path")
    return f"lmdb:{path / 'online'}"


def redis(request: pytest.FixtureRequest) -> str:
    """Return the run's Valkey server, emptied."""
    server: Valkey = request.getfixturevalue("shared_valkey")
    with server.client() as client:
        client.flushall()
    return server.uri


def cluster(request: pytest.FixtureRequest) -> str:
    """Return the run's cluster of three masters, emptied."""
    nodes: ValkeyCluster = request.getfixturevalue("shared_cluster")
    nodes.flush()
    return nodes.uri


def sentinel(request: pytest.FixtureRequest) -> str:
    """Return the run's master under sentinels, emptied."""
    servers: Sentinels = request.getfixturevalue("shared_sentinels")
    with servers.master.client() as client:
        client.flushall()
    return servers.uri


ADAPTERS: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "lmdb": lmdb, "redis": redis, "cluster": cluster, "sentinel": sentinel,
}  # fmt: skip
