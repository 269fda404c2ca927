"""Rules that hold for every test: seeds, what a skip means in CI, where shared data lies."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.services.kafka import Broker, jars_or_skip
from tests.services.valkey import Valkey, running
from tests.services.valkey_cluster import Sentinels, ValkeyCluster, running_cluster, running_sentinels

ROOT = Path(__file__).resolve().parent.parent
SEED = int(os.environ.get("LOOKBACK_SEED", "20240101"))
IN_CI = os.environ.get("CI") == "true"

# Without a seed of its own a run repeats the last one; LOOKBACK_SEED=n tries other examples and names them.
settings.register_profile(
    "lookback",
    derandomize="LOOKBACK_SEED" not in os.environ,
    database=None,
    deadline=None,  # the machine's load is not what a property test is about
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lookback")


@pytest.fixture
def seed() -> int:
    """Return the seed of this run; set LOOKBACK_SEED to try another one."""
    return SEED


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator seeded with `seed`."""
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared data: LOOKBACK_SHARED, else ../shared; skips where there is none."""
    path = Path(os.environ.get("LOOKBACK_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip("no shared data; set LOOKBACK_SHARED to the folder that holds data/")
    return path


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """Return a Valkey server for the whole run; a test empties what it uses."""
    with running(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Return a cluster for the whole run, of three masters without replicas; a test empties what it uses."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), replicas=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def shared_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    """Return a master under sentinels for the whole run; a test empties what it uses, and ends nothing."""
    with running_sentinels(tmp_path_factory.mktemp("sentinels")) as sentinels:
        yield sentinels


@pytest.fixture
def server(shared_valkey: Valkey) -> Valkey:
    """Return the run's Valkey server, emptied."""
    with shared_valkey.client() as client:
        client.flushall()
    return shared_valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """Return a Valkey server of this test's own, to stop, stall and restart."""
    with running(tmp_path / "valkey") as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the seed of a failed test; fail a skipped one in CI, where all that tests need is to be had."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    if report.failed:
        report.sections.append(("seed", f"LOOKBACK_SEED={SEED}"))
    return report


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Return the session's Kafka broker; skips where none is to be had. A test makes topics of its own."""
    libs = jars_or_skip()
    broker = Broker(tmp_path_factory.mktemp("kafka") / "broker", libs)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
