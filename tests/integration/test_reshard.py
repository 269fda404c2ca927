"""Another number of shards between a real Kafka and a real Valkey: the values of an archive that nothing disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SEED
from tests.recovery.conftest import Undisturbed, assert_right, dead_letters
from tests.recovery.cut import cut_all, stop_half_way
from tests.recovery.events import TOPIC
from tests.recovery.job import Job
from tests.recovery.served import Poller, picture
from tests.recovery.test_kafka import put_on_topic
from tests.services.kafka import Broker
from tests.services.valkey import Valkey


@pytest.fixture
def on_topic(tmp_path: Path, kafka: Broker) -> Iterator[Undisturbed]:
    (tmp_path / "topic").mkdir()
    yield put_on_topic(kafka, tmp_path / "topic")
    kafka.delete(TOPIC)


def test_a_job_goes_on_with_seven_shards(on_topic: Undisturbed, server: Valkey, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    job = Job(folder, on_topic.definition, on_topic.archive, seed=SEED, workers=2, server=server.uri)
    with Poller(job.uri, job.definition, job.archive) as poller:
        stop_half_way(job, 2000)
        cut_all(job, 7, "seven")
        job.kill_at("0-take:5")  # one view is taken over, the other half-way
        job.kill_at("3-after:9")
        job.jitter_rows = None
        job.finish()
    assert_right(poller.checker)
    assert picture(job.definition, job.uri, job.archive) == on_topic.picture
    assert dead_letters(job) == on_topic.letters


@pytest.mark.parametrize("shards", [1, 8, 64])
def test_a_job_begun_with_other_shards(
    on_topic: Undisturbed, server: Valkey, tmp_path: Path, shards: int
) -> None:
    """From its first start on, through kills: the same values."""
    folder = tmp_path / "job"
    folder.mkdir()
    job = Job(
        folder, on_topic.definition, on_topic.archive, seed=SEED, workers=2, server=server.uri,
        options=("--shards", str(shards)),
    )  # fmt: skip
    with Poller(job.uri, job.definition, job.archive) as poller:
        job.kill_at("2-after:6")
        job.kill_at("3-after:2")
        job.kill_at("4-before:3")
        job.jitter_rows = None
        job.finish()
    assert len(list(job.state.glob("shard-*"))) == shards
    assert_right(poller.checker)
    assert picture(job.definition, job.uri, job.archive) == on_topic.picture
    assert dead_letters(job) == on_topic.letters
