"""A job on several pods, each a process with a volume (a folder) of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataflows import board
from tests.recovery.job import LIMIT_SECONDS, HarnessError, launch


def free_runs(count: int, width: int) -> list[int]:
    """Return `count` ports below those that connections get, each the first of `width` that nobody listens on."""
    found: list[int] = []
    port = 20_000 + os.getpid() % 500 * 24  # tests that run beside this one look elsewhere
    while len(found) < count:
        if all(_is_free(port + i) for i in range(width)):
            found.append(port)
            port += width
        port += 1
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass
class Pods:
    """The pods of a job; `options` follow the command of each."""

    folder: Path
    definition: Path
    source: str
    store: str
    letters: str
    options: Sequence[str] = ()
    workers: int = 1
    partitions: int = 4
    jitter_rows: int | None = 20
    ports: list[int] = field(default_factory=list)
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    starts: int = 0

    def __post_init__(self) -> None:
        self.ports = free_runs(3, self.workers + 1)

    def volume(self, ordinal: int) -> Path:
        """Return a pod's state folder."""
        return self.folder / f"volume-{ordinal}"

    def note(self, ordinal: int) -> Path:
        """Return the file in which a fault point of a pod says that it was reached."""
        return self.folder / f"fault-{ordinal}"

    def shards(self, ordinal: int) -> set[int]:
        """Return the shards that lie on a pod's volume."""
        return {int(path.name[6:]) for path in self.volume(ordinal).glob("shard-*")}

    def start(self, *ordinals: int, count: int = 3, extra: Sequence[str] = (), fault: str = "") -> None:
        """Start these pods of a job of `count`; `fault` arms a fault point in each, POINT[:COUNT]."""
        peers = ",".join(f"127.0.0.1:{port}" for port in self.ports[:count])
        for ordinal in ordinals:
            self.starts += 1
            environment = dict(os.environ)
            if self.jitter_rows is not None:
                environment["LOOKBACK_TEST_JITTER"] = f"{self.starts}:{self.jitter_rows}"
            if fault:
                self.note(ordinal).unlink(missing_ok=True)
                environment |= {"LOOKBACK_FAULT": fault, "LOOKBACK_FAULT_FILE": str(self.note(ordinal))}
            arguments = [
                "run", str(self.definition), "--source", self.source, "--store", self.store,
                "--state", str(self.volume(ordinal)), "--dead-letters", self.letters, "--epoch", "100ms",
                "--workers", str(self.workers), "--peers", peers, "--ordinal", str(ordinal), "--quiet",
                *self.options, *extra,
            ]  # fmt: skip
            (self.volume(ordinal) / "board").unlink(missing_ok=True)
            self.running[ordinal] = launch(arguments, environment, self.folder / f"said-{ordinal}")

    def said(self, ordinal: int) -> str:
        """Return what a pod has said since its start, on one line."""
        return re.sub(r"\s+", " ", (self.folder / f"said-{ordinal}").read_text())

    def everything(self) -> str:
        """Return what all pods have said, and their workers."""
        logs = sorted(self.folder.glob("volume-*/worker-*.log"))
        return "\n".join(
            [f"pod {o}: {self.said(o)}" for o in self.running]
            + [f"{p}: {p.read_text()[-1500:]}" for p in logs]
        )

    def rows(self, ordinal: int = 0) -> int:
        """Return how many rows all sources have read, as a pod's board tells; 0 until all have begun."""
        path = self.volume(ordinal) / "board"
        size = 8 * (board.HEADER + self.partitions * board.COLUMNS)
        if not path.exists() or path.stat().st_size != size:
            return 0
        words = np.fromfile(path, np.int64)[board.HEADER :].reshape(self.partitions, board.COLUMNS)
        moved = words[:, board.ROWS] > words[:, board.FIRST]
        return int(words[:, board.ROWS].sum()) if bool((moved | (words[:, board.DONE] == 1)).all()) else 0

    def until(self, found: Callable[[], object], what: str) -> None:
        """Wait until `found` is true; no pod may end before."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not found():
            for ordinal, process in self.running.items():
                if process.poll() is not None:
                    raise HarnessError(f"pod {ordinal} ended before {what}: {self.everything()}")
            if time.monotonic() > deadline:
                raise HarnessError(f"never {what}: {self.everything()}")
            time.sleep(0.02)

    def reach(self, rows: int, ordinal: int = 0) -> None:
        """Wait until so many rows were read."""
        self.until(lambda: self.rows(ordinal) >= rows, f"row {rows}")

    def kill(self, ordinal: int) -> None:
        """Kill a pod as a lost machine is lost: its workers die with it."""
        process = self.running.pop(ordinal)
        process.kill()
        process.wait()

    def dies_at(self, ordinal: int, fault: str) -> None:
        """Start a pod whose worker is killed at a fault point, which it must reach: the pod ends with it."""
        self.start(ordinal, fault=fault)
        process = self.running[ordinal]
        code = self.wait(ordinal)
        noted = self.note(ordinal).read_text().split() if self.note(ordinal).exists() else [""]
        if code != 1 or noted[0] != fault.partition(":")[0]:
            raise HarnessError(
                f"pod {ordinal} of {process.pid} ended with {code}, not at {fault}: {self.everything()}"
            )

    def stop(self, *ordinals: int) -> None:
        """Ask pods to stop; each must, with exit code 0."""
        for ordinal in ordinals:
            self.running[ordinal].send_signal(signal.SIGTERM)
        for ordinal in ordinals:
            code = self.wait(ordinal)
            if code != 0:
                raise HarnessError(f"pod {ordinal} ended with {code}: {self.everything()}")

    def wait(self, ordinal: int) -> int:
        """Return a pod's exit code, once it has ended."""
        try:
            code = self.running[ordinal].wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise HarnessError(f"pod {ordinal} hangs: {self.everything()}") from None
        del self.running[ordinal]
        return code

    def finish(self) -> None:
        """Let all pods come to their end, which they must reach."""
        for ordinal in list(self.running):
            process = self.running[ordinal]
            if self.wait(ordinal) != 0:
                raise HarnessError(f"pod {ordinal} ended with {process.returncode}: {self.everything()}")

    def end(self) -> None:
        """Leave nothing behind, whatever a test came to."""
        for process in self.running.values():
            process.kill()
            process.wait()
