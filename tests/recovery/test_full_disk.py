"""A disk that fills up: said clearly, nothing lost, and on it goes once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataflows.disk import ROOM_BYTES, free_bytes
from state.errors import StateError
from state.rocksdb import Database
from tests.recovery.conftest import Undisturbed, assert_right
from tests.recovery.job import Job
from tests.recovery.served import Poller, picture

MIB = 1 << 20
NEARLY_FULL_BYTES = ROOM_BYTES - MIB  # too little for a commit to begin, enough for one to end


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """Yield a folder on a disk of its own."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here ({done.stderr.strip()}): run as root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Take all but `leave_bytes` of what is left of a disk; return the file to delete."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while (not leave_bytes or free_bytes(disk) > leave_bytes) and file.write(bytes(64 << 10)):
                pass
            if leave_bytes:
                return ballast
        except OSError:
            return ballast
    raise AssertionError("a full disk takes everything")


def test_the_state_waits_for_room(
    new_job: Callable[..., Job], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 96 * MIB) as disk:
        job = new_job(state_at=disk / "state")
        with Poller(job.uri, job.definition, job.archive) as poller:
            run = job.start()
            run.until(lambda: run.rows() > 600, "every shard at work")
            # A commit that is under way as the disk fills has looked for room before: it may still finish.
            ballast = fill(disk, NEARLY_FULL_BYTES)
            run.until(lambda: "no space left for the state at" in run.said(), "word of the full disk")
            assert run.process.poll() is None, "it waits"
            ballast.unlink()
            run.until(lambda: "there is room again" in run.said(), "word of the room")
            ended = run.wait()
        assert ended.code == 0, ended
        assert "make room; the job waits and then goes on" in ended.said
        assert_right(poller.checker)
        assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_stopped_while_it_waits(
    new_job: Callable[..., Job], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 96 * MIB) as disk:
        job = new_job(state_at=disk / "state")
        run = job.start()
        run.until(lambda: run.rows() > 600, "every shard at work")
        fill(disk, NEARLY_FULL_BYTES)
        run.until(lambda: "no space left for the state at" in run.said(), "word of the full disk")
        run.process.terminate()
        ended = run.wait()
        assert ended.code == 1 and "no space left for the state at" in ended.said, ended
        assert "Traceback" not in ended.said
        (disk / "ballast").unlink()
        job.jitter_rows = None
        job.finish()
        assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_filled_to_the_last_byte_at_any_moment(
    new_job: Callable[..., Job], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """It waits, or where even Bytewax's recovery store could not be written it ends with the sentence."""
    with small_disk(tmp_path / "disk", 96 * MIB) as disk:
        job = new_job(state_at=disk / "state")
        run = job.start()
        run.until(lambda: run.rows() > 600, "every shard at work")
        ballast = fill(disk)
        said = "no space left for the state at"
        run.until(lambda: said in run.said() or run.process.poll() is not None, "word of the full disk")
        ballast.unlink()
        ended = run.wait()
        assert said in ended.said
        assert "Traceback" not in ended.said
        if ended.code:
            assert ended.code == 1
            job.jitter_rows = None
            job.finish()
        assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


@pytest.mark.parametrize("point", ["0-make:20:pause", "0-claim:1:pause"])
def test_full_while_it_starts(
    new_job: Callable[..., Job], undisturbed: Undisturbed, tmp_path: Path, point: str
) -> None:
    """It waits where it can, else it ends with the sentence; the same command then goes on."""
    with small_disk(tmp_path / "disk", 96 * MIB) as disk:
        job = new_job(state_at=disk / "state", jitter_rows=None)
        run = job.start(point)
        run.until(run.note.exists, "the point")
        ballast = fill(disk)
        run.note.with_name(f"{run.note.name}.go").touch()
        ended = run.wait()
        assert ended.code == 1 and "no space left for the state at" in ended.said, ended
        assert "Traceback" not in ended.said
        ballast.unlink()
        job.finish()
        assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_a_database_tries_the_same_batch_again(tmp_path: Path) -> None:
    """RocksDB's own handle is dead after ENOSPC: the wrapper reopens it until the batch is in, all of it."""
    with small_disk(tmp_path / "disk", 16 * MIB) as disk:
        db = Database(disk / "db", create=True)
        first = [(f"a{n}".encode(), bytes(1000)) for n in range(100)]
        db.write(first)
        ballast = fill(disk)
        said: list[str] = []

        def make_room(message: str) -> None:
            said.append(message)
            if len(said) == 2:
                ballast.unlink()

        second = [(f"b{n}".encode(), bytes(10_000)) for n in range(100)]
        db.write(second, make_room)
        assert len(said) >= 2 and "make room" in said[0]
        assert db.get_many([key for key, _ in first + second]) == [value for _, value in first + second]
        db.close()
        db = Database(disk / "db")
        assert db.get_many([key for key, _ in first + second]) == [value for _, value in first + second]
        fill(disk)

        def give_up(message: str) -> None:
            raise StateError(message)

        with pytest.raises(StateError, match="no space left"):
            for n in range(100):
                db.write([(f"c{n}".encode(), bytes(100_000))], give_up)
        db.close()


def test_the_online_store_has_no_room(
    new_job: Callable[..., Job], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 8 * MIB) as disk:
        job = new_job(store_at=disk / "store", jitter_rows=None)
        ended = job.start().wait()
        assert ended.code == 1 and f"the online store {job.store} is full: make room" in ended.said, ended
        assert len(ended.said.strip().splitlines()) == 1, ended
        subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", str(disk)], check=True)
        job.finish()
        assert picture(job.definition, job.uri, job.archive) == undisturbed.picture


def test_the_dead_letters_have_no_room(
    new_job: Callable[..., Job], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        letters = disk / "letters"
        job = new_job(options=["--dead-letters", str(letters)])
        letters.mkdir()
        fill(disk)
        ended = job.start().wait()
        assert ended.code == 1 and "its disk is full; make room and start the job again" in ended.said, ended
        assert len(ended.said.strip().splitlines()) == 1, ended
        (disk / "ballast").unlink()
        job.jitter_rows = None
        job.finish()
        assert {p.name: p.read_bytes() for p in letters.glob("*.jsonl")} == undisturbed.letters
        assert picture(job.definition, job.uri, job.archive) == undisturbed.picture
