"""Run Lookback's own commands, as a user would: the demo computes no feature itself.

Owns: starting, killing and reading the commands. Refuses: what to run and when (see `demo`).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

LOOKBACK = Path(sys.executable).with_name("lookback")


class DemoError(Exception):
    """Something that the demo shows does not hold, or a command failed; says which."""


def spoken(words: Sequence[str]) -> list[str]:
    """Return a command as a user types it: from the project's folder, with paths relative to it."""
    here = f"{Path.cwd()}/"
    return [".venv/bin/lookback", *(word.replace(here, "") for word in words)]


def run(words: Sequence[str]) -> None:
    """Run `lookback WORDS` to its end, its output and progress shown as they come; DemoError if it fails."""
    code = subprocess.run([LOOKBACK, *words], check=False).returncode
    if code:
        raise DemoError(f"lookback {words[0]} exited {code}; what it said is above")


def run_json(words: Sequence[str]) -> dict[str, Any]:
    """Run `lookback WORDS --json` and return the object it printed; DemoError if it fails."""
    done = subprocess.run([LOOKBACK, *words, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"lookback {words[0]} exited {done.returncode}: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Job:
    """One run of `lookback WORDS`, its output in a file."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._what, self._log = words[0], log
        with log.open("wb") as out:
            self._process = subprocess.Popen([LOOKBACK, *words], stdout=out, stderr=subprocess.STDOUT)

    def running(self) -> bool:
        """Return whether the job still runs; raises DemoError if it failed."""
        code = self._process.poll()
        if code:
            last = self._log.read_text(errors="replace").strip().splitlines()[-5:]
            raise DemoError(
                f"lookback {self._what} exited {code}: {' / '.join(last)} (all of it: {self._log})"
            )
        return code is None

    def kill(self) -> None:
        """Send SIGKILL to the job's processes and wait until all are gone; nothing if it has ended."""
        if self._process.poll() is None:
            processes = [psutil.Process(self._process.pid)]
            processes += processes[0].children(recursive=True)
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):  # gone with its parent
                    process.kill()
            psutil.wait_procs(processes)
        self._process.wait()
