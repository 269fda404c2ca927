from __future__ import annotations

import json
from pathlib import Path

import pytest

from lookback.errors import LookbackError, UsageError
from lookback.starter.write import EVENTS, write_starter


def test_writes_the_same_definition_and_events_each_time(tmp_path: Path) -> None:
    first = write_starter(tmp_path / "a" / "new")
    second = write_starter(tmp_path / "b")
    assert [p.relative_to(tmp_path / "b").as_posix() for p in second] == [
        "features.yaml",
        "events/transactions/sample.jsonl",
    ]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_events_are_whole_and_none_is_late(tmp_path: Path) -> None:
    lines = write_starter(tmp_path)[1].read_text().splitlines()
    assert len(lines) == EVENTS
    newest, behind = 0, 0
    for number, line in enumerate(lines):
        event = json.loads(line, parse_float=str)
        assert list(event) == ["ts", "tx_id", "card", "merchant", "country", "amount", "declined"]
        assert event["tx_id"] == 1000 + number
        assert len(event["amount"].partition(".")[2]) == 2
        assert event["ts"] >= newest - 600_000
        behind += event["ts"] < newest
        newest = max(newest, event["ts"])
    assert behind > 20


def test_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "features.yaml").write_text("mine")
    with pytest.raises(UsageError, match="name another folder"):
        write_starter(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["features.yaml"]
    assert (tmp_path / "features.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LookbackError, match="cannot write to"):
        write_starter(tmp_path / "file" / "below")
