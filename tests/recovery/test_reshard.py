"""Another number of shards: the same values to the last bit, whatever was killed, stopped or started in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from dataflows.state_folder import HALF_MADE
from tests.recovery.conftest import Undisturbed, assert_right, dead_letters
from tests.recovery.cut import contents, cut, cut_all, stop_half_way
from tests.recovery.job import Job
from tests.recovery.served import Poller, picture


def assert_as_undisturbed(job: Job, undisturbed: Undisturbed) -> None:
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    assert dead_letters(job) == undisturbed.letters


def test_fewer_then_more_with_kills_between(new_job: Callable[..., Job], undisturbed: Undisturbed) -> None:
    """Late, ahead, broken and repeated events on both sides of each cut; the first starts are killed."""
    job = new_job(epoch="300ms")
    with Poller(job.uri, job.definition, job.archive) as poller:
        stop_half_way(job, 1500)
        first = cut_all(job, 7, "seven")
        job.kill_at("0-take:2")  # owns the store, has said so, has marked nothing
        stop_half_way(job, 1500)
        second = cut_all(job, 64, "sixty-four")
        job.kill_at("4-after:20")
        job.jitter_rows = None
        job.finish()
    assert_right(poller.checker)
    assert_as_undisturbed(job, undisturbed)
    assert first["job"] == second["job"] and len(second["resharded"]["origins"]) == 2
    for state in ("state", "seven"):  # those before it don't run beside it any more
        job.state_at = job.folder / state
        before = contents(job.state)
        ended = job.start().wait()
        assert ended.code == 3 and "of 64 shards" in ended.said, ended
        assert {name for name, data in contents(job.state).items() if before.get(name) != data} == set()


def test_the_old_state_ran_on(new_job: Callable[..., Job], undisturbed: Undisturbed) -> None:
    """The store is ahead of the new state, by rows that most of its shards never see: all of them catch up."""
    job = new_job()
    with Poller(job.uri, job.definition, job.archive) as poller:
        stop_half_way(job, 1500)
        old = job.state
        cut_all(job, 7, "seven")
        job.state_at, job.jitter_rows = old, None
        job.finish()  # to the very end: no row comes after it
        job.state_at = job.folder / "seven"
        job.finish()
    assert_right(poller.checker)
    assert_as_undisturbed(job, undisturbed)
    job.state_at = old
    assert job.start().wait().code == 3
    job.options = ("--accept-lost-state",)  # as where the new one is lost
    job.finish()
    assert_as_undisturbed(job, undisturbed)


def test_a_store_that_is_new_gets_everything(new_job: Callable[..., Job], undisturbed: Undisturbed) -> None:
    job = new_job(jitter_rows=None)
    job.finish()
    cut_all(job, 5, "five")
    job.store_at = job.folder / "another"
    job.finish()
    assert_as_undisturbed(job, undisturbed)


def test_killed_anywhere_the_same_command_goes_on(new_job: Callable[..., Job], tmp_path: Path) -> None:
    job = new_job()
    stop_half_way(job, 1500)
    before = contents(job.state)
    whole, new = tmp_path / "whole", tmp_path / "new"
    assert cut(job.state, 7, whole).code == 0
    for fault in ("r-copy:9", "r-compare:30", "r-end"):
        assert cut(job.state, 7, new, fault=fault).code == -signal.SIGKILL
        assert not (new / "state.json").exists() and (new / HALF_MADE).exists()
    job.state_at = new
    ended = job.start().wait()
    assert ended.code == 3 and "half made" in ended.said and "lookback reshard" in ended.said, ended
    job.state_at = None
    assert cut(job.state, 7, new, fault="r-done").code == -signal.SIGKILL
    ended = cut(job.state, 7, new)
    assert ended.code == 0 and not (new / HALF_MADE).exists()
    assert contents(job.state) == before
    ended = cut(job.state, 8, new)
    assert ended.code == 3 and "holds a state already" in ended.said, ended


def test_what_did_not_stop_by_itself_is_refused(new_job: Callable[..., Job], tmp_path: Path) -> None:
    job, new = new_job(), tmp_path / "new"
    run = job.start("3-after:200:pause")  # some shards have committed the epoch, others have not
    run.until(run.note.exists, "the commit")
    ended = cut(job.state, 7, new)
    assert ended.code == 3 and "another job runs" in ended.said, ended
    os.kill(run.pids()[0], signal.SIGKILL)
    run.wait()
    before = contents(job.state)
    ended = cut(job.state, 7, new)
    assert ended.code == 3 and "killed within a commit" in ended.said and "SIGTERM" in ended.said, ended
    assert contents(job.state) == before and not new.exists()
