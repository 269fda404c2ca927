"""`lookback status --watch` and `--log json` of a real job, each a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dataflows.telemetry.metrics import METRICS
from tests.services.endpoint import LIMIT_SECONDS, until
from tests.services.pace import Job, start

LOOKBACK = Path(sys.executable).with_name("lookback")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """Return a job that runs; it logs in JSON, and a test stops it."""
    made = tmp_path_factory.mktemp("job")
    job = start(made, f"lmdb:{made / 'store'}", "--log", "json")
    try:
        until((made / "state" / "pids").exists)
        yield job
    finally:
        job.process.kill()
        job.process.wait()


def watching(folder: Path, *options: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [LOOKBACK, "status", "--state", folder / "state", "--watch", *options],
        stderr=subprocess.PIPE,
        **streams,
    )


def test_it_shows_tables_on_a_terminal(job: Job) -> None:
    here, there = pty.openpty()
    process = watching(job.folder, stdout=there, env={**os.environ, "COLUMNS": "120", "TERM": "xterm"})
    os.close(there)
    shown, deadline = b"", time.monotonic() + LIMIT_SECONDS
    wanted = (
        b"tx/0",
        b"cards",
        b"features written",
        b"step 3-commit-state",
        b"write to the store",
        b"caught up",
    )
    while not all(word in shown for word in wanted):
        assert time.monotonic() < deadline, shown.decode()
        shown += os.read(here, 1 << 16)
    process.send_signal(signal.SIGINT)
    with suppress(OSError):  # EIO: all of it was read, and the other end is closed
        while os.read(here, 1 << 16):
            pass
    os.close(here)
    with process:
        assert process.wait(LIMIT_SECONDS) == 0
        assert process.stderr is not None and process.stderr.read() == b""
    assert re.search(rb"tx/0 +20\d\d-\d\d-\d\d", shown)


def test_it_gives_every_metric_as_json_until_the_job_ends(job: Job) -> None:
    with watching(job.folder, "--json", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        first = json.loads(process.stdout.readline())
        assert set(first) == {metric.name for metric in METRICS}
        while not (now := json.loads(process.stdout.readline()))["lookback.store.freshness"]["count"]:
            pass
        (partition,) = now["lookback.partition.events"]
        assert partition["messaging.destination.name"] == "tx" and partition["value"] > 0
        assert now["lookback.commit.step.duration"]["3-commit-state"]["mean"] > 0
        job.process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(LIMIT_SECONDS) == 0
        assert process.stderr.read() == b""


def test_what_a_job_says_is_json(job: Job) -> None:
    """After the test before it has stopped the job."""
    lines = [json.loads(line) for line in job.said.splitlines()]
    assert lines, "it says at least how it ended"
    state = json.loads((job.folder / "state" / "state.json").read_text())
    last = lines[-1]
    assert last["message"].startswith("stopped: ") and last["level"] == "info"
    assert last["job"] == state["id"] and last["state"] == str(job.folder / "state") and last["epoch"] > 0
    offset = datetime.fromisoformat(last["time"]).utcoffset()
    assert offset is not None and not offset


def test_without_a_job_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lock").touch()
    with watching(tmp_path) as process:
        assert process.wait(LIMIT_SECONDS) == 2
        assert process.stderr is not None and b"no job runs on" in process.stderr.read()


def test_an_error_is_json_too_and_names_the_shard(job: Job) -> None:
    """A shard whose files are another's: the worker refuses it, the parent says which."""
    state = job.folder / "state"
    (state / "shard-00").rename(state / "shard-x")
    (state / "shard-01").rename(state / "shard-00")
    (state / "shard-x").rename(state / "shard-01")
    again = start(job.folder, f"lmdb:{job.folder / 'store'}", "--log", "json")
    assert again.process.wait(LIMIT_SECONDS) == 3
    last = json.loads(again.said.splitlines()[-1])
    assert last["level"] == "error" and last["message"].startswith("lookback: ")
    assert last["shard"] in (0, 1) and "is shard" in last["message"]
