"""A worker's lost disk: the store is there, the state is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from tests.recovery.conftest import Undisturbed, assert_right, dead_letters
from tests.recovery.job import Job
from tests.recovery.served import Poller, picture


def test_a_lost_state_is_refused_until_its_loss_is_accepted(
    new_job: Callable[..., Job], undisturbed: Undisturbed, store_uri: str
) -> None:
    """Nothing is made or changed; then all is counted again, and no reader sees a value that goes back."""
    job = new_job(server=store_uri)
    with Poller(job.uri, job.definition, job.archive) as poller:
        job.kill_at("4-after:60")
        kept = job.folder / "kept"
        job.state.rename(kept)
        ended = job.start().wait()
        assert ended.code == 3 and "holds no state" in ended.said and "--accept-lost-state" in ended.said, (
            ended
        )
        assert len(ended.said.strip().splitlines()) == 1 and str(job.state) in ended.said, ended
        assert not job.state.exists()
        kept.rename(job.state)
        job.kill_at("4-after:30")  # put back, it goes on
        shutil.rmtree(job.state)
        job.options = ("--accept-lost-state",)
        job.kill_at("3-before:40")  # killed while it counts again, it needs no more words
        job.options, job.jitter_rows = (), None
        job.finish()
    assert_right(poller.checker)
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    assert dead_letters(job) == undisturbed.letters


def test_another_state_may_have_a_store_of_its_own(
    new_job: Callable[..., Job], undisturbed: Undisturbed
) -> None:
    first = new_job(jitter_rows=None)
    first.finish()
    second = new_job(jitter_rows=None)
    second.finish()
    assert picture(second.definition, second.uri, second.archive) == undisturbed.picture
