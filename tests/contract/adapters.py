"""The stores that the contract suite runs on: one function a store gives the URI of a new, empty one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.valkey import Valkey


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


ADAPTERS: dict[str, Callable[[pytest.FixtureRequest], str]] = {"lmdb": lmdb, "redis": redis}
