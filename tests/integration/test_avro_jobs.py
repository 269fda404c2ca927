"""Jobs over topics in Avro: real processes, a real broker, and a registry that they reach over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from connectors.dead_letters import read_dead_letters
from lookback.client import Client
from tests.connectors.avro import DECIMAL, MILLIS, framed, record
from tests.integration.events import T0, Live, copy, write_definition
from tests.recovery.job import command
from tests.services.kafka import Broker, Sent
from tests.services.registry import Registry

NOW = T0 + 3_600_000
FIRST = record(id="int", ts="long", card=["null", "string"], amount="string")
# widened, another type, another order, one field more
SECOND = record(
    note={"type": "array", "items": "string"}, amount=DECIMAL, card="string", ts=MILLIS, id="long", more="int"
)
THIRD = record(id="int", ts="long", card=["null", "string"], amount="string", new=["null", "string"])
LATER = range(3000, 3100)


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry()
    yield found
    found.stop()


@pytest.fixture
def settings(tmp_path: Path, registry: Registry) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(f"schema_registry: {{url: '{registry.url}'}}\n")
    return path


def in_json(number: int) -> Sent:
    at = T0 + number * 1000
    event = {"id": number, "ts": at, "card": f"c{number % 7}", "amount": f"{number % 1000}.25"}
    return Sent(json.dumps(event).encode(), at)


def in_avro(number: int, first: int, second: int) -> Sent:
    """Return the same event by the first schema, or every other time by the second."""
    at = T0 + number * 1000
    event: dict[str, Any] = {
        "id": number,
        "ts": at,
        "card": f"c{number % 7}",
        "amount": f"{number % 1000}.25",
    }
    if number % 2:
        return Sent(framed(first, FIRST if first == 1 else THIRD, event), at)
    event |= {"amount": Decimal(event["amount"]), "ts": datetime.fromtimestamp(at / 1000, UTC)}
    return Sent(framed(second, SECOND, {**event, "note": ["a"], "more": 1}), at)


def avro_definition(folder: Path, topic: str) -> Path:
    path = write_definition(folder, topic)
    path.write_text(path.read_text().replace(f"topic: {topic}", f"topic: {topic}\n    format: avro"))
    return path


def values(definition: Path, store: Path) -> list[Any]:
    with Client(definition, f"lmdb:{store}") as client:
        return [client.get({"card": f"c{n}"}, at=NOW).values for n in range(7)]


def test_a_topic_in_avro_gives_what_one_in_json_does(
    kafka: Broker, registry: Registry, settings: Path, tmp_path: Path
) -> None:
    """The registry comes after the job, which says so and loses nothing, killed meanwhile or not; two schemas at once;
    an id that nobody knows; and the replay of the topic and of its archive.
    """
    for topic in ("avro", "json"):
        kafka.create(f"{topic}-events", 2)
    first, second = registry.add(FIRST), registry.add(SECOND)
    numbers = range(3000)
    kafka.produce("json-events", {p: [in_json(n) for n in numbers if n % 2 == p] for p in range(2)})
    kafka.produce("json-events", {p: [in_json(n) for n in LATER] for p in range(2)})
    sent = {p: [in_avro(n, first, second) for n in numbers if n // 2 % 2 == p] for p in range(2)}
    strangers = [
        Sent(framed(77, FIRST, {"id": 0, "ts": T0, "card": None, "amount": "1"}), T0),
        Sent(b"{}", T0),
    ]
    kafka.produce("avro-events", {0: sent[0][:100] + strangers + sent[0][100:], 1: sent[1]})

    source = f"kafka://{kafka.address}"
    live = Live(tmp_path, avro_definition(tmp_path, "avro-events"), source, ("--settings", str(settings)))
    try:
        live.start("--clock", "event")
        told = f"the schema registry {registry.url} does not answer"
        live.until(
            lambda: told in live.said() and "the job waits and then goes on" in live.said(), "a word on it"
        )
        live.until(lambda: live.status()["waiting"]["registry_partitions"] == 2, "a status")
        assert live.process is not None
        live.process.kill()
        live.process.wait()
        live.start("--clock", "event")
        live.until(lambda: told in live.said(), "a word on it again")
        registry.start()
        live.until(lambda: live.offsets() == {"avro-events/0": 1502, "avro-events/1": 1500}, "all events")
        live.until(lambda: "the schema registry answers again" in live.said(), "a word that it is back")
        assert live.status()["waiting"]["registry_partitions"] == 0

        registry.stop()
        third = registry.add(THIRD)
        kafka.produce(
            "avro-events", {p: [in_avro(n, (first, third)[p], second) for n in LATER] for p in range(2)}
        )
        live.until(
            lambda: live.offsets() == {"avro-events/0": 1602, "avro-events/1": 1500}, "the known schemas"
        )
        live.until(lambda: live.status()["waiting"]["registry_partitions"] == 1, "a status for the other")
        registry.start()
        live.until(lambda: live.offsets() == {"avro-events/0": 1602, "avro-events/1": 1600}, "the new schema")
        live.stop()
    finally:
        live.end()
    asked = [int(path.partition("?")[0].removeprefix("/schemas/ids/")) for path in registry.asked]
    assert sorted(asked) == [first, second, third, 77], "each once"

    plain = Live(tmp_path / "plain", write_definition(tmp_path, "json-events"), source)
    plain.folder.mkdir()
    assert plain.finish("--clock", "event") == 0, plain.said()
    assert values(live.definition, live.store) == values(plain.definition, plain.store)
    assert values(live.definition, live.store)[3]["cards.n_1h"] > 400

    letters = list(read_dead_letters(live.state / "dead-letters"))
    assert [(letter.offset, letter.reason.value) for letter in letters] == [(100, "parse"), (101, "parse")]
    assert letters[0].detail == "the schema registry does not know the schema id 77"
    assert letters[0].raw == strangers[0].value

    archive = copy(kafka, "avro-events", tmp_path / "archive")
    outs = []
    for name, where in (("topic", source), ("files", archive)):
        words = [
            "replay",
            str(live.definition),
            "--source",
            where,
            "--from",
            str(T0),
            "--settings",
            str(settings),
        ]
        ended = command(*words, "--out", str(tmp_path / name), "--quiet", said=tmp_path / f"{name}.said")
        assert ended.code == 0, ended
        found = (tmp_path / name).rglob("*.parquet")
        outs.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in found})
    assert outs[0] == outs[1] and outs[0]

    words = [
        "lateness",
        str(live.definition),
        "--source",
        source,
        "--settings",
        str(settings),
        "--json",
        "--quiet",
    ]
    ended = command(*words, said=tmp_path / "lateness.said")
    assert ended.code == 0, ended
    assert json.loads(ended.said)["streams"]["payments"]["events"] == 3200


def test_without_a_registry_in_the_settings_nothing_begins(kafka: Broker, tmp_path: Path) -> None:
    definition = avro_definition(tmp_path, "nowhere")
    live = Live(tmp_path, definition, f"kafka://{kafka.address}")
    assert live.finish() == 2
    assert "events in Avro need a schema registry" in live.said() and not live.state.exists()
