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
from tests.matrix import check, updates
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


def _kill_ahead(job: Job, share: float) -> None:
    """Kill it once it has read so much of its events, the store ahead of a state that has committed nothing."""
    usual, job.epoch = job.epoch, "30s"
    run = job.start()
    run.until(lambda: run.rows() > share * job.archive.events, f"{share:.0%} of the rows")
    os.kill(run.pids()[0], signal.SIGKILL)
    if "SIGKILL" not in (ended := run.wait()).said:
        raise HarnessError(f"nobody says that the job was killed: {ended}")
    job.epoch = usual


def _half_way(job: Job, _: Experiment) -> None:
    """Kill it half-way: the partitions come back in another order."""
    _kill_ahead(job, 0.5)
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


def _near_the_end(job: Job, _: Experiment) -> None:
    """Kill it near its end: some partitions are at their end before the slowest has caught up."""
    _kill_ahead(job, 0.85)
    job.finish()


def _two_jobs(job: Job, lab: Experiment) -> None:
    """Start a second job with a state of its own on the same store; the first goes on once both are as far."""
    first = job.start("2-before:20:pause")
    first.until(lambda: first.note.exists() and first.rows(), "the point")
    other = Job(
        job.folder / "second", job.definition, job.archive, seed=lab.dice.randrange(1 << 20), server=job.server,
        epoch=job.epoch, jitter_rows=job.jitter_rows, off=job.off, state_at=job.state.with_name("job-2"),
        options=["--accept-lost-state"],
    )  # fmt: skip
    other.folder.mkdir()
    try:
        second = other.start()
        second.until(lambda: second.rows() >= first.rows(), "as many rows as the first job has read")
        first.note.with_name(f"{first.note.name}.go").touch()
        codes = second.wait().code, first.wait().code
    finally:
        other.leave_none()
    if codes != ((0, 0) if job.off else (0, 3)):
        raise HarnessError(f"the second job and the first ended with {codes}")


def _log_forgotten(job: Job, lab: Experiment) -> None:
    """Kill it where the change log has taken a transaction and no shard knows."""
    _kill_at(job, f"l-after:{lab.dice.randint(2, 5)}", "200ms")
    job.finish()


SWITCHES: dict[str, tuple[str, Plan]] = {
    "offset_dedupe": ("rows at or below an applied offset are dropped", _shards_apart),
    "synced_batch": ("rows and offsets are one synced batch", _torn),
    "served_mark": ("nothing goes out before the served mark is passed", _half_way),
    "generation": ("the store refuses an older job's writes", _two_jobs),
    "dirty_set": ("what was held back goes out once the mark is passed", _near_the_end),
    "log_tail": ("what the change log has is looked up at a start", _log_forgotten),
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
    found += updates.judge(world.kafka.address, made, np.random.default_rng(seed))[0]
    world.forget(made.topic, letters_topic, updates.topic_of(made))
    return found
