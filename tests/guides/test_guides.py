"""Every command of the guides runs, and what they print is what the guides show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guides.walk import ROOT, Walk, same
from tests.services.kafka import Broker, free_ports
from tests.services.valkey import Valkey, binary


def test_every_guide_is_walked() -> None:
    walked = {"data-scientist", "model-service", "platform-engineer"}
    assert {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")} == walked | {"README"}


@pytest.mark.parametrize(
    ("shown", "printed"), [("1 row", "2 rows"), ("a 0.5", "a 0.6"), ("a … c", "a b"), ("1.50", "x")]
)
def test_a_planted_difference_is_found(shown: str, printed: str) -> None:
    assert not same(shown, printed)


def test_the_data_scientist(tmp_path: Path) -> None:
    walk = Walk("data-scientist", tmp_path / "walk").begin().go()
    assert walk.commands >= 8 and walk.compared >= 4
    assert (walk.folder / "precision.png").stat().st_size > 10_000


@pytest.fixture
def payments(kafka: Broker) -> Iterator[Broker]:
    """Return a broker without the topic that the guides' producer makes."""
    yield kafka
    kafka.delete("transactions")


def with_servers(name: str, folder: Path, broker: Broker, server: Valkey) -> Walk:
    """Return a walk through a guide that names servers at their usual ports."""
    replaced = {
        "localhost:9092": broker.address,
        "localhost:6379": f"127.0.0.1:{server.port}",
        "localhost 6379": f"127.0.0.1 {server.port}",
        "127.0.0.1:9464": f"127.0.0.1:{free_ports(1)[0]}",
    }
    path = f"{binary('valkey-cli').parent}:{os.environ['PATH']}"
    return Walk(name, folder, replaced, {"PATH": path}).begin()


def test_the_model_service(tmp_path: Path, payments: Broker, server: Valkey) -> None:
    walk = with_servers("model-service", tmp_path / "walk", payments, server).go()
    assert walk.commands >= 5 and walk.compared == walk.commands


def test_the_platform_engineer(tmp_path: Path, payments: Broker, server: Valkey) -> None:
    walk = with_servers("platform-engineer", tmp_path / "walk", payments, server)
    try:
        walk.go()
    finally:
        walk.end()
    assert walk.commands >= 9 and walk.compared == walk.commands
