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

import pytest

from lookback.client import Client
from lookback.definition import load
from lookback.errors import StoreError
from lookback.starter.write import write_starter
from lookback.stores.base import open_store
from tests.recovery.job import command
from tests.services.valkey import free_port

MISSING = "no redis-server with TLS: apt-get install redis-server openssl"
LIMIT_SECONDS = 30.0


@dataclass
class TlsRedis:
    """A server that speaks TLS alone; its certificate is for 127.0.0.1 and signed by `authority`."""

    port: int
    authority: Path
    stranger: Path  # another authority, that signed nothing here

    def uri(self, options: str = "") -> str:
        return f"rediss://127.0.0.1:{self.port}{options}"

    @property
    def trusted(self) -> str:
        return self.uri(f"?ssl_ca_certs={self.authority}")


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
    server = TlsRedis(free_port(), authority(folder, "ours"), authority(folder, "theirs"))
    openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", "server.key",
        "-out", "server.csr",
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        folder, "x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ours.crt", "-CAkey", "ours.key",
        "-CAcreateserial", "-extfile", "names", "-out", "server.crt",
    )  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary, "--port", "0", "--tls-port", str(server.port), "--bind", "127.0.0.1", "--save", "",
                "--dir", str(folder), "--tls-cert-file", str(folder / "server.crt"),
                "--tls-key-file", str(folder / "server.key"), "--tls-ca-cert-file", str(server.authority),
                "--tls-auth-clients", "no",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not _listens(server.port):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield server
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_job_writes_and_a_client_reads_over_tls(redis_tls: TlsRedis, tmp_path: Path) -> None:
    path, _ = write_starter(tmp_path)
    job = ("run", str(path), "--source", f"archive:{tmp_path / 'events'}", "--until-end", "--quiet")
    store, state = ("--store", redis_tls.trusted), ("--state", str(tmp_path / "state"))
    ended = command(*job, *store, *state, said=tmp_path / "said")
    assert ended.code == 0, ended
    plain = f"lmdb:{tmp_path / 'store'}"
    ended = command(*job, "--store", plain, "--state", str(tmp_path / "other"), said=tmp_path / "said")
    assert ended.code == 0, ended
    definition = load(path)
    view = next(view for view in definition.views.values() if tuple(view.key_names) == ("card",))
    names = [f"{view.name}.{feature.name}" for feature in view.plan.features]
    with Client(definition, redis_tls.trusted) as over_tls, Client(definition, plain) as local:
        for card in ("c1", "c7", "c12"):
            one = {"card": card}
            there = over_tls.get(one, features=names, at="2024-01-14T23:59:00Z")
            assert there.values == local.get(one, features=names, at="2024-01-14T23:59:00Z").values


@pytest.mark.parametrize("trust", ["nobody", "a stranger"])
def test_a_certificate_that_is_not_trusted_is_refused(redis_tls: TlsRedis, trust: str) -> None:
    options = "" if trust == "nobody" else f"?ssl_ca_certs={redis_tls.stranger}"
    with pytest.raises(StoreError, match="certificate"):
        open_store(redis_tls.uri(options), write=True)


def test_a_server_without_tls_is_told_from_one_with_it(redis_tls: TlsRedis) -> None:
    with pytest.raises(StoreError):
        open_store(f"redis://127.0.0.1:{redis_tls.port}", write=True)
