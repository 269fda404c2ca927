"""One worker process of a job: `python -m dataflows.worker SETTINGS INDEX`, started by `dataflows.processes`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from datetime import timedelta
from pathlib import Path

from dataflows import clock_watch, failures
from dataflows.draining import drain_on_signals
from dataflows.no_pandas import do_without_pandas
from dataflows.settings import Settings


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the parent dies: a worker alone would hold the state's locks."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _open_many_files() -> None:
    """Raise the soft limit of open files to the hard one: shards and partitions take some 8 each, over 1,000 in all."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str]) -> int:
    """Run worker `INDEX` of the job in `SETTINGS` to its end."""
    _die_with_parent()
    _open_many_files()
    drain_on_signals()
    do_without_pandas()
    clock_watch.watch()
    settings = Settings.from_json(Path(arguments[0]).read_text())
    index = int(arguments[1])
    try:
        from bytewax.recovery import RecoveryConfig
        from bytewax.testing import cluster_main, run_main

        from dataflows.graph import build

        flow = build(settings, index)
        epoch = timedelta(milliseconds=settings.epoch_ms)
        recovery = None
        if settings.out is None:
            recovery = RecoveryConfig(str(settings.folder / "recovery"))
        if settings.workers == 1:
            run_main(flow, epoch_interval=epoch, recovery_config=recovery)
        else:
            cluster_main(
                flow, list(settings.addresses), index, epoch_interval=epoch, recovery_config=recovery
            )
    except BaseException as error:
        failures.note(error)
        raise
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Everything durable was committed in the last epoch; tearing interpreters down can only hang.
    os._exit(code)
