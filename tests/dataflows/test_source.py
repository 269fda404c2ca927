"""A source stops at its byte budget for an epoch, under pressure and on a drain; its marks follow its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors.archive import Archive
from dataflows import board as b
from dataflows import draining
from dataflows.board import LOG_BYTES, Board
from dataflows.ingest import Ingest, Use
from dataflows.route import Item
from dataflows.settings import Part, Settings
from dataflows.source import DEAD, EventSource, SourcePart
from lookback.definition import loads
from tests.parity.events import write_lines

DEFINITION = loads(
    """
streams:
  tx: {topic: tx, event_time: {field: ts, unit: ms}, lateness: 5s, fields: {card: string, amount: int64}}
entities: {card: string}
views:
  v: {entity: card, stream: tx, features: {n: {agg: count, windows: [1h]}}}
"""
)
KEYS = ("00-a", "01-b")


def open_part(
    path: Path, *, out: str | None = None, epoch_bytes: int = 10**9
) -> tuple[SourcePart, Board, Any]:
    """Return a partition over 100 events of increasing times, one of them broken."""
    events: list[Any] = [{"ts": 1000 * i, "card": f"c{i % 7}", "amount": i} for i in range(100)]
    events[40] = {"ts": 40_000, "card": "c1", "amount": "broken"}
    write_lines(path / "archive" / "tx", [events])
    part = Part("tx", "tx", 0)
    settings = Settings(
        definition="", fingerprint="", source="", parts=(part,), work=str(path / "work"), shards=2,
        shard_keys=KEYS, batch_rows=10, epoch_bytes=epoch_bytes, out=out,
    )  # fmt: skip
    board = Board.reset(path / "work" / "board", 1)
    view = DEFINITION.views["v"]

    def make(part: Part, state: dict[str, Any] | None) -> Ingest:
        return Ingest(DEFINITION.streams["tx"], "tx", [Use(0, view, view.encode)], 2, None, state)

    archive = Archive(path / "archive", DEFINITION.streams.values())
    source = EventSource(settings, archive, make, lambda _: None)
    opened = source.build_part("source", "tx/0", None)
    assert isinstance(opened, SourcePart)
    return opened, board, source


def rows(items: list[Any]) -> int:
    """Return how many rows items hold."""
    return sum(len(c.time_ms) for _, item in items if isinstance(item, Item) for c in item.chunks)


def test_an_epoch_has_a_byte_budget(tmp_path: Path) -> None:
    part, _, _ = open_part(tmp_path, epoch_bytes=1500)
    counts = []
    for _ in range(3):
        count = 0
        while items := list(part.next_batch()):
            count += rows(items)
        assert part.next_awake() is not None
        assert list(part.next_batch()) == []
        counts.append(count)
        part.snapshot()
    assert all(10 <= count <= 40 for count in counts)


def test_a_workers_partitions_share_a_budget(tmp_path: Path) -> None:
    """However many they are; one that is alone in having events gets all of it."""
    names = [Part("tx", "tx", n) for n in range(8)]
    events: list[Any] = [{"ts": 1000 * i, "card": "c1", "amount": i} for i in range(1000)]
    write_lines(tmp_path / "archive" / "tx", [events] * len(names))
    settings = Settings(
        definition="", fingerprint="", source="", parts=tuple(names), work=str(tmp_path / "work"), shards=2,
        shard_keys=KEYS, batch_rows=10, worker_epoch_bytes=10_000,
    )  # fmt: skip
    Board.reset(tmp_path / "work" / "board", len(names))
    view = DEFINITION.views["v"]

    def make(part: Part, state: dict[str, Any] | None) -> Ingest:
        return Ingest(DEFINITION.streams["tx"], "tx", [Use(0, view, view.encode)], 2, None, state)

    source = EventSource(
        settings, Archive(tmp_path / "archive", DEFINITION.streams.values()), make, lambda _: None
    )
    parts = [source.build_part("source", part.id, None) for part in names]

    def read_in_turns(some: list[Any]) -> list[int]:
        counts = [0] * len(some)
        while found := [rows(list(part.next_batch())) for part in some]:
            counts = [count + more for count, more in zip(counts, found, strict=True)]
            if not any(found):
                return counts
        raise AssertionError

    counts = read_in_turns(parts)
    assert all(counts) and sum(counts) < 10_000 / 60 + 8 * 10, counts
    assert read_in_turns(parts) == [0] * 8
    for part in parts:
        part.snapshot()
    assert read_in_turns(parts[:1])[0] > 100


def test_dirty_logs_over_the_limit_make_it_wait(tmp_path: Path) -> None:
    part, board, _ = open_part(tmp_path)
    assert rows(list(part.next_batch())) == 10
    board.pressure[0] = 1
    assert list(part.next_batch()) == []
    board.pressure[0] = 0
    assert rows(list(part.next_batch())) == 10


def test_updates_that_the_change_log_does_not_take_make_it_wait(tmp_path: Path) -> None:
    part, board, _ = open_part(tmp_path)
    assert rows(list(part.next_batch())) == 10
    board.log_bytes[0] = LOG_BYTES + 1
    assert list(part.next_batch()) == []
    board.log_bytes[0] = LOG_BYTES
    assert rows(list(part.next_batch())) == 10


def test_every_shard_hears_of_the_start_and_of_the_end(tmp_path: Path) -> None:
    part, _, _ = open_part(tmp_path)
    batches = []
    with pytest.raises(StopIteration):
        while True:
            batches.append(list(part.next_batch()))
    assert {key for key, _ in batches[0]} == set(KEYS)
    assert {key for key, _ in batches[-1]} == set(KEYS)
    assert sum(rows(batch) for batch in batches) == 99
    dead = [item for batch in batches for key, item in batch if key.startswith(DEAD)]
    letters = [letter for item in dead if isinstance(item, list) for letter in item]
    assert [(letter.offset, letter.reason.value) for letter in letters] == [(40, "schema")]


def test_a_replays_marks_follow_the_rows_and_end_at_the_end(tmp_path: Path) -> None:
    part, board, _ = open_part(tmp_path, out="out")
    seen = -(2**62)
    last = 0
    with pytest.raises(StopIteration):
        while True:
            for key, item in part.next_batch():
                if not isinstance(item, Item) or key != KEYS[0]:
                    continue
                for chunk in item.chunks:
                    assert chunk.time_ms.min() > seen, "a row at or before a mark that came earlier"
                    last = max(last, int(chunk.time_ms.max()))
                seen = item.watermark_ms
    assert seen == b.END
    assert board.rows[0, b.WATERMARK] == b.END
    assert board.rows[0, b.EVENT_TIME] == 99_000


def test_it_goes_on_where_a_snapshot_was_taken(tmp_path: Path) -> None:
    part, _, source = open_part(tmp_path)
    first = rows(list(part.next_batch()))
    state = part.snapshot()
    again = source.build_part("source", "tx/0", state)
    rest = 0
    with pytest.raises(StopIteration):
        while True:
            rest += rows(list(again.next_batch()))
    assert (first, first + rest) == (10, 99)


def test_a_drain_ends_it_without_an_end_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, board, _ = open_part(tmp_path, out="out")
    list(part.next_batch())
    monkeypatch.setattr(draining, "_draining", True)
    with pytest.raises(StopIteration):
        part.next_batch()
    assert board.rows[0, b.WATERMARK] != b.END


def test_a_batch_that_cannot_be_taken_yet_is_held_and_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash while it waits for a schema registry must not have read past it."""
    part, board, _ = open_part(tmp_path)
    ready = True
    monkeypatch.setattr(Ingest, "ready", lambda self, raw: ready)
    monkeypatch.setattr(Ingest, "waiting", "nobody answers")
    found = rows(list(part.next_batch()))
    assert found == part.snapshot()["offset"] == 10
    ready = False
    for _ in range(3):
        assert rows(list(part.next_batch())) == 0 and part.next_awake() is not None
        assert part.snapshot()["offset"] == board.rows[0, b.OFFSET] == 10
        assert board.rows[0, b.REGISTRY] == 1
    assert (tmp_path / "work" / "registry-waits").read_text() == "nobody answers"
    ready = True
    with pytest.raises(StopIteration):
        while True:
            found += rows(list(part.next_batch()))
    assert found == 99 and part.snapshot()["offset"] == 100
    assert board.rows[0, b.REGISTRY] == 0
