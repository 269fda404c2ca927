"""`rediss://` on Debian's Redis 7.0: certificates that are trusted, and what is said of those that aren't."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from lookback.client import Client
from lookback.definition import load
from lookback.errors import StoreBusy, StoreError
from lookback.starter.write import write_starter
from lookback.stores.base import Lookup, open_store
from tests.recovery.job import command
from tests.services.valkey import free_port
from tests.stores.build import FINGERPRINT, Entity, plan_of, values_of, write_of

MISSING = "no redis-server with TLS: apt-get install redis-server openssl"
LIMIT_SECONDS = 30.0


@dataclass
class TlsRedis:
    """Servers that speak TLS alone, with a certificate for 127.0.0.1 that is signed by `ours.crt`.

    alone and its sentinel ask no client for a certificate; the one node of the cluster does.
    """

    folder: Path
    alone: int
    sentinel: int
    node: int

    @property
    def servers(self) -> list[str]:
        """Return the URIs of the stores, by the kinds of URIs, without options."""
        return [
            f"rediss://127.0.0.1:{self.alone}",
            f"rediss+sentinel://127.0.0.1:{self.sentinel}/ours",
            f"rediss+cluster://127.0.0.1:{self.node}",
        ]

    def trusting(self, authority: str = "ours.crt") -> str:
        """Return options that trust an authority and show a certificate of ours."""
        own = f"ssl_certfile={self.folder / 'server.crt'}&ssl_keyfile={self.folder / 'server.key'}"
        return f"?ssl_ca_certs={self.folder / authority}&{own}"


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    openssl(
        folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.crt",
    )  # fmt: skip
    return folder / f"{name}.crt"


@pytest.fixture(scope="module")
def redis_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    binary = shutil.which("redis-server")
    if binary is None or shutil.which("openssl") is None:
        pytest.skip(MISSING)
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ours", "theirs"):
        authority(folder, name)
    openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", "server.key",
        "-out", "server.csr",
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        folder, "x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ours.crt", "-CAkey", "ours.key",
        "-CAcreateserial", "-extfile", "names", "-out", "server.crt",
    )  # fmt: skip
    found = TlsRedis(folder, free_port(), free_port(), free_port())
    (folder / "sentinel.conf").write_text(
        f"dir {folder}\nport 0\ntls-port {found.sentinel}\ntls-replication yes\n"
        f"sentinel monitor ours 127.0.0.1 {found.alone} 1\n"
    )
    secure = [
        "--tls-cert-file", "server.crt", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ours.crt",
        "--bind", "127.0.0.1", "--dir", str(folder),
    ]  # fmt: skip
    plain = ["--port", "0", "--save", "", "--tls-port"]
    processes = []
    try:
        for words in (
            [*plain, str(found.alone), "--tls-auth-clients", "no"],
            ["sentinel.conf", "--sentinel", "--tls-auth-clients", "no"],
            [
                *plain,
                str(found.node),
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                str(free_port()),
                "--tls-cluster",
                "yes",
            ],
        ):
            with (folder / "log").open("ab") as log:
                processes.append(
                    subprocess.Popen(
                        [binary, *words, *secure],
                        cwd=folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
        deadline = time.monotonic() + LIMIT_SECONDS
        while not all(_listens(port) for port in (found.alone, found.sentinel, found.node)):
            assert not any(one.poll() for one in processes), (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        _make_cluster(found)
        yield found
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _make_cluster(found: TlsRedis) -> None:
    options = {"ssl_ca_certs": "ours.crt", "ssl_certfile": "server.crt", "ssl_keyfile": "server.key"}
    files: dict[str, Any] = {name: str(found.folder / file) for name, file in options.items()}
    with redis.Redis(port=found.node, host="127.0.0.1", ssl=True, **files) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16_383)
        deadline = time.monotonic() + LIMIT_SECONDS
        while client.cluster("info")["cluster_state"] != "ok":
            assert time.monotonic() < deadline, "never a cluster"
            time.sleep(0.02)


def test_a_job_writes_and_a_client_reads_over_tls(redis_tls: TlsRedis, tmp_path: Path) -> None:
    path, _ = write_starter(tmp_path)
    job = ("run", str(path), "--source", f"archive:{tmp_path / 'events'}", "--until-end", "--quiet")
    plain, uri = f"lmdb:{tmp_path / 'store'}", redis_tls.servers[0] + redis_tls.trusting()
    for number, store in enumerate((plain, uri)):
        state = ("--state", str(tmp_path / f"state-{number}"))
        ended = command(*job, "--store", store, *state, said=tmp_path / "said")
        assert ended.code == 0, ended
    definition = load(path)
    view = next(view for view in definition.views.values() if tuple(view.key_names) == ("card",))
    names = [f"{view.name}.{feature.name}" for feature in view.plan.features]
    by_sentinel = redis_tls.servers[1] + redis_tls.trusting()  # whose master is that server
    with (
        Client(definition, plain) as local,
        Client(definition, uri) as one,
        Client(definition, by_sentinel) as two,
    ):
        for card in ("c1", "c7", "c12"):
            expected = local.get({"card": card}, features=names, at="2024-01-14T23:59:00Z").values
            for client in (one, two):
                assert (
                    client.get({"card": card}, features=names, at="2024-01-14T23:59:00Z").values == expected
                )


@pytest.mark.parametrize("kind", range(3))
def test_what_is_written_is_read_over_tls(redis_tls: TlsRedis, kind: int) -> None:
    plan = plan_of()
    store = open_store(redis_tls.servers[kind] + redis_tls.trusting(), write=True)
    writer = store.writer({FINGERPRINT: plan}, store.claim("job"), {FINGERPRINT: "cards"})
    writer.write([write_of(plan, [Entity(f"c{i}", amount=i) for i in range(100)], sequence=kind + 1)])
    records = store.read([Lookup(FINGERPRINT, f"c{i}", plan) for i in range(100)])
    assert [record and values_of(plan, record)[0] for record in records] == list(range(100))
    writer.close()
    store.close()


@pytest.mark.parametrize("kind", range(3))
def test_a_certificate_that_is_not_trusted_is_refused(redis_tls: TlsRedis, kind: int) -> None:
    for options in ("", redis_tls.trusting("theirs.crt")):
        with pytest.raises(
            StoreError, match=r"is not trusted \(.*name the authority.*\?ssl_ca_certs=FILE"
        ) as raised:
            open_store(redis_tls.servers[kind] + options, write=True)
        assert not isinstance(raised.value, StoreBusy), "no time mends it"


def test_a_certificate_for_another_host_is_refused(redis_tls: TlsRedis) -> None:
    uri = redis_tls.servers[0].replace("127.0.0.1", "localhost") + redis_tls.trusting()
    with pytest.raises(StoreError, match="is not trusted .*Hostname mismatch"):
        open_store(uri)


def test_a_client_without_a_certificate_is_told_so(redis_tls: TlsRedis) -> None:
    uri = f"{redis_tls.servers[2]}?ssl_ca_certs={redis_tls.folder / 'ours.crt'}"
    with pytest.raises(
        StoreError, match=r"wants a certificate of its clients: add \?ssl_certfile=FILE&ssl_keyfile"
    ):
        open_store(uri)


@pytest.mark.parametrize("kind", range(3))
def test_a_file_that_is_not_there_is_named(redis_tls: TlsRedis, kind: int) -> None:
    with pytest.raises(StoreError, match="a certificate or key that the URI of .* names is not there"):
        open_store(redis_tls.servers[kind] + redis_tls.trusting("nosuch.crt"))


def test_a_server_with_tls_is_told_from_one_without(redis_tls: TlsRedis) -> None:
    with pytest.raises(StoreError):
        open_store(f"redis://127.0.0.1:{redis_tls.alone}", write=True)
