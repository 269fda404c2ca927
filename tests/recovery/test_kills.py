"""SIGKILL before and after every numbered step of the commit, and anywhere: nothing is lost or taken back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.conftest import SEED
from tests.recovery.conftest import ROUNDS, Undisturbed, assert_right, dead_letters
from tests.recovery.job import Job
from tests.recovery.served import Poller, picture

STEPS = [
    "1-before:60", "1-after:90", "2-before:9", "2-after:6", "3-before:40",
    "3-after:30", "4-before:3", "4-after:40",
]  # fmt: skip
LAST = "2-refresh:9"  # an archive is refreshed at its end, where little is left for another kill


def every_step(seed: int) -> list[str]:
    """Return every kill point once, in an order of the seed's."""
    plan = list(STEPS)
    random.Random(seed).shuffle(plan)
    return [*plan, LAST]


def finish(job: Job, plan: list[str], undisturbed: Undisturbed, done: int = 0) -> None:
    """Kill the job at each point in turn, let it finish, hold what a reader saw against the events."""
    with Poller(job.uri, job.definition, job.archive) as poller:
        for point in plan[done:]:
            job.kill_at(point)
        job.jitter_rows = None
        job.finish()
    assert job.kills == plan
    assert_right(poller.checker)
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    assert dead_letters(job) == undisturbed.letters


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_every_commit_step(
    new_job: Callable[..., Job], undisturbed: Undisturbed, store_uri: str, round_: int
) -> None:
    finish(new_job(seed=SEED + round_, server=store_uri), every_step(SEED + round_), undisturbed)


def test_a_second_kill_while_the_first_is_caught_up(
    new_job: Callable[..., Job], undisturbed: Undisturbed, store_uri: str
) -> None:
    """Epochs that are committed before the served mark is passed keep in mind what is still to go out."""
    job = new_job(server=store_uri)
    with Poller(job.uri, job.definition, job.archive) as poller:
        job.epoch = "30s"
        job.kill_at("2-after:60")  # the store is far ahead of the state, which has committed nothing
        job.epoch = "50ms"
        job.kill_at("3-after:100")  # several commits while nothing may go out
        job.kill_at("2-again:3")  # and when it may again
        job.jitter_rows = None
        job.finish()
    assert_right(poller.checker)
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    assert dead_letters(job) == undisturbed.letters


def test_while_starting(new_job: Callable[..., Job], undisturbed: Undisturbed) -> None:
    """A start that dies half-way leaves a state that the next one makes anew, or goes on with."""
    job = new_job()
    job.kill_at("0-make:5")
    job.kill_at("0-make:32")
    job.kill_at("0-claim")
    job.kill_at("0-open:7")
    finish(job, [*job.kills, "1-after:30", "0-open:20"], undisturbed, done=4)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_two_workers_anywhere(
    new_job: Callable[..., Job], undisturbed: Undisturbed, store_uri: str, round_: int
) -> None:
    dice = random.Random(SEED + round_)
    job = new_job(seed=SEED + round_, server=store_uri, workers=2)
    with Poller(job.uri, job.definition, job.archive) as poller:
        for number in range(3):
            job.epoch = dice.choice(["50ms", "300ms", "2s"])
            job.kill_somewhere(dice, parent=number == 1)
        job.kill_at(dice.choice([*STEPS, LAST]))
        job.workers, job.jitter_rows = 1, None  # the count of workers may change
        job.finish()
    assert len(job.kills) == 4
    assert_right(poller.checker)
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    assert dead_letters(job) == undisturbed.letters
