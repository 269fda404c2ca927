"""Words that one process writes and another reads, and the samples of a ring."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataflows.board import BROKER_TIME, DONE, END_OFFSET, OFFSET, REGISTRY, Board
from dataflows.settings import Part, Settings
from dataflows.telemetry import meters as m
from dataflows.telemetry.export import Telemetry
from dataflows.telemetry.health import live, ready
from dataflows.telemetry.meters import MeterFile, Meters
from dataflows.telemetry.observed import Observed, now_ms, set_ends
from lookback.errors import UsageError


@pytest.fixture
def job(tmp_path: Path) -> Observed:
    """Return a job of two partitions and shards that is well."""
    settings = Settings(
        definition="", fingerprint="", source="", parts=(Part("tx", "tx", 0), Part("tx", "tx", 1)),
        work=str(tmp_path), shards=2, shard_keys=("0", "1"), workers=2, clock="wall",
    )  # fmt: skip
    file = MeterFile.reset(tmp_path / m.FILE, 1)
    file.shards[:2, 0, m.OPEN] = m.READY
    made = Observed(settings, {"v": [0, 1]}, Board.reset(tmp_path / "board", 2), file)
    Meters(MeterFile.open(tmp_path / m.FILE, 1), 1, ["v"]).durable()
    return made


def test_what_a_worker_writes_is_read_through_the_file(tmp_path: Path) -> None:
    read = MeterFile.reset(tmp_path / m.FILE, 2)
    meters = Meters(MeterFile.open(tmp_path / m.FILE, 2), 3, ["a", "b"])
    meters.failed()
    assert read.workers[3, m.ERRORS] == 1 and read.workers[:, m.ERRORS].sum() == 1
    assert (read.shards[:, :, m.NEWEST] < 0).all()


def test_an_epoch_gives_one_sample_a_step(tmp_path: Path) -> None:
    read = MeterFile.reset(tmp_path / m.FILE, 0)
    meters = Meters(MeterFile.open(tmp_path / m.FILE, 0), 0, [])
    for _ in range(2):
        began = time.perf_counter_ns() - 5_000_000
        meters.since(m.APPLY, began)
        meters.since(m.APPLY, began)
    meters.durable()  # of a partition whose worker has no writer, or before its first epoch
    assert read.workers[0, m.NEXT] == 0
    meters.closing()
    meters.durable()
    meters.durable()
    samples = dict(read.samples[0, : read.workers[0, m.NEXT]].tolist())
    assert list(samples) == [m.APPLY, m.EMIT, m.COMMIT_STATE, m.COMMIT_EPOCH, m.PUBLISH]
    assert samples[m.APPLY] >= 20_000_000 and samples[m.EMIT] == 0 < samples[m.COMMIT_EPOCH]
    assert read.workers[0, m.EPOCHS] == 3


def test_a_ring_that_ran_over_gives_its_newest(job: Observed) -> None:
    """And each sample once."""
    told, heard = Telemetry(), list[float]()
    told._record[m.FRESHNESS] = heard.append
    told.watch(job)
    meters = Meters(job.meters, 0, ["v"])
    for n in range(10):
        meters._sample(m.FRESHNESS, n)
    told.tick()
    told.tick()
    assert heard == list(range(10))
    for n in range(m.RING + 5):
        meters._sample(m.FRESHNESS, n)
    told.tick()
    assert heard[10:] == list(range(5, m.RING + 5))


def test_a_job_that_is_well(job: Observed) -> None:
    assert live(job).well and ready(job).well


def test_before_the_workers_start_it_lives_and_is_not_ready() -> None:
    assert live(None).well and not ready(None).well


def test_no_epoch_for_long_is_dead_unless_something_is_waited_for(job: Observed) -> None:
    job.meters.workers[1, m.EPOCH] = now_ms() - 301_000
    assert not live(job).well and "301 s" in live(job).why[0]
    job.board.store_waits[1] = 1
    assert live(job).well
    job.board.store_waits[1] = 0
    job.board.away[0] = time.time_ns() // 1_000_000 - 5000
    assert live(job).well and not ready(job).well


def test_epochs_that_are_longer_may_be_older(job: Observed) -> None:
    job.meters.workers[1, m.EPOCH] = now_ms() - 15_000
    assert not ready(job).well
    assert ready(replace(job, settings=replace(job.settings, epoch_ms=2000))).well


def test_a_shard_that_is_silent_is_not_ready(job: Observed) -> None:
    for word in (0, m.WAITING):
        job.meters.shards[1, 0, m.OPEN] = word
        assert ready(job).why == ["1 shards are catching up with what was served before the start"]


def test_a_partition_that_waits_for_its_schemas_is_alive_and_not_ready(job: Observed) -> None:
    assert ready(job).well
    job.board.rows[1, REGISTRY] = 1
    assert not ready(job).well and live(job).well
    assert ready(job).why == live(job).why == ["partitions wait for the schema registry: 1"]


def test_lag(job: Observed) -> None:
    now = time.time_ns() // 1_000_000
    job.board.rows[0, OFFSET] = 90
    set_ends(job.board, {0: 100, 1: 0})
    set_ends(job.board, {0: 95})  # an answer that was under way for longer
    assert [job.lag_events(row) for row, _ in job.parts] == [10, 0]
    assert job.lag_ms(0) is None and job.lag_ms(1) == 0  # nothing was read yet
    assert "10 events still to be read" in ready(job).why[0]
    job.board.rows[0, BROKER_TIME] = now - 5000
    assert job.view_lag_ms("v") == pytest.approx(5000, abs=2000) and ready(job).well
    job.board.rows[0, BROKER_TIME] = now - 31_000
    assert not ready(job).well
    job.board.rows[0, DONE] = 1
    assert job.lag_events(0) == 0
    assert np.array_equal(job.board.rows[:, END_OFFSET], [100, 0])


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no job of this release runs on"):
        Observed.at(tmp_path)


def test_a_batch_a_second_is_traced_and_none_unless_asked_for(job: Observed) -> None:
    now = 10**12
    assert Meters(job.meters, 0, ["v"]).fetched(now, 5) == 0
    meters = Meters(job.meters, 0, ["v"], traces=True)
    trace = meters.fetched(now, 5)
    assert trace and meters.fetched(now + 999_999_999, 5) == 0 != meters.fetched(now + 10**9, 7)
    meters.since(m.APPLY, now, {trace: 3})
    spans = list(job.spans({}))
    assert [span[:2] for span in (spans[0], spans[2])] == [(trace, m.FETCH), (trace, m.APPLY)]
    assert [span[4] for span in spans] == [5, 7, 3]
