"""A replay starts right at FROM, says what is final, and refuses what it can't do exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataflows.live_job import run
from dataflows.live_round import LiveOptions
from dataflows.replay_job import ReplayOptions, replay
from lookback import Client, RefusedError, UsageError, load_training
from lookback.definition import Definition, load

DAY = 86_400_000
START = 1_704_067_200_000
MINUTE = 60_000

TEXT = """
streams:
  tx:
    topic: tx
    event_time: {field: ts, unit: ms}
    event_id: id
    lateness: 10m
    max_ahead: 1h
    fields: {id: int64, card: string?, amount: int64}
entities: {card: string}
views:
  v:
    entity: card
    stream: tx
    features:
      n: {agg: count, windows: [1h, 1d]}
      total: {agg: sum, of: amount, windows: [1d]}
"""


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Definition:
    path = tmp_path_factory.mktemp("definition") / "features.yaml"
    path.write_text(TEXT)
    return load(path)


def events(days: int = 6, count: int = 4000, seed: int = 1) -> pa.Table:
    """Return typed events over some days in two partitions, with broker times a little after event times."""
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.integers(START, START + days * DAY, count))
    ts = arrival - rng.integers(0, 12 * MINUTE, count)  # some are late
    card = [None if x == 0 else f"c{x}" for x in rng.integers(0, 30, count)]
    partition = rng.integers(0, 2, count).astype(np.int32)
    offset = np.where(partition == 0, np.cumsum(partition == 0) - 1, np.cumsum(partition == 1) - 1)
    return pa.table(
        {
            "id": np.arange(count),
            "card": card,
            "amount": rng.integers(-50, 1000, count),
            "ts": ts,
            "_partition": partition,
            "_offset": offset,
            "_timestamp_ms": arrival,
        }
    )


def write(path: Path, table: pa.Table) -> str:
    """Write an archive of one topic, two files; return its URI."""
    (path / "tx").mkdir(parents=True)
    half = len(table) // 2
    pq.write_table(table.slice(0, half), path / "tx" / "a.parquet", row_group_size=500)
    pq.write_table(table.slice(half), path / "tx" / "b.parquet", row_group_size=500)
    return f"archive:{path}"


def rows(definition: Definition, out: Path, source: str, start: int, stop: int | None = None) -> pa.Table:
    """Replay and return the rows."""
    replay(definition, ReplayOptions(source, out, start, stop, quiet=True))
    return load_training(out).arrow()


def test_a_replay_of_a_part_is_that_part_of_the_whole(definition: Definition, tmp_path: Path) -> None:
    source = write(tmp_path / "archive", events())
    whole = rows(definition, tmp_path / "whole", source, 0)
    start, stop = START + 3 * DAY + 12_345, START + 5 * DAY
    part = rows(definition, tmp_path / "part", source, start, stop)
    inside = pc.and_(pc.greater_equal(whole["event_time_ms"], start), pc.less(whole["event_time_ms"], stop))
    assert part.equals(whole.filter(inside))
    assert 500 < len(part) < len(whole)
    covered = json.loads((tmp_path / "part" / "manifest.json").read_text())["offsets"]
    assert all(one["first_offset"] > 500 for one in covered), "the replay read from the beginning"


def test_two_replays_next_to_one_another_are_the_whole(definition: Definition, tmp_path: Path) -> None:
    source = write(tmp_path / "archive", events(seed=2))
    whole = rows(definition, tmp_path / "whole", source, 0)
    cut = START + 2 * DAY + 7
    first = rows(definition, tmp_path / "first", source, 0, cut)
    second = rows(definition, tmp_path / "second", source, cut)
    assert pa.concat_tables([first, second]).combine_chunks().equals(whole.combine_chunks())


def test_events_without_a_key_are_rows_without_values(definition: Definition, tmp_path: Path) -> None:
    source = write(tmp_path / "archive", events())
    done = replay(definition, ReplayOptions(source, tmp_path / "out", 0, quiet=True))
    table = load_training(tmp_path / "out").arrow()
    without = table.filter(pc.is_null(table["card"]))
    assert len(without) == done.counts["no_key"] > 50
    assert without["v.n_1h"].null_count == len(without)
    assert table["v.n_1h"].null_count == len(without)


def test_a_truncated_topic_is_refused_with_the_earliest_exact_from(
    definition: Definition, tmp_path: Path
) -> None:
    table = events()
    gone = pc.less(table["_timestamp_ms"], START + 2 * DAY)
    source = write(tmp_path / "archive", table.filter(pc.invert(gone)))
    with pytest.raises(RefusedError, match="earliest exact --from is 2024-01-04 01:0") as refusal:
        replay(definition, ReplayOptions(source, tmp_path / "out", START + 2 * DAY, quiet=True))
    assert refusal.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    late = START + 3 * DAY + 2 * 3_600_000
    whole = rows(definition, tmp_path / "whole", write(tmp_path / "all", table), late)
    assert rows(definition, tmp_path / "out", source, late).equals(whole)


def test_rows_above_the_last_safe_time_are_provisional(definition: Definition, tmp_path: Path) -> None:
    table = events()
    source = write(tmp_path / "archive", table)
    replay(definition, ReplayOptions(source, tmp_path / "out", 0, quiet=True))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    marks = [
        max(
            t for t, p in zip(table["ts"].to_pylist(), table["_partition"].to_pylist(), strict=True) if p == n
        )
        for n in (0, 1)
    ]
    assert manifest["final_until_ms"] == min(marks) - 10 * MINUTE - 1


def test_a_partition_far_ahead_waits_for_the_slow_one(definition: Definition, tmp_path: Path) -> None:
    """Partition 1 holds days that partition 0 reaches only at its end: the values are those of one partition."""
    table = events(days=20, count=6000)
    table = table.set_column(
        3, "ts", table["_timestamp_ms"]
    )  # nobody is late, so both accept the same events
    behind = table["ts"].to_numpy() <= START + 8 * DAY
    ahead = table.set_column(4, "_partition", pa.array((~behind).astype(np.int32)))
    ahead = ahead.set_column(
        5, "_offset", pa.array(np.where(behind, np.cumsum(behind), np.cumsum(~behind)) - 1)
    )
    source = write(tmp_path / "archive", ahead)
    found = rows(definition, tmp_path / "out", source, 0).sort_by("id")
    single = table.set_column(4, "_partition", pa.array(np.zeros(len(table), np.int32)))
    single = single.set_column(5, "_offset", pa.array(np.arange(len(table))))
    one = rows(definition, tmp_path / "one", write(tmp_path / "single", single), 0).sort_by("id")
    place = ["_partition", "_offset"]
    assert found.drop_columns(place).equals(one.drop_columns(place))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("stream", "nothing", "there is no stream"),
        ("source", "files:/somewhere", "archive:PATH"),
        ("source", "archive:/nowhere", "no archive folder"),
    ],
)
def test_wrong_use_says_what_to_write(
    option: str, value: str, message: str, definition: Definition, tmp_path: Path
) -> None:
    source = write(tmp_path / "archive", events(count=20))
    options = {"source": source, "out": tmp_path / "out", "from_ms": 0, "quiet": True, option: value}
    with pytest.raises((UsageError, Exception), match=message):
        replay(definition, ReplayOptions(**options))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_live_job_that_starts_in_the_middle_reads_as_far_back_as_its_windows(
    definition: Definition, tmp_path: Path
) -> None:
    """Its values as of the end are those of a job that read everything, though it read less."""
    source = write(tmp_path / "archive", events())
    start = START + 5 * DAY
    whole = rows(definition, tmp_path / "out", source, start)
    found = run(
        definition,
        LiveOptions(source, f"lmdb:{tmp_path / 'store'}", tmp_path / "state", start_ms=start, quiet=True),
    )
    assert 500 < found.counts["rows"] < 2500
    last = {row["card"]: row for row in whole.to_pylist() if row["card"] is not None}
    with Client(definition, f"lmdb:{tmp_path / 'store'}") as client:
        for card, row in last.items():
            reading = client.get({"card": card}, at=row["event_time_ms"])
            assert reading.values == {name: row[name] for name in definition.all_features()}
