"""A real job, started, killed and started again; nothing of it runs in the test's process.

A kill counts only when the process was seen to die by it: the fault point's note names a worker of this
start, and the parent says that it was killed by SIGKILL.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from dataflows import board
from tests.recovery.events import Archive

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")

LIMIT_SECONDS = 180.0  # of anything waited for; reached only by a job that hangs


class HarnessError(AssertionError):
    """The job did not do what the test needs it to do: nothing is proved."""


@dataclass(frozen=True)
class Ended:
    """How a start of the job ended."""

    code: int
    said: str  # its stderr


@dataclass
class Job:
    """One job's folders and how it is started; each start has another jitter seed."""

    folder: Path
    definition: Path
    archive: Archive
    seed: int = 0
    workers: int = 1
    epoch: str = "100ms"
    jitter_rows: int | None = 20  # None: no jitter
    off: str = ""  # protections that are switched off
    options: Sequence[str] = ()
    starts: int = 0
    kills: list[str] = field(default_factory=list)
    state_at: Path | None = None
    store_at: Path | None = None
    server: str = ""  # URI of a store that is no folder
    last: Run | None = None

    @property
    def state(self) -> Path:
        """Return the state folder."""
        return self.state_at or self.folder / "state"

    @property
    def store(self) -> Path:
        """Return the online store's folder."""
        return self.store_at or self.folder / "store"

    @property
    def uri(self) -> str:
        """Return the online store's URI."""
        return self.server or f"lmdb:{self.store}"

    def start(self, fault: str = "", **environment: str) -> Run:
        """Start it; `fault` arms a fault point, POINT[:COUNT]."""
        self.starts += 1
        note = self.folder / f"fault-{self.starts}"
        note.unlink(missing_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LOOKBACK_FAULT", "LOOKBACK_TEST"))}
        env |= {"LOOKBACK_FAULT_FILE": str(note), **environment}
        if fault:
            env["LOOKBACK_FAULT"] = fault
        if self.off:
            env["LOOKBACK_FAULT_OFF"] = self.off
        if self.jitter_rows is not None:
            env.setdefault("LOOKBACK_TEST_JITTER", f"{self.seed}-{self.starts}:{self.jitter_rows}")
        (self.state / "pids").unlink(missing_ok=True)
        (self.state / "board").unlink(missing_ok=True)
        arguments = [
            "run", str(self.definition), "--source", self.archive.uri, "--store", self.uri,
            "--state", str(self.state), "--workers", str(self.workers), "--epoch", self.epoch,
            "--until-end", "--quiet", *self.options,
        ]  # fmt: skip
        self.last = Run(self, launch(arguments, env, self.folder / f"said-{self.starts}"), note)
        return self.last

    def leave_none(self) -> None:
        """Kill what still runs of the last start; its workers die with it."""
        if self.last is not None and self.last.process.poll() is None:
            self.last.process.kill()
            self.last.process.wait()

    def finish(self) -> Ended:
        """Run it to its end, which it must reach."""
        ended = self.start().wait()
        if ended.code != 0:
            raise HarnessError(f"the job should have come to its end: {ended}\n{self.worker_logs()}")
        return ended

    def kill_at(self, fault: str) -> None:
        """Run it until it dies at the fault point, which it must reach."""
        run = self.start(fault)
        ended = run.wait()
        point = fault.partition(":")[0]
        noted = run.note.read_text().split() if run.note.exists() else ["", "", "0"]
        died = int(noted[2])
        if died == run.process.pid:
            killed = ended.code == -signal.SIGKILL
        else:
            killed = died in run.seen_pids and ended.code == 1 and "killed by SIGKILL" in ended.said
        if noted[0] != point or not killed:
            raise HarnessError(
                f"start {self.starts} did not die at {fault}: {ended}, noted {noted}\n{self.worker_logs()}"
            )
        self.kills.append(fault)

    def kill_somewhere(self, rng: random.Random, *, parent: bool = False) -> None:
        """Run it until a random number of further rows is read, and kill one of its processes there."""
        run = self.start()
        total = self.archive.events
        rows = run.until(run.rows, "a first batch")
        target = rng.randint(rows, min(total - 1, rows + total // 4))
        run.until(lambda: run.rows() >= target, f"row {target}")
        if parent:
            run.process.kill()
        else:
            os.kill(rng.choice(run.pids()), signal.SIGKILL)
        ended = run.wait()
        killed = ended.code == -signal.SIGKILL if parent else ended.code == 1 and "SIGKILL" in ended.said
        if not killed:
            raise HarnessError(f"start {self.starts} was not killed: {ended}\n{self.worker_logs()}")
        self.kills.append(f"{'parent' if parent else 'worker'} at row {target}")

    def worker_logs(self) -> str:
        """Return the ends of the workers' logs."""
        return "\n".join(
            f"{p.name}: {p.read_text()[-2000:]}" for p in sorted(self.state.glob("worker-*.log"))
        )


class Run:
    """One start of a job."""

    def __init__(self, job: Job, process: subprocess.Popen[bytes], note: Path) -> None:
        self.job, self.process, self.note = job, process, note
        self._said = job.folder / f"said-{job.starts}"
        self.seen_pids: list[int] = []

    def wait(self) -> Ended:
        """Return how it ended, once all of its processes are gone."""
        self._see()
        try:
            deadline = time.monotonic() + LIMIT_SECONDS
            while self.process.poll() is None and time.monotonic() < deadline:
                self._see()
                time.sleep(0.01)
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise HarnessError(f"the job hangs: {self._said.read_text()}\n{self.job.worker_logs()}") from None
        self._see()
        for pid in self.seen_pids:
            self._gone(pid)
        return Ended(code, self._said.read_text())

    def said(self) -> str:
        """Return what it said so far."""
        return self._said.read_text()

    def pids(self) -> list[int]:
        """Return its workers, which it must have started."""
        return self.until(self._see, "workers")

    def _see(self) -> list[int]:
        path = self.job.state / "pids"
        if not self.seen_pids and path.exists():
            found = [int(word) for word in path.read_text().split()]
            if len(found) == self.job.workers:
                self.seen_pids = found
        return self.seen_pids

    @staticmethod
    def _gone(pid: int) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                return
            if state == "Z":
                return
            time.sleep(0.01)
        raise HarnessError(f"worker {pid} outlived its job")

    def rows(self) -> int:
        """Return how many rows its sources have read, 0 until all of them have begun."""
        path = self.job.state / "board"
        parts = self.job.archive.partitions
        size = 8 * (board.HEADER + parts * board.COLUMNS)
        if not path.exists() or path.stat().st_size != size:
            return 0
        words = np.fromfile(path, np.int64)[board.HEADER :].reshape(parts, board.COLUMNS)
        moved = words[:, board.ROWS] > words[:, board.FIRST]
        done = words[:, board.DONE] == 1
        return int(words[:, board.ROWS].sum()) if bool((moved | done).all()) else 0

    def until(self, found: Callable[[], T], what: str) -> T:
        """Return what `found` returns once it is true; the job must not end before."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (value := found()):
            if self.process.poll() is not None and not (value := found()):
                raise HarnessError(f"the job ended before {what}: {self._said.read_text()}")
            if time.monotonic() > deadline:
                self.process.kill()
                raise HarnessError(f"the job never reached {what}: {self._said.read_text()}")
            time.sleep(0.005)
        return value


def launch(arguments: Sequence[str], env: Mapping[str, str], said: Path) -> subprocess.Popen[bytes]:
    """Start a command of Lookback's; what it says goes to the file `said`."""
    with said.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflows.cli", *arguments],
            cwd=ROOT, env=dict(env), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip


def command(*arguments: str, said: Path, **environment: str) -> Ended:
    """Run a command of Lookback's to its end."""
    process = launch(arguments, {**os.environ, **environment}, said)
    code = process.wait(LIMIT_SECONDS)
    return Ended(code, re.sub(r"\s+", " ", said.read_text()))
