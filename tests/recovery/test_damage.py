"""What is damaged, missing or another's is refused by name and left as it is; put right, the job goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recovery.conftest import Undisturbed, assert_right, dead_letters
from tests.recovery.job import Job, command
from tests.recovery.served import Poller, picture

OWN = {"board", "failure.json", "lock", "pids", "settings.json"}  # a start writes these


@dataclass(frozen=True)
class Damage:
    """What is done to a state folder, and what the refusal must say."""

    name: str
    harm: Callable[[Path], None]
    says: tuple[str, ...]


def lose(name: str) -> Callable[[Path], None]:
    """Return what deletes a file or folder of the state."""

    def harm(state: Path) -> None:
        path = state / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return harm


def scribble(pattern: str, *, at: float = 0.5, size: int = 64) -> Callable[[Path], None]:
    """Return what overwrites bytes of the largest file that matches."""

    def harm(state: Path) -> None:
        path = max(state.glob(pattern), key=lambda p: p.stat().st_size)
        data = bytearray(path.read_bytes())
        start = int(at * (len(data) - size))
        data[start : start + size] = bytes(b ^ 0x5A for b in data[start : start + size])
        path.write_bytes(data)

    return harm


def cut(pattern: str) -> Callable[[Path], None]:
    """Return what cuts the largest file that matches to its half."""

    def harm(state: Path) -> None:
        path = max(state.glob(pattern), key=lambda p: p.stat().st_size)
        os.truncate(path, path.stat().st_size // 2)

    return harm


def swap(state: Path) -> None:
    """Put one shard in the place of another."""
    shutil.rmtree(state / "shard-03")
    shutil.copytree(state / "shard-04", state / "shard-03")


def newer(state: Path) -> None:
    """Make the state that of a release to come."""
    path = state / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


def ruin_recovery(state: Path) -> None:
    """Overwrite the recovery store's head, and lose its log, which has a copy."""
    scribble("recovery/part-*.sqlite3", at=0.0)(state)
    for log in state.glob("recovery/*-wal"):
        log.unlink()


DAMAGES = [
    Damage("shard gone", lose("shard-07"), ("shard 7 of 32 is missing",)),
    Damage("recovery store gone", lose("recovery"), ("recovery store", "missing")),
    Damage("recovery store damaged", ruin_recovery, ("recovery store", "damaged")),
    Damage("state.json torn", cut("state.json"), ("state.json", "damaged")),
    Damage("state of a newer release", newer, ("format 99",)),
    Damage("shard swapped", swap, ("shard-03", "is shard 4 of 32")),
    Damage("manifest torn", cut("shard-05/MANIFEST-*"), ("shard-05",)),
    Damage("SST torn", cut("shard-*/*.sst"), ("shard-",)),
    Damage("SST scribbled on", scribble("shard-*/*.sst", at=0.1), ("shard-",)),
]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory, undisturbed: Undisturbed) -> Job:
    """Return a job that died half-way, twice, so that its shards have tables and a log."""
    job = Job(tmp_path_factory.mktemp("crashed"), undisturbed.definition, undisturbed.archive)
    job.kill_at("4-after:60")
    job.kill_at("4-after:60")
    return job


@pytest.fixture
def copy(crashed: Job, tmp_path: Path) -> Job:
    """Return a copy of it."""
    shutil.copytree(crashed.folder, tmp_path / "copy")
    return Job(tmp_path / "copy", crashed.definition, crashed.archive, jitter_rows=None)


def contents(state: Path) -> dict[str, bytes]:
    """Return all that a refused start must leave as it is."""
    return {
        str(path.relative_to(state)): path.read_bytes()
        for path in sorted(state.rglob("*"))
        if path.is_file() and path.name not in OWN and not path.name.startswith(("worker-", "LOG", "LOCK"))
    }


def differing(kept: Path, state: Path) -> dict[str, list[str]]:
    """Return by folder which files a damage has changed or taken."""
    then, now = contents(kept), contents(state)
    found: dict[str, list[str]] = {}
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            found.setdefault(name.rpartition("/")[0], []).append(name)
    return found


def put_back(kept: Path, state: Path, harmed: dict[str, list[str]]) -> None:
    """Put back one file where one was harmed in a folder, else the folder; nothing else."""
    assert harmed, "the damage did nothing"
    for folder, names in harmed.items():
        if len(names) == 1:
            shutil.copy(kept / names[0], state / names[0])
        else:
            shutil.rmtree(state / folder, ignore_errors=True)
            shutil.copytree(kept / folder, state / folder)


def test_refused_by_name_and_put_back_it_goes_on(copy: Job, undisturbed: Undisturbed) -> None:
    """All damages in turn, each refused and then mended by putting back what it took; then to the end."""
    kept = copy.folder / "kept"
    with Poller(copy.uri, copy.definition, copy.archive) as poller:
        for damage in DAMAGES:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(copy.state, kept)
            damage.harm(copy.state)
            harmed = differing(kept, copy.state)
            ended = copy.start().wait()
            assert ended.code == 3, (damage.name, ended)
            assert all(word in ended.said for word in (*damage.says, str(copy.state))), (damage.name, ended)
            assert len(ended.said.strip().splitlines()) == 1, "one sentence, never a traceback"
            put_back(kept, copy.state, harmed)
        copy.finish()
    assert_right(poller.checker)
    assert picture(copy.definition, copy.uri, copy.archive) == undisturbed.picture
    assert dead_letters(copy) == undisturbed.letters


def test_a_shard_older_than_the_recovery_store(copy: Job) -> None:
    """A disk that came back with yesterday's shard lacks events that nobody would read again."""
    old = copy.folder / "old"
    shutil.copytree(copy.state / "shard-11", old)
    copy.jitter_rows = 20
    copy.kill_at("4-after:60")
    shutil.rmtree(copy.state / "shard-11")
    shutil.copytree(old, copy.state / "shard-11")
    ended = copy.start().wait()
    assert ended.code == 3 and "shard-11" in ended.said and "older than" in ended.said, ended


def test_another_definition(copy: Job, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    text = copy.definition.read_text()
    other.write_text(text.replace("windows: [2m, lifetime]", "windows: [3m, lifetime]", 1))
    copy.definition = other
    ended = copy.start().wait()
    assert ended.code == 3 and "view shops changed" in ended.said and "fresh --state" in ended.said, ended


def test_two_jobs_on_one_state(copy: Job, undisturbed: Undisturbed) -> None:
    copy.jitter_rows = 20
    first = copy.start()
    pids = first.pids()
    folder = copy.folder / "second"
    folder.mkdir()
    ended = command(
        "run", str(copy.definition), "--source", copy.archive.uri, "--store", f"lmdb:{folder / 'store'}",
        "--state", str(copy.state), said=folder / "said",
    )  # fmt: skip
    assert ended.code == 3 and "another job runs on the state" in ended.said, ended
    assert first.process.poll() is None and pids
    assert first.wait().code == 0, "the job that was there first is not disturbed"
    assert picture(copy.definition, copy.uri, copy.archive) == undisturbed.picture


def test_two_jobs_on_one_store(new_job: Callable[..., Job], undisturbed: Undisturbed) -> None:
    """The newer job takes the store over, the older one is refused by name; no value goes back."""
    old = new_job()
    with Poller(old.uri, old.definition, old.archive) as poller:
        run = old.start()
        begun = run.until(run.rows, "a first batch")
        run.until(lambda: run.rows() > begun + 500, "500 rows more")
        new = new_job(store_at=old.store, jitter_rows=None, options=("--accept-lost-state",))
        new.finish()
        ended = run.wait()
    assert ended.code == 3 and "has taken over the online store" in ended.said, ended
    assert str(new.state) in ended.said, "the refusal names the job that has taken over"
    assert_right(poller.checker)
    assert picture(new.definition, new.uri, new.archive) == undisturbed.picture


def test_damaged_store_then_an_empty_one(copy: Job, undisturbed: Undisturbed) -> None:
    """The store holds nothing that the state can't write again."""
    scribble("data.mdb", at=0.0, size=8192)(copy.store)
    ended = copy.start().wait()
    assert ended.code == 3 and str(copy.store) in ended.said and "damaged" in ended.said, ended
    assert "empty store" in ended.said, "and what to do"
    assert len(ended.said.strip().splitlines()) == 1
    shutil.rmtree(copy.store)
    copy.finish()
    assert picture(copy.definition, copy.uri, copy.archive) == undisturbed.picture
    shutil.rmtree(copy.store)
    copy.finish()  # nothing is new, and all is written again
    assert picture(copy.definition, copy.uri, copy.archive) == undisturbed.picture


def test_workers_die_with_the_parent(copy: Job) -> None:
    copy.jitter_rows = 20
    run = copy.start()
    run.pids()
    run.process.send_signal(signal.SIGKILL)
    assert run.wait().code == -signal.SIGKILL  # `wait` fails where a worker outlives it
    copy.jitter_rows = None
    copy.finish()
