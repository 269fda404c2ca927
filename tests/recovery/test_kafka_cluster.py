"""Three brokers of which one dies: its partitions get other leaders, and the job goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.events import T0, Live, payment, write_definition
from tests.recovery.conftest import assert_right
from tests.recovery.events import TOPIC
from tests.recovery.job import Job
from tests.recovery.served import Poller
from tests.recovery.test_kafka import assert_as_undisturbed, put_on_topic, reach
from tests.services.kafka import jars_or_skip
from tests.services.kafka_cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return three brokers; skips where none are to be had."""
    libs = jars_or_skip()
    brokers = Cluster(tmp_path_factory.mktemp("cluster") / "brokers", libs)
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.stop()


def test_leaders_are_killed_while_the_job_reads(cluster: Cluster, tmp_path: Path, seed: int) -> None:
    """One after the other, each back before the next; what was acknowledged is read once and only once."""
    (tmp_path / "topic").mkdir()
    on_topic = put_on_topic(cluster, tmp_path / "topic")
    cluster.settle(TOPIC)
    (tmp_path / "job").mkdir()
    job = Job(tmp_path / "job", on_topic.definition, on_topic.archive, seed=seed, workers=2)
    with Poller(job.uri, job.definition, job.archive) as poller:
        run = job.start()
        rows = run.until(run.rows, "a first batch")
        for _ in range(2):
            leader = cluster.leader(TOPIC)
            leader.kill()
            assert cluster.leader(TOPIC) is not leader
            reach(run, rows + 1)
            rows = run.rows()
            cluster.start()
            cluster.settle(TOPIC)
        ended = run.wait()
    assert ended.code == 0, ended
    assert_right(poller.checker)
    assert_as_undisturbed(job, on_topic)


def test_a_partition_without_a_leader_is_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    """Its only replica is gone, though the cluster answers: said, shown by `status`, and the others go on."""
    cluster.create_on("lonely", [[1], [2]])
    live = Live(tmp_path, write_definition(tmp_path, "lonely"), f"kafka://{cluster.address}")

    def send(first: int, *partitions: int) -> None:
        sent = [payment(n, T0 + n * 1000) for n in range(first, first + 70)]
        cluster.produce("lonely", dict.fromkeys(partitions, sent))

    try:
        send(0, 0, 1)
        live.start()
        live.until(lambda: list(live.offsets().values()) == [70, 70], "all events")
        cluster.nodes[1].kill()
        live.until(lambda: "has no leader for lonely/1: the job waits" in live.said(), "word of it")
        assert live.status()["waiting"]["source_ms"] > 0
        send(70, 0)
        live.until(lambda: live.offsets()["lonely/0"] == 140, "the other partition's events")
        cluster.start()
        live.until(lambda: "answers again" in live.said(), "word of its return")
        assert live.status()["waiting"]["source_ms"] == 0
        send(70, 1)
        live.until(lambda: list(live.offsets().values()) == [140, 140], "the rest")
        live.stop()
    finally:
        live.end()
