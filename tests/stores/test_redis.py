"""What is Redis's own: expiry, answers that get lost, scripts that go, servers that are refused."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lookback.errors import RefusedError, StoreBusy, StoreError, StoreLost, UsageError
from lookback.stores import redis_connection, redis_writer
from lookback.stores.base import NEVER, Lookup, Record, open_store
from lookback.stores.redis import RedisStore
from lookback.stores.redis_record import MARGIN_MS
from lookback.stores.redis_writer import RedisWriter
from lookback.windows.plan import LIFETIME, ViewPlan
from tests.services.valkey import Valkey, running
from tests.services.valkey_cluster import ValkeyCluster
from tests.stores.build import FINGERPRINT, HOUR, Entity, plan_of, rows_of, values_of, write_of

PLAN = plan_of()
KEY = "lookback:cards:abababababab:{c1}"


@pytest.fixture
def store(server: Valkey) -> Iterator[RedisStore]:
    store = RedisStore(server.uri, write=True)
    yield store
    store.close()


def writer_of(store: RedisStore, plan: ViewPlan = PLAN) -> RedisWriter:
    return store.writer({FINGERPRINT: plan}, store.claim("job"), {FINGERPRINT: "cards"})


def read(store: RedisStore, key: str = "c1", plan: ViewPlan = PLAN) -> Record | None:
    return store.read([Lookup(FINGERPRINT, key, plan)])[0]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# ---- expiry


def test_a_record_expires_once_nothing_in_it_can_matter(store: RedisStore, server: Valkey) -> None:
    newest = now_ms()
    writer_of(store).write([write_of(PLAN, [Entity("c1", [(newest, 1, 1, "a")])])])
    least, most = HOUR + MARGIN_MS, (HOUR + MARGIN_MS) * 5 // 4
    with server.client() as client:
        for key in (KEY, KEY + ":rows"):
            left = client.pttl(key)
            assert least - 60_000 < left <= most, (key, left)
        assert int(client.hget(KEY, "_expires_ms") or 0) == client.pexpiretime(KEY)


def test_old_events_and_lifetimes_never_expire(store: RedisStore, server: Valkey) -> None:
    writer_of(store).write([write_of(PLAN, [Entity("c1", [(5, 1, 1, "a")])])])
    endless = ViewPlan(
        PLAN.columns, PLAN.bits, (replace(PLAN.features[1], window_ms=LIFETIME), *PLAN.features[1:])
    )
    assert endless.features[0].window_ms is None
    other = store.writer({"cd" * 32: endless}, store.claim("job"), {"cd" * 32: "cards"})
    write = write_of(endless, [Entity("c1", [(now_ms(), 1, 1, "a")])], fingerprint="cd" * 32)
    from lookback.windows.log import ViewLog

    other.write([replace(write, life=np.zeros((1, ViewLog(endless).life_words), np.int64))])
    with server.client() as client:
        keys = [key for key in client.keys("lookback:cards:*")]
        assert len(keys) == 4 and {client.pttl(key) for key in keys} == {-1}


def test_an_entity_that_comes_back_covers_what_the_expired_record_cannot_have_lost(
    store: RedisStore, server: Valkey
) -> None:
    writer, newest = writer_of(store), now_ms()
    writer.write([write_of(PLAN, [Entity("c1", [(newest, 1, 1, "a")])])])
    with server.client() as client:
        client.delete(KEY, KEY + ":rows")  # as the server does when its time is up
    again = Entity("c1", [(newest + 1, 2, 2, "b")], as_of_ms=newest + 1, whole=False)
    writer.write([write_of(PLAN, [again], sequence=2)])
    record = read(store)
    assert record is not None and rows_of(PLAN, record) == [(newest + 1, 2, 2, "b")]
    assert abs(record.covers_from_ms - (now_ms() - HOUR - MARGIN_MS)) < 60_000
    writer.write([write_of(PLAN, [Entity("new", [(newest, 3, 3, "c")], whole=True)], sequence=3)])
    new = read(store, "new")
    assert new is not None and new.covers_from_ms == NEVER, "a new entity lacks nothing"


def test_rows_that_begin_anew_expire_with_their_record(store: RedisStore, server: Valkey) -> None:
    writer, newest = writer_of(store), now_ms()
    writer.write([write_of(PLAN, [Entity("c1", [(newest, 1, 1, "a")])], sequence=1)])
    writer.write([write_of(PLAN, [Entity("c1", replace=True)], sequence=2)])
    with server.client() as client:
        assert not client.exists(KEY + ":rows")
        writer.write([write_of(PLAN, [Entity("c1", [(newest, 2, 2, "b")])], sequence=3)])
        assert client.pexpiretime(KEY + ":rows") == client.pexpiretime(KEY) > newest


# ---- answers that get lost


def test_scripts_that_the_server_forgot_are_loaded_again(store: RedisStore, server: Valkey) -> None:
    writer = writer_of(store)
    for sequence in (1, 2):
        writer.write(
            [write_of(PLAN, [Entity("c1", amount=sequence)], sequence=sequence, marks={"t/0": sequence})]
        )
        assert values_of(PLAN, read(store) or pytest.fail())[0] == sequence
        with server.client() as client:
            client.script_flush()


def test_connections_cut_at_any_moment_leave_each_record_whole(store: RedisStore, server: Valkey) -> None:
    """All clients are killed again and again while 2,000 records are written ten times over."""
    writer, stop = writer_of(store), threading.Event()
    pauses = iter(np.random.default_rng(3).uniform(0.005, 0.3, 10_000).tolist())

    def cut() -> None:
        with server.client() as client:
            while not stop.wait(next(pauses)):
                client.client_kill_filter(_type="normal", skipme=True)

    thread = threading.Thread(target=cut)
    thread.start()
    busy = 0
    try:
        for sequence in range(1, 11):
            entities = [
                Entity(f"c{i}", [(sequence, sequence, sequence, f"m{sequence}")], sequence, amount=sequence)
                for i in range(2000)
            ]
            while True:
                try:
                    writer.write([write_of(PLAN, entities, sequence=sequence, marks={"t/0": sequence})])
                    break
                except StoreBusy:
                    busy += 1
    finally:
        stop.set()
        thread.join()
    assert busy > 0, "no write was disturbed: nothing is proved"
    assert writer.kept(FINGERPRINT, 0) == store.marks(FINGERPRINT, 0) == {"t/0": 10}
    for i in (0, 999, 1999):
        record = read(store, f"c{i}")
        assert record is not None and values_of(PLAN, record)[0] == 10
        assert rows_of(PLAN, record) == [(n, n, n, f"m{n}") for n in range(1, 11)]


def test_an_end_whose_answer_was_lost_is_no_loss(store: RedisStore, server: Valkey) -> None:
    writer = writer_of(store)
    write = [write_of(PLAN, [Entity("c1")], marks={"t/0": 5})]
    writer.write(write)
    with server.client() as client:
        shard = "lookback:shard:abababababab:0"
        kept = client.hget(shard, "kept")
        writer.write([write_of(PLAN, [Entity("c1")], sequence=2, marks={"t/0": 6})])
        writer._kept[FINGERPRINT, 0] = (kept or b"").decode()  # as if the last answer had never come
        writer.write([write_of(PLAN, [Entity("c1")], sequence=2, marks={"t/0": 6})])
        assert client.hget(shard, "kept") == b'{"t/0": 6}'
        client.hset(shard, "kept", '{"t/0": 1}')
        with pytest.raises(StoreLost, match="lost what it had acknowledged"):
            writer.write([write_of(PLAN, [Entity("c1")], sequence=3, marks={"t/0": 7})])
        client.delete(shard)
        with pytest.raises(StoreLost):
            writer.write([write_of(PLAN, [Entity("c1")], sequence=3, marks={"t/0": 7})])


def test_what_was_sent_is_written_after_the_server_is_back(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "TIMEOUT_SECONDS", 0.3)
    store = RedisStore(valkey.uri, write=True)
    writer = writer_of(store)
    writer.marks(FINGERPRINT, 0)
    with valkey.stalled():
        writer.send([write_of(PLAN, [Entity("c1", amount=1)], sequence=1, marks={"t/0": 1})])
        for _ in range(2):
            with pytest.raises(StoreBusy, match="doesn't answer"):
                writer.flush()
    writer.flush()
    assert values_of(PLAN, read(store) or pytest.fail())[0] == 1
    valkey.stop(signal.SIGKILL)
    with pytest.raises(StoreBusy, match="doesn't answer"):
        read(store)
    store.close()


def test_many_pieces_and_many_features(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_writer, "PIECE", 3)
    monkeypatch.setattr(redis_writer, "AHEAD", 2)
    features = tuple(replace(PLAN.features[1], name=f"n{i}_1h") for i in range(300))
    plan = ViewPlan(PLAN.columns[:1], 0, features)
    writer = writer_of(store, plan)
    entities = [Entity(f"c{i}", amount=i) for i in range(50)]
    write = write_of(plan, entities)
    words = np.arange(300 * 50, dtype=np.int64).reshape(300, 50)
    writer.write([replace(write, words=words, status=np.zeros((300, 50), np.uint8))])
    for i in (0, 17, 49):
        record = read(store, f"c{i}", plan)
        assert record is not None and record.words.tolist() == words[:, i].tolist()


# ---- servers and URIs


@pytest.mark.parametrize("write", [True, False])
def test_a_node_of_a_cluster_is_told_from_a_server(shared_cluster: ValkeyCluster, write: bool) -> None:
    """A key that this very node has is no reason to take it for a server either."""
    for node in shared_cluster.masters:
        try:
            store = RedisStore(node.uri, write=write)
            store.versions()
        except StoreError as error:
            assert "is a node of a cluster: write redis+cluster://HOST:PORT" in str(error)
        else:
            assert not write, "which server a key is on can't matter to a writer"


def test_a_replica_is_read_and_not_written(valkey: Valkey, tmp_path: Path) -> None:
    store = RedisStore(valkey.uri, write=True)
    writer_of(store).write([write_of(PLAN, [Entity("c1", amount=5)])])
    replica = valkey.replica(tmp_path / "replica")
    try:
        other = RedisStore(replica.uri)
        assert values_of(PLAN, read(other) or pytest.fail())[0] == 5
        with pytest.raises(UsageError, match="opened for reading"):
            other.claim("job")
        writing = RedisStore(replica.uri, write=True)
        with pytest.raises(StoreBusy, match="read only replica"):
            writing.claim("job")
    finally:
        replica.stop(signal.SIGKILL)


def test_databases_are_stores_of_their_own(server: Valkey) -> None:
    first, second = (RedisStore(f"{server.uri}/{number}", write=True) for number in (0, 1))
    writer_of(first).write([write_of(PLAN, [Entity("c1")])])
    assert first.versions() == {FINGERPRINT: "cards"} and second.versions() == {}


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with running(tmp_path / "unix", {"unixsocket": str(path)}):
        store = RedisStore(f"unix://{path}", write=True)
        writer_of(store).write([write_of(PLAN, [Entity("c1", amount=5)])])
        assert values_of(PLAN, read(store) or pytest.fail())[0] == 5
        store.close()


@pytest.mark.parametrize("uri", ["redis://h:x", "redis://h/?socket_timeout=soon", "rediss://h/?nosuch=1"])
def test_a_uri_that_names_no_server(uri: str) -> None:
    with pytest.raises((UsageError, StoreError)) as raised:
        open_store(uri)
    assert "Traceback" not in str(raised.value) and len(str(raised.value)) < 300


def test_an_older_job_is_refused_in_the_midst_of_a_write(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is looked at by every piece, not only as a write begins."""
    monkeypatch.setattr(redis_writer, "PIECE", 1)
    old = writer_of(store)
    send = redis_writer.RedisWriter._piece
    taken: list[int] = []

    def take_over(self: RedisWriter, *args: object) -> object:
        if len(taken) == 5:
            new = store.writer({FINGERPRINT: PLAN}, store.claim("second"), {FINGERPRINT: "cards"})
            assert new.marks(FINGERPRINT, 1) == {"t/0": 9}, (
                "it waits for all that the older one may have written"
            )
        taken.append(1)
        return send(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(redis_writer.RedisWriter, "_piece", take_over)
    with pytest.raises(RefusedError, match="'second'"):
        first, second = [Entity(f"c{i}") for i in range(5)], [Entity(f"c{i}") for i in range(5, 20)]
        old.write([write_of(PLAN, first), write_of(PLAN, second, shard=1, marks={"t/0": 9})])
    assert read(store, "c0") is not None and read(store, "c19") is None
