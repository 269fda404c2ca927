"""The crash tests' promises on a real broker: kills of the job, kills of the broker, offsets that are published."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition

from dataflows.recovery_store import source_places
from dataflows.state_folder import part_name
from tests.conftest import SEED
from tests.recovery.conftest import Undisturbed, assert_right, dead_letters
from tests.recovery.events import TOPIC, make_archive, write_definition
from tests.recovery.job import Job, Run
from tests.recovery.served import Poller, picture
from tests.recovery.test_kills import every_step
from tests.services.kafka import Broker, Sent
from tests.services.valkey import Valkey

GROUP = "lookback.features"  # the definition file's name


@pytest.fixture(scope="module")
def on_topic(tmp_path_factory: pytest.TempPathFactory, kafka: Broker) -> Iterator[Undisturbed]:
    """Return the events as a topic, and what an undisturbed run over their *archive* leaves in the store."""
    yield put_on_topic(kafka, tmp_path_factory.mktemp("on-topic"))
    kafka.delete(TOPIC)


def put_on_topic(kafka: Broker, folder: Path) -> Undisturbed:
    """Make the events, run a job over their archive, and put them on a topic."""
    definition = write_definition(folder)
    archive = make_archive(folder / "archive", seed=SEED, gaps=False)
    job = Job(folder, definition, archive, jitter_rows=None, epoch="1s")
    job.finish()
    seen = picture(definition, job.uri, archive)
    kafka.create(TOPIC, archive.partitions)
    for partition in range(archive.partitions):
        rows = pq.read_table(archive.path / TOPIC / f"part-{partition}.parquet").to_pylist()
        assert [row["offset"] for row in rows] == list(range(len(rows)))
        sent = [Sent(row["value"], row["timestamp_ms"]) for row in rows]
        kafka.produce(TOPIC, {partition: sent})
    topic = replace(archive, uri=f"kafka://{kafka.address}")
    return Undisturbed(folder, definition, topic, seen, dead_letters(job))


@pytest.fixture
def new_job(tmp_path: Path, on_topic: Undisturbed) -> Callable[..., Job]:
    """Return a maker of jobs over the topic."""

    def make(**settings: Any) -> Job:
        folder = tmp_path / f"job-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Job(folder, on_topic.definition, on_topic.archive, **{"seed": SEED, **settings})

    return make


def assert_as_undisturbed(job: Job, on_topic: Undisturbed) -> None:
    assert picture(job.definition, job.uri, job.archive) == on_topic.picture
    assert dead_letters(job) == on_topic.letters


def reach(run: Run, rows: int) -> None:
    """Wait until a run's sources have read so many rows."""
    run.until(lambda: run.rows() >= rows, f"row {rows}")


def published(kafka: Broker) -> dict[str, int]:
    """Return the group's offsets by partition, as any other client reads them."""
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": GROUP})
    places = consumer.committed([TopicPartition(TOPIC, p) for p in range(4)], timeout=30)
    consumer.close()
    return {f"{TOPIC}/{place.partition}": place.offset for place in places}


def test_the_topic_gives_what_its_archive_gives(
    kafka: Broker, new_job: Callable[..., Job], on_topic: Undisturbed
) -> None:
    job = new_job(jitter_rows=None)
    job.finish()
    assert_as_undisturbed(job, on_topic)
    assert published(kafka) == {f"{TOPIC}/{p}": 1500 for p in range(4)}
    tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    told = kafka.tool(tool, "--bootstrap-server", kafka.address, "--describe", "--group", GROUP)
    lags = {tuple(line.split()[1:6]) for line in told.splitlines() if TOPIC in line}
    assert lags == {(TOPIC, str(p), "1500", "1500", "0") for p in range(4)}


def test_kills_at_every_step(kafka: Broker, new_job: Callable[..., Job], on_topic: Undisturbed) -> None:
    """After each kill the published offsets are at or below what is durable."""
    job = new_job(options=("--clock", "event"))  # by the wall clock a job that ends refreshes nothing
    with Poller(job.uri, job.definition, job.archive) as poller:
        for point in every_step(SEED):
            job.kill_at(point)
            durable = {part_name(part): place["offset"] for part, place in source_places(job.state).items()}
            if job.kills.index(point) == 0:
                continue  # the group still has the offsets of a test before
            for part, offset in published(kafka).items():
                assert offset <= durable.get(part, 0), f"{part} after {job.kills}"
        job.jitter_rows = None
        job.finish()
    assert_right(poller.checker)
    assert_as_undisturbed(job, on_topic)


def test_two_workers_killed_anywhere(new_job: Callable[..., Job], on_topic: Undisturbed) -> None:
    dice = random.Random(SEED)
    job = new_job(workers=2)
    with Poller(job.uri, job.definition, job.archive) as poller:
        for number in range(3):
            job.epoch = dice.choice(["50ms", "300ms", "2s"])
            job.kill_somewhere(dice, parent=number == 1)
        job.workers, job.jitter_rows = 1, None
        job.finish()
    assert_right(poller.checker)
    assert_as_undisturbed(job, on_topic)


def test_a_broker_killed_and_started_again(
    kafka: Broker, new_job: Callable[..., Job], on_topic: Undisturbed
) -> None:
    job = new_job()
    run = job.start()
    try:
        rows = run.until(run.rows, "a first batch")
        kafka.kill()
    finally:
        kafka.start()
    run.until(lambda: run.rows() > rows, "rows after the broker's restart")
    assert run.wait().code == 0
    assert_as_undisturbed(job, on_topic)


def test_other_counts_of_workers(new_job: Callable[..., Job], on_topic: Undisturbed) -> None:
    """Two workers, then three, then one, then three again: stopped between, or killed; no bit differs."""
    job = new_job(jitter_rows=60)
    total = job.archive.events
    with Poller(job.uri, job.definition, job.archive) as poller:
        for workers, share, how in ((2, 0.2, "stop"), (3, 0.45, "kill"), (1, 0.7, "stop")):
            job.workers = workers
            run = job.start()
            reach(run, int(share * total))
            assert len(run.pids()) == workers
            if how == "stop":
                run.process.send_signal(signal.SIGTERM)
                ended = run.wait()
                assert ended.code == 0, ended
            else:
                os.kill(run.pids()[-1], signal.SIGKILL)
                ended = run.wait()
                assert ended.code == 1 and "killed by SIGKILL" in ended.said, ended
            counted = sum(place["offset"] for place in source_places(job.state).values())
            assert counted < total, "it was at its end already: nothing is proved"
        job.workers = 3
        job.finish()
    assert_right(poller.checker)
    assert_as_undisturbed(job, on_topic)


def test_a_stall_longer_than_the_poll_interval(
    new_job: Callable[..., Job], on_topic: Undisturbed, valkey: Valkey, tmp_path: Path
) -> None:
    """A store that stands still keeps the job from polling; it is in no group that could put it out for that."""
    settings = tmp_path / "kafka.yaml"
    settings.write_text("kafka: {max.poll.interval.ms: 6000, session.timeout.ms: 6000}\n")
    job = new_job(server=valkey.uri, options=("--settings", str(settings)))
    run = job.start()
    rows = run.until(run.rows, "a first batch")
    with valkey.stalled():
        time.sleep(9)
    reach(run, rows + 1)
    assert run.wait().code == 0, run.said()
    assert_as_undisturbed(job, on_topic)
