"""Shards that commit at once: over real databases, one a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataflows.together import Together
from state.errors import StateError
from state.rocksdb import Database


class One:
    """A shard whose commit writes how often it was at work."""

    def __init__(self, path: Path) -> None:
        self.db = Database(path, create=True)
        self.done = self.commits = 0

    def work(self, together: Together) -> None:
        """Do something that is to be committed."""
        self.done += 1
        together.at_work(self)

    def begin_commit(self) -> Callable[[], None]:
        """Write."""
        self.db.begin([(b"done", b"%d" % self.done)])
        return self.db.finish

    def end_commit(self) -> None:
        """Count."""
        self.commits += 1


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[list[One]]:
    """Return a dozen: more than there are threads."""
    ones = [One(tmp_path / str(number)) for number in range(12)]
    yield ones
    for one in ones:
        one.db.close()


def test_the_first_that_is_asked_commits_all_that_were_at_work(shards: list[One]) -> None:
    together = Together()
    for one in shards[:10]:
        one.work(together)
    together.commit(shards[3])
    assert [one.commits for one in shards] == [1] * 10 + [0] * 2
    for one in shards[:10]:
        together.commit(one)
    assert [one.commits for one in shards] == [1] * 10 + [0] * 2
    assert [one.db.get(b"done") for one in shards] == [b"1"] * 10 + [None] * 2


def test_one_that_was_at_work_since_commits_again(shards: list[One]) -> None:
    together = Together()
    for one in shards:
        one.work(together)
    together.commit(shards[0])
    shards[5].work(together)
    together.commit(shards[4])
    assert shards[5].commits == 1
    together.commit(shards[5])
    assert shards[5].commits == 2 and shards[5].db.get(b"done") == b"2"


def test_one_that_fails_is_raised_and_leaves_no_thread_at_work(shards: list[One]) -> None:
    together = Together()
    for one in shards:
        one.work(together)
    shards[7].db.close()
    with pytest.raises(StateError, match=r"/7 can't be written"):
        together.commit(shards[0])
    assert [one.commits for one in shards] == [0] * 12  # the worker ends: none of them is taken as stored
    assert [one.db.get(b"done") for one in shards[:7]] == [b"1"] * 7


def test_a_sync_that_finds_no_room_writes_the_batch_again(
    shards: list[One], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems that allocate late: no disk of ours does, so the call that says so is put in its place."""
    db, said = shards[0].db, list[str]()
    db.begin([(b"k", b"v")])

    class Full:
        def flush_wal(self, sync: bool) -> None:
            raise OSError("IO error: No space left on device: While fsync")

        def close(self) -> None:
            held.close()

    held = db._db
    monkeypatch.setattr(db, "_db", Full())
    db.finish(said.append)
    assert len(said) == 1 and "make room" in said[0]
    assert db.get(b"k") == b"v"
