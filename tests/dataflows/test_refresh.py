"""Values that change though no event comes: what a shard writes, over crashes, from little memory, at what rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from dataflows import refresh
from dataflows.board import END, NEVER, Board
from dataflows.clock import JobClock
from dataflows.live import LiveShard
from dataflows.memory_budget import MemoryBudget
from dataflows.route import Chunk, Item
from dataflows.settings import Part, Settings
from lookback.definition import loads
from lookback.stores.base import AS_OF, Lookup, Record, ViewWrite
from lookback.stores.lmdb import LmdbStore
from state.rocksdb import block_cache
from state.shard import ViewSpec, create_shard
from state.timers import slack_ms

DEFINITION = loads("""
streams:
  tx: {topic: tx, event_time: {field: ts, unit: ms}, lateness: 5s, fields: {card: string, x: float64}}
entities: {card: string}
views:
  cards:
    entity: card
    stream: tx
    features: {n: {agg: count, windows: [1m, 1h]}, s: {agg: sum, of: x, windows: [1m]}}
""")
VIEW = DEFINITION.views["cards"]
SPEC = ViewSpec(VIEW.name, VIEW.fingerprint, VIEW.plan)
MINUTE, HOUR = 60_000, 3_600_000
T0 = 1_700_000_000_000
PART = Part("tx", "tx", 0)


class Life:
    """One life of the only shard; `pointer` is what Bytewax stored last."""

    def __init__(self, folder: Path, pointer: tuple[int, int] | None = None) -> None:
        self.settings = Settings(
            definition="", fingerprint=DEFINITION.fingerprint, source="", parts=(PART,),
            work=str(folder), shards=1, shard_keys=("0",),
        )  # fmt: skip
        if pointer is None:
            create_shard(self.settings.shard_path(0), 0, 1, [SPEC])
        self.store = LmdbStore(folder / "store", write=True)
        plans = {VIEW.fingerprint: VIEW.plan}
        self.writer = self.store.writer(plans, self.store.claim("job"), {VIEW.fingerprint: VIEW.name})
        self.board = Board.reset(folder / "board", 1)
        self.budget = MemoryBudget(self.settings, block_cache(1 << 20))
        self.logic = LiveShard(
            self.settings,
            [SPEC],
            self.board,
            0,
            lambda: self.writer,
            lambda _: None,
            self.budget,
            pointer,
            5000,
        )
        self.pointer = pointer

    def send(self, events: Sequence[tuple[str, int]], first: int, *, clock: int = NEVER) -> list[ViewWrite]:
        """Apply events, (key, time), from an offset on, and tell the shard the clock; return what it wrote."""
        offset = np.arange(first, first + len(events))
        names = sorted({key for key, _ in events})
        code = np.array([names.index(key) for key, _ in events], np.int32)
        words = np.zeros((VIEW.plan.width, len(events)), np.int64)
        words[:-1] = -1
        words[-1] = np.ones(len(events)).view(np.int64)
        times = np.array([time for _, time in events], np.int64)
        chunk = Chunk(0, names, code, times, offset, words, [])
        mark = max([T0, *times.tolist()])
        out, _ = self.logic.on_batch([Item(0, PART.id, mark, [chunk] if events else [], clock)])
        writes = list(out)
        if writes:
            self.writer.write(writes)
        return writes

    def tick(self, clock: int) -> list[str]:
        """Wake the shard at a time of the clock; return the keys that it wrote."""
        return sorted(key for write in self.send([], 0, clock=clock) for key in write.keys)

    def read(self, key: str) -> Record:
        (record,) = self.store.read([Lookup(VIEW.fingerprint, key, VIEW.plan)])
        assert record is not None
        return record

    def counts(self, key: str) -> list[int]:
        """Return the stored counts of the minute and the hour."""
        record = self.read(key)
        starts = dict(zip([f.name for f in VIEW.plan.features], VIEW.plan.out_starts, strict=False))
        return [int(record.words[starts[name]]) for name in ("n_1m", "n_1h")]

    def commit(self) -> None:
        self.pointer = self.logic.snapshot()

    def crash(self) -> None:
        assert self.logic._shard is not None
        self.logic._shard.close()
        self.store.close()


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shard look at every call, and write as much as it likes."""
    monkeypatch.setattr(refresh, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(refresh, "BEHIND_PER_SECOND", 1e12)


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    """Return a life that wrote one event each of ten cards, a second apart."""
    life = Life(tmp_path)
    life.send([(f"k{i}", T0 + 1000 * i) for i in range(10)], 0)
    yield life


def test_values_fall_when_rows_leave_and_then_rest(life: Life) -> None:
    """Each is written once a window, at most the slack late, then never again."""
    assert life.counts("k0") == [1, 1]
    assert life.tick(T0 + MINUTE) == []  # k0's row has left, and a second's slack is not over
    assert life.tick(T0 + MINUTE + 1000) == ["k0"]
    assert life.counts("k0") == [0, 1] and life.read("k0").as_of_ms == T0 + MINUTE + 1000
    assert life.tick(T0 + MINUTE + 1000) == []
    assert life.tick(T0 + 2 * MINUTE) == [f"k{i}" for i in range(1, 10)]
    assert life.board.due[0] == T0 + HOUR + 36_000  # an hour's slack is 36 s
    assert life.tick(T0 + 2 * HOUR) == [f"k{i}" for i in range(10)]
    assert [life.counts(f"k{i}") for i in range(10)] == [[0, 0]] * 10
    assert life.tick(T0 + 100 * HOUR) == [] and life.board.due[0] == END
    life.crash()


def test_an_event_older_than_the_last_refresh_counts_as_of_that(life: Life) -> None:
    """As_of never falls, or the store would refuse the event."""
    now = T0 + MINUTE + 5000
    life.tick(now)
    life.send([("k0", T0 + 6500)], 10)
    assert (life.read("k0").as_of_ms, life.counts("k0")) == (now, [1, 2])
    life.send([("k0", T0 + 3000), ("k0", T0 + 5000)], 11)  # out of order: one has left by then, one has not
    assert (life.read("k0").as_of_ms, life.counts("k0")) == (now, [1, 4])
    life.send([("k0", now + 7)], 13)
    assert (life.read("k0").as_of_ms, life.counts("k0")) == (now + 7, [2, 5])
    life.crash()


@pytest.mark.parametrize("committed", [False, True])
def test_after_a_crash_nothing_before_the_mark_and_no_as_of_falls(
    life: Life, tmp_path: Path, committed: bool
) -> None:
    """Also where the state knows nothing of the refresh, which only the store has seen."""
    life.commit()
    now = T0 + MINUTE + 5000
    assert life.tick(now) == ["k0", "k1", "k2", "k3", "k4"]
    life.send([("k9", T0 + 20_000)], 10)
    if committed:
        life.commit()
    life.crash()
    again = Life(tmp_path, life.pointer)
    if not committed:
        assert again.tick(now) == [], "event 10 is still to come"
        assert again.board.due[0] == END
    again.send([("k9", T0 + 20_000)], 10)
    assert (again.store.marks(VIEW.fingerprint, 0) or {})[AS_OF] == now
    assert again.counts("k0") == [0, 1] and again.read("k0").as_of_ms == now
    again.send([("k0", T0 + 21_000)], 11)
    assert again.counts("k0") == [1, 2] and again.read("k0").as_of_ms == now
    again.crash()


def test_a_clock_behind_what_was_sent_refreshes_nothing(life: Life, tmp_path: Path) -> None:
    """As after a start on a machine whose clock was set back."""
    life.tick(T0 + 30 * MINUTE)
    life.commit()
    life.crash()
    again = Life(tmp_path, life.pointer)
    again.tick(T0 + 10 * MINUTE)
    assert again.read("k0").as_of_ms == T0 + 30 * MINUTE
    assert again.tick(T0 + 2 * HOUR) == [f"k{i}" for i in range(10)]
    again.crash()


def test_entities_that_left_memory_and_those_of_before_a_start(life: Life, tmp_path: Path) -> None:
    """They have timers too: in the database, and made anew after a start."""
    life.commit()
    life.budget.limit_bytes = 1
    life.tick(T0 + 20_000)  # everything is clean: it leaves memory
    assert life.logic._shard is not None and len(life.logic._shard.views[0]._keys) == 0
    life.commit()  # with their timers
    assert life.tick(T0 + MINUTE + 4500) == ["k0", "k1", "k2", "k3"]
    life.commit()
    assert life.tick(T0 + MINUTE + 4500) == []
    assert life.tick(T0 + 2 * MINUTE) == [f"k{i}" for i in range(4, 10)]
    assert [life.counts(f"k{i}") for i in range(10)] == [[0, 1]] * 10
    life.commit()
    life.crash()
    again = Life(tmp_path, life.pointer)
    again.tick(T0 + 2 * MINUTE)  # a start writes what the last epochs may have written
    again.commit()
    assert again.tick(T0 + 30 * MINUTE) == []
    assert again.tick(T0 + 2 * HOUR) == [f"k{i}" for i in range(10)]
    assert again.counts("k3") == [0, 0]
    again.crash()


def test_an_entity_stays_until_its_last_row_has_left_its_last_window(life: Life) -> None:
    """A state that drops what nobody needs keeps what is still to be written as empty."""
    life.commit()
    life.send([("late", T0 + 3 * HOUR)], 10)  # the watermark is past all the others, the clock is not
    life.commit()
    assert life.tick(T0 + 3 * HOUR) == [f"k{i}" for i in range(10)]
    assert life.counts("k0") == [0, 0]
    life.commit()
    life.tick(T0 + 3 * HOUR + 2 * MINUTE)
    life.commit()
    view = life.logic._shard.views[0] if life.logic._shard else None
    assert view is not None and sorted(view.all_keys()) == ["late"]
    life.crash()


def test_however_many_rows_leave_an_entity_is_written_at_most_once_a_slack(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.send([("hot", T0 + 10 * i) for i in range(1000)], 0)  # for ten seconds
    written = [bool(life.tick(T0 + ms)) for ms in range(0, 4 * MINUTE, 100)]
    assert 9 <= sum(written) <= 11
    assert life.counts("hot") == [0, 1000]
    life.crash()


def test_a_shard_writes_what_is_due_longest_and_says_how_far_behind_it_is(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "BEHIND_PER_SECOND", 1)
    seen: list[str] = []
    for _ in range(3):
        life.logic._refresher._left = 2
        found = life.tick(T0 + 2 * MINUTE)
        assert len(found) == 2
        seen += found
    assert seen == [f"k{i}" for i in range(6)]
    assert life.board.late[0] == 2 * MINUTE - (MINUTE + 6000 + 1000)  # k6 was due a second after its row left
    assert life.board.due[0] == T0 + MINUTE + 7000
    life.crash()


def test_the_slack_is_a_hundredth_of_the_window_within_bounds() -> None:
    plan = loads(
        """
streams: {tx: {topic: tx, event_time: {field: ts, unit: ms}, fields: {card: string}}}
entities: {card: string}
views: {v: {entity: card, stream: tx, features: {n: {agg: count, windows: [1s, 5m, 30d]}}}}
"""
    ).views["v"].plan  # fmt: skip
    from lookback.windows.layout import build_layout

    assert slack_ms(build_layout(plan)).tolist() == [1000, 1000, 3000, 60_000]


def test_the_clock_of_events_is_that_of_the_slowest_partition_until_all_are_done(tmp_path: Path) -> None:
    from dataflows import board as b

    board = Board.reset(tmp_path / "board", 3)
    clock = JobClock("event", board)
    assert clock.read() == (NEVER, False)
    board.rows[:2, b.EVENT_TIME] = 5000, 7000
    assert clock.read() == (NEVER, False), "of the third nothing is known yet"
    clock.caught_up(2)  # it is empty
    assert clock.read() == (5000, False)
    board.rows[0, b.DONE] = 1
    assert clock.read() == (7000, False)
    board.rows[:, b.DONE] = 1
    assert clock.read() == (7000, True)


def test_the_wall_clock_waits_for_partitions_that_have_more_to_give(tmp_path: Path) -> None:
    from dataflows import board as b

    now = [1000]
    board = Board.reset(tmp_path / "board", 2)
    clock = JobClock("wall", board, lambda: now[0])
    clock.caught_up(0)
    assert clock.read() == (NEVER, False)
    now[0] = 2000
    clock.caught_up(1)
    assert clock.read() == (1000, False)
    now[0] = 9000
    clock.caught_up(0)
    assert clock.read() == (2000, False), "the other one may have events of before 9000"
    board.rows[1, b.DONE] = 1
    assert clock.read() == (9000, False)
    board.rows[0, b.DONE] = 1
    assert clock.read() == (NEVER, False), "a job that ends keeps nothing fresh"
