"""URIs of Redis stores: what each part says, and what is said of wrong ones."""

from __future__ import annotations

import re

import pytest

from lookback.errors import StoreError, UsageError
from lookback.stores.base import open_store
from lookback.stores.redis_uri import read_uri


def test_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKBACK_REDIS_PASSWORD", "unused")
    found = read_uri("redis+cluster://m%40e:p%2Fw@one:7000,[::1]:7001,three/0?socket_timeout=3")
    assert found.kind == "cluster" and not found.tls
    assert found.nodes == (("one", 7000), ("::1", 7001), ("three", 6379))
    assert found.options == {"username": "m@e", "password": "p/w", "socket_timeout": 3.0}
    assert found.name == "redis+cluster://one:7000,[::1]:7001,three/0"


def test_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "rediss+sentinel://me:pw@a,b:7/my%20master/3?ssl_ca_certs=/ca&sentinel_username=w&sentinel_password=s%26"
    found = read_uri(uri)
    assert found.kind == "sentinel" and found.tls and found.master == "my master"
    assert found.nodes == (("a", 26379), ("b", 7))
    assert found.options["db"] == 3 and found.options["password"] == "pw"
    assert found.watch is not None
    assert (found.watch["username"], found.watch["password"]) == ("w", "s&")
    assert found.watch["ssl_ca_certs"] == found.options["ssl_ca_certs"] == "/ca"
    assert "db" not in found.watch and "sentinel_username" not in found.options


def test_passwords_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentinel never gets the servers' password, nor they its own."""
    monkeypatch.setenv("LOOKBACK_REDIS_PASSWORD", "servers")
    found = read_uri("redis+sentinel://a/m")
    assert found.watch == {} and found.options["password"] == "servers"
    monkeypatch.setenv("LOOKBACK_REDIS_SENTINEL_PASSWORD", "sentinels")
    assert read_uri("redis+sentinel://a/m").watch == {"password": "sentinels"}
    assert read_uri("redis://a").options["password"] == "servers"
    assert read_uri("redis+cluster://a").options["password"] == "servers"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("redis+cluster://a:1/2", "no databases; write redis+cluster://HOST:PORT"),
        ("redis+cluster://a:1?db=2", "no databases; write redis+cluster://HOST:PORT"),
        ("redis+cluster://a:x,b:1", "write redis+cluster://HOST:PORT"),
        ("redis+cluster://a:1,", "names no host; write redis+cluster://HOST:PORT"),
        ("rediss+cluster://pw@", "names no host; write redis+cluster://HOST:PORT"),
        ("redis+cluster://a:1?nosuch=1", "nosuch"),
        ("redis+sentinel://a:1", "names no master; write redis+sentinel://HOST:PORT"),
        ("redis+sentinel://a:1/", "names no master; write redis+sentinel://HOST:PORT"),
        ("redis+sentinel://a:1/m/x", "no number of a database; write redis+sentinel://"),
        ("redis+sentinel://,a:1/m", "names no host; write redis+sentinel://HOST:PORT"),
        ("redis+sentinel://a:1/m?nosuch=1", "nosuch"),
        ("redis+cluster:", "or redis+cluster://HOST:PORT"),
        ("redis-cluster://a:1", "no store is called 'redis-cluster': write lmdb:PATH"),
        ("sentinel://a:1/m", "no store is called 'sentinel': write lmdb:PATH"),
    ],
)
def test_a_wrong_uri_is_told_the_right_form(uri: str, says: str) -> None:
    with pytest.raises((UsageError, StoreError), match=re.escape(says)) as raised:
        open_store(uri)
    assert isinstance(raised.value, UsageError) and "pw" not in str(raised.value)
