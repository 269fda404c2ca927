"""A wall clock that is set while the job runs: nothing waits for it, no value depends on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recovery.conftest import Undisturbed, dead_letters
from tests.recovery.job import Job
from tests.recovery.served import picture
from tests.services.clock import Clock, skip_reason


def test_a_clock_set_ahead_and_back_on_the_worker(
    new_job: Callable[..., Job], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Bytewax would wait for two hours: the workers start again."""
    reason = skip_reason()
    if reason is not None:
        pytest.skip(reason)
    clock, job = Clock(tmp_path / "clock"), new_job()
    run = job.start(**clock.environment)
    (pid,) = run.pids()
    run.until(lambda: run.rows() > 300, "a first part")
    clock.move(3600)
    run.until(lambda: clock.shows(3600, pid), "a clock an hour ahead")
    clock.move(-3600)
    ended = run.wait()
    assert ended.code == 0, ended
    assert ended.said.count("the clock went back by 2h: the workers start again") == 1
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    assert dead_letters(job) == undisturbed.letters
