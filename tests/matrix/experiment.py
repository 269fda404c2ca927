"""One cell: a job over fresh events, struck where the cell says, brought to its end by starting it again; the check.

Nothing but starting the same command again is done for the job (another worker count is part of the layout). A strike
that was not seen to happen where it was meant makes the cell an error, not a pass.
"""

from __future__ import annotations

import random
import shutil
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lookback.definition import load
from tests.matrix import check, letters, updates
from tests.matrix.cells import STEPS, Cell
from tests.matrix.events import PARTITIONS, Events, make_events, write_definition
from tests.matrix.strike import CLOCK_SECONDS, Strike
from tests.matrix.world import World
from tests.recovery.events import Archive
from tests.recovery.job import Ended, HarnessError, Job, Run

EVENTS = 50_000
BATCHES = 100  # about, a partition: some seconds of work, partitions at a pace of their own
STARTS = 8  # of the same command until it comes to its end, at most
MORE = 0.05  # of the events that a job reads before it is stopped for another worker count

# How often a point is reached before a worker stands there: (at least, at most).
COUNTS = {
    "1-before": (20, 120), "1-after": (20, 120), "2-before": (5, 25), "2-after": (5, 25), "3-before": (12, 40),
    "3-after": (12, 40), "4-before": (1, 4), "4-after": (12, 40), "5-before": (2, 6), "5-after": (2, 6),
    "0-make": (2, 32), "0-claim": (1, 1), "0-open": (2, 10), "2-again": (1, 4),
    "l-before": (2, 8), "l-sent": (2, 8), "l-after": (2, 8),
}  # fmt: skip
STARTING = ("0-make", "0-claim", "0-open")
TELLING = ("l-before", "l-sent", "l-after")
RECOVERING = ("1-before", "3-after", "4-before", "2-again")


@dataclass
class Outcome:
    """What became of a cell. verdict: pass, fail (a promise was broken) or error (nothing is proved)."""

    cell: Cell
    verdict: str = "pass"
    seconds: float = 0.0
    at: str = ""  # where the strike fell
    seen: list[str] = field(default_factory=list)  # how it was seen
    starts: list[str] = field(default_factory=list)  # workers and exit code of each start
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Experiment:
    """A cell being run."""

    def __init__(self, world: World, cell: Cell, seed: int, events: int = EVENTS, off: str = "") -> None:
        self.world, self.cell = world, cell
        self.dice = random.Random(f"{seed} {cell.name}")
        self.outcome = Outcome(cell)
        self._seed, self._size, self._off = seed, events, off
        self._name = f"{time.time_ns():x}"  # of its topics

    def run(self) -> Outcome:
        """Run it; never raises for what the job did."""
        begun = time.monotonic()
        try:
            self._job, events, letters_topic = self.prepare()
            job = self._job
            with check.Poller(self.world.valkey, load(job.definition), events) as poller:
                self._to_the_end(job)
            self._judge(job, events, poller, letters_topic)
            self.world.forget(events.topic, letters_topic, updates.topic_of(events))
        except Exception as error:  # of the world, the servers, the harness: nothing is proved
            self.outcome.verdict = "error"
            told = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
            self.outcome.problems.append(told[-3000:])
            if self._job is not None:
                self._job.leave_none()
            self.world.repair()
        finally:
            if self._job is not None:
                self._job.leave_none()
        if self.outcome.problems and self.outcome.verdict == "pass":
            self.outcome.verdict = "fail"
        self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    def prepare(self) -> tuple[Job, Events, str]:
        """Return a job with nothing done, the events that lie before it, and a topic for dead letters."""
        folder = self.world.folder / "cell"
        state = self.world.disks["state"] / "job"
        for path in (folder, *state.parent.glob("job*")):
            shutil.rmtree(path, ignore_errors=True)
        folder.mkdir()
        topic = f"payments-{self._name}"
        letters_topic = f"{topic}.refused"
        repeats_count = self.dice.random() < 0.5
        definition = write_definition(folder, topic, repeats_count=repeats_count)
        events = make_events(
            topic,
            seed=self.dice.randrange(1 << 30),
            events=self._size,
            end_ms=time.time_ns() // 1_000_000,
            repeats_count=repeats_count,
        )
        self.world.fresh(events, letters_topic, broker_clock=self.cell.moves_broker_clock)
        archive = Archive(folder, PARTITIONS, uri=f"kafka://{self.world.kafka.address}", events=events.total)
        where = f"kafka://{self.world.kafka.address}/{letters_topic}"
        log = f"kafka://{self.world.kafka.address}/{updates.topic_of(events)}"
        on_topic, refreshed = self.dice.random() < 0.5, self.dice.random() < 0.5
        # By the wall clock a job that stops at the end refreshes nothing.
        clock = ["--clock", "event" if refreshed else "wall"]
        job = Job(
            folder,
            definition,
            archive,
            seed=self.dice.randrange(1 << 20),
            server=self.world.valkey.uri,
            epoch=self.dice.choice(["50ms", "100ms", "200ms"]),
            jitter_rows=max(20, self._size // PARTITIONS // BATCHES),
            off=self._off,
            options=[*clock, "--change-log", log, *(["--dead-letters", where] if on_topic else [])],
            state_at=state,
        )
        self.outcome.counts |= {
            "events": events.total,
            "letters on a topic": int(on_topic),
            "refreshed": int(refreshed),
            "repeats dropped": sum(part.reason.count("repeat") for part in events.partitions),
        }
        return job, events, letters_topic

    # ---- the strike

    def _to_the_end(self, job: Job) -> None:
        stages = list(self.cell.workers)
        if self.cell.when == "recovery":
            job.workers = stages[0]
            self._crash(job)
            stages = stages[1:] or stages
        job.workers = stages.pop(0)
        ended = self._struck(job, bool(stages))
        while stages:
            if ended is not None and ended.code == 0 and not self._stopped:
                break
            job.workers = stages.pop(0)
            ended = None
            if stages:
                ended = self._rescaled(self._start(job))
        if ended is None or ended.code != 0 or self._stopped:
            self._finish(job)

    _stopped = False  # the last start was asked to stop
    _job: Job | None = None

    def _start(self, job: Job, fault: str = "") -> Run:
        environment = self.world.job_environment() if self.cell.how == "clock moved" else {}
        return job.start(fault, **environment)

    def _crash(self, job: Job) -> None:
        """Leave the store far ahead of the state, so that the next start has much to catch up."""
        epoch, job.epoch = job.epoch, "30s"
        fault = f"2-after:{self.dice.randint(15, 35)}"
        run = self._start(job, fault)
        ended = self._ended(run)
        if ended.code != 1 or "SIGKILL" not in ended.said or not run.note.exists():
            raise HarnessError(f"the job was not killed at {fault}: {ended}")
        job.epoch = epoch

    def _struck(self, job: Job, rescale: bool) -> Ended | None:
        """Start the job, strike where the cell says; return how that start ended."""
        fault = self._fault()
        run = self._start(job, fault)
        if fault:
            noted = self._standing(run, job)
            self.outcome.at = f"{noted[0][0]} of shard {noted[0][1]} ({fault.split(':')[1]}. time)"
        else:
            noted = []
            first = run.until(run.rows, "a first batch")
            target = self.dice.randint(first, max(first, job.archive.events // 2))
            run.until(lambda: run.rows() >= target, f"row {target}")
            self.outcome.at = f"row {target} of {job.archive.events}"
        strike = Strike(self.world, run, self.cell.how, self._victims(run, noted), offset=self._offset())
        strike.begin()
        if not fault and run.rows() >= job.archive.events:
            raise HarnessError("the job was at its end when it was struck")
        run.note.with_name(f"{run.note.name}.go").touch()
        strike.linger()
        strike.heal()
        self.outcome.seen += strike.seen
        self._stopped = self.cell.how == "SIGTERM" and strike.ends_job
        if strike.ends_job:
            return self._see_end(run, job)
        if rescale:
            return self._rescaled(run)
        return self._ended(run)

    def _fault(self) -> str:
        when, who = self.cell.when, self.cell.who
        if when == "random":
            return ""
        point = when
        if when == "start":
            servers = who in ("Kafka", "Valkey") or self.cell.how == "disk full"
            point = self.dice.choice(STARTING) if servers else "0-open"
        elif when == "recovery":
            point = self.dice.choice(RECOVERING)
        elif when == "change log":
            point = self.dice.choice(TELLING)
        assert point in COUNTS and (when in STEPS or when in ("change log", "start", "recovery"))
        return f"{point}:{self.dice.randint(*COUNTS[point])}:pause"

    def _offset(self) -> int:
        return self.dice.choice([CLOCK_SECONDS, -CLOCK_SECONDS])

    def _standing(self, run: Run, job: Job) -> list[list[str]]:
        """Wait until a process stands at the point; return the notes of those that do."""
        run.until(lambda: run.note.exists() and run.note.read_text().endswith("\n"), "the point")
        noted = [line.split() for line in run.note.read_text().splitlines()]
        own = [run.process.pid] if noted[0][0] in ("0-make", "0-claim") else run.pids()
        if int(noted[0][2]) not in own:
            raise HarnessError(f"{noted} is no process of this start: {own}")
        return noted

    def _victims(self, run: Run, noted: list[list[str]]) -> dict[str, int]:
        who = self.cell.who
        servers = {"Kafka": ("kafka",), "Valkey": ("valkey",), "all at once": ("kafka", "valkey")}.get(
            who, ()
        )
        victims = {}
        if who in ("worker", "one of two", "all at once") and not (
            noted and noted[0][0] in ("0-make", "0-claim")
        ):
            pids = run.pids()
            at = pids.index(int(noted[0][2])) if noted else self.dice.randrange(len(pids))
            chosen = [at] if who == "one of two" else range(len(pids))
            victims = {f"worker-{i}": pids[i] for i in chosen}
        if who == "all at once" or (who == "worker" and not victims):
            victims["parent"] = run.process.pid
        pids_of = {"kafka": self.world.kafka.process.pid, "valkey": self.world.valkey.process.pid}
        return victims | {name: pids_of[name] for name in servers}

    # ---- ends

    def _see_end(self, run: Run, job: Job) -> Ended:
        """Wait for the end that a signal must bring; it must have come before the job's own."""
        ended = self._ended(run)
        if self.cell.how == "SIGKILL":
            by_parent = ended.code == 1 and "was killed by SIGKILL" in ended.said
            if not (by_parent or ended.code == -9):
                raise HarnessError(f"nobody says that the job was killed: {ended}")
            self.outcome.seen.append("the job said so" if by_parent else "parent dead, exit code -9")
        else:
            self.outcome.seen.append(f"the job ended with exit code {ended.code}")
        return ended

    def _ended(self, run: Run) -> Ended:
        ended = run.wait()
        job = run.job
        self.outcome.starts.append(f"{job.workers}: {ended.code}")
        if ended.code not in (0, 1, -9):
            self.outcome.problems.append(f"a person is needed: exit code {ended.code}, {ended.said[-500:]}")
        if "Traceback" in ended.said:
            self.outcome.problems.append(f"a traceback: {ended.said[-1500:]}")
        return ended

    def _rescaled(self, run: Run) -> Ended:
        """Stop a job that goes on, once it has gone on, so that it starts with another worker count."""
        self._stopped = False
        before, more = run.rows(), int(MORE * self._size)
        limit = time.monotonic() + 60
        while run.process.poll() is None and time.monotonic() < limit:
            before = before or run.rows()
            if before and run.rows() >= before + more:
                break
            time.sleep(0.01)
        if run.process.poll() is None:
            run.process.terminate()
            self._stopped = True
        return self._ended(run)

    def _finish(self, job: Job) -> None:
        """Start the same command until it comes to its end by itself."""
        self._stopped = False
        for _ in range(STARTS):
            if self._ended(self._start(job)).code == 0:
                return
            if self.outcome.problems:
                return
        self.outcome.problems.append(
            f"{STARTS} starts did not bring the job to its end: {self.outcome.starts}"
        )

    # ---- the judgement

    def _judge(self, job: Job, events: Events, poller: check.Poller, letters_topic: str) -> None:
        seed = np.random.default_rng(self._seed)
        problems = check.judge(poller, events, seed)
        problems += check.final(self.world.valkey, job.definition, events)
        if self.outcome.counts["letters on a topic"]:
            found, again = letters.on_topic(self.world.kafka.address, letters_topic, PARTITIONS, events)
        else:
            found, again = letters.in_folder(job.state / "dead-letters", events)
        told, many = updates.judge(self.world.kafka.address, events, seed)
        self.outcome.problems += [*problems[:20], *found[:20], *told[:20]]
        self.outcome.counts |= {
            "updates": many,
            "polls": poller.polls,
            "sightings": sum(map(len, poller.seen.values())),
            "letters": len(events.letters()),
            "letters sent again": again,
        }


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as the ledger keeps it."""
    return {**vars(outcome), "cell": vars(outcome.cell)}
