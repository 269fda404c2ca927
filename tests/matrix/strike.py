"""Striking processes, and seeing that they were struck: what is not seen is an error, never a pass.

A strike has three acts: `begin` (the deed, while the worker stands at its point), `linger` (the job goes on, or tries
to, in the broken world) and `heal`. Each returns what was seen of it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.matrix.world import MIB, World, WorldError, wait
from tests.recovery.job import Run

STALL_SECONDS = float(os.environ.get("LOOKBACK_STALL_SECONDS", "30"))
MEET_SECONDS = 1.5  # for which the job meets a server that is gone
CLOCK_SECONDS = 3600
AHEAD_SECONDS = 5.0  # for which a job's clock is ahead
FULL_SAID = ("no space left", "disk is full")  # for the state, for dead letters


@dataclass
class Strike:
    """One deed on some processes. victims: name of a clock (`worker-0`, `parent`, `kafka`, `valkey`) -> pid."""

    world: World
    run: Run
    how: str
    victims: dict[str, int]
    offset: int = CLOCK_SECONDS
    seen: list[str] = field(default_factory=list)

    @property
    def servers(self) -> list[str]:
        """Return which of the victims are servers."""
        return [name for name in self.victims if name in ("kafka", "valkey")]

    @property
    def ends_job(self) -> bool:
        """Return whether the job's own processes are made to end."""
        return self.how in ("SIGKILL", "SIGTERM") and len(self.servers) < len(self.victims)

    def begin(self) -> None:
        """Do it."""
        act: dict[str, Callable[[], None]] = {
            "SIGKILL": self._kill, "SIGTERM": self._terminate, "SIGSTOP 30 s": self._stop, "disk full": self._fill,
            "clock moved": self._move,
        }  # fmt: skip
        act[self.how]()

    def linger(self) -> None:
        """Let the job meet what was done."""
        if self.how == "SIGSTOP 30 s":
            self._stalled()
        elif self.how == "disk full":
            self._full()
        elif self.how == "clock moved" and self.offset > 0 and len(self.servers) < len(self.victims):
            time.sleep(AHEAD_SECONDS)
            self._set_right()
        elif self.servers:
            time.sleep(MEET_SECONDS)

    def heal(self) -> None:
        """Give back what was taken; servers that ended are started again."""
        for name in self.world.disks:
            self.world.make_room(name)
        if self.how == "SIGSTOP 30 s":
            self._send(signal.SIGCONT)
        self._servers_again()

    def _servers_again(self) -> None:
        """Give the servers that were struck their room, and start those that ended."""
        for name in self.servers:
            self.world.make_room(name)
        kafka, valkey = self.world.kafka, self.world.valkey
        if "kafka" in self.victims and self._ended("kafka"):
            kafka.restart()
        if "valkey" in self.victims and self._ended("valkey"):
            valkey.process.wait()
            valkey.start()

    # ---- signals

    def _send(self, number: int) -> None:
        for pid in self.victims.values():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                raise WorldError(f"process {pid} of {self.victims} was gone before {number}") from None

    def _kill(self) -> None:
        self._send(signal.SIGKILL)
        for name, pid in self.victims.items():
            wait(lambda pid=pid: state_of(pid) in ("Z", "X", ""), f"the death of {name} {pid}")  # type: ignore[misc]
            code = self._code(name)
            if code not in (None, -signal.SIGKILL):
                raise WorldError(f"{name} {pid} ended with {code}, not by SIGKILL")
            self.seen.append(f"{name} dead" + ("" if code is None else f", exit code {code}"))

    def _terminate(self) -> None:
        for name, pid in self.victims.items():
            if not takes_sigterm(pid):
                raise WorldError(f"{name} {pid} has no handler for SIGTERM yet")
        self._send(signal.SIGTERM)
        for name in self.victims:
            if name in self.servers:
                wait(lambda name=name: self._ended(name), f"the end of {name}")  # type: ignore[misc]
                self.seen.append(f"{name} ended with exit code {self._code(name)}")
            else:
                self.seen.append(f"{name} has taken SIGTERM")

    def _stop(self) -> None:
        self._send(signal.SIGSTOP)
        for name, pid in self.victims.items():
            wait(lambda pid=pid: state_of(pid) == "T", f"{name} {pid} stopped")  # type: ignore[misc]

    def _stalled(self) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < STALL_SECONDS:
            for name, pid in self.victims.items():
                if state_of(pid) != "T":
                    raise WorldError(f"{name} {pid} is {state_of(pid)!r}, not stopped")
            time.sleep(0.25)
        self.seen.append(f"{', '.join(self.victims)} in state T for {time.monotonic() - begun:.1f} s")

    # ---- disks and clocks

    def _disks(self) -> list[str]:
        job = [] if len(self.servers) == len(self.victims) else ["state"]
        return [*job, *self.servers]

    def _fill(self) -> None:
        for name in self._disks():
            self.world.fill(name)
            left = self.world.free_bytes(name)
            if left > MIB:  # a process may have given some back meanwhile
                raise WorldError(f"the disk of {name} has {left} bytes left")

    def _full(self) -> None:
        if "valkey" in self.victims:
            self.seen.append(f"valkey: {wait(self._valkey_full, 'Valkey refusing a write')}")
        if "kafka" in self.victims:
            self.seen.append(f"kafka: {wait(self._kafka_full, 'Kafka failing on its disk')}")
        if "state" in self._disks():
            self._see_job_full()
        time.sleep(MEET_SECONDS)

    def _see_job_full(self) -> None:
        """Wait for the job's word of its own disk.

        A job that stands at a write to a server that is gone waits for it, and needs no disk meanwhile: after a time
        the servers come back, and only its own disk stays full.
        """
        begun = time.monotonic()
        while not self._job_full() and time.monotonic() - begun < MEET_SECONDS:
            time.sleep(0.01)
        if self.servers and not self._job_full():
            self._servers_again()
        wait(self._job_full, "word of the full disk")
        if not self._said_full():
            raise WorldError(f"the job ended without a word of the full disk: {self.run.said()}")
        self.seen.append("the job said that its disk is full")

    def _job_full(self) -> bool:
        self.world.fill("state")
        return self._said_full() or self.run.process.poll() is not None

    def _said_full(self) -> bool:
        said = self.run.said()
        return any(words in said for words in FULL_SAID)

    def _valkey_full(self) -> str:
        self.world.fill("valkey")
        if self._ended("valkey"):
            return f"ended with exit code {self._code('valkey')}"
        try:
            with redis.Redis(port=self.world.valkey.port, socket_timeout=2) as client:
                client.set("matrix:full", bytes(1 << 16))
        except redis.ResponseError as error:
            return str(error)[:60]
        except redis.RedisError:
            return ""
        return ""

    def _kafka_full(self) -> str:
        self.world.fill("kafka")
        if self._ended("kafka"):
            return f"ended with exit code {self._code('kafka')}"
        try:
            self.world.clock_of("kafka")  # a message more
        except WorldError as error:
            return str(error)
        return ""

    def _move(self) -> None:
        for name in self.victims:
            self.world.move_clock(name, self.offset)
        for name in self.victims:
            near = lambda name=name: abs(self.world.clock_of(name) - self.offset) < 60  # noqa: E731
            wait(near, f"the clock of {name} moved", 20)
            self.seen.append(f"{name}'s own clock {self.world.clock_of(name):+.0f} s")
        if self.offset < 0:
            self._set_right()

    def _set_right(self) -> None:
        """Give the job the right time again; a worker whose clock goes back ends itself, its parent goes on.

        librdkafka's timed waits do not know of libfaketime: with a clock behind they never wait, so that no client
        starts, and with one ahead those that nothing wakes (a transaction's) last an hour.
        """
        if self.offset > 0:
            self._move_job(0)
        for name, pid in self.victims.items():
            if name.startswith("worker"):
                wait(lambda pid=pid: state_of(pid) in ("", "Z"), f"the end of {name}", 20)  # type: ignore[misc]
                self.seen.append(f"{name} has ended")
        self._move_job(0)

    def _move_job(self, seconds: int) -> None:
        for name in set(self.victims) - set(self.servers):
            self.world.move_clock(name, seconds)

    # ---- processes

    def _ended(self, name: str) -> bool:
        return self._code(name) is not None

    def _code(self, name: str) -> int | None:
        if name == "kafka":
            return self.world.kafka.process.poll()
        if name == "valkey":
            return self.world.valkey.process.poll()
        return self.run.process.poll() if name == "parent" else None  # a worker's is its parent's to know


def state_of(pid: int) -> str:
    """Return a process's state in /proc (R, S, D, T, Z), "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def takes_sigterm(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)
