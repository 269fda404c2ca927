"""A view's cache over RocksDB gives back what was put in, whatever was evicted, committed and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookback.windows.plan import Agg, Column, Feature, Kind, Result, Term, ViewPlan, pack_position
from state import keys
from state.errors import StateError, StateRefused
from state.records import INLINE_ROWS
from state.rocksdb import Database
from state.shard import Shard, ViewSpec, create_shard
from state.view import ViewState

DAY = 86_400_000

PLAN = ViewPlan(
    columns=(Column("amount", Kind.INT), Column("merchant", Kind.TEXT)),
    bits=1,
    features=(
        Feature("first_lifetime", Agg.FIRST, Term(1, 0), None, Result.TEXT),
        Feature("n_lifetime", Agg.COUNT, Term(), None, Result.INT),
        Feature("n_1d", Agg.COUNT, Term(), DAY, Result.INT),
        Feature("sum_1d", Agg.SUM, Term(0, 0), DAY, Result.INT),
        Feature("merchants_1d", Agg.DISTINCT, Term(1, 0), DAY, Result.INT),
        Feature("last_1d", Agg.LAST, Term(1, 0), DAY, Result.TEXT),
    ),
)
SPEC = ViewSpec("v", "ab" * 32, PLAN)


def make(path: Path) -> tuple[Database, ViewState]:
    """Open (or make) a database with one view's state over it."""
    db = Database(path, create=True)
    return db, ViewState(SPEC.name, SPEC.fingerprint, PLAN, db)


def feed(
    state: ViewState, rng: np.random.Generator, names: list[str], count: int, start: int, at: int
) -> None:
    """Apply `count` rows with random keys and texts, some out of order."""
    code = rng.integers(0, len(names), count)
    time_ms = at + np.sort(rng.integers(0, DAY // 3, count)) - rng.integers(0, 600_000, count)
    position = np.array([pack_position(0, start + i) for i in range(count)])
    texts = [f"m{i}" for i in range(7)]
    values = np.vstack(
        [rng.integers(0, 2, count), rng.integers(-1000, 1000, count), rng.integers(0, len(texts), count)]
    ).astype(np.int64)
    state.apply(state.slots(names)[code], time_ms, position, state.intern(texts, values))


def picture(state: ViewState, names: list[str]) -> list[object]:
    """Return all that can be seen of the logs: rows with their texts, and values as of the newest row."""
    seen: list[object] = []
    for name in names:
        slots = state.slots([name])
        rows, _ = state.rows_of(slots)
        values = state.log.evaluate_newest(slots)
        words = values.words[:, 0].tolist()
        for place in (0, 5):  # texts
            words[place] = state.log.texts.get(values.words[place])[0]
        texts = state.log.texts.get(rows[4])
        seen.append((rows[:4].tolist(), texts, words, values.status[:, 0].tolist()))
    return seen


def test_commits_evictions_and_reads_give_the_same_logs(tmp_path: Path) -> None:
    names = [f"k{i}" for i in range(3)]
    plain_db, plain = make(tmp_path / "plain")
    db, state = make(tmp_path / "state")
    a, b = np.random.default_rng(11), np.random.default_rng(11)
    coin = np.random.default_rng(12)
    chunked = False
    for step in range(60):
        count = int(coin.integers(1, 400))
        at = 1_700_000_000_000 + step * DAY // 6
        feed(plain, a, names, count, step * 1000, at)
        feed(state, b, names, count, step * 1000, at)
        if coin.random() < 0.7:
            dirty = state.dirty_slots()
            db.write(state.puts(dirty))
            state.stored(dirty)
            chunked |= any(True for _ in db.scan(b"r", b"s"))
            if coin.random() < 0.6:
                state.evict(0)
            if coin.random() < 0.3:
                db.close()
                db, state = make(tmp_path / "state")
        else:
            state.evict(0)  # frees clean logs only: nothing uncommitted may go
    assert chunked, "no log was long enough to be cut in chunks"
    assert picture(state, names) == picture(plain, names)
    db.close()
    plain_db.close()


def test_one_event_in_a_long_log_rewrites_its_tail_only(tmp_path: Path) -> None:
    db, state = make(tmp_path / "state")
    rng = np.random.default_rng(5)
    feed(state, rng, ["hot"], 20_000, 0, 1_700_000_000_000)
    dirty = state.dirty_slots()
    first = state.puts(dirty)
    state.stored(dirty)
    assert len(first) > 50
    newest = int(state.log.newest_ms(state.slots(["hot"]))[0])
    one = np.array([newest + 1])
    state.apply(state.slots(["hot"]), one, one * 0 + pack_position(0, 10**6), np.zeros((3, 1), np.int64))
    again = state.puts(state.dirty_slots())
    assert len(again) == 1
    assert len(again[0][1] or b"") < 8 * INLINE_ROWS * 2 * 4 * (2 + PLAN.width)
    db.close()


def test_a_lost_chunk_is_named(tmp_path: Path) -> None:
    db, state = make(tmp_path / "state")
    feed(state, np.random.default_rng(5), ["hot"], 2_000, 0, 1_700_000_000_000)
    db.write(state.puts(state.dirty_slots()))
    chunk = next(key for key, _ in db.scan(b"r", b"s"))
    db.write([(chunk, None)])
    fresh = ViewState(SPEC.name, SPEC.fingerprint, PLAN, db)
    with pytest.raises(StateError, match="'hot'.*chunks"):
        fresh.slots(["hot"])
    db.close()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    db, state = make(tmp_path / "state")
    feed(state, np.random.default_rng(5), ["a"], 10, 0, 1_700_000_000_000)
    [(key, value)] = state.puts(state.dirty_slots())
    assert value is not None
    db.write([(key, value[:50] + bytes([value[50] ^ 1]) + value[51:])])
    with pytest.raises(StateError, match="'a'.*damaged"):
        ViewState(SPEC.name, SPEC.fingerprint, PLAN, db).slots(["a"])
    db.close()


PLAIN = ViewPlan((), 0, (Feature("n_1d", Agg.COUNT, Term(), DAY, Result.INT),))


def test_entities_that_nobody_can_need_are_dropped(tmp_path: Path) -> None:
    db = Database(tmp_path / "state", create=True)
    state = ViewState("v", "ab" * 32, PLAIN, db)
    none = np.empty((0, 100), np.int64)
    names = [f"k{i}" for i in range(100)]
    slots = state.slots(names)
    times = np.arange(100) * 1000  # the newest event of k<i> is at i seconds
    for n in range(90):  # k0 .. k9 get 90 rows more each: long logs, in chunks
        state.apply(slots[:10], times[:10] - 1 - n, np.arange(10) + 1000 * n, none[:, :10])
    state.apply(slots, times, np.arange(100) + 10**6, none)
    dirty = state.dirty_slots()
    db.write(state.puts(dirty))
    state.stored(dirty)
    state.apply(slots[3:4], times[3:4] + 5, np.array([10**7]), none[:, :1])  # dirty: must stay
    settled = (
        DAY + 50_000
    )  # events after this are accepted; those at or before 50 s lie outside all their windows
    for _ in range(5):
        db.write(state.expired(settled))
    assert set(state.all_keys()) == {"k3", *names[51:]}
    assert not [key for key, _ in db.scan(b"r", b"s") if b"k1" in key]
    assert state.log.lengths(state.slots(["k60"])).tolist() == [1]
    assert state.log.lengths(state.slots(["k3"])).tolist() == [92]
    db.close()


def test_a_log_that_was_too_long_when_it_was_read_is_known_to_fit_again(tmp_path: Path) -> None:
    db = Database(tmp_path / "state", create=True)
    none = np.empty((0, 100), np.int64)
    state = ViewState("v", "ab" * 32, PLAIN, db)
    state.apply(state.slots(["a"])[np.zeros(100, int)], np.arange(100), np.arange(100), none)
    db.write(state.puts(state.dirty_slots()))
    again = ViewState("v", "ab" * 32, PLAIN, db)  # as after a restart or an eviction
    again.over_rows = 50
    slots = again.slots(["a"])
    again.apply(slots, np.array([2 * DAY]), np.array([1000]), none[:, :1])
    assert again.log.lengths(slots).tolist() == [1]
    assert again.fits_again(slots).tolist() == [True]
    assert again.fits_again(slots).tolist() == [False]
    db.close()


def test_texts_that_no_row_names_leave_memory(tmp_path: Path) -> None:
    db, state = make(tmp_path / "state")
    for step in range(20):
        texts = [f"device {step}-{i}" for i in range(1000)]
        values = np.zeros((3, 1000), np.int64)
        values[2] = np.arange(1000)
        time_ms = np.full(1000, 1_700_000_000_000 + step * 2 * DAY)
        position = np.arange(1000) + 1000 * step
        state.apply(state.slots(["a"])[np.zeros(1000, int)], time_ms, position, state.intern(texts, values))
        dirty = state.dirty_slots()
        db.write(state.puts(dirty))
        state.stored(dirty)
        state.evict(200_000)
        assert len(state.log.texts) < 5_000
    assert picture(state, ["a"])[0][1][:2] == ["device 19-0", "device 19-1"]  # type: ignore[index]
    db.close()


def test_a_shard_comes_back_as_committed(tmp_path: Path) -> None:
    path = tmp_path / "shard-03"
    create_shard(path, 3, 32, [SPEC])
    shard = Shard(path, 3, 32, [SPEC], Database(path))
    view = shard.views[0]
    position = np.array([pack_position(2, i) for i in (4, 5, 9)])
    assert view.fresh("t/2", position) == slice(0, None)
    shard.dirty[0].update(["ü", "b"])
    shard.watermarks["t/2"] = -5
    shard.commit()
    pointer = shard.pointer()
    shard.close()
    again = Shard(path, 3, 32, [SPEC], Database(path))
    assert again.views[0].applied == {"t/2": 9}
    assert again.views[0].sequence == 3
    assert again.dirty == [{"ü", "b"}]
    assert again.watermarks == {"t/2": -5}
    again.check_pointer(pointer)
    with pytest.raises(StateRefused, match="older than"):
        again.check_pointer((3, pointer[1] + 1))
    assert again.views[0].fresh("t/2", np.array([pack_position(2, i) for i in (5, 9, 10)])) == slice(2, None)
    again.close()


@pytest.mark.parametrize(
    ("shard", "shards", "fingerprint", "message"),
    [
        (4, 32, "ab" * 32, "shard 3 of 32"),
        (3, 16, "ab" * 32, "shard 3 of 32"),
        (3, 32, "cd" * 32, "fresh --state"),
    ],
)
def test_another_jobs_shard_is_refused(
    tmp_path: Path, shard: int, shards: int, fingerprint: str, message: str
) -> None:
    path = tmp_path / "shard"
    create_shard(path, 3, 32, [SPEC])
    db = Database(path)
    with pytest.raises(StateRefused, match=message):
        Shard(path, shard, shards, [ViewSpec("v", fingerprint, PLAN)], db)
    db.close()


def test_a_missing_database_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(StateRefused, match="missing"):
        Database(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_database_in_use_is_refused(tmp_path: Path) -> None:
    first = Database(tmp_path / "db", create=True)
    with pytest.raises(StateRefused, match="in use"):
        Database(tmp_path / "db")
    first.close()


def test_a_corrupt_table_is_refused_or_named(tmp_path: Path) -> None:
    db, state = make(tmp_path / "state")
    feed(state, np.random.default_rng(5), [f"k{i}" for i in range(300)], 20_000, 0, 1_700_000_000_000)
    db.write(state.puts(state.dirty_slots()))
    db.flush()
    db.close()
    [table, *_] = sorted((tmp_path / "state").glob("*.sst"))
    raw = bytearray(table.read_bytes())
    raw[len(raw) // 3 : len(raw) // 3 + 64] = b"\xff" * 64
    table.write_bytes(bytes(raw))
    with pytest.raises(StateError, match="can't be (opened|read)"):
        db, state = make(tmp_path / "state")
        state.slots([f"k{i}" for i in range(300)])


def test_places_sort_as_their_numbers() -> None:
    places = [(-(2**62), 5), (-1, 0), (0, 0), (0, 2**60), (7, 1)]
    raw = [keys.place(*p) for p in places]
    assert raw == sorted(raw)
    assert [keys.read_place(r) for r in raw] == places
