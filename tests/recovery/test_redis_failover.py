"""A live job on a real cluster, and on a master under sentinels: failovers and kills in the middle of its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.recovery.conftest import Undisturbed, assert_right
from tests.recovery.job import Job, Run
from tests.recovery.served import Poller, picture
from tests.services.valkey import Valkey
from tests.services.valkey_cluster import Sentinels, ValkeyCluster, running_cluster, running_sentinels

SAID_LOST = "written again from the state"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ValkeyCluster]:
    """Return a cluster of three masters with a replica each."""
    with running_cluster(tmp_path / "cluster") as servers:
        yield servers


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """Return a master with a replica under three sentinels."""
    with running_sentinels(tmp_path / "sentinels") as servers:
        yield servers


@pytest.fixture
def make(new_job: Callable[..., Job]) -> Iterator[Callable[[str], Job]]:
    """Return a maker of jobs of two workers on a store; none outlives its test."""
    made: list[Job] = []

    def one(uri: str) -> Job:
        made.append(new_job(server=uri, jitter_rows=200, workers=2))
        return made[-1]

    yield one
    for job in made:
        job.leave_none()


def half_way(run: Run) -> None:
    """Wait until the job is in the midst of its work."""
    begun = run.until(run.rows, "a first batch")
    run.until(lambda: run.rows() > begun + 300, "300 rows more")


@contextmanager
def paused(server: Valkey) -> Iterator[None]:
    """Let a server take no write while the block lasts."""
    with server.client() as client:
        client.client_pause(120_000, all=False)
    yield
    with server.client() as client:
        client.client_unpause()


def ends_right(run: Run, job: Job, undisturbed: Undisturbed) -> str:
    """Wait for the job's end; return what it said once the store holds what it must."""
    ended = run.wait()
    assert ended.code == 0, (ended, job.worker_logs())
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    return ended.said


@pytest.mark.parametrize("whose", ["the store's own keys", "records alone"])
def test_a_master_of_a_cluster_dies(
    make: Callable[[str], Job], cluster: ValkeyCluster, undisturbed: Undisturbed, whose: str
) -> None:
    """Its replica may lack what was acknowledged, so all is written again; while no job runs, by the next start."""
    index = cluster.home if whose == "the store's own keys" else (cluster.home + 1) % 3
    job = make(cluster.uri)
    run = job.start()
    half_way(run)
    cluster.fail(index)
    cluster.promoted(index)
    assert SAID_LOST in ends_right(run, job, undisturbed)
    held = len(cluster.keys("lookback:*"))
    cluster.lose((cluster.home + 2) % 3)
    assert 0 < len(cluster.keys("lookback:*")) < held
    job.jitter_rows = None
    job.finish()
    assert len(cluster.keys("lookback:*")) == held
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_kills_and_masters_that_hand_over(
    make: Callable[[str], Job], cluster: ValkeyCluster, undisturbed: Undisturbed
) -> None:
    """Two workers are killed; then all masters are replaced, as in an upgrade: no reader sees a value go back."""
    job = make(cluster.uri)
    with Poller(job.uri, job.definition, job.archive) as poller:
        job.kill_at("2-after:5")
        job.kill_at("3-after:20")
        job.jitter_rows = 60
        run = job.start()
        half_way(run)
        with paused(cluster.masters[cluster.home]):  # so that it can't end before
            for index in range(3):
                cluster.hand_over(index)
        said = ends_right(run, job, undisturbed)
    assert SAID_LOST in said, "which node may have lost something can't be told"
    assert_right(poller.checker)


def test_a_master_under_sentinels_dies(
    make: Callable[[str], Job], sentinels: Sentinels, undisturbed: Undisturbed
) -> None:
    job = make(sentinels.uri)
    run = job.start()
    half_way(run)
    sentinels.fail()
    run.until(lambda: "the job waits and then goes on" in run.said(), "word that it waits")
    sentinels.promoted()
    ends_right(run, job, undisturbed)


def test_a_master_under_sentinels_hands_over(
    make: Callable[[str], Job], sentinels: Sentinels, undisturbed: Undisturbed
) -> None:
    """Until it is told that it is a replica the old master takes writes, which are lost: they are written again."""
    job = make(sentinels.uri)
    run = job.start()
    half_way(run)
    sentinels.hand_over()
    ended = run.wait()
    assert ended.code == 0, (ended, job.worker_logs())
    sentinels.settled()
    job.jitter_rows = None
    job.finish()
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
