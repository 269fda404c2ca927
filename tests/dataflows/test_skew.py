"""Partition skew: one partition is 30 days ahead, one is slow; a replay's source reads only so far ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.options import DEFINITIONS
from benchmarks.skew import PARTS, Ahead, skewed
from connectors.archive import Archive
from dataflows import board as b
from dataflows import source as module
from dataflows.board import Board
from dataflows.ingest import Ingest, Use
from dataflows.settings import Part, Settings
from dataflows.source import EventSource
from lookback.definition import load

ROWS = 300_000
BATCH_ROWS = 2_048


@pytest.mark.parametrize("bound", [20_000, 10**9])
def test_a_partition_30_days_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    """It waits at the bound until the others have come; without a bound, most of it would be kept."""
    monkeypatch.setattr(module, "AHEAD_ROWS", bound)
    definition = load(DEFINITIONS / "one_view.yaml")
    view, stream = definition.views["card_activity"], definition.streams["transactions"]
    archive = Archive(skewed(tmp_path, ROWS, BATCH_ROWS), [stream])
    parts = tuple(Part("transactions", "transactions", n) for n in range(PARTS))
    settings = Settings(
        definition="", fingerprint="", source="", parts=parts, work=str(tmp_path / "work"), shards=2,
        shard_keys=("00-a", "01-b"), batch_rows=BATCH_ROWS, epoch_bytes=1 << 40, out="out",
    )  # fmt: skip
    Board.reset(tmp_path / "work" / "board", PARTS)

    def make(part: Part, state: dict[str, Any] | None) -> Ingest:
        return Ingest(stream, part.topic, [Use(0, view, view.encode)], 2, None, state)

    source = EventSource(settings, archive, make, lambda _: None)
    open_parts = {n: source.build_part("source", part.id, None) for n, part in enumerate(parts)}
    ahead, turn = Ahead(tmp_path / "work" / "board"), 0
    while open_parts:
        turn += 1
        for number, part in list(open_parts.items()):
            if number == 1 and turn % 8:
                continue  # the slow one
            try:
                part.next_batch()
            except StopIteration:
                del open_parts[number]
        ahead.look()
    assert Board(tmp_path / "work" / "board", PARTS).rows[:, b.ROWS].sum() == ROWS
    if bound < ROWS:
        assert bound < ahead.most <= bound + 2 * BATCH_ROWS
    else:
        assert ahead.most == 0.35 * ROWS, "the control: all of it is read"
