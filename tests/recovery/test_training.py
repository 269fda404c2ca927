"""A killed replay leaves nothing that passes for training rows; run again, it writes the same ones."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lookback.errors import LookbackError
from lookback.training import load_training
from tests.recovery.conftest import Undisturbed
from tests.recovery.events import START_MS
from tests.recovery.job import LIMIT_SECONDS, Job, Run, command, launch

KILLS = 2


def replay(undisturbed: Undisturbed, out: Path) -> list[str]:
    """Return the arguments of a replay from the first event on."""
    return [
        "replay", str(undisturbed.definition), "--source", undisturbed.archive.uri,
        "--from", str(START_MS - 86_400_000), "--out", str(out), "--quiet",
    ]  # fmt: skip


def test_killed_and_run_again(undisturbed: Undisturbed, tmp_path: Path, dice: random.Random) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert command(*replay(undisturbed, whole), said=tmp_path / "said").code == 0
    expected = load_training(whole).arrow()
    for number in range(KILLS):
        kill_one(undisturbed, tmp_path, out, dice, number)
        with pytest.raises(LookbackError):
            load_training(out)
    ended = command(*replay(undisturbed, out), said=tmp_path / "said")
    assert ended.code == 0, ended
    found = load_training(out).arrow()
    assert found.schema == expected.schema
    for name in expected.column_names:
        assert found[name].combine_chunks().equals(expected[name].combine_chunks()), name
    assert files(out) == files(whole)
    assert_last_rows(expected, undisturbed)


def kill_one(undisturbed: Undisturbed, folder: Path, out: Path, dice: random.Random, number: int) -> None:
    """Kill the replay's worker somewhere, the first time while it writes rows."""
    job = Job(folder, undisturbed.definition, undisturbed.archive, state_at=out / ".work", starts=number)
    env = {**os.environ, "LOOKBACK_TEST_JITTER": f"{job.seed}-{number}:20"}
    for left in ("pids", "board"):  # of the one before
        (job.state / left).unlink(missing_ok=True)
    run = Run(job, launch(replay(undisturbed, out), env, folder / f"said-{number}"), folder / "no note")
    pids = run.pids()
    rows = run.until(run.rows, "a first batch")
    target = dice.randint(rows, undisturbed.archive.events - 1)
    run.until(lambda: run.rows() >= target, f"row {target}")
    os.kill(pids[0], signal.SIGKILL)
    code = run.process.wait(LIMIT_SECONDS)
    assert code == 1 and "killed by SIGKILL" in run.said(), (code, run.said())


def files(out: Path) -> dict[str, bytes]:
    """Return the bytes of all that a reader may take, the manifest's words about the job apart."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}


def assert_last_rows(table: pa.Table, undisturbed: Undisturbed) -> None:
    """Hold an entity's last training row against what the live job left in the store, feature by feature."""
    compared = 0
    order = np.lexsort(
        (table["_offset"].to_numpy(), table["_partition"].to_numpy(), table["event_time_ms"].to_numpy())
    )
    for view, column in (("cards", "card"), ("shops", "shop")):
        keys = table[column].to_pylist()
        last = {keys[i]: i for i in order.tolist() if keys[i] is not None}
        assert sorted(last) == undisturbed.archive.keys(view)
        for key, at in last.items():
            values = undisturbed.picture[view, key].reads[0][0]
            for name, value in values.items():
                assert table[name][at].as_py() == value, (view, key, name)
                compared += 1
    assert compared > 500
