"""The matrix must fail when it should: protections switched off, one at a time, in cells made for each.

With the protection on the same cell passes; with it off the same checks say what they saw.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lookback.definition import load
from tests.matrix import check
from tests.matrix.cells import Cell
from tests.matrix.experiment import Experiment
from tests.matrix.world import World
from tests.recovery.job import HarnessError, Job

EVENTS = 20_000
TRIES = 5  # seeds, one after another, until it is caught
CELL = Cell("worker", "random", "SIGKILL", "1")
Plan = Callable[[Job, Experiment], None]


@dataclass
class Caught:
    """What the checks said of a protection that was off. words: "" where they saw nothing."""

    name: str
    does: str
    words: str = ""
    on: str = ""  # what they said of the same cell with it on: nothing
    tries: int = 0
    seconds: float = 0.0


def _kill_at(job: Job, point: str, epoch: str) -> None:
    usual, job.epoch = job.epoch, epoch
    job.kill_at(point)
    job.epoch = usual


def _store_ahead(job: Job, lab: Experiment) -> None:
    """Kill it with the store ahead of the state, so that both partitions come back in another order."""
    _kill_at(job, f"2-after:{lab.dice.randint(10, 20)}", "30s")
    job.finish()


def _shards_apart(job: Job, lab: Experiment) -> None:
    """Kill it where some shards have committed an epoch that Bytewax has not."""
    _kill_at(job, f"3-after:{lab.dice.randint(40, 60)}", "200ms")
    job.finish()


def _torn(job: Job, lab: Experiment) -> None:
    """Kill it between the two writes of a commit that is none; where a commit is one, after it."""
    point = "3-torn" if job.off else "3-after"
    _kill_at(job, f"{point}:{lab.dice.randint(40, 60)}", "200ms")
    job.finish()


def _late_kill(job: Job, _: Experiment) -> None:
    """Kill it near its end, so that some partitions are at their end before the slowest has caught up."""
    usual, job.epoch = job.epoch, "30s"
    run = job.start()
    run.until(lambda: run.rows() > 0.85 * job.archive.events, "most of the rows")
    os.kill(run.pids()[0], signal.SIGKILL)
    if "SIGKILL" not in (ended := run.wait()).said:
        raise HarnessError(f"nobody says that the job was killed: {ended}")
    job.epoch = usual
    job.finish()


def _two_jobs(job: Job, lab: Experiment) -> None:
    """Start a second job with a state of its own on the same store, while the first one works."""
    first = job.start()
    begun = first.until(first.rows, "a first batch")
    first.until(lambda: first.rows() > begun + 2000, "2,000 rows more")
    other = Job(
        job.folder / "second", job.definition, job.archive, seed=lab.dice.randrange(1 << 20), server=job.server,
        epoch=job.epoch, jitter_rows=job.jitter_rows, off=job.off, state_at=job.state.with_name("job-2"),
    )  # fmt: skip
    other.folder.mkdir()
    try:
        codes = other.start().wait().code, first.wait().code
    finally:
        other.leave_none()
    if codes != ((0, 0) if job.off else (0, 3)):
        raise HarnessError(f"the second job and the first ended with {codes}")


SWITCHES: dict[str, tuple[str, Plan]] = {
    "offset_dedupe": ("rows at or below an applied offset are dropped", _shards_apart),
    "synced_batch": ("rows and offsets are one synced batch", _torn),
    "served_mark": ("nothing goes out before the served mark is passed", _store_ahead),
    "generation": ("the store refuses an older job's writes", _two_jobs),
    "dirty_set": ("what was held back goes out once the mark is passed", _late_kill),
}


def caught(world: World, name: str, seed: int, events: int = EVENTS) -> Caught:
    """Run the switch's cell with the protection on, then with it off until it is caught."""
    does, plan = SWITCHES[name]
    begun = time.monotonic()
    result = Caught(name, does)
    try:
        result.on = "; ".join(_problems(world, plan, seed, "", events))
        while not result.words and result.tries < TRIES:
            problems = _problems(world, plan, seed + result.tries, name, events)
            result.words = problems[0] if problems else ""
            result.tries += 1
    except AssertionError as error:  # nothing is proved
        result.on = f"error: {error}"[-1000:]
        world.repair()
    result.seconds = time.monotonic() - begun
    return result


def _problems(world: World, plan: Plan, seed: int, off: str, events: int) -> list[str]:
    lab = Experiment(world, CELL, seed, events, off)
    job, made, letters_topic = lab.prepare()
    try:
        with check.Poller(world.valkey, load(job.definition), made) as poller:
            plan(job, lab)
    finally:
        job.leave_none()
    found = check.judge(poller, made, np.random.default_rng(seed))
    found += check.final(world.valkey, job.definition, made)
    world.forget(made.topic, letters_topic)
    return found
