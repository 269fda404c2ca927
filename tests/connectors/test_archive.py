from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import archive_lines
from connectors.archive import Archive
from connectors.archive_lines import LinesTopic
from connectors.archive_pieces import SplitCache
from connectors.batches import Reason
from connectors.decode import Decoder
from lookback.errors import SourceError
from tests.connectors.build import CARD, card_event, read_all, stream_of, write_lines, write_parquet

STREAM = stream_of(CARD)


def positioned(number: int, partitions: int = 3) -> dict[str, Any]:
    """Return an event with its position: offsets rise by two in each partition."""
    where = {
        "_partition": number % partitions,
        "_offset": 2 * (number // partitions),
        "_timestamp_ms": number,
    }
    return {**where, **card_event(number)}


def as_read(number: int, offset: int, time: int | None) -> tuple[Any, ...]:
    """Return what `read_all` gives for an event."""
    event = card_event(number)
    return (offset, event["ts"], time, event["tx_id"], event["card"], number, event["device"])


def typed(numbers: range, partitions: int | None = 3) -> pa.Table:
    rows = [card_event(n) if partitions is None else positioned(n, partitions) for n in numbers]
    schema = pa.schema([("device", pa.string())])
    table = pa.Table.from_pylist(rows)
    return table.set_column(
        table.schema.get_field_index("device"),
        schema.field(0),
        pa.array([r["device"] for r in rows], pa.string()),
    )


def raw(numbers: range, partitions: int = 3) -> pa.Table:
    return pa.table(
        {
            "partition": pa.array([n % partitions for n in numbers], pa.int32()),
            "offset": [2 * (n // partitions) for n in numbers],
            "timestamp_ms": list(numbers),
            "key": pa.array([None for _ in numbers], pa.binary()),
            "value": pa.array([json.dumps(card_event(n)).encode() for n in numbers], pa.binary()),
        }
    )


def write(path: Path, form: str, positions: bool = True) -> Archive:
    """Write 300 events in two files of a form and open them."""
    for name, numbers in (("a", range(200)), ("b", range(200, 300))):
        file = path / "tx" / f"{name}.{'jsonl' if form == 'lines' else 'parquet'}"
        if form == "lines":
            write_lines(file, [positioned(n) if positions else card_event(n) for n in numbers])
        elif form == "typed":
            write_parquet(file, typed(numbers, 3 if positions else None), row_group_size=70)
        else:
            write_parquet(file, raw(numbers), row_group_size=70)
    return Archive(path, [STREAM])


@pytest.mark.parametrize("form", ["lines", "typed", "raw"])
def test_partitions_and_events_with_positions(tmp_path: Path, form: str) -> None:
    archive = write(tmp_path, form)
    infos = archive.partitions()
    assert [(i.topic, i.partition, i.first_offset, i.end_offset, i.rows) for i in infos] == [
        ("tx", p, 0, 199, 100) for p in range(3)
    ]
    assert sum(i.file_bytes for i in infos) == pytest.approx(
        sum(f.stat().st_size for f in (tmp_path / "tx").iterdir()), abs=20
    )
    assert min(i.first_broker_time_ms or 0 for i in infos) == 0
    assert {i.last_broker_time_ms for i in infos} == {299}
    for partition in range(3):
        events, dead = read_all(archive, Decoder(STREAM), partition)
        assert events == [as_read(n, 2 * (n // 3), n) for n in range(partition, 300, 3)]
        assert dead == []


@pytest.mark.parametrize("form", ["lines", "typed"])
def test_without_positions_rows_are_numbered_over_the_files(tmp_path: Path, form: str) -> None:
    archive = write(tmp_path, form, positions=False)
    (info,) = archive.partitions()
    assert (info.partition, info.first_offset, info.end_offset, info.last_broker_time_ms) == (0, 0, 300, None)
    events, _ = read_all(archive, Decoder(STREAM), 0)
    assert events == [as_read(n, n, None) for n in range(300)]
    assert archive.start_offset("tx", 0, 10**15) == 0


@pytest.mark.parametrize("form", ["lines", "typed", "raw"])
@pytest.mark.parametrize("positions", [True, False])
def test_reading_from_any_offset_gives_the_rest(tmp_path: Path, form: str, positions: bool) -> None:
    if form == "raw" and not positions:
        return
    archive = write(tmp_path, form, positions)
    whole, _ = read_all(archive, Decoder(STREAM), 0)
    for start in (0, 1, 2, 3, 46, 47, 131, 132, 133, 134, 198, 199, 299, 300, 1000):
        rest, _ = read_all(archive, Decoder(STREAM), 0, start, max_rows=17)
        assert rest == [event for event in whole if event[0] >= start]


@pytest.mark.parametrize("form", ["lines", "typed", "raw"])
def test_start_offset_is_the_first_at_or_past_a_broker_time(tmp_path: Path, form: str) -> None:
    archive = write(tmp_path, form)
    events, _ = read_all(archive, Decoder(STREAM), 1)
    for time in (-5, 0, 1, 2, 100, 199, 200, 298, 299, 10**9):
        later = [event[0] for event in events if event[2] >= time]
        assert archive.start_offset("tx", 1, time) == (later[0] if later else 199)


def test_limits_of_a_read(tmp_path: Path) -> None:
    archive = write(tmp_path, "raw")
    reader = archive.open("tx", 2)
    first = reader.read(max_rows=5)
    assert first is not None and len(first) == 5 and reader.next_offset == 9
    assert first.file == str(tmp_path / "tx" / "a.parquet")
    second = reader.read(max_bytes=1)
    assert second is not None and second.offset.tolist() == [10]
    third = reader.read(max_bytes=400)
    assert third is not None and 2 <= len(third) <= 5 and third.nbytes <= 600
    while reader.read() is not None:
        pass
    assert reader.read() is None and reader.next_offset == 199


def test_partitions_that_share_files_read_each_piece_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write(tmp_path, "lines")
    split: list[Any] = []
    real = LinesTopic._split

    def counted(self: LinesTopic, piece: Any) -> Any:
        split.append(piece)
        return real(self, piece)

    monkeypatch.setattr(LinesTopic, "_split", counted)
    readers = [archive.open("tx", partition) for partition in range(3)]
    while any([reader.read() is not None for reader in readers]):
        pass
    assert len(split) == 2


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = SplitCache(limit_bytes=1)
    write_lines(tmp_path / "tx" / "a.jsonl", [positioned(n) for n in range(300)])
    topic = LinesTopic("tx", tmp_path / "tx", [tmp_path / "tx" / "a.jsonl"], cache, 500, 1000)
    assert len(topic.pieces) > 20
    for piece in topic.pieces:
        list(topic.parts(piece, 0))
    assert len(cache._held) == 1


def test_blank_lines_are_skipped_and_not_numbered(tmp_path: Path) -> None:
    lines = ["\ufeff" + json.dumps(card_event(0)), "", "  \t ", "\r", json.dumps(card_event(1)) + "\r", " "]
    write_lines(tmp_path / "tx" / "a.jsonl", ["", *lines[1:3]])
    write_lines(tmp_path / "tx" / "b.jsonl", lines)
    write_lines(tmp_path / "tx" / "c.jsonl", [json.dumps(card_event(2))], end=b"")
    events, dead = read_all(Archive(tmp_path, [STREAM]), Decoder(STREAM), 0)
    assert events == [as_read(n, n, None) for n in range(3)] and dead == []


def test_a_line_that_is_too_long_is_a_dead_letter(tmp_path: Path) -> None:
    lines: list[Any] = [card_event(n) for n in range(5)]
    lines[2] = {**lines[2], "extra": "x" * 300}
    lines[3] = {**lines[3], "extra": "y" * 5000}  # longer than a block
    file = write_lines(tmp_path / "tx" / "a.jsonl", lines)
    archive = Archive(tmp_path, [STREAM], max_line_bytes=200)
    archive._topics["tx"] = LinesTopic("tx", tmp_path / "tx", [file], SplitCache(), 200, 400)
    events, dead = read_all(archive, Decoder(STREAM), 0)
    assert [event[0] for event in events] == [0, 1, 4]
    assert [(letter.offset, letter.reason) for letter in dead] == [(2, Reason.PARSE), (3, Reason.PARSE)]
    assert "longer than 200 bytes" in dead[0].detail and dead[1].raw.startswith(b'{"ts"')


def test_a_huge_line_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_lines, "MAX_UNPLACED_BYTES", 0)
    file = write_lines(tmp_path / "tx" / "a.jsonl", [card_event(0), b"z" * 10_000, card_event(1)])
    topic = LinesTopic("tx", tmp_path / "tx", [file], SplitCache(), 200, 400)
    parts = [part for piece in topic.pieces for part in topic.parts(piece, 0)]
    assert [len(part.rows) for part in parts] == [1, 1, 1] and parts[1].rows.nbytes < 1000
    assert parts[1].bad[0].reason is Reason.PARSE


@settings(max_examples=60)
@given(st.lists(st.sampled_from("gggbsm"), min_size=1, max_size=60), st.integers(0, 120), st.integers(1, 9))
def test_broken_lines_among_positioned_ones_are_lost_nowhere(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], start: int, rows: int
) -> None:
    """Good, broken beyond recognition, broken with its position to be seen, without a position."""
    kinds = [*kinds, "g"]
    path = tmp_path_factory.mktemp("archive")
    lines: list[bytes] = []
    for number, kind in enumerate(kinds):
        text = json.dumps(positioned(number, 2)).encode()
        broken = {
            "b": b"{" + b"~" * 30 + b"%d" % number,
            "s": text[:-20],
            "m": json.dumps(card_event(number)).encode(),
        }
        lines.append(broken.get(kind, text))
    if kinds[0] != "g":
        lines[0] = json.dumps(positioned(0, 2)).encode()
        kinds[0] = "g"
    file = write_lines(path / "tx" / "a.jsonl", lines)
    archive = Archive(path, [STREAM])
    archive._topics["tx"] = LinesTopic("tx", path / "tx", [file], SplitCache(), 200, 450)
    found: list[tuple[int, bytes]] = []
    for info in archive.partitions():
        events, dead = read_all(archive, Decoder(STREAM), info.partition, None, max_rows=rows)
        assert [e[0] for e in events] == sorted({e[0] for e in events})
        assert len(events) + len(dead) == info.rows
        found += [(event[3], b"") for event in events] + [(-1, letter.raw) for letter in dead]
        # a reader that starts anew anywhere between two batches loses nothing and doubles nothing
        reader = archive.open("tx", info.partition)
        seen: list[Any] = []
        while (raw_batch := reader.read(max_rows=rows)) is not None:
            seen.append(raw_batch)
            if reader.next_offset > start:
                break
        rest_events, rest_dead = read_all(archive, Decoder(STREAM), info.partition, reader.next_offset)
        done = sum(len(batch) for batch in seen)
        assert done + len(rest_events) + len(rest_dead) == info.rows
    good = sorted(number for number, kind in enumerate(kinds) if kind == "g")
    assert sorted(number for number, _ in found if number >= 0) == good
    assert sorted(letter for number, letter in found if number < 0) == sorted(
        line for line, kind in zip(lines, kinds, strict=True) if kind != "g"
    )


def test_a_broken_line_keeps_the_position_that_it_shows(tmp_path: Path) -> None:
    lines: list[Any] = [positioned(n, 1) for n in range(4)]
    lines[1] = '{"tx_id": 1, "card": oops, "_partition": 0, "_offset": 2}'
    lines[2] = '{"tx_id": 1, "card": oops, "_partition": 0, "_offset": 99}'
    write_lines(tmp_path / "tx" / "a.jsonl", lines)
    _, dead = read_all(Archive(tmp_path, [STREAM]), Decoder(STREAM), 0)
    assert [letter.offset for letter in dead] == [2, 2]
    assert "position" not in dead[0].detail and "its position is that of the line beside it" in dead[1].detail


def test_a_topic_whose_lines_have_no_readable_position_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "tx" / "a.jsonl", [positioned(0)])
    write_lines(tmp_path / "tx" / "b.jsonl", [card_event(1)])
    with pytest.raises(SourceError, match=r"b\.jsonl: no line has a readable position"):
        Archive(tmp_path, [STREAM])


@pytest.mark.parametrize("form", ["lines", "typed", "raw"])
@pytest.mark.parametrize("across", [True, False])
def test_offsets_that_fall_are_refused_with_file_and_row(tmp_path: Path, form: str, across: bool) -> None:
    suffix = "jsonl" if form == "lines" else "parquet"
    orders = [[0, 1, 2], [2, 3]] if across else [[0, 1, 3, 2], [4]]
    for name, numbers in zip("ab", orders, strict=True):
        file = tmp_path / "tx" / f"{name}.{suffix}"
        if form == "lines":
            write_lines(file, [positioned(n, 1) for n in numbers])
        else:
            tables = [(raw if form == "raw" else typed)(range(n, n + 1), 1) for n in numbers]
            write_parquet(file, pa.concat_tables(tables))
    where = (
        r"b\.\w+, row 1: offset 4 of partition 0 comes after offset 4"
        if across
        else r"a\.\w+, row 4: offset 4"
    )
    with pytest.raises(SourceError, match=where):
        archive = Archive(tmp_path, [STREAM])
        read_all(archive, Decoder(STREAM), 0)


def test_missing_and_empty_folders_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no archive folder"):
        Archive(tmp_path / "none", [STREAM])
    (tmp_path / "payments").mkdir()
    with pytest.raises(SourceError, match="no folder for the topic 'tx'; it has: payments"):
        Archive(tmp_path, [STREAM])
    (tmp_path / "tx").mkdir()
    (tmp_path / "tx" / "events.csv").touch()
    with pytest.raises(SourceError, match=r"no \*\.parquet or \*\.jsonl file; it holds: events\.csv"):
        Archive(tmp_path, [STREAM])
    write_lines(tmp_path / "tx" / "a.jsonl", ["", " "])
    with pytest.raises(SourceError, match="hold no events"):
        Archive(tmp_path, [STREAM])
    write_parquet(tmp_path / "tx" / "b.parquet", typed(range(3)))
    with pytest.raises(SourceError, match=r"mixes a\.jsonl and b\.parquet"):
        Archive(tmp_path, [STREAM])


def test_files_of_different_kinds_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tx" / "a.parquet", raw(range(3)))
    write_parquet(tmp_path / "tx" / "b.parquet", typed(range(3)))
    with pytest.raises(SourceError, match=r"a\.parquet is raw and .*b\.parquet is typed"):
        Archive(tmp_path, [STREAM])
    write_parquet(tmp_path / "tx" / "a.parquet", typed(range(3)).drop_columns(["_offset"]))
    with pytest.raises(SourceError, match=r"b\.parquet has the column _offset and .*a\.parquet has not"):
        Archive(tmp_path, [STREAM])
    write_parquet(tmp_path / "tx" / "a.parquet", typed(range(3)).drop_columns(["card"]))
    with pytest.raises(SourceError, match=r"a\.parquet has no column 'card'"):
        Archive(tmp_path, [STREAM])


@pytest.mark.parametrize("damage", ["truncated", "magic", "page", "empty"])
def test_broken_parquet_is_named(tmp_path: Path, damage: str) -> None:
    file = write_parquet(tmp_path / "tx" / "a.parquet", raw(range(3000)))
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "magic":
        data[-4:] = b"XXXX"
    elif damage == "page":
        data[4:2000] = b"\xff" * 1996
    else:
        data = bytearray()
    file.write_bytes(bytes(data))
    with pytest.raises(SourceError, match=r"a\.parquet can't be read as Parquet"):
        archive = Archive(tmp_path, [STREAM])
        for partition in range(3):
            read_all(archive, Decoder(STREAM), partition)


def test_positions_out_of_range_and_null_are_named(tmp_path: Path) -> None:
    table = typed(range(3), 1)
    for name, values, what in (
        ("_offset", [0, -1, 2], "row 2: partition 0, offset -1 is no position"),
        ("_partition", [0, 1, 1 << 15], "row 3: partition 32768"),
        ("_partition", [0, None, 0], "row 2: _partition is null"),
        ("_timestamp_ms", [0, None, 0], "row 2: _timestamp_ms is null"),
    ):
        changed = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
        write_parquet(tmp_path / "tx" / "a.parquet", changed)
        with pytest.raises(SourceError, match=what):
            read_all(Archive(tmp_path, [STREAM]), Decoder(STREAM), 0)


def test_a_file_that_shrinks_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "tx" / "a.jsonl", [card_event(n) for n in range(50)])
    archive = Archive(tmp_path, [STREAM])
    with file.open("a") as stream:
        stream.write(json.dumps(card_event(50)))
    assert len(read_all(archive, Decoder(STREAM), 0)[0]) == 50
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SourceError, match="has become shorter"):
        read_all(archive, Decoder(STREAM), 0)


def test_a_partition_that_is_not_there_is_refused(tmp_path: Path) -> None:
    archive = write(tmp_path, "raw")
    with pytest.raises(SourceError, match="has no partition 7"):
        archive.open("tx", 7)


def test_raw_files_without_timestamps_and_with_tombstones(tmp_path: Path) -> None:
    table = raw(range(3), 1)
    values = pa.array([table["value"][0].as_py(), None, table["value"][2].as_py()], pa.binary())
    table = table.set_column(4, "value", values).set_column(2, "timestamp_ms", pa.nulls(3, pa.int64()))
    write_parquet(tmp_path / "tx" / "a.parquet", table)
    events, dead = read_all(Archive(tmp_path, [STREAM]), Decoder(STREAM), 0)
    assert events == [as_read(0, 0, None), as_read(2, 4, None)]
    assert [(letter.offset, letter.reason, letter.raw) for letter in dead] == [(2, Reason.PARSE, b"")]


def test_two_topics_in_one_archive(tmp_path: Path) -> None:
    other = stream_of({"tx_id": "int64"}, topic="logins")
    write_lines(tmp_path / "tx" / "a.jsonl", [card_event(0)])
    write_parquet(tmp_path / "logins" / "a.parquet", typed(range(4), 2))
    archive = Archive(tmp_path, [STREAM, other])
    assert [(i.topic, i.partition) for i in archive.partitions()] == [("logins", 0), ("logins", 1), ("tx", 0)]
    reader = archive.open("logins", 1)
    batch = reader.read()
    assert batch is not None and isinstance(batch.rows, pa.Table)
    assert np.array_equal(batch.offset, [0, 2])
