"""What a Redis or Valkey server can do to a live job, on a real one: what is lost, waited for, or refused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.recovery.conftest import Undisturbed, assert_right
from tests.recovery.job import Ended, Job, Run
from tests.recovery.served import Poller, picture
from tests.services.valkey import Valkey, running

STALL_SECONDS = float(
    os.environ.get("LOOKBACK_STALL_SECONDS", "30")
)  # beyond a writer's patience with one answer
SAID_WAITING = "; the job waits and then goes on"
SAID_LOST = "lost what it had acknowledged"


@pytest.fixture
def job(new_job: Callable[..., Job], valkey: Valkey) -> Job:
    """Return a job that writes to this test's own server, in small batches."""
    return new_job(server=valkey.uri)


def half_way(run: Run) -> None:
    """Wait until the job is in the midst of its work."""
    begun = run.until(run.rows, "a first batch")
    run.until(lambda: run.rows() > begun + 300, "300 rows more")


def ends_right(run: Run, job: Job, undisturbed: Undisturbed) -> Ended:
    """Wait for the job's end; return it once the store holds what it must."""
    ended = run.wait()
    assert ended.code == 0, (ended, job.worker_logs())
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    return ended


def test_a_server_that_comes_back_with_its_data(job: Job, valkey: Valkey, undisturbed: Undisturbed) -> None:
    """Killed and started again, with every write on its disk: the job waits, nothing is written twice."""
    valkey.settings |= {"appendonly": "yes", "appendfsync": "always"}
    valkey.restart()
    with Poller(job.uri, job.definition, job.archive) as poller:
        run = job.start()
        half_way(run)
        valkey.stop(signal.SIGKILL)
        run.until(lambda: SAID_WAITING in run.said(), "word that it waits")
        valkey.start()
        ended = ends_right(run, job, undisturbed)
    assert "goes on" in ended.said and SAID_LOST not in ended.said, ended
    assert_right(poller.checker)


def test_a_server_that_comes_back_empty(job: Job, valkey: Valkey, undisturbed: Undisturbed) -> None:
    """Without persistence all is gone: the job notices, and writes everything again from its state."""
    run = job.start()
    half_way(run)
    valkey.restart(signal.SIGKILL)
    ended = ends_right(run, job, undisturbed)
    assert SAID_LOST in ended.said and "written again from the state" in ended.said, ended
    valkey.restart(signal.SIGKILL)
    job.finish()  # and when it happened while no job ran, with nothing new to read
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_a_failover_to_a_replica_that_lags(
    job: Job, valkey: Valkey, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The replica lacks acknowledged writes of some epochs; it takes the primary's place and its port."""
    replica = valkey.replica(tmp_path / "replica")
    try:
        run = job.start()
        half_way(run)
        with replica.client() as client:
            client.replicaof("NO", "ONE")  # from here on it hears nothing
        held = run.rows()
        run.until(lambda: run.rows() > held + 600, "600 rows that the replica lacks")
        valkey.stop(signal.SIGKILL)
        replica.take_over(valkey)
        ended = ends_right(run, job, undisturbed)
    finally:
        replica.stop(signal.SIGKILL)
    assert SAID_LOST in ended.said, ended


def test_a_replica_that_lagged_while_no_job_ran(
    job: Job, valkey: Valkey, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """At its start the job sees that the store kept less than it once acknowledged."""
    job.kill_at("4-after:20")
    replica = valkey.replica(tmp_path / "replica")
    try:
        with replica.client() as client:
            client.replicaof("NO", "ONE")
        job.kill_at("4-after:150")
        valkey.stop(signal.SIGKILL)
        replica.take_over(valkey)
        job.jitter_rows = None
        job.finish()
        assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
    finally:
        replica.stop(signal.SIGKILL)


def test_a_server_that_stalls(job: Job, valkey: Valkey, undisturbed: Undisturbed) -> None:
    """For half a minute; LOOKBACK_STALL_SECONDS=7 for a short one."""
    with Poller(job.uri, job.definition, job.archive) as poller:
        run = job.start()
        half_way(run)
        with valkey.stalled():
            run.until(lambda: SAID_WAITING in run.said(), "word that it waits")
            time.sleep(max(0.0, STALL_SECONDS - 6))
        ended = ends_right(run, job, undisturbed)
    assert SAID_LOST not in ended.said, ended
    assert_right(poller.checker)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stalled_job_can_be_stopped(
    job: Job, valkey: Valkey, undisturbed: Undisturbed, workers: int
) -> None:
    """Of two workers too it is our own sentence that ends them, not what Bytewax makes of it."""
    job.workers = workers
    run = job.start()
    half_way(run)
    with valkey.stalled():
        run.until(lambda: SAID_WAITING in run.said(), "word that it waits")
        run.process.send_signal(signal.SIGTERM)
        ended = run.wait()
    assert ended.code == 1 and "nothing is lost" in ended.said, ended
    job.jitter_rows = None
    job.finish()
    assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_a_server_out_of_memory(job: Job, valkey: Valkey, undisturbed: Undisturbed) -> None:
    """The job waits, says what to do, and goes on once there is room; no record is ever half written."""
    with Poller(job.uri, job.definition, job.archive) as poller, valkey.client() as client:
        run = job.start()
        half_way(run)
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) // 2)
        run.until(lambda: "raise its maxmemory" in run.said(), "word that there is no room")
        client.config_set("maxmemory", 0)
        ends_right(run, job, undisturbed)
    assert_right(poller.checker)


def test_a_server_that_would_evict(job: Job, valkey: Valkey) -> None:
    with valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "100mb")
    ended = job.start().wait()
    assert ended.code == 3 and "allkeys-lru" in ended.said and "noeviction" in ended.said, ended
    with valkey.client() as client:
        client.config_set("maxmemory", 0)  # the policy alone evicts nothing
    job.jitter_rows = None
    job.finish()


@pytest.mark.parametrize("suffix", ["", ":rows"])
def test_a_key_that_holds_something_else(
    job: Job, valkey: Valkey, undisturbed: Undisturbed, suffix: str
) -> None:
    """It is refused by name and left as it is; once it is gone the job goes on."""
    job.kill_at("4-after:40")
    job.jitter_rows = None
    with valkey.client() as client:
        keys = [key.decode() for key in client.keys("lookback:*:rows")]
        key = sorted(keys)[0].removesuffix(":rows") + suffix
        client.delete(key)
        client.rpush(key, "mine")
        ended = job.start().wait()
        assert ended.code == 3 and key in ended.said and "rename or delete it" in ended.said, ended
        assert client.lrange(key, 0, -1) == [b"mine"]
        client.delete(key)
    job.finish()
    found, expected = picture(job.definition, job.uri, job.archive), undisturbed.picture
    assert {at: seen.event_time_ms for at, seen in found.items()} == {
        at: seen.event_time_ms for at, seen in expected.items()
    }


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Valkey]:
    """Return a server that wants a password."""
    with running(tmp_path / "guarded", {"requirepass": "right-pw"}) as server:
        yield server


@pytest.mark.parametrize(
    "uri", ["redis://:wrong-pw@127.0.0.1:{}", "redis://me:wrong-pw@127.0.0.1:{}", "redis://127.0.0.1:{}"]
)
def test_a_wrong_password_is_never_shown(new_job: Callable[..., Job], guarded: Valkey, uri: str) -> None:
    job = new_job(server=uri.format(guarded.port), jitter_rows=None)
    ended = job.start().wait()
    assert ended.code == 1 and "refuses the user or the password" in ended.said, ended
    assert "-pw" not in ended.said and len(ended.said.strip().splitlines()) == 1, ended


def test_a_password_is_kept_to_ourselves(
    new_job: Callable[..., Job], guarded: Valkey, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given in the URI it lies in a file that nobody else may read; given in the environment in none."""
    job = new_job(server=f"redis://:right-pw@127.0.0.1:{guarded.port}", jitter_rows=None)
    job.finish()
    holding = [path for path in job.state.iterdir() if path.is_file() and b"right-pw" in path.read_bytes()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding), holding
    monkeypatch.setenv("LOOKBACK_REDIS_PASSWORD", "right-pw")
    other = new_job(server=guarded.uri, jitter_rows=None, options=("--accept-lost-state",))
    other.finish()
    assert not [path for path in other.state.iterdir() if path.is_file() and b"right-pw" in path.read_bytes()]
    assert picture(other.definition, other.uri, other.archive) == undisturbed.picture


def test_no_server_at_the_start(new_job: Callable[..., Job], valkey: Valkey) -> None:
    valkey.stop()
    job = new_job(server=valkey.uri, jitter_rows=None)
    ended = job.start().wait()
    assert ended.code == 1 and valkey.uri in ended.said and "doesn't answer" in ended.said, ended
    assert len(ended.said.strip().splitlines()) == 1, ended


def test_two_jobs_on_one_server(
    job: Job, new_job: Callable[..., Job], valkey: Valkey, undisturbed: Undisturbed
) -> None:
    """The newer job takes the store over, the older one is refused by name; no value goes back."""
    with Poller(job.uri, job.definition, job.archive) as poller:
        run = job.start()
        half_way(run)
        new = new_job(server=valkey.uri, jitter_rows=None, options=("--accept-lost-state",))
        new.finish()
        ended = run.wait()
    assert ended.code == 3 and "has taken over the online store" in ended.said, ended
    assert str(new.state) in ended.said, "the refusal names the job that has taken over"
    assert_right(poller.checker)
    assert picture(new.definition, new.uri, new.archive) == undisturbed.picture
