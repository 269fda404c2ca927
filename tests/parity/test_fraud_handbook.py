"""Proof on data that none of us made: 1,754,155 transactions with 12 published features each.

Replayed whole, split in partitions, on one and two workers, and run live with a stop in the middle: the published
values, and the same bits each time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookback import load_training
from lookback.client import Client
from lookback.definition import load
from lookback.stores.base import Lookup, open_store
from lookback.windows.log import Values
from lookback.windows.results import to_python

DEFINITION = Path(__file__).with_name("fraud_handbook.yaml")
ROOT = Path(__file__).resolve().parents[2]
EVENTS = 1_754_155
DAYS = (1, 7, 30)
CENT_TIES = 20  # same customer, same second, where the published one-day count is not that of the row order
PARTITION_BOUNDS = (100, 500, 1000, 1200, 2500, 4500)  # customers below each bound: seven uneven partitions


def lookback(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "dataflows.cli", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def data(shared: Path) -> Path:
    """Return the folder of the published data."""
    path = shared / "data" / "fraud-handbook"
    if not (path / "events.parquet").exists():
        pytest.skip(f"no {path}; set LOOKBACK_SHARED to the folder that holds data/fraud-handbook")
    return path


@pytest.fixture(scope="module")
def archive(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive that reads the published events where they lie."""
    path = tmp_path_factory.mktemp("archive")
    (path / "tx").mkdir()
    (path / "tx" / "events.parquet").symlink_to(data / "events.parquet")
    return path


@pytest.fixture(scope="module")
def split_archive(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same events in seven partitions by customer, the row order kept in each."""
    path = tmp_path_factory.mktemp("split")
    (path / "tx").mkdir()
    events = pq.read_table(data / "events.parquet")
    partition = np.searchsorted(PARTITION_BOUNDS, events["CUSTOMER_ID"].to_numpy(), side="right")
    for number in range(len(PARTITION_BOUNDS) + 1):
        part = events.filter(pa.array(partition == number))
        part = part.append_column("_partition", pa.array(np.full(len(part), number, np.int32)))
        part = part.append_column("_offset", pa.array(np.arange(len(part))))
        pq.write_table(part, path / "tx" / f"part-{number}.parquet")
    return path


@pytest.fixture(scope="module")
def replayed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Return the training rows of one worker over one partition, by transaction."""
    return replay(archive, tmp_path_factory.mktemp("replay") / "out")


def replay(archive: Path, out: Path, *options: str) -> pa.Table:
    """Replay an archive; return the rows by transaction, without their place."""
    lookback(
        "replay",
        str(DEFINITION),
        "--source",
        f"archive:{archive}",
        "--from",
        "1970-01-01",
        "--out",
        str(out),
        *options,
    )
    table = load_training(out).arrow().drop_columns(["_topic", "_partition", "_offset"])
    assert len(table) == EVENTS
    return table.sort_by("transaction_id").combine_chunks()


@pytest.fixture(scope="module")
def published(data: Path) -> pa.Table:
    """Return the published features, by transaction."""
    return pq.read_table(data / "published_features.parquet").sort_by("TRANSACTION_ID")


def test_terminal_features_are_the_published_ones(replayed: pa.Table, published: pa.Table) -> None:
    for days in DAYS:
        ours = replayed[f"terminal_risk.tx_count_{days}d"].to_numpy()
        assert (ours != published[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"].to_numpy()).sum() == 0
        risk = replayed[f"terminal_risk.fraud_share_{days}d"].to_numpy()
        assert (risk != published[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"].to_numpy()).sum() == 0


def test_customer_counts_differ_only_in_ties(data: Path, replayed: pa.Table, published: pa.Table) -> None:
    tied = same_second(data)
    for days in DAYS:
        ours = replayed[f"customer_activity.tx_count_{days}d"].to_numpy()
        differ = ours != published[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"].to_numpy()
        assert differ.sum() == CENT_TIES
        assert not (differ & ~tied).any()


def same_second(data: Path) -> np.ndarray:
    """Return which transactions share customer and second with another one."""
    events = pq.read_table(data / "events.parquet").sort_by("TRANSACTION_ID")
    place = events["CUSTOMER_ID"].to_numpy().astype(np.int64) << 32 | events["TX_TIME_SECONDS"].to_numpy()
    _, inverse, counts = np.unique(place, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


def test_averages_are_the_cent_exact_means(data: Path, replayed: pa.Table, published: pa.Table) -> None:
    tied = same_second(data)
    for days in DAYS:
        ours = replayed[f"customer_activity.cents_mean_{days}d"].to_numpy()
        count = replayed[f"customer_activity.tx_count_{days}d"].to_numpy()
        theirs = published[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"].to_numpy()
        # The published mean is of floats; to the nearest cent its sum is the exact one.
        cents = np.rint(theirs * 100 * count)
        exact = cents / count
        assert (ours[~tied] == exact[~tied]).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_seven_partitions_give_the_same_bits(
    workers: int, split_archive: Path, replayed: pa.Table, tmp_path: Path
) -> None:
    again = replay(split_archive, tmp_path / "out", "--workers", str(workers))
    assert again.equals(replayed)


@pytest.mark.parametrize(("workers", "split"), [(1, False), (2, True)])
def test_live_values_after_a_stop_are_those_of_the_replay(
    workers: int, split: bool, archive: Path, split_archive: Path, replayed: pa.Table, tmp_path: Path
) -> None:
    source = split_archive if split else archive
    command = [
        "run", str(DEFINITION), "--source", f"archive:{source}", "--store", f"lmdb:{tmp_path / 'store'}",
        "--state", str(tmp_path / "state"), "--workers", str(workers), "--until-end", "--epoch", "500ms",
        "--clock", "wall",  # nothing is refreshed: values stay as of each entity's last event
    ]  # fmt: skip
    stop_in_the_middle(command, tmp_path / "state")
    done = lookback(*command)
    assert f"{EVENTS:,} in all" in done.stderr
    compare_store(tmp_path / "store", replayed)


def stop_in_the_middle(command: list[str], state: Path) -> None:
    """Start the job and stop it by SIGTERM after some commits; it must end cleanly, before its end."""
    job = subprocess.Popen(
        [sys.executable, "-m", "dataflows.cli", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not _has_counted(state) and time.monotonic() < deadline:
            assert job.poll() is None, "the job ended before it could be stopped"
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=120)
    finally:
        if job.poll() is None:
            job.kill()
            job.wait()
    assert job.returncode == 0, errors
    assert "stopped" in errors
    assert f"{EVENTS:,} in all" not in errors


def _has_counted(state: Path) -> bool:
    """Return whether the running job has read a fifth of the events (its board says)."""
    from dataflows import board as b

    path = state / "board"
    if not path.exists() or not path.stat().st_size:
        return False
    words = np.fromfile(path, np.int64)[b.HEADER :]
    return bool(words.reshape(-1, b.COLUMNS)[:, b.ROWS].sum() > EVENTS // 5)


def compare_store(store: Path, replayed: pa.Table) -> None:
    """Each entity's record holds what the replay gives as of that entity's last event, bit by bit."""
    definition = load(DEFINITION)
    opened = open_store(f"lmdb:{store}")
    compared = 0
    for view in definition.views.values():
        key = replayed[view.key_names[0]].to_numpy()
        # The last row of each entity in order: rows are by transaction, which is (time, position) order.
        entities, last = np.unique(key[::-1], return_index=True)
        rows = len(key) - 1 - last
        columns = [replayed[f"{view.name}.{one.name}"].to_numpy()[rows].tolist() for one in view.features]
        for index, entity in enumerate(entities.tolist()):
            [record] = opened.read([Lookup(view.fingerprint, str(entity), view.plan)])
            assert record is not None, f"{view.name} {entity} is not in the store"
            values = Values(record.words.reshape(-1, 1), record.status.reshape(-1, 1))
            found = to_python(view.plan, values, 0, record.texts)
            assert found == [column[index] for column in columns], f"{view.name} {entity}"
            compared += len(found)
    opened.close()
    assert compared > 80_000
    with Client(DEFINITION, f"lmdb:{store}") as client:
        row = int(np.flatnonzero(replayed["customer"].to_numpy() == 596)[-1])
        names = [f"customer_activity.{one.name}" for one in definition.views["customer_activity"].features]
        at = int(replayed["event_time_ms"][row].as_py())
        reading = client.get({"customer": 596}, at=at, features=names)
        for name, value in reading.values.items():
            assert value == replayed[name][row].as_py()


def test_the_data_is_not_part_of_the_project() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "published_features" not in listed
    assert not os.environ.get("LOOKBACK_SHARED", "").startswith(str(ROOT / "tests"))
