"""What every online store keeps, one suite for all of them: see the table in `lookback.stores.base`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from lookback.errors import RefusedError, StoreError, UsageError
from lookback.stores import base
from lookback.stores.base import NEVER, Lookup, OnlineStore, Record, StoreWriter, open_store, row_limit
from lookback.windows.plan import ViewPlan
from tests.contract.adapters import ADAPTERS
from tests.stores.build import FINGERPRINT, HOUR, Entity, Row, plan_of, rows_of, values_of, write_of

Opener = Callable[[], OnlineStore]
PLAN = plan_of()


@pytest.fixture(params=ADAPTERS)
def opener(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """Give a way to open one new store again and again; closes what was opened."""
    uri = ADAPTERS[request.param](request)
    opened: list[OnlineStore] = []

    def open_again() -> OnlineStore:
        store = open_store(uri, write=True)
        opened.append(store)
        return store

    yield open_again
    for store in opened:
        store.close()


def writer_of(store: OnlineStore, plan: ViewPlan = PLAN, job: str = "job") -> StoreWriter:
    return store.writer({FINGERPRINT: plan}, store.claim(job), {FINGERPRINT: "cards"})


def read(store: OnlineStore, key: str, plan: ViewPlan = PLAN) -> Record:
    (record,) = store.read([Lookup(FINGERPRINT, key, plan)])
    assert record is not None
    return record


def test_what_is_written_is_read(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    rows: list[Row] = [(-5, 1, 10, "é"), (0, 2**62, -3, None), (0, 5, 7, "b")]
    entity = Entity("c1", rows, as_of_ms=9, amount=14, count=3, last="b", merchants=["b", "é"])
    writer.write([write_of(PLAN, [entity, Entity("", as_of_ms=1)], sequence=4, marks={"t/0": 5})])
    record = read(store, "c1")
    assert rows_of(PLAN, record) == sorted(rows)
    assert values_of(PLAN, record) == (14, 3, "b", ["b", "é"])
    assert (record.as_of_ms, record.event_time_ms, record.sequence, record.watermark_ms) == (9, 0, 4, 7)
    assert (record.covers_from_ms, record.stale) == (NEVER, False)
    assert rows_of(PLAN, read(store, "")) == []
    assert store.read([Lookup(FINGERPRINT, "nobody", PLAN)]) == [None]


def test_a_records_arrays_are_its_own(opener: Opener) -> None:
    """Kernels take them as they are: contiguous, writable, and a change harms no later reader."""
    store = opener()
    writer_of(store).write([write_of(PLAN, [Entity("c1", [(1, 1, 10, "a"), (2, 2, 20, None)])])])
    record, again = read(store, "c1"), read(store, "c1")
    for array in (record.rows.reshape(-1), record.words, record.status, record.life):
        assert array.flags.c_contiguous and array.flags.writeable
        array[:] = 7
    other = read(store, "c1")
    for name in ("rows", "words", "status", "life"):
        assert np.array_equal(getattr(other, name), getattr(again, name))


def test_a_lookup_says_what_it_has_no_use_for(opener: Opener) -> None:
    store = opener()
    rows: list[Row] = [(1, 1, 10, "a"), (2, 2, 20, None), (3, 3, 5, "a"), (4, 4, 5, "b")]
    writer_of(store).write([write_of(PLAN, [Entity("c1", rows, last="b", merchants=["b", "a"])])])
    whole = read(store, "c1")
    (bare,) = store.read([Lookup(FINGERPRINT, "c1", PLAN, values=False, texts=False)])
    assert bare is not None and np.array_equal(bare.rows[:3], whole.rows[:3])
    first, _, third, fourth = bare.rows[-1].tolist()
    assert first == third != fourth, "which texts are alike shows in their ids"


def test_a_view_never_written_is_not_an_unknown_entity(opener: Opener) -> None:
    store = opener()
    writer_of(store)
    assert store.read([Lookup(FINGERPRINT, "c1", PLAN)]) == [None]
    with pytest.raises(StoreError, match="has never seen"):
        store.read([Lookup("cd" * 32, "c1", PLAN)])
    assert store.versions() == {FINGERPRINT: "cards"}


def test_a_row_put_again_stays_one(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    first: list[Row] = [(1, 1, 10, "a"), (2, 2, 20, None)]
    second: list[Row] = [(3, 3, 30, "b"), (1, 1, 10, "a")]
    writer.write([write_of(PLAN, [Entity("c1", first)], sequence=2)])
    # Another run interned its texts in another order, and holds something else where the merchant is null.
    writer.write([write_of(PLAN, [Entity("c1", [*second, *first])], sequence=3, null_word=1)])
    assert rows_of(PLAN, read(store, "c1")) == [*first, second[0]]


def test_values_are_fenced_and_rows_are_not(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    writer.write([write_of(PLAN, [Entity("c1", [(1, 1, 1, "a")], as_of_ms=10, amount=5)], sequence=10)])
    older = Entity("c1", [(2, 2, 2, "b")], as_of_ms=20, amount=6, covers_from_ms=1, replace=True)
    writer.write([write_of(PLAN, [older], sequence=9)])
    record = read(store, "c1")
    assert (record.sequence, int(record.words[0]), record.covers_from_ms) == (10, 5, NEVER)
    assert rows_of(PLAN, record) == [(1, 1, 1, "a"), (2, 2, 2, "b")]
    writer.write([write_of(PLAN, [Entity("c1", as_of_ms=9, amount=7)], sequence=11)])
    assert int(read(store, "c1").words[0]) == 5
    writer.write([write_of(PLAN, [Entity("c1", as_of_ms=10, amount=8)], sequence=10)])
    assert int(read(store, "c1").words[0]) == 8


def test_covers_from_never_falls_and_hides_what_is_older(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    rows: list[Row] = [(hour * HOUR, hour, hour, "a") for hour in range(10)]
    writer.write([write_of(PLAN, [Entity("c1", rows)], sequence=1)])
    for covers in (3 * HOUR, 2 * HOUR, NEVER):
        writer.write([write_of(PLAN, [Entity("c1", rows[:3], covers_from_ms=covers)], sequence=2)])
        assert read(store, "c1").covers_from_ms == 3 * HOUR
        assert rows_of(PLAN, read(store, "c1")) == rows[4:]


def test_replace_deletes_what_is_not_given(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    writer.write([write_of(PLAN, [Entity("c1", [(1, 1, 1, "a"), (2, 2, 2, "b")])], sequence=1)])
    kept: list[Row] = [(2, 2, 2, "b"), (3, 3, 3, "c")]
    writer.write([write_of(PLAN, [Entity("c1", kept, replace=True)], sequence=2)])
    record = read(store, "c1")
    assert rows_of(PLAN, record) == kept
    assert "a" not in record.texts


def test_beyond_the_limit_a_record_is_stale_until_replaced(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_ROWS", 10)
    assert row_limit(PLAN) == 10
    store = opener()
    writer = writer_of(store)
    rows: list[Row] = [(i, i, i, f"m{i}") for i in range(11)]
    (stale,) = writer.write([write_of(PLAN, [Entity("c1", rows[:10], amount=1)], sequence=1)])
    assert stale.size == 0
    (stale,) = writer.write([write_of(PLAN, [Entity("c1", rows[:10], amount=1)], sequence=1)])
    assert stale.size == 0, "rows put twice count once"
    newer = Entity("c1", rows[10:], amount=2, last="m10", merchants=["m10"])
    (stale,) = writer.write([write_of(PLAN, [Entity("c0"), newer], sequence=2)])
    assert stale.tolist() == [1]
    record = read(store, "c1")
    assert record.stale and rows_of(PLAN, record) == []
    assert values_of(PLAN, record) == (2, 0, "m10", ["m10"])
    (stale,) = writer.write([write_of(PLAN, [Entity("c1", rows[:1], amount=3)], sequence=3)])
    assert stale.tolist() == [0] and read(store, "c1").stale and int(read(store, "c1").words[0]) == 3
    (stale,) = writer.write([write_of(PLAN, [Entity("c1", rows, replace=True)], sequence=4)])
    assert stale.tolist() == [0]
    (stale,) = writer.write([write_of(PLAN, [Entity("c1", rows[1:], replace=True)], sequence=5)])
    assert stale.size == 0 and rows_of(PLAN, read(store, "c1")) == rows[1:]


def test_trimmed_rows_do_not_count_against_the_limit(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_ROWS", 10)
    store = opener()
    writer = writer_of(store)
    for i in range(100):
        entity = Entity("c1", [(i, i, i, f"m{i}")], covers_from_ms=i - 10)
        (stale,) = writer.write([write_of(PLAN, [entity], sequence=i + 1)])
        assert stale.size == 0
    record = read(store, "c1")
    assert [row[0] for row in rows_of(PLAN, record)] == list(range(90, 100))
    assert len(record.texts) < 80, "texts that no row uses are dropped in the end"


def test_marks_never_fall_and_tell_a_new_shard(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    assert store.marks(FINGERPRINT, 0) is None and writer.marks(FINGERPRINT, 0) is None
    writer.write([write_of(PLAN, [Entity("c1")], marks={"t/0": 5, "t/1": 9})])
    writer.write([write_of(PLAN, [], marks={"t/0": 4, "t/2": 1})])
    assert store.marks(FINGERPRINT, 0) == {"t/0": 5, "t/1": 9, "t/2": 1}
    assert store.marks(FINGERPRINT, 1) is None


def test_a_newer_generation_fences_an_older_one(opener: Opener) -> None:
    store, other = opener(), opener()
    old, new = writer_of(store, job="first"), writer_of(other, job="second")
    old.write([write_of(PLAN, [Entity("c1", amount=1)], sequence=1, marks={"t/0": 1})])
    assert new.marks(FINGERPRINT, 0) == {"t/0": 1}
    with pytest.raises(RefusedError, match="'second'"):
        old.write([write_of(PLAN, [Entity("c1", amount=2)], sequence=2, marks={"t/0": 2})])
    with pytest.raises(RefusedError, match="'second'"):
        old.marks(FINGERPRINT, 0)
    assert store.marks(FINGERPRINT, 0) == {"t/0": 1} and int(read(store, "c1").words[0]) == 1
    old.write([write_of(PLAN, [Entity("d1", amount=3)], sequence=2, shard=1)])  # nobody took that shard
    new.write([write_of(PLAN, [Entity("c1", amount=4)], sequence=3)])
    assert int(read(store, "c1").words[0]) == 4


def test_a_write_is_all_or_nothing(opener: Opener) -> None:
    store, other = opener(), opener()
    old, new = writer_of(store, job="first"), writer_of(other, job="second")
    new.marks(FINGERPRINT, 1)
    with pytest.raises(RefusedError):
        old.write(
            [
                write_of(PLAN, [Entity("c1", [(1, 1, 1, "new text")])], marks={"t/0": 1}),
                write_of(PLAN, [Entity("d1")], shard=1),
            ]
        )
    assert store.read([Lookup(FINGERPRINT, "c1", PLAN)]) == [None]
    assert store.marks(FINGERPRINT, 0) is None
    old.write([write_of(PLAN, [Entity("c1", [(1, 1, 1, "other"), (2, 2, 2, "new text")])])])
    assert rows_of(PLAN, read(store, "c1")) == [(1, 1, 1, "other"), (2, 2, 2, "new text")]


def test_what_is_kept_follows_the_marks(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    assert writer.marks(FINGERPRINT, 0) is None and writer.kept(FINGERPRINT, 0) == {}
    writer.write([write_of(PLAN, [Entity("c1")], marks={"t/0": 5})])
    assert writer.kept(FINGERPRINT, 0) == {"t/0": 5}
    writer.write([write_of(PLAN, [Entity("c1")], marks={"t/0": 4, "t/1": 7})])
    assert writer.kept(FINGERPRINT, 0) == {"t/0": 5, "t/1": 7}
    again = writer_of(opener())
    assert again.marks(FINGERPRINT, 0) == again.kept(FINGERPRINT, 0) == {"t/0": 5, "t/1": 7}


def test_what_is_sent_is_written_by_the_next_call(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    for sequence in (1, 2, 3):
        writer.send(
            [write_of(PLAN, [Entity("c1", amount=sequence)], sequence=sequence, marks={"t/0": sequence})]
        )
    writer.flush()
    assert int(read(store, "c1").words[0]) == 3
    assert store.marks(FINGERPRINT, 0) == writer.kept(FINGERPRINT, 0) == {"t/0": 3}
    newer = writer_of(opener(), job="second")
    newer.marks(FINGERPRINT, 0)
    with pytest.raises(RefusedError, match="'second'"):
        writer.send([write_of(PLAN, [Entity("c1", amount=4)], sequence=4)])
        writer.flush()
    assert int(read(store, "c1").words[0]) == 3
    writer.close()


def test_long_keys_are_told_apart(opener: Opener) -> None:
    store = opener()
    writer = writer_of(store)
    keys = [
        "x" * 200,
        "x" * 201,
        "x" * 480,
        "x" * 481,
        "x" * 5000,
        "é" * 240,
        "é" * 241,
        "|" * 600,
        "a{b}%",
        "{",
        "%7B",
        "\ud800",
    ]
    entities = [Entity(key, [(i, i, i, "m")], amount=i) for i, key in enumerate(keys)]
    writer.write([write_of(PLAN, entities, sequence=1)])
    writer.write([write_of(PLAN, [Entity(keys[2], amount=99)], sequence=0)])  # refused: the record is kept
    for i, key in enumerate(keys):
        assert rows_of(PLAN, read(store, key)) == [(i, i, i, "m")] and int(read(store, key).words[0]) == i


def test_what_was_written_is_there_after_opening_again(opener: Opener) -> None:
    store = opener()
    first = store.claim("job")
    writer = store.writer({FINGERPRINT: PLAN}, first, {FINGERPRINT: "cards"})
    writer.write([write_of(PLAN, [Entity("c1", [(1, 1, 1, "a")], amount=5)], marks={"t/0": 1})])
    writer.flush()
    writer.close()
    store.close()
    again = opener()
    assert rows_of(PLAN, read(again, "c1")) == [(1, 1, 1, "a")]
    assert again.marks(FINGERPRINT, 0) == {"t/0": 1}
    assert again.claim("job") > first


@dataclass
class Model:
    """The rules for one entity in their plainest form."""

    rows: dict[tuple[int, int], Row] = field(default_factory=dict)
    sequence: int = NEVER
    as_of_ms: int = NEVER
    covers: int = NEVER
    amount: int = 0

    def write(self, entity: Entity, sequence: int) -> None:
        taken = sequence >= self.sequence and entity.as_of_ms >= self.as_of_ms
        if taken:
            self.sequence, self.as_of_ms, self.amount = sequence, entity.as_of_ms, entity.amount
            self.covers = max(self.covers, entity.covers_from_ms)
            if entity.replace:
                self.rows.clear()
        self.rows.update({(row[0], row[1]): row for row in entity.rows})
        self.rows = {at: row for at, row in self.rows.items() if at[0] > self.covers}


@pytest.mark.parametrize("texts", [True, False])
def test_any_order_of_writes_follows_the_rules(opener: Opener, rng: np.random.Generator, texts: bool) -> None:
    plan = plan_of(texts=texts)
    store = opener()
    writer = writer_of(store, plan)
    model: dict[str, Model] = {}
    pool = [f"key{i}" + "-" * (490 if i % 5 == 0 else 0) for i in range(12)]
    for step in range(400):
        entities = []
        sequence = max(0, step + int(rng.integers(-6, 6)))
        for key in rng.choice(pool, rng.integers(1, 8), replace=False).tolist():
            times = np.unique(rng.integers(step - 30, step + 5, rng.integers(0, 6))) * (HOUR // 16)
            rows: list[Row] = [
                (int(t), int(t) % 7, int(t) % 11, f"merchant{t % 97}" if texts and t % 3 else None)
                for t in times
            ]
            covers = (step - 25) * (HOUR // 16) if rng.random() < 0.4 else NEVER
            as_of = int(step + rng.integers(-4, 4))
            replace = bool(rng.random() < 0.15)
            entities.append(Entity(key, rows, as_of, covers, replace, amount=step))
            model.setdefault(key, Model()).write(entities[-1], sequence)
        writer.write([write_of(plan, entities, sequence=sequence, null_word=0)])
    for key in pool:
        record, expected = read(store, key, plan), model[key]
        assert rows_of(plan, record) == [expected.rows[at] for at in sorted(expected.rows)]
        assert int(record.words[0]) == expected.amount
        assert (record.sequence, record.as_of_ms, record.covers_from_ms) == (
            expected.sequence, expected.as_of_ms, expected.covers,
        )  # fmt: skip


@pytest.mark.parametrize("uri", ["nosuch:/x", "lmdb:", "lmdb", ""])
def test_a_wrong_uri_says_what_to_write(uri: str) -> None:
    with pytest.raises(UsageError, match="lmdb:PATH"):
        open_store(uri)
