"""Jobs over a topic whose messages hold many rows each: real processes, a real broker, kills in the middle."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.dead_letters import read_dead_letters
from lookback.client import Client
from lookback.training import load_training
from tests.connectors.test_arrow_messages import message
from tests.integration.events import T0, Live, copy, write_definition
from tests.recovery.job import command
from tests.services.kafka import Broker, Sent

EVENTS = 12_000  # of each of two partitions
NOW = T0 + 2_000_000
KINDS = pa.schema(
    [("id", pa.int64()), ("ts", pa.int64()), ("card", pa.string()), ("amount", pa.decimal128(12, 2))]
)


def event(number: int, partition: int) -> dict[str, Any]:
    """Return an event: ten share a millisecond, some are late, some have no amount, some come twice."""
    at = T0 + number // 10 * 1000 - (600_000 if number % 97 == 5 and number > 10_000 else 0)
    unique = number - 3 if number % 501 == 10 else number
    amount = None if number % 613 == 7 else f"{number % 1000}.25"
    return {"id": 2 * unique + partition, "ts": at, "card": f"c{unique % 7}", "amount": amount}


def definition(folder: Path, topic: str, form: str) -> Path:
    path = write_definition(folder, topic)
    text = path.read_text().replace("event_id: id", "event_id: id\n    drop_repeats: 1h")
    path.write_text(text.replace(f"topic: {topic}", f"topic: {topic}\n    format: {form}"))
    return path


def values(live: Live) -> list[Any]:
    with Client(live.definition, f"lmdb:{live.store}") as client:
        return [client.get({"card": f"c{n}"}, at=NOW).values for n in range(7)]


def reasons(live: Live) -> dict[str, int]:
    found: dict[str, int] = {}
    for letter in read_dead_letters(live.state / "dead-letters"):
        found[letter.reason.value] = found.get(letter.reason.value, 0) + 1
    return found


def replayed(job: Path, source: str, out: Path) -> pa.Table:
    words = ["replay", str(job), "--source", source, "--from", str(T0), "--out", str(out), "--quiet"]
    ended = command(*words, said=out.with_suffix(".said"))
    assert ended.code == 0, ended
    return load_training(out).arrow()


def test_many_rows_a_message_give_what_a_message_a_row_does(kafka: Broker, tmp_path: Path) -> None:
    """Killed again and again within its commits, the job counts each row once, as one over JSON does."""
    for topic in ("arrow-rows", "json-rows"):
        kafka.create(topic, 2)
    rng = np.random.default_rng(7)
    cuts = [0, *sorted(rng.choice(np.arange(1, EVENTS), 300, replace=False).tolist()), EVENTS]
    events = {p: [event(n, p) for n in range(EVENTS)] for p in range(2)}
    broker_ms = T0 + EVENTS * 100
    kafka.produce(
        "json-rows", {p: [Sent(json.dumps(e).encode(), broker_ms) for e in events[p]] for p in range(2)}
    )
    tables = {
        p: pa.Table.from_pylist([{**e, "amount": None} for e in events[p]], KINDS.remove(3)) for p in range(2)
    }
    sent = {}
    for p, table in tables.items():
        amounts = pa.array([e["amount"] for e in events[p]]).cast(KINDS.field("amount").type)
        whole = table.append_column("amount", amounts)
        sent[p] = [Sent(message(whole.slice(a, b - a), 100), broker_ms) for a, b in pairwise(cuts)]
    kafka.produce("arrow-rows", {0: [*sent[0][:50], Sent(b"torn", broker_ms), *sent[0][50:]], 1: sent[1]})

    source = f"kafka://{kafka.address}"
    live = Live(tmp_path, definition(tmp_path, "arrow-rows", "arrow"), source, ("--clock", "event"))
    plain = Live(tmp_path / "plain", definition(tmp_path, "json-rows", "json"), source, ("--clock", "event"))
    plain.folder.mkdir()
    slow = {"LOOKBACK_TEST_JITTER": "3:8"}  # some messages at a time, so that there are many waves
    try:
        for fault in ("3-after:9", "2-after:9", "4-after:4"):
            live.start(
                "--until-end", LOOKBACK_FAULT=fault, LOOKBACK_FAULT_FILE=str(tmp_path / "fault"), **slow
            )
            assert live.wait() == 1, live.said()
        struck = [line.split()[0] for line in (tmp_path / "fault").read_text().splitlines()]
        assert struck == ["3-after", "2-after", "4-after"]
        assert live.finish() == 0, live.said()
        assert plain.finish() == 0, plain.said()
    finally:
        live.end()
        plain.end()
    assert live.offsets() == {"arrow-rows/0": len(cuts), "arrow-rows/1": len(cuts) - 1}
    assert values(live) == values(plain)
    assert live.status()["views"]["cards"]["rows"] == plain.status()["views"]["cards"]["rows"] > 20_000
    assert reasons(live) == {**reasons(plain), "parse": 1}
    assert set(reasons(plain)) == {"late", "repeat", "schema"}

    topic = replayed(live.definition, source, tmp_path / "topic")
    assert topic.equals(
        replayed(live.definition, copy(kafka, "arrow-rows", tmp_path / "files"), tmp_path / "copy")
    )
    json_rows = replayed(plain.definition, source, tmp_path / "json")
    places = ["_topic", "_offset"]
    assert topic.drop_columns(places).equals(json_rows.drop_columns(places))
    starts = np.array(cuts)
    for p in range(2):
        own = topic.filter(pa.compute.equal(topic["_partition"], p))
        other = json_rows.filter(pa.compute.equal(json_rows["_partition"], p))["_offset"].to_numpy()
        number = np.searchsorted(starts, other, "right") - 1
        assert (own["_offset"].to_numpy() == number + ((number >= 50) if p == 0 else 0)).all()
