"""Reading topics of a real broker: whatever messages hold, to the exact end, and what is gone is not passed over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from connectors.batches import RawBatch
from connectors.decode import broker_time
from connectors.kafka import KafkaSource
from connectors.kafka_settings import read_settings
from lookback.errors import RefusedError, SourceError
from tests.services.kafka import PASSWORD, USER, Broker, Sent

T0 = 1_700_000_000_000
PATIENCE_SECONDS = 60.0

_numbers = itertools.count()


@pytest.fixture
def topic(kafka: Broker) -> Iterator[str]:
    """Return a topic of one partition for this test."""
    name = f"reader-{next(_numbers)}"
    kafka.create(name, max_message_bytes=10 << 20)
    yield name
    if name in kafka.admin().list_topics(timeout=30).topics:
        kafka.delete(name)


def source(
    kafka: Broker,
    topic: str,
    end: int | None = None,
    *,
    accept_loss: bool = False,
    settings: Path | None = None,
) -> KafkaSource:
    ends = {} if end is None else {(topic, 0): end}
    return KafkaSource(read_settings(kafka.address, settings), [topic], "tests", ends, accept_loss, 1)


def read(
    kafka: Broker, topic: str, first: int | None = None, *, settings: Path | None = None
) -> tuple[list[RawBatch], int]:
    """Return all batches up to the topic's end as it is now, and the place behind them."""
    (info,) = source(kafka, topic).partitions()
    reader = source(kafka, topic, info.end_offset, settings=settings).open(topic, 0, first)
    batches, deadline = [], time.monotonic() + PATIENCE_SECONDS
    while (raw := reader.read()) is not None:
        assert time.monotonic() < deadline, f"no end at {reader.next_offset} of {info.end_offset}"
        if len(raw):
            batches.append(raw)
    reader.close()
    return batches, reader.next_offset


def values(batches: list[RawBatch]) -> list[bytes | None]:
    return [value for raw in batches for value in raw.rows.to_pylist()]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec(kafka: Broker, topic: str, codec: str) -> None:
    sent = [b'{"n": %d, "filler": "%s"}' % (n, b"x" * (n % 300)) for n in range(5000)]
    kafka.produce(
        topic, {0: [Sent(value, T0 + n) for n, value in enumerate(sent)]}, {"compression.type": codec}
    )
    batches, place = read(kafka, topic)
    assert values(batches) == sent and place == 5000
    assert np.concatenate([raw.offset for raw in batches]).tolist() == list(range(5000))
    times = [raw.broker_time_ms for raw in batches]
    assert np.concatenate([t for t in times if t is not None]).tolist() == [T0 + n for n in range(5000)]


def test_keys_headers_and_tombstones(kafka: Broker, topic: str) -> None:
    sent = [
        Sent(b"{}", T0, key=b"k", headers=[("trace", b"1"), ("trace", b"2")]),
        Sent(None, T0 + 1, key=b"k"),
        Sent(b"", T0 + 2),
        Sent(b"last", T0 + 3, key=b""),
    ]
    kafka.produce(topic, {0: sent})
    batches, _ = read(kafka, topic)
    assert values(batches) == [b"{}", None, b"", b"last"]
    keys = [raw.key_of(i) for raw in batches if raw.key_of is not None for i in range(len(raw))]
    assert keys == [b"k", b"k", None, b""]
    assert [broker_time(raw, i) for raw in batches for i in range(len(raw))] == [T0, T0 + 1, T0 + 2, T0 + 3]


def transaction(kafka: Broker, topic: str, values: list[bytes], *, commit: bool | None) -> Producer:
    """Send values in one transaction; commit None leaves it open."""
    producer = Producer(
        {"bootstrap.servers": kafka.address, "transactional.id": f"t-{next(_numbers)}", "log_level": 0}
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(60) == 0
    if commit is not None:
        end(kafka, topic, producer, commit=commit)
    return producer


def end(kafka: Broker, topic: str, producer: Producer, *, commit: bool) -> None:
    """End a transaction, and wait for its marker: the coordinator writes it after it has answered."""
    (before,) = source(kafka, topic).partitions()
    (producer.commit_transaction if commit else producer.abort_transaction)(60)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while source(kafka, topic).partitions()[0].end_offset == before.end_offset:
        assert time.monotonic() < deadline, "the marker did not come"
        time.sleep(0.05)


def test_transactions_leave_gaps_and_the_end_is_found_behind_them(kafka: Broker, topic: str) -> None:
    """Offsets: 0 to 2, a marker at 3, aborted 4 to 6 with their marker at 7; nothing follows."""
    transaction(kafka, topic, [b"a", b"b", b"c"], commit=True)
    transaction(kafka, topic, [b"x", b"y", b"z"], commit=False)
    batches, place = read(kafka, topic)
    assert values(batches) == [b"a", b"b", b"c"] and place == 8
    for first in range(3, 9):  # from anywhere among them, as a job that goes on does
        assert read(kafka, topic, first) == ([], 8)


def test_an_open_transaction_is_behind_the_end(kafka: Broker, topic: str) -> None:
    transaction(kafka, topic, [b"a"], commit=True)
    waiting = transaction(kafka, topic, [b"b"], commit=None)
    batches, place = read(kafka, topic)
    assert values(batches) == [b"a"] and place == 2
    end(kafka, topic, waiting, commit=True)
    batches, place = read(kafka, topic, place)
    assert values(batches) == [b"b"] and place == 4


@pytest.mark.parametrize("small", [False, True])
def test_a_message_larger_than_a_fetch(kafka: Broker, topic: str, tmp_path: Path, small: bool) -> None:
    """Or than all that may be fetched ahead, where a person has made that small."""
    file = None
    if small:
        file = tmp_path / "kafka.yaml"
        file.write_text("kafka: {fetch.message.max.bytes: 65536, queued.max.messages.kbytes: 1024}\n")
    sent = [b"small", b"x" * (9 << 20), b"small again", b"y" * (9 << 20)]
    kafka.produce(topic, {0: [Sent(value) for value in sent]}, {"message.max.bytes": 10 << 20})
    batches, _ = read(kafka, topic, settings=file)
    assert values(batches) == sent


def test_an_epochs_bytes_bound_a_batch(kafka: Broker, topic: str) -> None:
    kafka.produce(topic, {0: [Sent(b"x" * 1000) for _ in range(2000)]})
    reader = source(kafka, topic, 2000).open(topic, 0)
    sizes = []
    while (raw := reader.read(1 << 16, 50_000)) is not None:
        sizes.append(raw.nbytes)
    reader.close()
    assert sum(sizes) > 2_000_000 and max(sizes) < 55_000


def test_a_reader_that_is_not_asked_holds_no_more_than_its_queues(kafka: Broker, topic: str) -> None:
    """As behind a slow store: 256 MB lie ready, 64 MiB of them may be fetched ahead."""
    kafka.produce(topic, {0: [Sent(b"x" * 100_000) for _ in range(2560)]})
    me = psutil.Process()
    before = me.memory_info().rss
    reader = source(kafka, topic).open(topic, 0, 0)
    deadline, sizes = time.monotonic() + PATIENCE_SECONDS, [0]
    while time.monotonic() < deadline and not (
        len(sizes) > 30 and sizes[-1] > 30 << 20 and sizes[-1] <= sizes[-30]
    ):
        sizes.append(max(sizes[-1], me.memory_info().rss - before))
        time.sleep(0.1)
    reader.close()
    assert 30 << 20 < sizes[-1] < 120 << 20


def delete_before(kafka: Broker, topic: str, offset: int) -> None:
    admin = kafka.admin()
    admin.delete_records([TopicPartition(topic, 0, offset)])[TopicPartition(topic, 0, offset)].result(30)


def test_events_that_are_gone_are_not_passed_over(kafka: Broker, topic: str) -> None:
    kafka.produce(topic, {0: [Sent(b"%d" % n) for n in range(100)]})
    delete_before(kafka, topic, 60)
    with pytest.raises(
        RefusedError, match=r"begins at offset 60 .* read to 25: up to 35 events .* --accept-loss"
    ):
        read(kafka, topic, 25)
    assert read(kafka, topic, 60)[1] == 100
    reader = source(kafka, topic, 100, accept_loss=True).open(topic, 0, 25)
    found = []
    while (raw := reader.read()) is not None:
        found += raw.rows.to_pylist()
    reader.close()
    assert found == [b"%d" % n for n in range(60, 100)] and reader.lost == 35


@pytest.mark.parametrize("end", [None, 10])
def test_a_place_behind_the_end_is_refused(kafka: Broker, topic: str, end: int | None) -> None:
    kafka.produce(topic, {0: [Sent(b"%d" % n) for n in range(10)]})
    reader = source(kafka, topic, end).open(topic, 0, 25)
    with pytest.raises(RefusedError, match="ends at offset 10, and the job has read to 25"):
        for _ in range(10_000):
            reader.read()
            time.sleep(0.002)
    reader.close()


def test_times_give_offsets(kafka: Broker, topic: str) -> None:
    kafka.produce(topic, {0: [Sent(b"%d" % n, T0 + 1000 * n) for n in range(50)]})
    found = source(kafka, topic)
    (info,) = found.partitions()
    assert (info.first_offset, info.end_offset, info.first_broker_time_ms) == (0, 50, T0)
    assert [found.start_offset(topic, 0, T0 + ms) for ms in (-5, 0, 1, 20_000, 49_001)] == [0, 0, 1, 20, 50]
    delete_before(kafka, topic, 20)
    (info,) = found.partitions()
    assert (info.first_offset, info.first_broker_time_ms, info.rows) == (20, T0 + 20_000, 30)
    assert len(info.topic_id) == 22


def test_a_topic_that_is_not_there(kafka: Broker) -> None:
    with pytest.raises(SourceError, match="has no topic 'nothing'"):
        source(kafka, "nothing").partitions()


def test_encrypted_and_with_a_password(
    kafka: Broker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.produce(topic, {0: [Sent(b"a"), Sent(b"b")]})
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    file = tmp_path / "kafka.yaml"
    file.write_text(
        f"kafka:\n  security.protocol: SASL_SSL\n  sasl.mechanism: PLAIN\n  sasl.username: {USER}\n"
        f"  sasl.password: {{env: KAFKA_PASSWORD}}\n  ssl.ca.location: {kafka.certificate}\n"
    )
    settings = read_settings(kafka.secure_address, file)
    (info,) = KafkaSource(settings, [topic], "tests", {}, False, 1).partitions()
    reader = KafkaSource(settings, [topic], "tests", {(topic, 0): 2}, False, 1).open(
        topic, 0, info.first_offset
    )
    found = []
    while (raw := reader.read()) is not None:
        found += raw.rows.to_pylist()
    reader.close()
    assert found == [b"a", b"b"]


def test_with_tokens(kafka: Broker, topic: str, tmp_path: Path) -> None:
    """The client gets its tokens in the background of whatever it is asked; here it makes them itself."""
    kafka.produce(topic, {0: [Sent(b"a"), Sent(b"b")]})
    file = tmp_path / "kafka.yaml"
    file.write_text(
        "kafka:\n  security.protocol: SASL_PLAINTEXT\n  sasl.mechanism: OAUTHBEARER\n"
        "  enable.sasl.oauthbearer.unsecure.jwt: true\n  sasl.oauthbearer.config: principal=lookback\n"
    )
    found = KafkaSource(
        read_settings(kafka.token_address, file), [topic], "tokens", {(topic, 0): 2}, False, 1
    )
    assert [info.end_offset for info in found.partitions()] == [2]
    reader = found.open(topic, 0)
    batches = []
    while (raw := reader.read()) is not None:
        batches.append(raw)
    reader.close()
    assert values(batches) == [b"a", b"b"]
    found.publish({(topic, 0): 2})
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "tokens"})
    (place,) = consumer.committed([TopicPartition(topic, 0)], timeout=30)
    consumer.close()
    assert place.offset == 2


def test_a_wrong_password_is_said_as_such_but_not_itself(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong-secret")
    monkeypatch.setattr("connectors.kafka.ASK_SECONDS", 8.0)
    file = tmp_path / "kafka.yaml"
    file.write_text(
        f"kafka:\n  security.protocol: SASL_SSL\n  sasl.mechanism: PLAIN\n  sasl.username: {USER}\n"
        f"  sasl.password: {{env: KAFKA_PASSWORD}}\n  ssl.ca.location: {kafka.certificate}\n"
    )
    settings = read_settings(kafka.secure_address, file)
    with pytest.raises(SourceError, match=r"(?i)authentication failed") as caught:
        KafkaSource(settings, ["tx"], "tests", {}, False, 1).partitions()
    said = capfd.readouterr()
    assert "wrong-secret" not in str(caught.value) + said.out + said.err
