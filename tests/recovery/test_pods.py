"""A job on several pods between a real Kafka and a real Valkey: lost, stopped and rescaled, values right throughout."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_dead_letters_topic import raw_letters
from tests.recovery.conftest import Undisturbed, assert_right
from tests.recovery.events import TOPIC
from tests.recovery.pods import Pods
from tests.recovery.served import Poller, picture
from tests.recovery.test_kafka import put_on_topic
from tests.services.kafka import Broker
from tests.services.valkey import Valkey

_numbers = itertools.count()


@pytest.fixture(scope="module")
def on_topic(tmp_path_factory: pytest.TempPathFactory, kafka: Broker) -> Iterator[Undisturbed]:
    """Return the events as a topic, and what an undisturbed run over their *archive* leaves in the store."""
    yield put_on_topic(kafka, tmp_path_factory.mktemp("on-topic"))
    kafka.delete(TOPIC)


@pytest.fixture
def new_pods(
    kafka: Broker, on_topic: Undisturbed, server: Valkey, tmp_path: Path
) -> Iterator[Callable[..., Pods]]:
    """Return a maker of jobs over the topic that end with it."""
    made: list[Pods] = []
    topics: list[str] = []

    def make(*, workers: int = 1) -> Pods:
        topics.append(f"letters-of-pods-{next(_numbers)}")
        kafka.create(topics[-1])
        letters = f"kafka://{kafka.address}/{topics[-1]}"
        options = ("--until-end", "--clock", "event")
        own = (tmp_path, on_topic.definition, on_topic.archive.uri, server.uri, letters, options)
        pods = Pods(*own, jitter_rows=200, workers=workers)
        made.append(pods)
        return pods

    yield make
    for pods in made:
        pods.end()
    for topic in topics:
        kafka.delete(topic)


def assert_as_undisturbed(pods: Pods, kafka: Broker, on_topic: Undisturbed) -> None:
    assert picture(pods.definition, pods.store, on_topic.archive) == on_topic.picture
    found = {
        (one.partition, one.offset, one.raw)
        for one, _, _ in raw_letters(kafka, pods.letters.rpartition("/")[2])
    }
    lines = [json.loads(line) for text in on_topic.letters.values() for line in text.splitlines()]
    assert found == {(one["partition"], one["offset"], base64.b64decode(one["raw"])) for one in lines}


def test_pods_that_are_lost(kafka: Broker, new_pods: Callable[..., Pods], on_topic: Undisturbed) -> None:
    """A follower is killed, then the leader; the rest waits and goes on with whoever takes its place."""
    pods = new_pods()
    total = on_topic.archive.events
    with Poller(pods.store, pods.definition, on_topic.archive) as poller:
        pods.start(0, 1, 2)
        pods.reach(total // 5)
        assert [len(pods.shards(ordinal)) for ordinal in range(3)] == [11, 11, 10]
        pods.kill(2)
        pods.start(2)
        pods.reach(2 * total // 5)
        assert "pod 2 is gone" in pods.said(0)
        pods.kill(0)
        pods.start(0)
        pods.reach(3 * total // 5)
        pods.finish()
    assert_right(poller.checker)
    assert_as_undisturbed(pods, kafka, on_topic)


def test_pods_of_two_workers_that_are_stopped(
    kafka: Broker, new_pods: Callable[..., Pods], on_topic: Undisturbed
) -> None:
    """One is asked to stop: the other's workers are drained with its own, and wait for it. Then it goes on alone."""
    pods = new_pods(workers=2)
    total = on_topic.archive.events
    with Poller(pods.store, pods.definition, on_topic.archive) as poller:
        pods.start(0, 1, count=2)
        pods.reach(total // 4)
        pods.stop(1)
        pods.start(1, count=2)
        pods.reach(total // 2)
        pods.stop(0, 1)
        pods.start(0, 1, count=1)
        pods.reach(3 * total // 4)
        assert [len(pods.shards(ordinal)) for ordinal in range(2)] == [32, 0]
        pods.stop(1)
        pods.finish()
    assert_right(poller.checker)
    assert_as_undisturbed(pods, kafka, on_topic)
