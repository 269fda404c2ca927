"""Records move byte by byte; what shards keep for all of their entities is merged so that it holds for each."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from state import keys, reshard
from state.errors import StateError, StateRefused
from state.reshard import Records
from state.rocksdb import Database
from state.timers import NEVER

TAGS = [bytes([n] * 6) for n in (0, 7, 255)]


def place(owners: Sequence[bytes]) -> npt.NDArray[np.int64]:
    return np.array([zlib.crc32(owner) % 3 for owner in owners], np.int64)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[list[Database]]:
    with ExitStack() as held:
        yield [held.enter_context(closing(Database(tmp_path / f"new-{n}", create=True))) for n in range(3)]


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Database]:
    """Yield a shard with entities of three views, one in five with chunks, one in seven with a timer."""
    rng = np.random.default_rng(1)
    puts: list[tuple[bytes, bytes | None]] = [(keys.META, b"{}"), (keys.COMMIT, b"{}")]
    for n in range(10_000):
        tag, text = TAGS[n % 3], f"k\xffü{n}" if n % 2 else "x" * (n % 300)
        puts.append((keys.entity(tag, text), rng.bytes(n % 50)))
        if n % 5 == 0:
            places = [keys.place(-(2**62) + n, 2**60), keys.place(n, 0)]
            puts += [(keys.chunk_prefix(tag, text) + at, rng.bytes(30)) for at in places]
        if n % 7 == 0:
            puts.append((keys.timer(tag, n - 5000, text), b""))
    with closing(Database(tmp_path / "old", create=True)) as db:
        db.write(puts)
        yield db


def test_each_record_lies_where_its_entity_belongs(old: Database, new: list[Database]) -> None:
    ticks: list[int] = []
    copied = reshard.copy(old, new, place, lambda seen: ticks.append(seen.entities))
    assert reshard.compare(old, new, place, lambda _: None) == copied
    there = Records()
    for shard, db in enumerate(new):
        own = reshard.count(db, shard, place)
        assert own.entities and own.chunks and own.timers
        there.merge(own)
    assert there == copied and copied.chunks > 1000 and copied.timers > 1000
    assert ticks == sorted(ticks) and ticks[-1] == copied.entities
    every = [record for db in new for record in db.scan(b"", b"\xff")]
    assert sorted(every) == [r for r in old.scan(b"", b"\xff") if r[0] not in (keys.META, keys.COMMIT)]


def test_copied_again_it_is_the_same(old: Database, new: list[Database]) -> None:
    once = reshard.copy(old, new, place, lambda _: None)
    assert reshard.copy(old, new, place, lambda _: None) == once
    assert sum(reshard.count(db, n, place).entities for n, db in enumerate(new)) == once.entities


@pytest.mark.parametrize("harm", ["a bit", "a chunk gone", "a timer gone"])
def test_what_is_not_the_same_is_found(old: Database, new: list[Database], harm: str) -> None:
    reshard.copy(old, new, place, lambda _: None)
    kind = {"a bit": b"e", "a chunk gone": b"r", "a timer gone": b"t"}[harm]
    raw, value = [
        (raw, value) for raw, value in new[1].scan(kind, keys.after(kind)) if value or kind == b"t"
    ][5]
    new[1].write([(raw, bytes([value[0] ^ 1]) + value[1:] if harm == "a bit" else None)])
    with pytest.raises(
        StateError, match="differs in .*new-1" if harm == "a bit" else "is missing in .*new-1"
    ):
        reshard.compare(old, new, place, lambda _: None)


def test_a_record_in_the_wrong_shard_is_found(new: list[Database]) -> None:
    raw = keys.entity(TAGS[0], "k")
    own = int(place([b"k"])[0])
    new[own - 1].write([(raw, b"")])
    with pytest.raises(StateError, match=f"belongs to shard {own}"):
        reshard.count(new[own - 1], (own - 1) % 3, place)


def test_what_is_not_known_is_not_left_behind(old: Database, new: list[Database]) -> None:
    old.write([(b"zebra", b"1")])
    with pytest.raises(StateRefused, match="does not know"):
        reshard.copy(old, new, place, lambda _: None)


def commit(epoch: int, marks: dict[str, int], **view: Any) -> dict[str, Any]:
    return {"epoch": epoch, "watermarks": marks, "views": {"v": view}}


OLD = [
    commit(
        4, {"t/0": 50}, applied={"t/0": 3}, sequence=9, counted=2, dirty=["a", "b"], durable={"t/0": 1},
        timers={"through": 40, "latest": 45},
    ),
    commit(
        7, {"t/0": 60, "t/1": 20}, applied={"t/0": 9, "t/1": 0}, sequence=5, dirty=["c"], durable={},
        timers={"through": 70, "latest": 41},
    ),
]  # fmt: skip


def test_merged_commits_hold_for_every_entity() -> None:
    new = reshard.merged(OLD, {"t/0": 10, "t/1": 6, "t/2": 8}, ["v"], 3, place)
    assert [c["epoch"] for c in new] == [7] * 3
    assert [c["watermarks"] for c in new] == [{"t/0": 60, "t/1": 20}] * 3
    views = [c["views"]["v"] for c in new]
    for view in views:
        assert view["applied"] == view["durable"] == {"t/0": 9, "t/1": 5}
        assert view["sequence"] == 9
        assert view["timers"] == {"through": 40, "latest": 45}
    assert sum(view["counted"] for view in views) == 2 + 5
    assert [(text, n) for n, view in enumerate(views) for text in view["dirty"]] == sorted(
        [(text, int(place([text.encode()])[0])) for text in "abc"], key=lambda pair: pair[1]
    )


def test_a_shard_that_never_committed_has_sent_nothing() -> None:
    views = [c["views"]["v"] for c in reshard.merged([*OLD, {}], {"t/0": 10, "t/1": 1}, ["v"], 3, place)]
    assert {view["timers"]["through"] for view in views} == {NEVER}
    assert {view["sequence"] for view in views} == {9}
    assert reshard.merged([{}, {}], {}, ["v"], 3, place) == []


def test_rows_that_would_come_again_are_found() -> None:
    assert reshard.ahead(OLD, {"t/0": 10, "t/1": 1}) is None
    assert reshard.ahead(OLD, {"t/0": 9, "t/1": 1}) == (1, "t/0", 9)
    assert reshard.ahead(OLD, {"t/0": 10}) == (1, "t/1", 0)
    assert reshard.ahead([{}], {}) is None
