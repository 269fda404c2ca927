"""A job on several pods between a real Kafka and a real Valkey: lost, stopped and rescaled, values right throughout."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lookback.client import Client
from tests.integration.test_dead_letters_topic import raw_letters
from tests.recovery.conftest import Undisturbed, assert_right
from tests.recovery.events import TOPIC
from tests.recovery.pods import Pods
from tests.recovery.served import Poller, picture
from tests.recovery.test_kafka import put_on_topic
from tests.services.change_log import as_json, by_key, problems, read_log
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

    def make(*, workers: int = 1, jitter_rows: int = 200, change_log: str = "") -> Pods:
        topics.append(f"letters-of-pods-{next(_numbers)}")
        kafka.create(topics[-1])
        letters = f"kafka://{kafka.address}/{topics[-1]}"
        options = ["--until-end", "--clock", "event"]
        if change_log:
            topics.append(change_log)
            kafka.create(change_log, 3)
            options += ["--change-log", f"kafka://{kafka.address}/{change_log}"]
        own = (tmp_path, on_topic.definition, on_topic.archive.uri, server.uri, letters, options)
        pods = Pods(*own, jitter_rows=jitter_rows, workers=workers)
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


def test_the_change_log_of_pods(kafka: Broker, new_pods: Callable[..., Pods], on_topic: Undisturbed) -> None:
    """Pods die with a transaction open, the leader too, and shards move with what they have still to tell."""
    pods = new_pods(jitter_rows=20, change_log="updates-of-pods")
    total = on_topic.archive.events
    pods.start(0, 2)
    for fault in ("l-sent:2", "3-after:25", "l-after:2"):
        pods.dies_at(1, fault)
    pods.start(1)
    pods.reach(total // 3)
    pods.kill(0)
    pods.dies_at(0, "l-sent:2")
    pods.start(0)
    pods.reach(total // 2)
    pods.stop(0, 1, 2)
    pods.start(0, 1, 2, count=2)  # the third gives its shards away
    pods.reach(2 * total // 3)
    pods.kill(1)
    pods.start(1, count=2)
    pods.until(lambda: not pods.shards(2), "its shards are the others'")
    pods.stop(2)
    pods.finish()
    assert_as_undisturbed(pods, kafka, on_topic)
    updates = read_log(kafka.address, "updates-of-pods")
    assert not problems(updates)
    last = {
        (one[-1].value["view"], *one[-1].value["entity"].values()): one[-1].value
        for one in by_key(updates).values()
    }
    assert last.keys() == on_topic.picture.keys()
    with Client(pods.definition, pods.store) as client:
        for (view, _), told in last.items():
            values = {f"{view}.{name}": value for name, value in told["values"].items()}
            found = client.get(told["entity"], at=told["as_of_ms"], features=list(values)).values
            assert values == as_json(found), told
