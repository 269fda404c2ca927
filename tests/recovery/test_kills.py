"""SIGKILL before and after every numbered step of the commit, and anywhere: nothing is lost or taken back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.conftest import SEED
from tests.recovery.conftest import ROUNDS, Undisturbed, assert_right
from tests.recovery.job import Job
from tests.recovery.served import Poller, picture

STEPS = [
    "1-before:60", "1-after:90", "2-before:9", "2-after:6", "3-before:40",
    "3-after:30", "4-before:3", "4-after:40",
]  # fmt: skip


def finish(job: Job, plan: list[str], undisturbed: Undisturbed) -> None:
    """Kill the job at each point in turn, let it finish, hold what a reader saw against the events."""
    with Poller(job.store, job.definition, job.archive) as poller:
        for point in plan:
            job.kill_at(point)
        job.jitter_rows = None
        job.finish()
    assert job.kills == plan
    assert_right(poller.checker)
    assert picture(job.definition, job.store, job.archive) == undisturbed.picture


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_every_commit_step(new_job: Callable[..., Job], undisturbed: Undisturbed, round_: int) -> None:
    plan = list(STEPS)
    random.Random(SEED + round_).shuffle(plan)
    finish(new_job(seed=SEED + round_), plan, undisturbed)
