"""The keys and bytes of layout 1 in Redis, kept for good: docs/online-record-redis.md describes what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lookback.errors import RefusedError, StoreError
from lookback.stores.base import Lookup, Record
from lookback.stores.redis import RedisStore
from lookback.stores.redis_record import VERSION
from tests.services.valkey import Valkey
from tests.stores.build import FINGERPRINT, HOUR, Entity, plan_of, rows_of, values_of, write_of

GOLDEN = Path(__file__).parent / "online_record_redis_1.json"
PLAN = plan_of()
LONG = "k" * 201
KEY = "lookback:cards:abababababab:{c1}"


@pytest.fixture
def store(server: Valkey) -> RedisStore:
    """Return a store that holds the entities which the golden file was made from."""
    store = RedisStore(server.uri, write=True)
    writer = store.writer({FINGERPRINT: PLAN}, 7, {FINGERPRINT: "cards"})
    first = Entity("c1", [(-1, 2**62, -7, "é"), (HOUR, 5, 900, None)], 2 * HOUR, -HOUR, amount=893, count=2)
    second = Entity(
        LONG, [(3, 4, 5, "shop")], 9, amount=5, count=1, last="shop", merchants=["shop", "", 'é"']
    )
    third = Entity("{a}%", as_of_ms=1)
    writer.write([write_of(PLAN, [first, second, third], sequence=12, marks={"transactions/0": 41})])
    return store


def dump(server: Valkey) -> dict[str, Any]:
    """Return all that the server holds; texts that are no UTF-8 in hex."""
    out: dict[str, Any] = {}
    with server.client() as client:
        for key in sorted(client.keys("*")):
            kind = client.type(key)
            if kind == b"hash":
                fields = client.hgetall(key)
                out[key.decode()] = {name.decode(): fields[name].decode() for name in sorted(fields)}
            elif kind == b"zset":
                found = client.zrange(key, 0, -1, withscores=True)
                out[key.decode()] = [[score, member.hex()] for member, score in found]
            else:
                out[key.decode()] = client.get(key).decode()
    return out


def read(store: RedisStore, key: str) -> Record:
    (record,) = store.read([Lookup(FINGERPRINT, key, PLAN)])
    assert record is not None
    return record


def test_writing_gives_the_golden_bytes(store: RedisStore, server: Valkey) -> None:
    assert dump(server) == json.loads(GOLDEN.read_text()), "a new layout needs a new version and a new file"
    store.close()


def test_the_golden_bytes_are_read(server: Valkey) -> None:
    with server.client() as client:
        for key, held in json.loads(GOLDEN.read_text()).items():
            if isinstance(held, dict):
                client.hset(key, mapping=held)
            elif isinstance(held, list):
                client.zadd(key, {bytes.fromhex(member): score for score, member in held})
            else:
                client.set(key, held)
    store = RedisStore(server.uri)
    first, second = read(store, "c1"), read(store, LONG)
    assert rows_of(PLAN, first) == [(-1, 2**62, -7, "é"), (HOUR, 5, 900, None)]
    assert values_of(PLAN, first) == (893, 2, None, [])
    assert (first.as_of_ms, first.event_time_ms, first.covers_from_ms, first.sequence) == (
        2 * HOUR,
        HOUR,
        -HOUR,
        12,
    )
    assert rows_of(PLAN, second) == [(3, 4, 5, "shop")]
    assert values_of(PLAN, second) == (5, 1, "shop", ["shop", "", 'é"'])
    assert rows_of(PLAN, read(store, "{a}%")) == []
    assert store.marks(FINGERPRINT, 0) == {"transactions/0": 41}
    store.close()


def test_a_newer_record_is_refused(store: RedisStore, server: Valkey) -> None:
    with server.client() as client:
        client.hset(KEY, "_version", int(VERSION) + 1)
    with pytest.raises(RefusedError, match=r"layout 2, this release reads up to 1"):
        read(store, "c1")


def test_a_newer_store_is_refused(store: RedisStore, server: Valkey) -> None:
    with server.client() as client:
        client.set("lookback:format", int(VERSION) + 1)
    for write in (False, True):
        with pytest.raises(RefusedError, match="layout 2"):
            RedisStore(server.uri, write=write)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda c: c.hset(KEY, "_version", "x"), "no release writes"),
        (lambda c: c.hset(KEY, "_as_of_ms", "soon"), "damaged"),
        (lambda c: c.hset(KEY, "_status", "0"), "damaged"),
        (lambda c: c.hdel(KEY, "amount_sum_1h"), "damaged"),
        (lambda c: c.zadd(KEY + ":rows", {b"short": 5}), "cut off"),
        (lambda c: c.zadd(KEY + ":rows", {b"\x80" + bytes(39) + b"more": 5}), "cut off"),
    ],
)
def test_a_damaged_record_is_named(store: RedisStore, server: Valkey, harm: Any, says: str) -> None:
    with server.client() as client:
        harm(client)
    with pytest.raises(StoreError, match=says) as raised:
        read(store, "c1")
    assert "'c1'" in str(raised.value)


def test_another_type_at_a_key_is_named(store: RedisStore, server: Valkey) -> None:
    with server.client() as client:
        for key in (KEY, KEY + ":rows"):
            kept = client.dump(key)
            client.delete(key)
            client.set(key, "mine")
            with pytest.raises(RefusedError, match=r"\{c1\}"):
                read(store, "c1")
            client.restore(key, 0, kept, replace=True)


def test_a_read_needs_no_script_to_be_there(store: RedisStore, server: Valkey) -> None:
    assert read(store, "c1").sequence == 12
    with server.client() as client:
        client.script_flush()
    assert read(store, "c1").sequence == 12
