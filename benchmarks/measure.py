"""Run a command as a user would and measure the whole of it: wall, CPU and memory of all its processes.

Owns: pinning and counting. A command runs on the CPUs it is given, this process stays on the others, so that
sampling memory takes nothing from what is measured.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Usage:
    """What a command took, its child processes included; memory is the highest sum over its processes.

    anonymous_bytes leaves out pages of files, such as the online store's map, which can be taken back.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    anonymous_bytes: int


class Sampler(threading.Thread):
    """Follow a process and its children: highest memory, and whatever `look` notes."""

    def __init__(self, pid: int, look: Callable[[list[psutil.Process]], None] | None = None) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = self.anonymous_bytes = 0
        self._process = psutil.Process(pid)
        self._look = look
        self._done = threading.Event()

    def run(self) -> None:
        """Sample until `finish`."""
        while not self._done.wait(SAMPLE_SECONDS):
            with contextlib.suppress(psutil.Error):
                self._sample([self._process, *self._process.children(recursive=True)])

    def _sample(self, processes: list[psutil.Process]) -> None:
        resident = shared = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                resident, shared = resident + memory.rss, shared + memory.shared
        self.peak_bytes = max(self.peak_bytes, resident)
        self.anonymous_bytes = max(self.anonymous_bytes, resident - shared)
        if self._look is not None:
            self._look(processes)

    def finish(self) -> None:
        """Stop sampling."""
        self._done.set()
        self.join()


def run(
    command: Sequence[str],
    cpus: Sequence[int],
    environment: Mapping[str, str] | None = None,
    look: Callable[[list[psutil.Process]], None] | None = None,
) -> Usage:
    """Run a command to its end on these CPUs. Raises RuntimeError, with its last words, where it fails."""
    with tempfile.TemporaryFile() as said:
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)  # the child begins where this thread is
        try:
            start = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(environment or {}), stdout=said, stderr=said
            )
        finally:
            os.sched_setaffinity(0, mine - set(cpus) or mine)
        sampler = Sampler(process.pid, look)
        sampler.start()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        sampler.finish()
        process.returncode = os.waitstatus_to_exitcode(status)
        os.sched_setaffinity(0, mine)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {said.read().decode(errors='replace')[-2000:]}")
    return Usage(wall, used.ru_utime + used.ru_stime, sampler.peak_bytes, sampler.anonymous_bytes)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return a user's environment: bytecode is kept, where a developer's shell may forbid it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "POLARS_MAX_THREADS": "1", **more}


def machine_cpus(count: int = 1) -> list[int]:
    """Return the CPUs to measure on: the last ones, as the first serves most interrupts."""
    return sorted(os.sched_getaffinity(0))[-count:]


@dataclass(frozen=True)
class Figures:
    """Several runs of one command over `events` events; medians, with least and most."""

    events: int
    usages: tuple[Usage, ...]

    def median(self, figure: Callable[[Usage], float]) -> float:
        """Return the median over the runs."""
        return statistics.median(figure(usage) for usage in self.usages)

    def spread(self, figure: Callable[[Usage], float]) -> tuple[float, float]:
        """Return least and most over the runs."""
        found = [figure(usage) for usage in self.usages]
        return min(found), max(found)

    @property
    def rate(self) -> float:
        """Events a second of wall time, start-up included."""
        return self.events / self.median(lambda u: u.wall_seconds)

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds a million events, start-up included."""
        return self.median(lambda u: u.cpu_seconds) / self.events * 1e6

    @property
    def peak_mib(self) -> float:
        """Highest memory of all processes together, in MiB."""
        return self.median(lambda u: u.peak_bytes) / (1 << 20)


def interleaved(events: int, repeat: int, runs: Mapping[str, Callable[[], Usage]]) -> dict[str, Figures]:
    """Run each in turn, `repeat` times over, so that a slow spell of the machine falls on all alike."""
    usages: dict[str, list[Usage]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, one in runs.items():
            usages[name].append(one())
    return {name: Figures(events, tuple(found)) for name, found in usages.items()}
