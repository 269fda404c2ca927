"""The processes of one job: start the workers, watch them, stop all together, say what failed.

A part-stopped Bytewax cluster hangs, so when one worker ends badly the others are killed, and a stop is sent to all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dataflows import failures
from dataflows.clock_watch import ClockWentBack
from dataflows.disk import ROOM_BYTES, ended_for_room, free_bytes
from dataflows.forked import Forked, may_fork
from dataflows.say import know, say
from dataflows.settings import Settings
from lookback.errors import LookbackError, RefusedError, StoreLost, UsageError
from lookback.windows.cache import compiled_before

POLL_SECONDS = 0.05
KILL_AFTER_SECONDS = 30.0


Worker = subprocess.Popen[bytes] | Forked


class WorkerFailed(LookbackError):
    """A worker ended before its work was done. sure: it is the cause, and not what became of another's end."""

    def __init__(self, message: str, *, sure: bool = True) -> None:
        super().__init__(message)
        self.sure = sure


def _free_addresses(count: int) -> tuple[str, ...]:
    if count == 1:
        return ()
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    finally:
        for s in sockets:
            s.close()


def _start(settings: Settings, before: Callable[[], None] | None) -> list[Worker]:
    folder = settings.folder
    path = folder / "settings.json"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)  # the store's URI may hold a password
    path.write_text(settings.to_json())
    failure = folder / "failure.json"
    failures.prepare(failure)
    environment = {**os.environ, failures.FILE: str(failure), "PYTHONUNBUFFERED": "1"}
    # One kernel thread a worker: a job's cores are its workers.
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        environment.setdefault(name, "1")
    if not compiled_before():
        say("compiling the kernels, once a release: this takes a minute or two")
    fork = before is not None and may_fork()
    workers: list[Worker] = []
    for index in settings.own_workers:
        log = folder / f"worker-{index}.log"
        arguments = [str(path), str(index)]
        if before is not None and fork:
            workers.append(Forked(arguments, environment, log, before))
        else:
            workers.append(_fresh(arguments, environment, log))
    (folder / "pids").write_text("\n".join(str(w.pid) for w in workers))
    return workers


def _fresh(arguments: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflows.worker", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    def handle(*_: object) -> None:
        stop()

    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_workers(
    settings: Settings,
    *ticks: Callable[[], None],
    in_fork: Callable[[], None] | None = None,
    until: Callable[[], bool] = lambda: False,
    told: Callable[[], bool] = lambda: False,
    drained: Callable[[], None] = lambda: None,
) -> bool:
    """Run the job's workers to their end, calling `ticks` now and then; return whether a person stopped it.

    until: the workers are drained once this is true; that is no person's stop. told: whether a worker was stopped
    from outside: the others then are too, for the rest of a job counts only part of the events. drained: called when
    the workers are asked to stop. in_fork: workers may
    be forks of this process, and call this first (to let go of what the parent holds).

    Raises WorkerFailed, RefusedError where a worker refused to go on, StoreLost where the store lost something,
    ClockWentBack where a worker's clock did.
    """
    if not settings.addresses:
        settings = replace(settings, addresses=_free_addresses(settings.workers))
    stopped = ending = False
    workers: list[Worker] = []

    def stop() -> None:
        nonlocal stopped
        stopped = True
        drain()

    def drain() -> None:
        drained()
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)

    with _signals(stop):
        try:
            workers.extend(_start(settings, in_fork))
            if stopped:
                stop()
            while any(worker.poll() is None for worker in workers):
                if any(worker.poll() not in (None, 0) for worker in workers):
                    break
                for tick in ticks:
                    tick()
                if not (stopped or ending) and told():
                    stop()
                if not ending and until():
                    ending = True
                    drain()
                time.sleep(POLL_SECONDS)
        except LookbackError:  # a tick refuses to let them go on: nothing more is to be committed
            for worker in workers:
                worker.kill()
            raise
        finally:
            put_down = _end(workers)
    # Those put down here failed in nothing, nor did one that was told to stop before it could listen for that.
    codes = [0 if i in put_down else worker.poll() or 0 for i, worker in enumerate(workers)]
    if stopped or ending:
        codes = [0 if code == -signal.SIGTERM else code for code in codes]
    if any(codes):
        _raise(settings, codes)
    return stopped


def _end(workers: list[Worker]) -> set[int]:
    """Leave no worker behind: one that didn't end by itself has nothing to commit any more. Return which."""
    put_down = set()
    failed = any(worker.poll() not in (None, 0) for worker in workers)
    deadline = time.monotonic() + (1.0 if failed else KILL_AFTER_SECONDS)
    for index, worker in enumerate(workers):
        if worker.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, deadline - time.monotonic()))
        if worker.poll() is None:
            put_down.add(index)
            worker.kill()
            worker.wait()
    return put_down


def _raise(settings: Settings, codes: list[int]) -> None:
    # A worker killed by a signal is the cause; what its peers then noted is the consequence.
    killed = next((i for i, code in enumerate(codes) if code == -signal.SIGKILL), None)
    record = failures.noted(settings.folder / "failure.json")
    full = free_bytes(settings.folder) < ROOM_BYTES
    if record is not None:
        know(shard=record["shard"])
    if record is not None and (record["known"] or (killed is None and not full)):
        if record["exit_code"] == RefusedError.exit_code:
            raise RefusedError(record["message"])
        if record["kind"] == ClockWentBack.__name__:
            raise ClockWentBack(record["message"])
        if record["kind"] == StoreLost.__name__:
            raise StoreLost(record["message"])
        if record["exit_code"] == UsageError.exit_code:
            raise UsageError(record["message"])
        hint = "" if record["known"] else f" (see {_log(settings, codes)})"
        raise WorkerFailed(record["message"] + hint, sure=bool(record["known"]))
    if full and killed is None:
        raise WorkerFailed(ended_for_room(settings.folder))
    index = killed if killed is not None else next(i for i, code in enumerate(codes) if code)
    code = codes[index]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise WorkerFailed(
        f"worker {settings.own_workers[index]} {how}; run the same command again to go on from the last epoch "
        f"(its log: {_log(settings, codes)})",
        sure=killed is not None,
    )


def _log(settings: Settings, codes: list[int]) -> Path:
    index = next((i for i, code in enumerate(codes) if code), 0)
    return settings.folder / f"worker-{settings.own_workers[index]}.log"
