"""What a shard sends to the store over crashes, its parts called as Bytewax calls them; store and state are real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from dataflows.board import Board
from dataflows.live import LiveShard
from dataflows.memory_budget import MemoryBudget
from dataflows.route import Chunk, Item
from dataflows.settings import Part, Settings
from lookback.definition import loads
from lookback.stores.base import Lookup, ViewWrite
from lookback.stores.lmdb import LmdbStore
from state.rocksdb import block_cache
from state.shard import ViewSpec, create_shard

DEFINITION = loads("""
streams:
  tx: {topic: tx, event_time: {field: ts, unit: ms}, fields: {card: string}}
entities: {card: string}
views:
  cards: {entity: card, stream: tx, features: {n: {agg: count, windows: [1h]}}}
""")
VIEW = DEFINITION.views["cards"]
SPEC = ViewSpec(VIEW.name, VIEW.fingerprint, VIEW.plan)


def _no_wait(message: str | None) -> None:
    """LMDB is never waited for."""
    assert message is None, message


class Life:
    """One life of shard 0, from its start to its crash; `pointer` is what Bytewax stored last."""

    def __init__(self, folder: Path, pointer: tuple[int, int] | None) -> None:
        self.settings = Settings(
            definition="", fingerprint=DEFINITION.fingerprint, source="", parts=(Part("tx", "tx", 0),),
            work=str(folder), shards=1, shard_keys=("0",),
        )  # fmt: skip
        if pointer is None:
            create_shard(self.settings.shard_path(0), 0, 1, [SPEC])
        self._store = LmdbStore(folder / "store", write=True)
        plans = {VIEW.fingerprint: VIEW.plan}
        self.writer = self._store.writer(plans, self._store.claim("job"), {VIEW.fingerprint: VIEW.name})
        self.board = Board.reset(folder / "board", 1)
        self.budget = MemoryBudget(self.settings, block_cache(1 << 20))
        self._logic = LiveShard(
            self.settings, [SPEC], self.board, 0, lambda: self.writer, _no_wait, self.budget, pointer, 0
        )
        self.pointer = pointer

    def send(self, keys: Sequence[str], first: int, apart_ms: int = 1) -> list[str]:
        """Apply one event of each key, from offset `first` on; write what comes out and return its keys."""
        offset = np.arange(first, first + len(keys))
        words = np.zeros((VIEW.plan.width, len(keys)), np.int64)
        names, code = np.unique(keys, return_inverse=True)
        time_ms = 1000 + apart_ms * offset
        chunk = Chunk(0, names.tolist(), code.astype(np.int32), time_ms, offset, words, [])
        out, _ = self._logic.on_batch([Item(0, "tx/0", 1000 + int(offset[-1]), [chunk])])
        writes: list[ViewWrite] = list(out)
        if writes:
            self.writer.write(writes)
        return sorted(key for write in writes for key in write.keys)

    def tell(self, through: int) -> list[str]:
        """Say up to where the partition's rows have come, none of them this shard's; return the keys written."""
        out, _ = self._logic.on_batch([Item(0, "tx/0", 1000 + through, through=through)])
        return sorted(key for write in out for key in write.keys)

    def commit(self) -> None:
        """End an epoch, which proves durable."""
        self.pointer = self._logic.snapshot()

    def crash(self) -> None:
        """End without another commit."""
        assert self._logic._shard is not None
        self._logic._shard.close()
        self._store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a job whose first life wrote offsets 0 to 9 and committed none of them."""
    life = Life(tmp_path, None)
    assert life.send([f"k{i}" for i in range(10)], 0) == [f"k{i}" for i in range(10)]
    life.crash()
    yield tmp_path


def test_nothing_goes_out_before_the_served_mark_and_all_touched_after(folder: Path) -> None:
    life = Life(folder, None)
    assert life.send([f"k{i}" for i in range(9)], 0) == []
    assert life.send(["k9", "new"], 9) == sorted([*(f"k{i}" for i in range(10)), "new"])
    assert life.send(["k3"], 11) == ["k3"]
    life.crash()


def test_a_shard_waits_for_no_row_that_is_anothers(folder: Path) -> None:
    """The mark is offset 9, which never comes to it: as where the shards were cut anew."""
    life = Life(folder, None)
    assert life.send(["k0", "k1"], 0) == [] and life.board.behind[0] == 1
    assert life.tell(8) == [] and life.board.behind[0] == 1
    assert life.tell(9) == ["k0", "k1"] and life.board.behind[0] == 0
    assert life.tell(10) == []
    life.crash()


def test_what_waits_for_the_mark_goes_out_after_a_second_crash_too(folder: Path) -> None:
    """Epochs that prove durable while nothing may go out take no key out of the dirty set."""
    life = Life(folder, None)
    for first in (0, 3):
        assert life.send([f"k{i}" for i in range(first, first + 3)], first) == []
        life.commit()
    assert life.send(["k6"], 6) == []  # the epochs before are durable now
    life.commit()
    life.crash()
    again = Life(folder, life.pointer)
    assert again.send(["k7"], 7) == []
    assert again.send(["k8", "k9"], 8) == [f"k{i}" for i in range(10)]
    again.crash()


def test_what_went_out_is_forgotten_once_its_epoch_is_durable(folder: Path) -> None:
    """The next life writes again what the last epochs may have written, nothing older."""
    life = Life(folder, None)
    life.send([f"k{i}" for i in range(10)], 0)
    life.commit()
    life.send(["k1"], 10)
    life.commit()
    life.crash()
    again = Life(folder, life.pointer)
    assert again.send(["k5"], 11) == ["k1", "k5"]
    again.crash()


def test_rows_that_a_wave_has_left_behind_do_not_make_a_record_stale(tmp_path: Path) -> None:
    """Of 1,500 events of one wave 600 are in the window at its end: no more than the store takes."""
    life = Life(tmp_path, None)
    life.send(["first"], 0)  # the first wave of a life goes out in another way
    life.send(["hot"] * 1_500, 1, apart_ms=6_000)
    (record,) = LmdbStore(tmp_path / "store").read([Lookup(VIEW.fingerprint, "hot", VIEW.plan)])
    assert record is not None and not record.stale and len(record.rows[0]) == 600
    life.crash()


def test_a_commit_lets_the_sources_go_on_however_small_the_cache(tmp_path: Path) -> None:
    """What a shard takes with nothing dirty no waiting makes less: the job would stand still for ever."""
    life = Life(tmp_path, None)
    life.budget.limit_bytes = 1
    for first in (0, 10):
        life.send([f"k{i}" for i in range(10)], first)
        assert life.board.pressure[0] > 0
        life.commit()
        assert life.board.pressure[0] == 0
    life.crash()
