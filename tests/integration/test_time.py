"""Time as a live job meets it: idle partitions, one a day behind, events from 2099 and from 1970, events sent again.
None moves a value wrongly: every one read is the oracle's.
"""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import TopicPartition

from connectors.archive import Archive
from connectors.decode import Decoder
from lookback.client import Client
from lookback.definition import load
from lookback.events import EventBatch
from lookback.training import load_training
from tests.integration.events import MINUTE, T0, Live, copy
from tests.parity.events import ALL_TIES, DAY, Logs, logs_of, oracle_value, plain, write_lines
from tests.recovery.job import command
from tests.services.kafka import Broker, Sent

_numbers = itertools.count()
FAR_MS, LONG_AGO_MS = 4_070_908_800_000, 86_400_000  # 2099, and the second day of 1970
LATENESS_MS, AHEAD_MS, REPEATS_MS = 5 * MINUTE, 10 * MINUTE, 20 * MINUTE

DEFINITION = """\
streams:
  payments:
    topic: {topic}
    event_time: {{field: ts, unit: ms}}
    event_id: id
    drop_repeats: 20m
    lateness: 5m
    max_ahead: 10m
    fields: {{id: string, card: string?, amount: "decimal(12,2)"}}
entities: {{card: string}}
views:
  cards:
    entity: card
    stream: payments
    features:
      n: {{agg: count, windows: [10m, 1h, 3d]}}
      paid: {{agg: sum, of: amount, windows: [1h, 3d]}}
      last: {{agg: last_k, of: amount, k: 3, windows: [3d]}}
"""

Event = tuple[dict[str, Any], int]  # what was sent, and when


def payments(rng: np.random.Generator, partition: int, numbers: range, behind_ms: int = 0) -> list[Event]:
    """Return a partition's payments, five seconds apart: out of order, late, sent again as they were or with a new
    time, one from 2099 and one from 1970 in each fifty.
    """
    sent: list[Event] = []
    for n in numbers:
        now = T0 + 5000 * n - behind_ms
        back = int(rng.choice([0, 0, 0, 20_000, LATENESS_MS, LATENESS_MS + 1, 2 * LATENESS_MS]))
        at = FAR_MS + n if n % 50 == 20 else LONG_AGO_MS + n if n % 50 == 40 else now - back
        event = {"id": f"p{partition}-{n}", "ts": at, "card": f"c{n % 7}", "amount": f"{n % 1000}.25"}
        if sent and n % 5 == 3:
            event = dict(sent[-int(rng.integers(1, min(len(sent), 400) + 1))][0])
            event["ts"] = event["ts"] if n % 2 else now
        sent.append((event, now))
    return sent


def by_partition(rng: np.random.Generator, numbers: range) -> dict[int, list[Event]]:
    """Return the payments of four partitions: the second one is idle, the third a day behind."""
    behind = {0: 0, 2: DAY, 3: 0}
    return {p: payments(rng, p, numbers, behind_ms) for p, behind_ms in behind.items()}


def accepted(definition: Path, archive: Path, refused: dict[str, int]) -> list[EventBatch]:
    """Return each partition's events that count, by a loop that says what late, ahead and a repeat mean."""
    stream = load(definition).streams["payments"]
    opened, found = Archive(archive, [stream]), []
    for info in opened.partitions():
        raw = opened.open(info.topic, info.partition).read(10**6, 10**9)
        assert raw is not None
        events = Decoder(stream).decode(raw).events
        brokers = itertools.repeat(2**62) if events.broker_time_ms is None else events.broker_time_ms.tolist()
        watermark, newest, keep = -(2**62), dict[str, int](), []
        ids = events.fields.column("id").to_pylist()
        for i, (at, broker, one) in enumerate(zip(events.event_time_ms.tolist(), brokers, ids, strict=False)):
            if at > broker + AHEAD_MS:
                refused["ahead"] += 1
                continue
            watermark = max(watermark, at)
            if at < watermark - LATENESS_MS:
                refused["late"] += 1
                continue
            before = newest.get(one, -(2**62))
            newest[one] = max(before, at)
            if before >= watermark - REPEATS_MS:
                refused["repeat"] += 1
                continue
            keep.append(i)
        index = np.array(keep, np.int64)
        found.append(
            EventBatch(
                "payments", info.topic, info.partition, events.offset[index], events.event_time_ms[index], None,
                events.fields.take(pa.array(index)),
            )
        )  # fmt: skip
    return found


def assert_values(definition: Path, store: Path, logs: Logs, instants: Sequence[int]) -> None:
    """Hold what a reader gets of every card, as of instants, against the oracle."""
    compared = 0
    with Client(definition, f"lmdb:{store}") as client:
        for card, rows in logs.rows.items():
            for at in instants:
                reading = client.get({"card": card}, at=at)
                for feature in logs.view.features:
                    name = f"cards.{feature.name}"
                    assert reading.status[name] in ("ok", "default"), (card, at, name, reading.status[name])
                    want = oracle_value(logs.view, feature, rows, at, ALL_TIES, None, True)
                    assert plain(feature, reading.values[name]) == want, (card, at, name)
                    compared += 1
    assert compared >= 7 * 6 * len(instants)


def assert_training(definition: Path, source: str, logs: Logs, out: Path) -> None:
    """Hold a replay's rows against the oracle: each event that counts has one, with the values as of it."""
    words = [
        "replay",
        str(definition),
        "--source",
        source,
        "--from",
        "1970-01-01",
        "--out",
        str(out),
        "--quiet",
    ]
    ended = command(*words, said=out.with_suffix(".said"))
    assert ended.code == 0, ended
    rows = load_training(out).arrow().to_pylist()
    assert {(row["_partition"], row["_offset"]) for row in rows} == set(logs.of_event)
    assert len(rows) == len(logs.of_event)
    for row in rows:
        key, own = logs.of_event[row["_partition"], row["_offset"]]
        for feature in logs.view.features:
            want = oracle_value(logs.view, feature, logs.rows[key], *own[:2], own, True)
            assert plain(feature, row[f"cards.{feature.name}"]) == want, (row["id"], feature.name)


def counts(live: Live) -> dict[str, int]:
    """Return what a job has refused."""
    ended = command("status", "--state", str(live.state), "--json", said=live.folder / "status")
    partitions = json.loads(ended.said)["partitions"].values()
    return {name: sum(part[name] for part in partitions) for name in ("late", "ahead", "repeat")}


def kill(live: Live) -> None:
    """Kill the job's parent by SIGKILL, with which its workers die."""
    assert live.process is not None
    live.process.send_signal(signal.SIGKILL)
    live.process.wait(30)


@pytest.fixture
def topic(kafka: Broker) -> Iterator[str]:
    name = f"time-{next(_numbers)}"
    kafka.create(name, 4)
    yield name
    kafka.delete(name)


@pytest.fixture
def live(kafka: Broker, topic: str, tmp_path: Path) -> Iterator[Live]:
    definition = tmp_path / f"{topic}.yaml"
    definition.write_text(DEFINITION.format(topic=topic))
    job = Live(tmp_path, definition, f"kafka://{kafka.address}")
    yield job
    job.end()


def send(kafka: Broker, topic: str, events: dict[int, list[Event]]) -> None:
    messages = {p: [Sent(json.dumps(e).encode(), at) for e, at in mine] for p, mine in events.items()}
    kafka.produce(topic, messages)


def to_typed(archive: Path, topic: str, out: Path) -> str:
    """Write a copied topic as typed files; return the archive's URI."""
    (out / topic).mkdir(parents=True)
    for path in sorted((archive / topic).glob("*.parquet")):
        table = pq.read_table(path)
        events = pa.Table.from_pylist([json.loads(value) for value in table["value"].to_pylist()])
        for column in ("partition", "offset", "timestamp_ms"):
            events = events.append_column(f"_{column}", table[column])
        pq.write_table(events, out / topic / path.name)
    return f"archive:{out}"


END_MS = T0 + 5000 * 900
INSTANTS = (END_MS, END_MS + 3 * MINUTE, END_MS + 50 * MINUTE, END_MS + DAY)


def test_a_topic_of_odd_times_gives_the_oracles_values_live_killed_and_replayed(
    kafka: Broker, topic: str, live: Live, rng: np.random.Generator
) -> None:
    first, rest = (by_partition(rng, numbers) for numbers in (range(600), range(600, 900)))
    send(kafka, topic, first)
    live.start()
    live.until(lambda: live.offsets().get(f"{topic}/3", 0) == 600, "the first events")
    kill(live)
    for p, mine in first.items():  # what a producer sends again after the crash, of before it
        rest[p] = [(event, rest[p][0][1]) for event, _ in mine[-80:]] + rest[p]
    send(kafka, topic, rest)
    assert live.finish() == 0, live.said()
    archive = live.folder / "archive"
    raw = copy(kafka, topic, archive)
    refused = {"late": 0, "ahead": 0, "repeat": 0}
    logs = logs_of(load(live.definition).views["cards"], accepted(live.definition, archive, refused))
    assert counts(live) == refused and min(refused.values()) > 20
    assert refused["repeat"] > 300
    assert_values(live.definition, live.store, logs, INSTANTS)
    assert_training(live.definition, live.source, logs, live.folder / "from-topic")
    typed = to_typed(archive, topic, live.folder / "typed")
    assert_training(live.definition, typed, logs, live.folder / "from-typed")
    for name, source in (("raw", raw), ("typed", typed)):
        other = Live(live.folder / name, live.definition, source)
        other.folder.mkdir(exist_ok=True)
        assert other.finish() == 0, other.said()
        assert counts(other) == refused
        assert_values(live.definition, other.store, logs, INSTANTS)


def test_an_event_from_2099_without_broker_times_makes_its_partitions_events_late(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """Nothing tells that it is wrong: its own partition's later events are late, the others' count as before."""
    definition = tmp_path / "payments.yaml"
    definition.write_text(DEFINITION.format(topic="payments"))
    good = [[event for event, _ in payments(rng, p, range(300)) if event["ts"] < FAR_MS] for p in range(2)]
    far = {"id": "far", "ts": FAR_MS, "card": "from 2099", "amount": "1.00"}
    write_lines(tmp_path / "archive" / "payments", [[*good[0][:150], far, *good[0][150:]], good[1]])
    live = Live(tmp_path, definition, f"archive:{tmp_path / 'archive'}")
    assert live.finish() == 0, live.said()
    refused = {"late": 0, "ahead": 0, "repeat": 0}
    batches = accepted(definition, tmp_path / "archive", refused)
    assert counts(live) == refused and refused["ahead"] == 0
    assert len(batches[0]) < 150 < len(batches[1])
    logs = logs_of(load(definition).views["cards"], batches)
    with Client(definition, f"lmdb:{live.store}") as client:
        reading = client.get({"card": "from 2099"}, at=FAR_MS)
        assert reading.values["cards.n_10m"] == 1
    del logs.rows["from 2099"]
    assert_values(definition, live.store, logs, [T0 + 5000 * 300 + later for later in (0, MINUTE, DAY)])


def test_a_topic_that_lost_the_ids_of_the_horizon_is_refused(
    kafka: Broker, topic: str, live: Live, rng: np.random.Generator
) -> None:
    """Rows that are counted, and yet needed to tell what comes again; accepted once, it is not asked again."""
    events = by_partition(rng, range(400))
    send(kafka, topic, events)
    assert live.finish() == 0, live.said()
    admin, place = kafka.admin(), TopicPartition(topic, 0, 390)
    admin.delete_records([place])[place].result(30)
    assert live.finish() == 3
    assert "are gone that the job has counted and whose ids it must know" in live.said()
    assert live.finish("--accept-loss") == 0, live.said()
    before, refused = counted(live), counts(live)
    assert before > 100
    left = [(event, events[0][-1][1]) for event, _ in events[0][-8:]]
    send(kafka, topic, {0: left})
    assert live.finish() == 0, live.said()
    assert live.offsets()[f"{topic}/0"] == 408
    assert counted(live) == before
    again = counts(live)
    assert sum(again.values()) == sum(refused.values()) + 8 and again["repeat"] >= refused["repeat"] + 4


def counted(live: Live) -> int:
    """Return how many events of all cards the store holds."""
    total = 0
    with Client(live.definition, f"lmdb:{live.store}") as client:
        for n in range(7):
            value = client.get({"card": f"c{n}"}, at=END_MS).values["cards.n_3d"]
            assert isinstance(value, int)
            total += value
    return total
