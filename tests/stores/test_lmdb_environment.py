"""Files, maps and processes: growth, sharing, full disks, folders that are no store."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from lookback.errors import RefusedError, StoreError, UsageError
from lookback.stores import lmdb_environment
from lookback.stores.base import Lookup, Record, open_store
from lookback.stores.lmdb import LmdbStore
from lookback.stores.lmdb_environment import FORMAT_KEY
from tests.stores.build import FINGERPRINT, Entity, Row, plan_of, rows_of, write_of

PLAN = plan_of()
SPAWN = multiprocessing.get_context("spawn")
SMALL_MAP = 128 << 10


def entities_of(step: int, count: int = 50) -> list[Entity]:
    rows: list[Row] = [(step, step, step, f"merchant {step}")]
    return [Entity(f"card {i}", rows, as_of_ms=step, amount=step) for i in range(count)]


def write_steps(path: Path, shard: int, steps: int, prefix: str) -> None:
    """Write `steps` times in this process, each time a row to each of 50 entities of the shard."""
    store = LmdbStore(path, write=True, first_map_bytes=SMALL_MAP)
    writer = store.writer({FINGERPRINT: PLAN}, 1, {FINGERPRINT: "cards"})
    for step in range(steps):
        entities = [Entity(prefix + one.key, one.rows, one.as_of_ms) for one in entities_of(step)]
        writer.write([write_of(PLAN, entities, sequence=step, shard=shard, marks={"t/0": step})])
    writer.flush()
    store.close()


def read(store: LmdbStore, key: str) -> Record:
    (record,) = store.read([Lookup(FINGERPRINT, key, PLAN)])
    assert record is not None
    return record


def run_in_process(target: object, *args: object) -> None:
    process = SPAWN.Process(target=target, args=args)  # type: ignore[arg-type]
    process.start()
    process.join()
    assert process.exitcode == 0


def test_the_map_grows_by_itself(tmp_path: Path) -> None:
    write_steps(tmp_path / "online", 0, 150, "")
    with_reader = LmdbStore(tmp_path / "online")
    assert (tmp_path / "online" / "data.mdb").stat().st_size > 8 * SMALL_MAP
    assert [row[0] for row in rows_of(PLAN, read(with_reader, "card 7"))] == list(range(150))
    with_reader.close()


def test_a_reader_follows_growth_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "online"
    write_steps(path, 0, 1, "")
    store = LmdbStore(path, first_map_bytes=SMALL_MAP)
    assert len(rows_of(PLAN, read(store, "card 0"))) == 1
    run_in_process(write_steps, path, 0, 150, "")
    assert len(rows_of(PLAN, read(store, "card 0"))) == 150
    store.close()


def test_two_processes_write_at_once_while_another_reads(tmp_path: Path) -> None:
    path = tmp_path / "online"
    write_steps(path, 0, 1, "a ")
    writers = [
        SPAWN.Process(target=write_steps, args=(path, shard, 120, name)) for shard, name in enumerate("ab")
    ]
    for process in writers:
        process.start()
    store = LmdbStore(path)
    longest = 0
    while any(process.is_alive() for process in writers):
        rows = rows_of(PLAN, read(store, "a card 3"))
        assert [row[0] for row in rows] == list(range(len(rows))), "a prefix of what was written, no gaps"
        assert len(rows) >= longest
        longest = len(rows)
    assert [process.exitcode for process in writers] == [0, 0]
    for name in ("acard 3", "bcard 3"):
        assert len(rows_of(PLAN, read(store, name))) == 120
    assert store.marks(FINGERPRINT, 0) == {"t/0": 119} == store.marks(FINGERPRINT, 1)
    store.close()


def test_a_killed_writer_leaves_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "online"
    write_steps(path, 0, 1, "")
    store = LmdbStore(path)
    for _ in range(2):
        process = SPAWN.Process(target=write_steps, args=(path, 0, 100_000, ""))
        process.start()
        before = (store.marks(FINGERPRINT, 0) or {})["t/0"]
        while (store.marks(FINGERPRINT, 0) or {})["t/0"] < before + 20:
            assert process.is_alive()
            process.join(0.001)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        mark = (store.marks(FINGERPRINT, 0) or {})["t/0"]
        for card in range(50):
            assert rows_of(PLAN, read(store, f"card {card}"))[-1][0] == mark
    store.close()
    write_steps(path, 0, 1, "")


def test_a_reader_shares_the_files_with_a_writer_of_its_process(tmp_path: Path) -> None:
    path = tmp_path / "online"
    write_steps(path, 0, 1, "")
    reader = LmdbStore(path)
    assert read(reader, "card 0").sequence == 0
    writer_store = LmdbStore(path / ".." / "online", write=True)
    writer = writer_store.writer({FINGERPRINT: PLAN}, 1, {FINGERPRINT: "cards"})
    writer.write([write_of(PLAN, entities_of(5), sequence=5)])
    assert read(reader, "card 0").sequence == 5
    writer_store.close()
    assert read(reader, "card 0").sequence == 5
    reader.close()
    with pytest.raises(StoreError, match="was closed"):
        read(reader, "card 0")


def test_threads_read_while_the_map_grows(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "online", write=True, first_map_bytes=SMALL_MAP)
    writer = store.writer({FINGERPRINT: PLAN}, 1, {FINGERPRINT: "cards"})
    writer.write([write_of(PLAN, entities_of(0), sequence=0)])
    done = threading.Event()
    errors: list[BaseException] = []

    def read_on() -> None:
        try:
            longest = 0
            while not done.wait(0.0005):  # a breath: LMDB's calls let the GIL go, and spinning takes it
                length = len(rows_of(PLAN, read(store, "card 1")))
                assert length >= longest
                longest = length
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(1, 40):
        writer.write([write_of(PLAN, entities_of(step, 200), sequence=step)])
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
    store.close()


def test_a_replaced_folder_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_environment, "LOOK_EVERY_S", -1.0)
    path = tmp_path / "online"
    write_steps(path, 0, 1, "")
    reader = LmdbStore(path)
    assert read(reader, "card 0").sequence == 0
    run_in_process(write_steps, tmp_path / "other", 0, 3, "")
    shutil.rmtree(path)
    (tmp_path / "other").rename(path)
    assert read(reader, "card 0").sequence == 2
    shutil.rmtree(path)
    with pytest.raises(StoreError, match="there is no online store"):
        read(reader, "card 0")
    reader.close()


def test_reading_before_there_is_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no online store at .*start `lookback run`"):
        open_store(f"lmdb:{tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


def test_a_store_opened_for_reading_refuses_to_write(tmp_path: Path) -> None:
    write_steps(tmp_path / "online", 0, 1, "")
    reader = LmdbStore(tmp_path / "online")
    with pytest.raises(UsageError, match="opened for reading"):
        reader.claim("job")
    reader.close()


def test_folders_that_are_no_store_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        LmdbStore(tmp_path / "file", write=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(RefusedError, match=r"letter\.txt"):
        LmdbStore(tmp_path / "full", write=True)
    with lmdb.open(str(tmp_path / "foreign")) as env, env.begin(write=True) as txn:
        txn.put(b"something", b"else")
    for write in (True, False):
        with pytest.raises(RefusedError, match="another program"):
            LmdbStore(tmp_path / "foreign", write=write)


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    write_steps(tmp_path / "online", 0, 1, "")
    with lmdb.open(str(tmp_path / "online"), max_dbs=10) as env, env.begin(write=True) as txn:
        txn.put(FORMAT_KEY, b"online store 2")
    for write in (True, False):
        with pytest.raises(RefusedError, match="online store 2"):
            LmdbStore(tmp_path / "online", write=write)


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    write_steps(tmp_path / "online", 0, 1, "")
    data = tmp_path / "online" / "data.mdb"
    data.write_bytes(b"\xff" * 8192 + data.read_bytes()[8192:])
    damaged = data.read_bytes()
    for write, kind in ((True, RefusedError), (False, StoreError)):
        with pytest.raises(kind, match=r"data\.mdb is damaged"):
            LmdbStore(tmp_path / "online", write=write)
    assert data.read_bytes() == damaged


FILL_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(disk)], check=True)
from lookback.errors import StoreError
from lookback.stores.lmdb import LmdbStore
from tests.stores.test_lmdb_environment import FINGERPRINT, PLAN, SMALL_MAP, entities_of, read, write_of
(disk / "ballast").write_bytes(bytes(2 << 20))
store = LmdbStore(disk / "online", write=True, first_map_bytes=SMALL_MAP)
writer = store.writer({FINGERPRINT: PLAN}, 1, {FINGERPRINT: "cards"})
step = 0
try:
    while step < 10000:
        writer.write([write_of(PLAN, entities_of(step, 200), sequence=step)])
        step += 1
except StoreError as error:
    print(error)
assert 0 < step < 10000
assert read(store, "card 3").sequence == step - 1, "what was written before is there"
try:
    writer.write([write_of(PLAN, entities_of(step, 200), sequence=step)])
    raise AssertionError("still full")
except StoreError:
    pass
(disk / "ballast").unlink()
writer.write([write_of(PLAN, entities_of(step, 200), sequence=step)])
writer.flush()
assert read(store, "card 3").sequence == step
store.close()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(
            "no small disk to be had: allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
        )
    yield disk


def test_a_full_disk_is_told_and_writing_goes_on_once_there_is_room(small_disk: Path) -> None:
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FILL_A_SMALL_DISK, str(small_disk)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is full: make room there, writing then goes on" in done.stdout


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "no"), "right to write"),
        (OSError(errno.ENOSPC, "no"), "make room there"),
        (lmdb.ReadersFullError("no"), "close some"),
        (lmdb.CorruptedError("no"), "move the folder away"),
        (OSError(errno.EIO, "broken"), "failed: .*broken"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, error: lmdb.Error | OSError, says: str) -> None:
    write_steps(tmp_path / "online", 0, 1, "")
    store = LmdbStore(tmp_path / "online")
    failed = store.env.failed(error)
    assert re.search(says, str(failed)) and str(tmp_path / "online") in str(failed)
    store.close()


def test_flushing_what_another_process_grew(tmp_path: Path) -> None:
    path = tmp_path / "online"
    store = LmdbStore(path, write=True, first_map_bytes=SMALL_MAP)
    writer = store.writer({FINGERPRINT: PLAN}, 1, {FINGERPRINT: "cards"})
    run_in_process(write_steps, path, 0, 150, "")
    assert (path / "data.mdb").stat().st_size > SMALL_MAP
    writer.flush()
    writer.write([write_of(PLAN, entities_of(200), sequence=200, shard=1)])
    writer.flush()
    assert read(store, "card 0").sequence == 200
    store.close()
