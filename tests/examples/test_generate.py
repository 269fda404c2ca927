from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from examples.card_fraud import generate as generator
from examples.card_fraud.generate import Facts, generate

EVENTS = 20_000
LATENESS_MS = 600_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    out = tmp_path_factory.mktemp("raw")
    return out, generate(out, events=EVENTS)


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted((out / "transactions").glob("*")) for row in pq.read_table(path).to_pylist()
    ]


def whole(message: bytes) -> dict[str, Any] | None:
    """Parse one message as the stream declares it; None where it is broken. Floats stay text."""
    try:
        event = json.loads(message, parse_float=str, parse_constant=str)
    except ValueError:
        return None
    if not isinstance(event, dict) or set(event) - {"device"} != {
        "ts", "tx_id", "card", "merchant", "country", "amount", "declined",
    }:  # fmt: skip
        return None
    digits = str(event["amount"]).partition(".")[2]
    return event if len(digits) == 2 and isinstance(event["declined"], bool) else None


def test_the_same_seed_gives_the_same_bytes(raw: tuple[Path, Facts], tmp_path: Path) -> None:
    out, facts = raw
    again = generate(tmp_path / "again", events=EVENTS)
    other = generate(tmp_path / "other", events=EVENTS, seed=8)
    assert again == facts and other != facts
    files = sorted(path.relative_to(out) for path in out.rglob("*.parquet"))
    assert len(files) == facts.partitions + 1
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        assert (out / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


def test_facts_are_those_of_the_files(raw: tuple[Path, Facts]) -> None:
    """Count late, ahead, broken and out-of-order events again, row by row from the files."""
    out, facts = raw
    found: Counter[str] = Counter()
    watermark: dict[int, int] = {}
    ids = set()
    for row in rows(out):
        found["events"] += 1
        event = whole(row["value"])
        part = row["partition"]
        if event is None:
            found["broken"] += 1
            continue
        ids.add(event["tx_id"])
        assert row["key"].decode() == event["card"]
        if event["ts"] > row["timestamp_ms"] + 3_600_000:
            found["ahead"] += 1
            continue
        seen = watermark.get(part, -(2**62))
        if event["ts"] < seen - LATENESS_MS:
            found["late"] += 1
        watermark[part] = max(seen, event["ts"])
        found["out_of_order"] += event["ts"] < seen
    assert found["events"] == facts.events
    assert found["broken"] == facts.broken > 0
    assert found["late"] == facts.late > 0
    assert found["ahead"] == facts.ahead
    assert found["out_of_order"] == facts.out_of_order > 100
    assert len(ids) == facts.events - facts.broken
    assert facts.good == found["events"] - found["broken"] - found["ahead"] - found["late"]


def test_positions_rise_and_broker_times_never_fall(raw: tuple[Path, Facts]) -> None:
    out, facts = raw
    paths = sorted((out / "transactions").glob("*.parquet"))
    assert len(paths) == facts.partitions
    for number, path in enumerate(paths):
        table = pq.read_table(path)
        assert set(table["partition"].to_pylist()) == {number}
        assert table["offset"].to_pylist() == list(range(table.num_rows))
        times = table["timestamp_ms"].to_pylist()
        assert times == sorted(times)


def test_truth_names_the_attack_and_every_pattern(raw: tuple[Path, Facts]) -> None:
    out, facts = raw
    truth = {row["tx_id"]: row for row in pq.read_table(out / "truth.parquet").to_pylist()}
    events = [e for row in rows(out) if (e := whole(row["value"]))]
    assert set(truth) == {e["tx_id"] for e in events}
    patterns = Counter(row["pattern"] for row in truth.values())
    assert set(patterns) == {"none", "card_testing", "lost_card", "merchant_compromise"}
    assert sum(row["is_fraud"] for row in truth.values()) == facts.fraud
    attack = [e for e in events if e["card"] == facts.attacked_card and truth[e["tx_id"]]["is_fraud"]]
    assert min(e["ts"] for e in attack) >= facts.attack_start_ms
    assert max(e["ts"] for e in attack) == facts.attack_end_ms
    assert sum(e["declined"] for e in attack) > 10
    assert len(attack) > 40


def test_every_way_to_be_broken_and_both_ways_to_lack_a_device_occur(tmp_path: Path) -> None:
    generate(tmp_path, events=150_000)
    messages = [bytes(row["value"]) for row in rows(tmp_path)]
    broken = [message for message in messages if whole(message) is None]
    assert any(message == b"null" for message in broken)
    assert any(b"NaN" in message for message in broken)
    assert any(b'"declined":"no"' in message for message in broken)
    assert any(b'"card"' not in message and message.endswith(b"}") for message in broken)
    assert any(not message.endswith(b"}") for message in broken)
    assert any(b'"device":null' in message for message in messages)
    assert any(b'"device"' not in message for message in messages if whole(message))


def test_typed_and_raw_archives_hold_the_same_payments(tmp_path: Path) -> None:
    facts = generate(tmp_path, events=5000, fmt="typed", start="2023-06-01")
    table = pq.read_table(tmp_path / "transactions")
    assert table.num_rows == facts.events and facts.broken == 0
    assert str(table.schema.field("amount").type) == "decimal128(12, 2)"
    first = datetime(2023, 6, 1, tzinfo=UTC).timestamp() * 1000
    assert first <= facts.first_ms < first + 86_400_000
    texts = [json.loads(line) for line in jsonl_lines(tmp_path / "lines")]
    assert {type(event["amount"]) for event in texts} == {float}
    assert max(table["amount"].to_pylist()) > 100


def jsonl_lines(out: Path) -> list[str]:
    facts = generate(out, events=5000, fmt="jsonl")
    assert facts.partitions == 1 and facts.ahead == 0
    lines = (out / "transactions" / "part-00.jsonl").read_text().splitlines()
    assert len(lines) == facts.events
    return [line for line in lines if whole(line.encode())]


def test_the_command_refuses_a_folder_that_is_taken(
    raw: tuple[Path, Facts], capsys: pytest.CaptureFixture[str]
) -> None:
    assert generator.main([str(raw[0])]) == 2
    assert "name another folder" in capsys.readouterr().err
    assert generator.main([str(raw[0] / "x"), "--events", "5"]) == 2
    assert not (raw[0] / "x").exists()
