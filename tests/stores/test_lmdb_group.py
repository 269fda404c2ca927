"""Writes joined into one pass give what they would give one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lookback.stores.base import Lookup, ViewWrite
from lookback.stores.lmdb import LmdbStore
from tests.stores.build import FINGERPRINT, Entity, plan_of, rows_of, values_of, write_of

KEYS = [f"c{i}" for i in range(60)] + ["ü" * 300]


def wave(shard: int, shards: int, sequence: int) -> ViewWrite:
    """Return a shard's write, its keys unsorted and its texts its own."""
    entities = [
        Entity(
            key,
            rows=[(100 * sequence + at, sequence << 8 | at, at, f"m{(shard + at) % 7}") for at in range(i % 4)],
            as_of_ms=sequence, amount=i, count=shard, last=f"last{i}", merchants=[f"s{shard}", f"m{i}"],
        )
        for i, key in reversed(list(enumerate(KEYS)))
        if i % shards == shard
    ]  # fmt: skip
    return write_of(plan_of(), entities, sequence=sequence, shard=shard, marks={"p": sequence})


def content(store: LmdbStore) -> list[object]:
    """Return all that the store says of every key."""
    plan = plan_of()
    found: list[object] = []
    for record in store.read([Lookup(FINGERPRINT, key, plan) for key in KEYS]):
        assert record is not None
        found.append((rows_of(plan, record), values_of(plan, record), record.sequence, record.watermark_ms))
    return found


def written(path: Path, calls: list[list[ViewWrite]]) -> tuple[list[object], list[list[int]]]:
    """Return the content of a new store after these calls, and the stale entities they gave."""
    store = LmdbStore(path, write=True)
    writer = store.writer({FINGERPRINT: plan_of()}, store.claim("job"), {})
    stale = [found.tolist() for call in calls for found in writer.write(call)]
    result = content(store)
    writer.close()
    store.close()
    return result, stale


def test_shards_of_a_wave_and_waves_at_once(tmp_path: Path) -> None:
    """The second wave of a shard is written after its first."""
    writes = [wave(shard, 4, sequence) for sequence in (1, 2, 3) for shard in (2, 0, 3, 1)]
    assert written(tmp_path / "joined", [writes]) == written(tmp_path / "alone", [[w] for w in writes])


def test_an_entity_in_two_shards_takes_both_in_order(tmp_path: Path) -> None:
    """No job writes so; the later write still is the later one."""
    writes = [wave(0, 1, 1), *(wave(shard, 2, 2) for shard in (0, 1))]
    writes = [writes[0], *(replace(w, shard=w.shard + 1) for w in writes[1:])]
    assert written(tmp_path / "joined", [writes]) == written(tmp_path / "alone", [[w] for w in writes])


def test_stale_entities_are_told_by_their_own_write(tmp_path: Path) -> None:
    """Each write learns of its own, by their places in it."""
    long = [(at, at, 1, "m") for at in range(1_100)]
    first = write_of(plan_of(), [Entity("z"), Entity("b", rows=long), Entity("a", rows=long)], shard=0)
    second = write_of(plan_of(), [Entity("k", rows=long), Entity("c")], shard=1)
    store = LmdbStore(tmp_path, write=True)
    writer = store.writer({FINGERPRINT: plan_of()}, store.claim("job"), {})
    stale = writer.write([second, first])
    store.close()
    assert [np.asarray(found).tolist() for found in stale] == [[0], [1, 2]]
