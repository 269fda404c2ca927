"""A worker as a fork of this process: the parent has imported all that it needs, which saves a second of CPU.

For replays alone. A forked process has none of its parent's other threads, so a parent that has opened a RocksDB (whose
background threads would be missing) or runs threads of its own starts its workers anew instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from state import rocksdb


def may_fork() -> bool:
    """Return whether a fork of this process would work as a fresh one does."""
    return sys.platform == "linux" and threading.active_count() == 1 and not rocksdb.opened_here()


class Forked:
    """A forked worker, with what the parent uses of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Path,
        before: Callable[[], None],
    ) -> None:
        """Start `dataflows.worker` with these arguments; `before` runs in it first."""
        from dataflows import graph, worker  # noqa: F401  # imported here once, for all workers

        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python counts threads that it doesn't know (Arrow's); Arrow makes its pools anew after a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _be_worker(arguments, environment, log, before)

    def poll(self) -> int | None:
        """Return how the worker ended, None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the worker's end. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to a worker that still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the worker."""
        self.send_signal(signal.SIGKILL)


def _be_worker(
    arguments: list[str], environment: Mapping[str, str], log: Path, before: Callable[[], None]
) -> NoReturn:
    code = 1
    try:
        os.setsid()
        for number, path, mode in (
            (0, os.devnull, os.O_RDONLY),
            (1, log, os.O_WRONLY),
            (2, log, os.O_WRONLY),
        ):
            opened = os.open(path, mode | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        os.environ.update(environment)
        before()
        from dataflows.worker import main

        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
