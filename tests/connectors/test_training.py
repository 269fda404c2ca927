from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.training import END, OutputFolder, TrainingChunk, TrainingWriter
from lookback.errors import LookbackError, RefusedError, UsageError
from lookback.training import CoveredOffsets, Manifest, load_training

DAY = 86_400_000
BASE = pa.schema(
    [("id", pa.int64()), ("event_time_ms", pa.int64()), ("_topic", pa.dictionary(pa.int32(), pa.string()))]
)
VIEWS = [pa.schema([("a.n", pa.int64())]), pa.schema([("b.x", pa.float64()), ("b.t", pa.string())])]
MANIFEST = Manifest(
    "f" * 64,
    {"b": "2", "a": "1"},
    "tx",
    0,
    None,
    "including",
    "event",
    (CoveredOffsets("tx", 0, 0, 9),),
    None,
)


def rows_of(rng: np.random.Generator, count: int) -> pa.Table:
    """Return the rows that the output must hold: some tied in time, some absent from the second view."""
    time = np.sort(rng.integers(-DAY, 3 * DAY, count) // 3_600_000 * 3_600_000)
    absent = rng.random(count) < 0.3
    return pa.table(
        {
            "id": np.arange(count),
            "event_time_ms": time,
            "_topic": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), ["tx"]),
            "a.n": rng.integers(-5, 5, count),
            "b.x": pa.array(rng.random(count), mask=absent),
            "b.t": pa.array([None if gone else f"t{n}" for n, gone in enumerate(absent)], pa.string()),
        }
    )


def write(out: Path, rows: pa.Table, shards: int, rng: np.random.Generator, step: int) -> TrainingWriter:
    """Write rows scattered over shards, in steps; the marks of shards advance in any order."""
    writer = TrainingWriter(out, BASE, VIEWS, shards)
    time, position = rows["event_time_ms"].to_numpy(), np.arange(len(rows))
    homes = [rng.integers(0, shards, len(rows)) for _ in VIEWS]
    has = [np.ones(len(rows), bool), np.asarray(rows["b.x"].is_valid())]
    for start in range(int(time[0]) if len(time) else 0, 3 * DAY, step):
        for at in rng.permutation(len(VIEWS) * shards):
            view, shard = divmod(int(at), shards)
            found = np.flatnonzero(
                (time >= start) & (time < start + step) & (homes[view] == shard) & has[view]
            )
            taken = rows.take(pa.array(found)).combine_chunks()
            columns = [taken[name].combine_chunks() for name in VIEWS[view].names]
            base = [taken[name].combine_chunks() for name in BASE.names] if view == 0 else None
            writer.add(TrainingChunk(view, shard, time[found], position[found], columns, base))
            writer.mark(view, shard, start + step - 1)
    for view in range(len(VIEWS)):
        for shard in range(shards):
            writer.mark(view, shard, int(END))
    return writer


@pytest.mark.parametrize(("shards", "merge_rows"), [(1, 1), (1, 1000), (5, 1), (5, 50)])
def test_rows_come_back_joined_and_in_order(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shards: int, merge_rows: int
) -> None:
    monkeypatch.setattr("connectors.training.MERGE_ROWS", merge_rows)
    monkeypatch.setattr("connectors.training.ROW_GROUP_ROWS", 64)
    rows = rows_of(rng, 500)
    out = OutputFolder.prepare(tmp_path / "out")
    written = write(out.path, rows, shards, rng, 7 * 3_600_000).close()
    with pytest.raises(UsageError, match="still running or has crashed"):
        load_training(out.path)
    manifest = out.finish(MANIFEST, [written])
    assert sorted(p.name for p in out.path.iterdir()) == [
        "day=1969-12-31", "day=1970-01-01", "day=1970-01-02", "day=1970-01-03", "manifest.json",
    ]  # fmt: skip
    found = load_training(out.path)
    assert found.manifest == manifest and found.rows == 500 == sum(manifest.days.values())
    assert found.arrow().to_pydict() == rows.to_pydict()
    assert found.polars()["b.t"].to_list() == rows["b.t"].to_pylist()
    assert found.pandas()["id"].tolist() == list(range(500))
    assert pa.Table.from_batches(found.batches()).num_rows == 500
    one = load_training(out.path, columns=["b.x", "id"], days=["1970-01-02"]).arrow()
    assert one.column_names == ["b.x", "id"] and len(one) == manifest.days["1970-01-02"]


def test_what_an_early_sync_finds_wrong_fails_the_output(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells a failed write once: to the sync that runs while rows are still made, not to the last one."""
    monkeypatch.setattr("connectors.training.MERGE_ROWS", 1)
    monkeypatch.setattr("connectors.training.ROW_GROUP_ROWS", 16)
    sync = os.fsync
    told: list[int] = []

    def fsync(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread() and not told:
            told.append(handle)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr("os.fsync", fsync)
    out = OutputFolder.prepare(tmp_path / "out")
    with pytest.raises(LookbackError, match="its disk is full; make room"):
        write(out.path, rows_of(rng, 500), 1, rng, 7 * 3_600_000).close()
    out.release()
    assert told
    assert not (out.path / "manifest.json").exists()


def test_no_rows_give_an_output_with_columns(tmp_path: Path, rng: np.random.Generator) -> None:
    out = OutputFolder.prepare(tmp_path / "out")
    out.finish(MANIFEST, [write(out.path, rows_of(rng, 0), 2, rng, DAY).close()])
    found = load_training(out.path).arrow()
    assert len(found) == 0 and found.column_names == [*BASE.names, "a.n", "b.x", "b.t"]


def finished(path: Path, rng: np.random.Generator) -> Path:
    out = OutputFolder.prepare(path)
    out.finish(MANIFEST, [write(path, rows_of(rng, 40), 1, rng, DAY).close()])
    return path


def test_which_folders_may_be_written(tmp_path: Path, rng: np.random.Generator) -> None:
    out = finished(tmp_path / "out", rng)
    with pytest.raises(UsageError, match="--overwrite"):
        OutputFolder.prepare(out)
    running = OutputFolder.prepare(out, overwrite=True)
    assert [p.name for p in out.iterdir()] == [".work"]
    with pytest.raises(RefusedError, match="another replay is writing"):
        OutputFolder.prepare(out)
    (out / "day=1970-01-01").mkdir()
    running.release()  # as a crash does
    OutputFolder.prepare(out).release()
    assert [p.name for p in out.iterdir()] == [".work"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"no training output \(it holds thesis\.txt\)"):
        OutputFolder.prepare(tmp_path / "mine", overwrite=True)


def test_files_that_are_not_the_manifests_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    out = finished(tmp_path / "out", rng)
    file = out / "day=1970-01-01" / "part-00000.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole + b"x")
    with pytest.raises(LookbackError, match=r"part-00000\.parquet has \d+ bytes and the manifest says"):
        load_training(out)
    file.unlink()
    with pytest.raises(LookbackError, match="is missing"):
        load_training(out)
    file.write_bytes(whole)
    pq.write_table(pa.table({"a": [1]}), out / "day=1970-01-01" / "part-00001.parquet")
    with pytest.raises(LookbackError, match="is not in the manifest"):
        load_training(out)


def test_manifests_that_are_damaged_or_newer_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    out = finished(tmp_path / "out", rng)
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text[:50])
    with pytest.raises(LookbackError, match="is damaged"):
        load_training(out)
    (out / "manifest.json").write_text(json.dumps({**json.loads(text), "format": 2}))
    with pytest.raises(UsageError, match="has format 2, this release reads up to 1"):
        load_training(out)
    (out / "manifest.json").write_text(text)
    for bad in ({"columns": ["nope"]}, {"days": ["2001-01-01"]}):
        with pytest.raises(UsageError, match=r"has no (column|day)"):
            load_training(out, **bad)
    with pytest.raises(UsageError, match="is no training output"):
        load_training(tmp_path)


def test_a_row_after_its_mark_and_a_row_without_its_carrier_are_caught(tmp_path: Path) -> None:
    writer = TrainingWriter(tmp_path, BASE, VIEWS, 1)
    time = np.array([5])
    chunk = TrainingChunk(1, 0, time, time, [pa.array([1.0]), pa.array(["x"])])
    writer.mark(1, 0, 5)
    with pytest.raises(AssertionError, match="after its mark"):
        writer.add(chunk)
    writer = TrainingWriter(tmp_path, BASE, VIEWS, 1)
    writer.add(chunk)
    writer.mark(1, 0, int(END))
    with pytest.raises(AssertionError, match="without rows of view 0"):
        writer.mark(0, 0, int(END))
