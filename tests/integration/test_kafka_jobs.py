"""Jobs on a real broker from the outside: what a topic may do to them, and that a replay of it is its archive's."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition

from lookback.client import Client
from lookback.training import load_training
from tests.integration.events import MINUTE, PATIENCE_SECONDS, T0, Live, copy, payment, write_definition
from tests.recovery.job import command, launch
from tests.services.kafka import PASSWORD, USER, Broker, Sent, put

_numbers = itertools.count()
HOUR = 60 * MINUTE


@pytest.fixture
def topic(kafka: Broker) -> Iterator[str]:
    name = f"jobs-{next(_numbers)}"
    kafka.create(name, 2)
    yield name
    if name in kafka.admin().list_topics(timeout=30).topics:
        kafka.delete(name)


@pytest.fixture
def live(kafka: Broker, topic: str, tmp_path: Path) -> Iterator[Live]:
    job = Live(tmp_path, write_definition(tmp_path, topic), f"kafka://{kafka.address}")
    yield job
    job.end()


def send(kafka: Broker, topic: str, numbers: range, *, partition: int = 0, step_ms: int = 1000) -> None:
    kafka.produce(topic, {partition: [payment(n, T0 + n * step_ms) for n in numbers]})


def count(live: Live, card: str, at_ms: int) -> int:
    """Return a card's payments in the hour before a time, as the store has them."""
    with Client(live.definition, f"lmdb:{live.store}") as client:
        value = client.get({"card": card}, features=["cards.n_1h"], at=at_ms).values["cards.n_1h"]
    assert isinstance(value, int)
    return value


def at(live: Live, places: dict[int, int]) -> Callable[[], bool]:
    """Return whether the job has counted to these offsets."""
    name = live.definition.stem
    return lambda: live.offsets() == {f"{name}/{p}": offset for p, offset in places.items()}


def replay_words(definition: Path, source: str, out: Path, *options: str) -> list[str]:
    """Return the command of a replay from the middle of the events on."""
    start = ["replay", str(definition), "--source", source, "--from", str(T0 + 2 * HOUR)]
    return [*start, "--out", str(out), "--quiet", *options]


def replayed(definition: Path, source: str, out: Path, *options: str) -> dict[str, bytes]:
    """Return the files that a replay wrote."""
    ended = command(*replay_words(definition, source, out, *options), said=out.with_suffix(".said"))
    assert ended.code == 0, ended
    return written(out)


def written(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def same(ours: dict[str, bytes], theirs: dict[str, bytes]) -> bool:
    """Compare two outputs by their bytes. Offsets of markers are covered too, which an archive has not: markers have
    broker times of their own, and lie behind the last event.
    """
    manifests = [json.loads(files.pop("manifest.json")) for files in (ours, theirs)]
    for mine, other in zip(*(manifest.pop("offsets") for manifest in manifests), strict=True):
        assert 0 < mine["first_offset"] <= other["first_offset"]
        assert other["end_offset"] <= mine["end_offset"] < other["end_offset"] + 20
    assert manifests[0] == manifests[1]
    return bool(ours) and ours == theirs


def test_a_replay_of_the_topic_is_that_of_its_archive(kafka: Broker, topic: str, tmp_path: Path) -> None:
    """Transactions, some aborted, late, broken and null messages; both read from the same broker time on."""
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(60)
    failed: list[object] = []
    for start in range(0, 20_000, 1000):
        producer.begin_transaction()
        for n in range(start, start + 1000):
            now = T0 + n * 1000
            one = payment(n, now, ts=now - (HOUR if n % 50 == 7 else (n % 13) * 20_000))
            if n % 211 == 0:
                one = Sent(b'{"id": 7, "ts": oops' if n % 2 else None, now)
            put(producer, topic, n % 2, one, failed)
        assert producer.flush(60) == 0 and not failed
        if start % 5000 == 2000:
            producer.abort_transaction(60)
        else:
            producer.commit_transaction(60)
    definition = write_definition(tmp_path, topic)
    archive = copy(kafka, topic, tmp_path / "archive")
    source = f"kafka://{kafka.address}"
    theirs = replayed(definition, archive, tmp_path / "from-archive")
    ours = replayed(definition, source, tmp_path / "from-topic")
    assert same(ours, theirs)
    two = replayed(definition, source, tmp_path / "two", "--workers", "2", "--to", str(T0 + 4 * HOUR))
    alone = replayed(
        definition, archive, tmp_path / "two-archive", "--workers", "2", "--to", str(T0 + 4 * HOUR)
    )
    assert same(two, alone)
    rows = load_training(tmp_path / "from-topic").arrow()
    assert 8000 < len(rows) < 14_000


def test_two_replays_beside_the_live_job(kafka: Broker, topic: str, live: Live, tmp_path: Path) -> None:
    """They end where the topic ended when each began, and write the bytes of the archive as it was then; events that
    come meanwhile are counted by the job, whose values are those of one that ran alone.
    """
    source = f"kafka://{kafka.address}"
    for partition in range(2):
        send(kafka, topic, range(partition, 12_000, 2), partition=partition)
    archive = copy(kafka, topic, tmp_path / "archive")
    cases: dict[str, tuple[str, ...]] = {"one": ("--workers", "2"), "two": ("--as-of", "before")}
    theirs = {
        name: replayed(live.definition, archive, tmp_path / f"{name}-archive", *options)
        for name, options in cases.items()
    }
    live.start("--clock", "event")
    live.until(at(live, {0: 6000, 1: 6000}), "the first events")
    slow = {**os.environ, "LOOKBACK_TEST_JITTER": "1:100"}
    replays = {
        name: launch(
            replay_words(live.definition, source, tmp_path / name, *options), slow, tmp_path / f"{name}.said"
        )
        for name, options in cases.items()
    }
    boards = [tmp_path / name / ".work" / "board" for name in cases]
    live.until(lambda: all(board.exists() for board in boards), "both replays' begin")
    for partition in range(2):
        send(kafka, topic, range(12_000 + partition, 14_000, 2), partition=partition)
    live.until(at(live, {0: 7000, 1: 7000}), "the events that came meanwhile")
    assert any(replay.poll() is None for replay in replays.values()), "they did not run side by side"
    for name, replay in replays.items():
        assert replay.wait(PATIENCE_SECONDS) == 0, (tmp_path / f"{name}.said").read_text()
        ours = written(tmp_path / name)
        assert len(ours) > 1 and ours == theirs[name]
    live.stop()
    (tmp_path / "alone").mkdir()
    alone = Live(tmp_path / "alone", live.definition, source)
    assert alone.finish("--clock", "event") == 0, alone.said()
    assert readings(live) == readings(alone)


def readings(live: Live) -> list[tuple[dict[str, object], dict[str, str]]]:
    """Return every card's values and their status as of some instants, none before the newest event."""
    instants = [T0 + n * 1000 for n in (14_000, 15_000, 17_000)]
    with Client(live.definition, live.uri) as client:
        names = client.definition.all_features()
        found = [client.get({"card": f"c{n}"}, features=names, at=t) for n in range(7) for t in instants]
    return [(reading.values, reading.status) for reading in found]


def test_a_replay_from_before_the_topics_beginning_is_refused(
    kafka: Broker, topic: str, tmp_path: Path
) -> None:
    send(kafka, topic, range(100), step_ms=MINUTE)
    place = TopicPartition(topic, 0, 40)
    admin = kafka.admin()
    admin.delete_records([place])[place].result(30)
    definition = write_definition(tmp_path, topic)
    base = [
        "replay",
        str(definition),
        "--source",
        f"kafka://{kafka.address}",
        "--quiet",
        "--out",
        str(tmp_path / "o"),
    ]
    exact = T0 + 40 * MINUTE + HOUR + 10 * MINUTE  # the first event left, the window and max_ahead
    ended = command(*base, "--from", str(exact - 1000), said=tmp_path / "said")
    assert ended.code == 3 and "the earliest exact --from is 2023-11-15 00:03:20Z" in ended.said
    ended = command(*base, "--from", "2023-11-15T00:03:20Z", said=tmp_path / "said")
    assert ended.code == 0, ended


def test_events_are_counted_as_they_come_and_an_idle_partition_holds_none_up(
    kafka: Broker, topic: str, live: Live
) -> None:
    live.start()
    send(kafka, topic, range(70))
    live.until(at(live, {0: 70, 1: 0}), "70 events of partition 0 alone")
    assert count(live, "c3", T0 + HOUR) == 10
    sent = time.monotonic()
    send(kafka, topic, range(70, 140))
    live.until(lambda: count(live, "c3", T0 + HOUR) == 20, "the next 70")
    assert time.monotonic() - sent < 20  # most of it is this machine's: not the idle partition's
    live.stop()


def test_a_partition_added_while_it_runs(kafka: Broker, topic: str, live: Live) -> None:
    send(kafka, topic, range(70))
    live.start()
    live.until(at(live, {0: 70, 1: 0}), "the first 70")
    kafka.grow(topic, 3)
    send(kafka, topic, range(70, 140), partition=2)
    live.until(at(live, {0: 70, 1: 0, 2: 70}), "the new partition's")
    assert count(live, "c3", T0 + HOUR) == 20
    live.stop()
    send(kafka, topic, range(140, 210), partition=2)
    assert live.finish() == 0, live.said()
    assert live.offsets() == {f"{topic}/0": 70, f"{topic}/1": 0, f"{topic}/2": 140}


def test_many_partitions_in_one_worker(kafka: Broker, tmp_path: Path) -> None:
    """They need more files and connections than a shell's usual limit of open files lets a process have."""
    kafka.create("many", 60)
    for partition in range(60):
        send(kafka, "many", range(partition, 600, 60), partition=partition)
    live = Live(tmp_path, write_definition(tmp_path, "many"), f"kafka://{kafka.address}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        live.start("--until-end")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert live.wait() == 0, live.said()
    finally:
        live.end()
    assert live.offsets() == {f"many/{p}": 10 for p in range(60)}
    kafka.delete("many")


def test_a_topic_made_again_is_refused(kafka: Broker, topic: str, live: Live) -> None:
    """While the job runs, though its place is one of the new topic's too; and at a start."""
    send(kafka, topic, range(70))
    live.start()
    live.until(at(live, {0: 70, 1: 0}), "the first 70")
    kafka.delete(topic)
    kafka.create(topic, 2)
    send(kafka, topic, range(1000, 1700))
    assert live.wait() == 3
    assert "fresh --state and a fresh --store" in live.said()
    assert live.finish() == 3
    assert f"the topic {topic} was deleted and made again" in live.said()
    shutil.rmtree(live.state)
    assert live.finish() == 3  # with the old store, whose marks are the old topic's
    assert "name a fresh --store" in live.said()
    shutil.rmtree(live.state)
    shutil.rmtree(live.store)
    assert live.finish() == 0, live.said()
    assert live.offsets() == {f"{topic}/0": 700, f"{topic}/1": 0}


def test_a_topic_that_lost_events(kafka: Broker, topic: str, live: Live) -> None:
    send(kafka, topic, range(70))
    assert live.finish() == 0
    send(kafka, topic, range(70, 140))
    place = TopicPartition(topic, 0, 105)
    admin = kafka.admin()
    admin.delete_records([place])[place].result(30)
    assert live.finish() == 3
    assert "up to 35 events are gone before it counted them" in live.said()
    assert live.offsets()[f"{topic}/0"] == 70
    assert live.finish("--accept-loss") == 0, live.said()
    assert f"{topic}/0: up to 35 events were gone and are not counted" in live.said()
    assert live.offsets()[f"{topic}/0"] == 140
    assert count(live, "c3", T0 + HOUR) == 15


def test_a_start_in_the_middle_is_exact_from_there_on(kafka: Broker, topic: str, tmp_path: Path) -> None:
    """Read from the windows' reach before it; a late event is told as it is by a job that read everything."""
    numbers = range(600)
    late = {545, 550}
    kafka.produce(
        topic,
        {
            0: [
                payment(n, T0 + n * MINUTE, ts=T0 + n * MINUTE - (7 * MINUTE if n in late else 0))
                for n in numbers
            ]
        },
    )
    found = {}
    for name, options in (("all", ()), ("middle", ("--start", str(T0 + 540 * MINUTE)))):
        folder = tmp_path / name
        folder.mkdir()
        job = Live(folder, write_definition(folder, topic), f"kafka://{kafka.address}", options)
        assert job.finish() == 0, job.said()
        found[name] = (
            [count(job, f"c{card}", T0 + minute * MINUTE) for card in range(7) for minute in (599, 605, 620)],
            job.said(),
        )
    assert found["all"][0] == found["middle"][0]
    assert "600 new events, 600 in all" in found["all"][1] and "refused 2 late" in found["all"][1]
    # 540 minutes less an hour less ten minutes: from message 470 on
    assert "130 new events, 130 in all" in found["middle"][1] and "refused 2 late" in found["middle"][1]
    # A state that is there goes on, though the topic has lost what a new one would need.
    place = TopicPartition(topic, 0, 590)
    admin = kafka.admin()
    admin.delete_records([place])[place].result(30)
    assert job.finish() == 0 and "0 new events, 130 in all" in job.said()


def test_latest_reads_no_more_than_the_windows_reach(kafka: Broker, topic: str, live: Live) -> None:
    now = time.time_ns() // 1_000_000
    old = [payment(n, now - 3 * HOUR + n * 1000) for n in range(70)]
    new = [payment(n, now - 30 * MINUTE + n * 1000) for n in range(70, 140)]
    kafka.produce(topic, {0: old + new})
    assert live.finish("--start", "latest") == 0, live.said()
    assert "70 new events, 70 in all" in live.said()


def test_no_secret_is_left_anywhere(
    kafka: Broker, topic: str, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(kafka, topic, range(70))
    settings = live.folder / "kafka.yaml"
    settings.write_text(
        f"kafka:\n  security.protocol: SASL_SSL\n  sasl.mechanism: PLAIN\n  sasl.username: {USER}\n"
        f"  sasl.password: {{env: KAFKA_PASSWORD}}\n  ssl.ca.location: {kafka.certificate}\n"
    )
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    live.source = f"kafka://{kafka.secure_address}"
    assert live.finish("--settings", str(settings)) == 0, live.said()
    assert live.offsets()[f"{topic}/0"] == 70
    files = [path for path in live.folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []


def test_brokers_that_are_gone_for_a_minute(kafka: Broker, topic: str, live: Live) -> None:
    """The job says so once a minute and shows it in its status, waits, and goes on by itself."""
    send(kafka, topic, range(70))
    live.start()
    live.until(at(live, {0: 70, 1: 0}), "the first 70")
    waiting = live.status()["waiting"]
    assert [waiting[of] for of in ("source_ms", "disk_workers", "store_workers")] == [0, 0, 0]
    kafka.stop()
    try:
        live.until(lambda: "does not answer" in live.said(), "a word on the brokers")
        gone = time.monotonic()
        live.until(lambda: live.said().count("does not answer") == 2, "the second word on them")
        assert 50 < time.monotonic() - gone < 90
        assert live.status()["waiting"]["source_ms"] > 50_000
    finally:
        kafka.start()
    live.until(lambda: "answers again" in live.said(), "a word on their return")
    assert live.status()["waiting"]["source_ms"] == 0
    send(kafka, topic, range(70, 140))
    live.until(at(live, {0: 140, 1: 0}), "the next 70")
    assert live.said().count("does not answer") == 2
    live.stop()
    assert count(live, "c3", T0 + HOUR) == 20


def test_settings_that_can_hurt_are_said_at_the_start(kafka: Broker, tmp_path: Path) -> None:
    for number, config, told in (
        (
            1,
            {"message_timestamp_after_max_ms": 2 * HOUR, "retention_ms": -1},
            "times up to 2h ahead",
        ),
        (
            2,
            {"message_timestamp_type": "LogAppendTime", "retention_ms": 3_600_000},
            "keeps 1h, less than",
        ),
        (3, {"message_timestamp_after_max_ms": 10 * MINUTE, "retention_ms": HOUR + 10 * MINUTE}, ""),
    ):
        topic = f"settings-{number}"
        kafka.create(topic, 1, **config)
        folder = tmp_path / topic
        folder.mkdir()
        job = Live(folder, write_definition(folder, topic), f"kafka://{kafka.address}")
        assert job.finish() == 0, job.said()
        assert ("warning" in job.said()) == bool(told) and told in job.said()
        kafka.delete(topic)
