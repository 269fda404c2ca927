"""A stop by signal commits the last epoch, ends with exit code 0, and the same command goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.recovery.conftest import Undisturbed, assert_right
from tests.recovery.job import Job
from tests.recovery.served import Poller, picture


def test_sigterm_then_sigint_then_the_end(new_job: Callable[..., Job], undisturbed: Undisturbed) -> None:
    job = new_job(epoch="30s", workers=2)  # an epoch that only the stop ends
    counted = 0
    with Poller(job.uri, job.definition, job.archive) as poller:
        for number in (signal.SIGTERM, signal.SIGINT):
            run = job.start()
            before = run.until(run.rows, "a first batch")
            run.until(lambda run=run, before=before: run.rows() > before + 300, "300 rows more")  # type: ignore[misc]
            run.process.send_signal(number)
            ended = run.wait()
            assert ended.code == 0, ended
            assert ended.said.startswith("stopped: "), ended
            new, _, rest = ended.said.removeprefix("stopped: ").partition(" new events, ")
            counted += int(new.replace(",", ""))
            assert int(rest.split()[0].replace(",", "")) == counted, "it did not go on where it had stopped"
        job.jitter_rows = None
        ended = job.finish()
    assert f"done: {job.archive.events - counted:,} new events, {job.archive.events:,} in all" in ended.said
    assert_right(poller.checker)
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_one_worker_that_is_stopped_stops_the_job(
    new_job: Callable[..., Job], undisturbed: Undisturbed
) -> None:
    """Else the other would go on alone, and count its own partitions' events only."""
    job = new_job(workers=2)
    run = job.start()
    run.until(run.rows, "a first batch")
    os.kill(run.pids()[1], signal.SIGTERM)
    ended = run.wait()
    assert ended.code == 0 and ended.said.startswith("stopped: "), ended
    job.jitter_rows = None
    job.finish()
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
