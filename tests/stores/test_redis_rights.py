"""The least rights of a job's and a reader's user: as documented they are enough, and each of them is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lookback.client import Client
from lookback.definition import load
from lookback.errors import RefusedError, StoreError
from lookback.starter.write import write_starter
from lookback.stores.base import Lookup, open_store
from lookback.stores.redis_rights import CLUSTER, READER, SENTINEL, WRITER, rights
from tests.recovery.job import ROOT, command
from tests.services.valkey import Valkey
from tests.services.valkey_cluster import MASTER, ValkeyCluster, running_sentinels
from tests.stores.build import FINGERPRINT, HOUR, Entity, Row, plan_of, values_of, write_of
from tests.stores.test_redis import now_ms

PLAN = plan_of()
DOCUMENTED = dict(
    re.findall(
        r"^ACL SETUSER (\S+) on >PASSWORD (.+)$", (ROOT / "docs/online-record-redis.md").read_text(), re.M
    )
)


def test_the_documented_lines_are_what_errors_tell() -> None:
    assert DOCUMENTED == {
        "lookback-job": WRITER,
        "lookback-reader": READER,
        "lookback-watcher": SENTINEL,
    }
    text = (ROOT / "docs/online-record-redis.md").read_text()
    assert f"`{CLUSTER}`" in text
    assert rights("cluster", write=True) == f"{WRITER} {CLUSTER}"


def without(rules: str, right: str) -> str:
    words = rules.split()
    words.remove(right)
    return " ".join(words)


def rights_in(rules: str) -> list[str]:
    return [word for word in rules.split() if word[0] in "+~"]


@pytest.fixture
def server(shared_valkey: Valkey) -> Iterator[Valkey]:
    """Return the run's server, emptied, without users of an earlier test."""
    with shared_valkey.client() as client:
        client.flushall()
        yield shared_valkey
        client.acl_deluser("me")


def user(server: Valkey, rules: str) -> str:
    """Make a user anew; return the URI that is theirs."""
    with server.client() as client:
        client.acl_deluser("me")
        client.execute_command("ACL SETUSER", "me", "on", ">p@ss/word", *rules.split())
        client.client_kill_filter(_type="normal", skipme=True)
    return f"redis://me:p%40ss%2Fword@127.0.0.1:{server.port}"


def work_of_a_job(uri: str) -> None:
    """Do what a job does to a store, each command of each script."""
    store = open_store(uri)  # as a new state looks whether one was lost
    store.versions()
    store.marks(FINGERPRINT, 0)
    store.note(FINGERPRINT)
    store.close()
    store = open_store(uri, write=True)
    store.put_note(FINGERPRINT, "{}")
    old = store.writer({FINGERPRINT: PLAN}, store.claim("old"), {FINGERPRINT: "cards"})
    old.marks(FINGERPRINT, 0)
    at = now_ms()
    rows: list[Row] = [(at - 3 * HOUR, 1, 1, "a"), (at, 2, 2, "b")]
    old.write([write_of(PLAN, [Entity("c1", rows), Entity("c2")])])
    old.write([write_of(PLAN, [Entity("c1", rows, replace=True)], sequence=2)])
    old.write([write_of(PLAN, [Entity("c1", covers_from_ms=at - 2 * HOUR)], sequence=3)])
    expired = replace(write_of(PLAN, [Entity("c3", [(at, 3, 3, "c")], whole=False)], sequence=4))
    old.write([expired])
    old.flush()
    new = store.writer({FINGERPRINT: PLAN}, store.claim("new"), {FINGERPRINT: "cards"})
    new.marks(FINGERPRINT, 0)
    with pytest.raises(RefusedError, match="'new'"):
        old.write([write_of(PLAN, [Entity("c1")], sequence=5)])
    store.close()


def work_of_a_reader(uri: str) -> None:
    """Read as the client does."""
    store = open_store(uri)
    assert store.versions() == {FINGERPRINT: "cards"}
    assert store.read([Lookup(FINGERPRINT, "c1", PLAN)])[0] is not None
    store.close()


@pytest.mark.parametrize("right", ["", *rights_in(WRITER)])
def test_a_job_needs_each_of_its_rights(server: Valkey, right: str) -> None:
    needs(server, WRITER, right, work_of_a_job, "what a (job|reader) needs")


@pytest.mark.parametrize("right", ["", *rights_in(READER)])
def test_a_reader_needs_each_of_its_rights(server: Valkey, right: str) -> None:
    work_of_a_job(server.uri)
    needs(server, READER, right, work_of_a_reader, "what a reader needs")


def needs(server: Valkey, rules: str, right: str, work: Callable[[str], None], says: str) -> None:
    with server.client() as client:
        client.script_flush()
    if not right:
        work(user(server, rules))
        return
    uri = user(server, without(rules, right))
    with pytest.raises(StoreError, match=says) as raised:
        work(uri)
    said = str(raised.value)
    assert "ACL SETUSER me " in said and right in said and "p@ss" not in said and "p%40ss" not in said, said


def test_a_reader_writes_nothing(server: Valkey) -> None:
    work_of_a_job(server.uri)
    uri = user(server, READER)
    with pytest.raises(StoreError, match="what a job needs"):
        open_store(uri, write=True)


@contextmanager
def users(servers: list[Valkey], more: str = "") -> Iterator[None]:
    """Make the documented users on some servers."""
    try:
        for server in servers:
            with server.client() as client:
                for name in ("lookback-job", "lookback-reader"):
                    words = f"{DOCUMENTED[name]} {more}".split()
                    client.execute_command("ACL SETUSER", name, "on", ">PASSWORD", *words)
        yield
    finally:
        for server in servers:
            with server.client() as client:
                client.acl_deluser("lookback-job", "lookback-reader")


def run_and_read(tmp_path: Path, uri: str) -> None:
    """Run a job as its documented user, and read as the reader's."""
    path, _ = write_starter(tmp_path)
    ended = command(
        "run", str(path), "--source", f"archive:{tmp_path / 'events'}", "--until-end", "--quiet",
        "--store", uri.replace("//", "//lookback-job:PASSWORD@"), "--state", str(tmp_path / "state"),
        said=tmp_path / "said",
    )  # fmt: skip
    assert ended.code == 0, ended
    with Client(load(path), uri.replace("//", "//lookback-reader:PASSWORD@")) as client:
        reading = client.get({"card": "c7", "merchant": "m3"}, at="2024-01-14T23:59:00Z")
        assert reading.values and "unknown" not in reading.status.values()


def test_a_job_and_a_reader_as_documented(server: Valkey, tmp_path: Path) -> None:
    with users([server]):
        run_and_read(tmp_path, server.uri)


def test_a_job_and_a_reader_on_a_cluster_as_documented(shared_cluster: ValkeyCluster, tmp_path: Path) -> None:
    shared_cluster.flush()
    with users(shared_cluster.masters, CLUSTER):
        run_and_read(tmp_path, shared_cluster.uri)
    for right in CLUSTER.split():
        with (
            users(shared_cluster.masters, without(CLUSTER, right)),
            pytest.raises(StoreError, match=f"what a reader needs.*{re.escape(right)}"),
        ):
            open_store(shared_cluster.uri.replace("//", "//lookback-reader:PASSWORD@"))


def test_sentinels_have_users_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"user lookback-watcher on >PASSWORD {DOCUMENTED['lookback-watcher']}\n"
    with running_sentinels(tmp_path / "s", lines=lines) as servers:
        given = f"{servers.uri}?sentinel_username=lookback-watcher&sentinel_password="
        with users([servers.master, servers.replica]):
            run_and_read(tmp_path, given + "PASSWORD")
            with pytest.raises(
                StoreError, match="the sentinels of .* refuse the user or the password"
            ) as raised:
                open_store(given + "wrong-pw")
            assert "wrong-pw" not in str(raised.value)
            monkeypatch.setenv("LOOKBACK_REDIS_SENTINEL_PASSWORD", "PASSWORD")
            open_store(given.partition("&")[0], write=True).close()
        with servers.watchers[0].client() as client:
            client.execute_command("ACL SETUSER", "lookback-watcher", "-sentinel|masters")
        one = f"redis+sentinel://127.0.0.1:{servers.watchers[0].port}/{MASTER}"
        with pytest.raises(StoreError, match=r"ACL SETUSER lookback-watcher .*\+sentinel\|masters"):
            open_store(f"{one}?sentinel_username=lookback-watcher&sentinel_password=PASSWORD")


def test_values_are_what_a_users_job_wrote(server: Valkey) -> None:
    uri = user(server, WRITER)
    store = open_store(uri, write=True)
    writer = store.writer({FINGERPRINT: PLAN}, store.claim("job"), {FINGERPRINT: "cards"})
    writer.write([write_of(PLAN, [Entity("c1", amount=7)])])
    (record,) = open_store(server.uri).read([Lookup(FINGERPRINT, "c1", PLAN)])
    assert record is not None and values_of(PLAN, record)[0] == 7
