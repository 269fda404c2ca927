"""What is a cluster's own: which node has a key, slots on the move, masters that were replaced, two jobs at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from redis.cluster import RedisCluster
from redis.crc import key_slot

from lookback.errors import RefusedError, StoreBusy, StoreError, StoreLost
from lookback.stores import redis_cluster, redis_writer
from lookback.stores.base import Lookup, Record, ViewWrite, open_store
from lookback.stores.redis import RedisStore
from lookback.stores.redis_cluster import slots_of
from lookback.stores.redis_record import Layout, key_prefix
from lookback.stores.redis_writer import RedisWriter
from tests.services.valkey import Valkey, free_port
from tests.services.valkey_cluster import Sentinels, ValkeyCluster
from tests.stores.build import FINGERPRINT, Entity, Row, plan_of, rows_of, values_of, write_of

PLAN = plan_of()


@pytest.fixture
def cluster(shared_cluster: ValkeyCluster) -> ValkeyCluster:
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
def store(cluster: ValkeyCluster) -> Iterator[RedisStore]:
    store = RedisStore(cluster.uri, write=True)
    yield store
    store.close()


def writer_of(store: RedisStore, job: str = "job") -> RedisWriter:
    return store.writer({FINGERPRINT: PLAN}, store.claim(job), {FINGERPRINT: "cards"})


def read(store: RedisStore, key: str = "c1") -> Record | None:
    return store.read([Lookup(FINGERPRINT, key, PLAN)])[0]


def amounts(store: RedisStore, keys: list[str]) -> list[int | None]:
    found = store.read([Lookup(FINGERPRINT, key, PLAN) for key in keys])
    return [None if record is None else values_of(PLAN, record)[0] for record in found]


def full_key(key: str) -> bytes:
    return key_prefix("cards", FINGERPRINT) + Layout(PLAN, cluster=True).tag(key) + b"}"


# ---- which node


def test_slots_are_those_that_servers_reckon(rng: np.random.Generator) -> None:
    keys = [*("x" * n for n in (0, 1, 2, 16, 200, 201, 3000)), "é|ß", "{}", "%7B", "\ud800"]
    keys += ["".join(chr(c) for c in rng.integers(1, 0x800, rng.integers(1, 40))) for _ in range(300)]
    found = slots_of(Layout(PLAN, cluster=True).tags(keys)).tolist()
    assert found == [key_slot(full_key(key)) for key in keys]
    assert found == [key_slot(full_key(key) + b":rows") for key in keys]


def test_any_client_of_clusters_reads_the_hash(store: RedisStore, cluster: ValkeyCluster) -> None:
    keys = [f"c{i}" for i in range(60)]
    writer_of(store).write([write_of(PLAN, [Entity(key, amount=i) for i, key in enumerate(keys)])])
    with RedisCluster(host="127.0.0.1", port=cluster.masters[1].port, decode_responses=True) as client:
        for i, key in enumerate(keys):
            assert client.hget(f"lookback:cards:{FINGERPRINT[:12]}:{{{key}}}", "amount_sum_1h") == str(i)
    for server in cluster.masters:
        with server.client() as own:
            assert len(own.keys("lookback:cards:*")) > 5, "each master has a share"


def test_a_read_asks_each_node_once(store: RedisStore, cluster: ValkeyCluster) -> None:
    keys = [f"c{i}" for i in range(90)]
    writer_of(store).write([write_of(PLAN, [Entity(key, amount=i) for i, key in enumerate(keys)])])
    assert amounts(store, keys) == list(range(90))
    for server in cluster.masters:
        with server.client() as client:
            client.config_resetstat()
    assert amounts(store, [*keys, "nobody"]) == [*range(90), None]
    for server in cluster.masters:
        with server.client() as client:
            told = client.info("commandstats")
            assert told["cmdstat_evalsha"]["calls"] == 1


# ---- slots on the move


@contextmanager
def moving(cluster: ValkeyCluster, key: str) -> Iterator[tuple[Valkey, Valkey, int]]:
    """Move the slot of an entity to the next master while the block lasts, then end that; and move it back."""
    slot = key_slot(full_key(key))
    at = slot * 3 // 16_384
    source, target = cluster.masters[at], cluster.masters[(at + 1) % 3]
    move(source, target, slot)
    yield source, target, slot
    settle(cluster, source, target, slot)


def move(source: Valkey, target: Valkey, slot: int) -> None:
    target.cli("CLUSTER", "SETSLOT", str(slot), "IMPORTING", source.cli("CLUSTER", "MYID").strip())
    source.cli("CLUSTER", "SETSLOT", str(slot), "MIGRATING", target.cli("CLUSTER", "MYID").strip())


def settle(cluster: ValkeyCluster, source: Valkey, target: Valkey, slot: int) -> None:
    carry(source, target, slot)
    name = target.cli("CLUSTER", "MYID").strip()
    for server in (target, source, *cluster.masters):
        server.cli("CLUSTER", "SETSLOT", str(slot), "NODE", name)
    cluster.whole()


def carry(source: Valkey, target: Valkey, slot: int, suffix: str = "") -> None:
    with source.client() as client:
        keys = [key for key in client.cluster("getkeysinslot", slot, 100) if str(key).endswith(suffix)]
        if keys:
            client.migrate("127.0.0.1", target.port, keys, 0, 5000)


def test_slots_that_move_are_waited_for(
    store: RedisStore, cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of an entity has moved already: no record is half written, none reads as less than it is."""
    monkeypatch.setattr(redis_cluster, "TRIES", 2)
    writer = writer_of(store)
    rows: list[Row] = [(1, 1, 1, "a"), (2, 2, 2, "b")]
    writer.write([write_of(PLAN, [Entity("c1", rows, amount=1)], sequence=1, marks={"t/0": 1})])
    more = [write_of(PLAN, [Entity("c1", [*rows, (3, 3, 3, "c")], amount=2, replace=True)], sequence=2)]
    slot, fresh = key_slot(full_key("c1")), ""
    fresh = next(f"n{i}" for i in range(10**6) if key_slot(full_key(f"n{i}")) == slot)
    with moving(cluster, "c1") as (source, target, _):
        with pytest.raises(StoreBusy, match="takes no writes just now"):
            writer.write(more)  # rows that are deleted could not be put there again
        assert rows_of(PLAN, read(store) or pytest.fail()) == rows
        with pytest.raises(StoreBusy):
            read(store, fresh)  # which of the two nodes would have it?
        carry(source, target, slot, ":rows")
        for call in (lambda: read(store), lambda: writer.write(more)):
            with pytest.raises(StoreBusy, match="takes no writes just now"):
                call()
        carry(source, target, slot)
        with pytest.raises(StoreBusy):
            read(store)
    writer.write(more)
    assert rows_of(PLAN, read(store) or pytest.fail()) == [*rows, (3, 3, 3, "c")]
    assert amounts(store, ["c1", fresh]) == [2, None]
    other = RedisStore(cluster.uri)
    assert amounts(other, ["c1", fresh]) == [2, None]
    move(target, source, slot)
    settle(cluster, target, source, slot)
    assert amounts(other, ["c1", fresh]) == amounts(store, ["c1", fresh]) == [2, None]
    writer.write([write_of(PLAN, [Entity("c1", amount=3)], sequence=3)])
    assert amounts(other, ["c1"]) == [3]
    other.close()


# ---- masters that were replaced


def test_a_master_that_restarts_may_have_lost_something(store: RedisStore, cluster: ValkeyCluster) -> None:
    keys = [f"c{i}" for i in range(60)]
    writer = writer_of(store)
    write = [write_of(PLAN, [Entity(key) for key in keys], marks={"t/0": 9})]
    writer.write(write)
    again = writer_of(RedisStore(cluster.uri, write=True))
    assert again.marks(FINGERPRINT, 0) == again.kept(FINGERPRINT, 0) == {"t/0": 9}
    assert store.marks(FINGERPRINT, 0) == {"t/0": 9}
    cluster.masters[(cluster.home + 1) % 3].restart(signal.SIGKILL)
    cluster.whole()
    with pytest.raises(StoreLost, match="has restarted or was replaced"):
        again._server.check()
    with pytest.raises((StoreLost, StoreBusy)):
        again.write(write)  # the connection is gone,
    with pytest.raises(StoreLost):
        again.write(write)  # and what answers now is another
    next_one = writer_of(RedisStore(cluster.uri, write=True))
    assert next_one.marks(FINGERPRINT, 0) == {"t/0": 9}
    assert next_one.kept(FINGERPRINT, 0) == {}, "not all that was acknowledged need be there"
    next_one.write(write)
    assert next_one.kept(FINGERPRINT, 0) == {"t/0": 9}
    last = writer_of(RedisStore(cluster.uri, write=True))
    assert last.marks(FINGERPRINT, 0) == last.kept(FINGERPRINT, 0) == {"t/0": 9}


def test_a_writer_that_is_idle_looks_at_all_masters(
    store: RedisStore, cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_writer, "CHECK_SECONDS", 0.0)
    writer = writer_of(store)
    writer.write([write_of(PLAN, [Entity("c1")], marks={"t/0": 9})])
    writer.flush()
    cluster.masters[(cluster.home + 2) % 3].restart(signal.SIGKILL)
    cluster.whole()
    with pytest.raises(StoreLost):
        for _ in range(3):  # the first look finds a closed connection
            writer.flush()


# ---- two jobs


def test_what_an_older_job_still_sends_is_within_the_mark_of_the_newer(
    store: RedisStore, cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one takes over in the midst of the older one's write, and has written one of its records already."""
    monkeypatch.setattr(redis_writer, "PIECE", 1)
    old = writer_of(store, "first")
    other = RedisStore(cluster.uri, write=True)
    entities = [Entity(f"c{i}", amount=1) for i in range(30)]
    old.write([write_of(PLAN, entities, sequence=1, marks={"t/0": 1})])
    owner = old._server.map().owner[[key_slot(full_key(f"c{i}")) for i in range(30)]]  # type: ignore[attr-defined]
    last = int(np.argsort(owner, kind="stable")[-1])  # is sent after all others
    piece = RedisWriter._piece
    sent: list[bytes] = []

    def take_over(
        self: RedisWriter, view: object, write: ViewWrite, packed: object, start: int, end: int
    ) -> object:
        if self is old and len(sent) == 20:
            new = writer_of(other, "second")
            assert new.marks(FINGERPRINT, 0) == {"t/0": 5}, (
                "it waits for all that the older one may still write"
            )
            new.write([write_of(PLAN, [Entity(f"c{last}", amount=7)], sequence=7, marks={"t/0": 7})])
        sent.append(b"")
        return piece(self, view, write, packed, start, end)  # type: ignore[arg-type]

    monkeypatch.setattr(RedisWriter, "_piece", take_over)
    with pytest.raises(RefusedError, match="'second' has taken over"):
        newer = [Entity(f"c{i}", amount=5) for i in range(30)]
        old.write([write_of(PLAN, newer, sequence=5, marks={"t/0": 5})])
    found = amounts(other, [f"c{i}" for i in range(30)])
    assert found[last] == 7 and set(found) <= {1, 5, 7}
    with pytest.raises(RefusedError, match="'second' has taken over"):
        old.write([write_of(PLAN, [Entity("c1", amount=9)], sequence=9)])
    assert amounts(other, ["c1"])[0] != 9, "no write begins after it was taken over"
    other.close()


# ---- what is none


def test_a_server_is_told_from_a_cluster(server: Valkey) -> None:
    with pytest.raises(StoreError, match=r"is no cluster: write redis://HOST\[:PORT\]\[/DB\]"):
        open_store(f"redis+cluster://127.0.0.1:{server.port}")


def test_nobody_is_there(shared_sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_cluster, "TRIES", 2)
    for uri in (f"redis+cluster://127.0.0.1:{free_port()}", f"redis+sentinel://127.0.0.1:{free_port()}/m"):
        with pytest.raises(StoreBusy, match="doesn't answer") as raised:
            open_store(uri)
        assert len(str(raised.value)) < 200, raised.value
    with pytest.raises(StoreBusy, match="No master found for 'other'") as raised:
        open_store(shared_sentinels.uri.rpartition("/")[0] + "/other")
    assert len(str(raised.value)) < 200


def test_a_wrong_password_is_never_shown(cluster: ValkeyCluster) -> None:
    with pytest.raises(StoreError, match="refuses the user or the password") as raised:
        open_store(cluster.uri.replace("//", "//me:wrong-pw@"))
    assert "wrong-pw" not in str(raised.value)
