"""Each protection is needed: with it switched off, the same checks find what it prevents."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.conftest import SEED
from tests.recovery.job import Job
from tests.recovery.served import Poller

TRIES = 5

# What to kill so that the protection is what saves the job: (epoch, point) in turn.
PLANS = {
    # The store is ahead of the state, and the partitions come back in another order.
    "served_mark": [("30s", "2-after:{30-60}")],
    # A shard has committed an epoch that Bytewax has not, so its rows come again.
    "offset_dedupe": [("200ms", "3-after:{20-50}")],
    # Offsets without their rows.
    "synced_batch": [("200ms", "3-torn:{20-50}")],
}


@pytest.mark.parametrize("protection", PLANS)
def test_switched_off_it_is_caught(new_job: Callable[..., Job], protection: str) -> None:
    for number in range(TRIES):
        dice = random.Random(SEED + number)
        job = new_job(seed=SEED + number, off=protection)
        with Poller(job.uri, job.definition, job.archive) as poller:
            for epoch, point in PLANS[protection]:
                job.epoch = epoch
                name, _, bounds = point.partition("{")
                low, high = bounds.rstrip("}").split("-")
                job.kill_at(f"{name}{dice.randint(int(low), int(high))}")
            job.epoch = "200ms"
            job.finish()
        found = poller.checker.problems or poller.checker.complete()
        if found:
            print(f"{protection} off, seed {SEED + number}: {len(found)} wrong, such as {found[0]}")
            return
    pytest.fail(
        f"{protection} was off in {TRIES} crashed jobs and nobody noticed: the checks are blind to it"
    )
