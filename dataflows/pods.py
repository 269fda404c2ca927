"""The pods of one job: who they are, and the connection that each has with the first of them, which leads.

Owns: the frames between two pods' parents. Refuses: deciding what is done. The workers' own connections are Bytewax's.

    frame := length u32 (big-endian), head JSON[length], body bytes[head["bytes"]]
    head  := {"kind": ..., "bytes": n, ...}
A connection is of one *round*: from the moment that all pods are there until the workers of one of them have ended. It
is closed with it, so nothing of a round is taken for a later one's.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lookback.errors import LookbackError, UsageError

MOST_HEAD_BYTES = 1 << 20
MOST_BODY_BYTES = 8 << 20
SEND_SECONDS = 30.0  # a pod that takes nothing for so long is lost
TRY_SECONDS = 0.5  # between tries to reach the first pod
MOST_PORT = 65_535


class PeerLost(LookbackError):
    """A pod of this job is gone: the workers of all start again once it is back."""


class AskedToStop(BaseException):
    """A person or the kubelet asked this pod to stop while it waited for others."""


@dataclass(frozen=True)
class Pods:
    """The pods of a job as one of them knows them.

    peers: host and port of each; its workers listen at the ports behind it. ordinal: this pod's place among them; one
    that is not among them gives its shards away and does nothing else. workers: of each pod.
    """

    peers: tuple[tuple[str, int], ...]
    ordinal: int
    workers: int

    @property
    def leads(self) -> bool:
        """Whether this pod tells the others what to do."""
        return self.ordinal == 0

    @property
    def total(self) -> int:
        """Workers of all pods."""
        return len(self.peers) * self.workers

    def own(self, ordinal: int) -> range:
        """Return the numbers of a pod's workers."""
        return range(ordinal * self.workers, (ordinal + 1) * self.workers)

    def addresses(self, hosts: list[str]) -> tuple[str, ...]:
        """Return where each worker listens, given each pod's own address."""
        return tuple(
            f"{f'[{host}]' if ':' in host else host}:{port + 1 + index}"
            for host, (_, port) in zip(hosts, self.peers, strict=True)
            for index in range(self.workers)
        )


def parse_peers(text: str) -> tuple[tuple[str, int], ...]:
    """Return HOST:PORT,HOST:PORT,… as pairs.

    >>> parse_peers("lookback-0.lookback:2100,lookback-1.lookback:2100")
    (('lookback-0.lookback', 2100), ('lookback-1.lookback', 2100))
    """
    found = []
    for part in text.split(","):
        host, _, port = part.strip().rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= MOST_PORT:
            raise UsageError(
                f"--peers {text}: write HOST:PORT of each, as in lookback-0.lookback:2100,lookback-1.lookback:2100"
            )
        found.append((host.strip("[]"), int(port)))
    if len(set(found)) < len(found):
        raise UsageError(f"--peers {text}: name each pod once")
    return tuple(found)


@dataclass(frozen=True)
class Frame:
    """One message."""

    kind: str
    facts: dict[str, Any]
    body: bytes


class Link:
    """A connection with another pod. who: it, in a sentence. Every call raises PeerLost where it is gone."""

    def __init__(self, connection: socket.socket, who: str) -> None:
        self.who = who
        self._socket = connection
        self._got = bytearray()
        self._ended = False
        connection.settimeout(SEND_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine that is gone says nothing: after some 20 s without an answer it is taken for gone.
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 20_000),
        ):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    @property
    def here(self) -> str:
        """Return the address that this pod has on the connection, where the others reach its workers."""
        return str(self._socket.getsockname()[0])

    def send(self, kind: str, body: bytes = b"", /, **facts: Any) -> None:
        """Send a frame."""
        head = json.dumps({**facts, "kind": kind, "bytes": len(body)}).encode()
        try:
            self._socket.sendall(struct.pack(">I", len(head)) + head + body)
        except OSError as error:
            raise self._lost(error) from None

    def poll(self) -> Frame | None:
        """Return the next frame where a whole one is there."""
        while (frame := self._next()) is None:
            if self._ended:
                raise self._lost(None)
            try:
                if not select.select([self._socket], [], [], 0)[0]:
                    return None
                self._receive()
            except (OSError, ValueError) as error:
                raise self._lost(error) from None
        return frame

    def wait(self, seconds: float | None = None) -> Frame:
        """Return the next frame once it is there."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while (frame := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise self._lost(None)
            select.select([self._socket], [], [], 0.2)
        return frame

    def ask(self, kind: str, answer: str, **facts: Any) -> Frame:
        """Send a frame and return the answer to it."""
        self.send(kind, **facts)
        return self.expect(answer)

    def expect(self, *kinds: str) -> Frame:
        """Return the next frame, which must be of these kinds."""
        frame = self.wait()
        if frame.kind not in kinds:
            raise PeerLost(f"{self.who} answered {frame.kind} out of turn")
        return frame

    def fileno(self) -> int:
        """Return the connection's number, for `select`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        self._ended = not data
        self._got += data

    def _next(self) -> Frame | None:
        if len(self._got) < 4:
            return None
        (length,) = struct.unpack_from(">I", self._got)
        if length > MOST_HEAD_BYTES:
            raise PeerLost(f"{self.who} speaks another language")
        if len(self._got) < 4 + length:
            return None
        try:
            head = json.loads(self._got[4 : 4 + length])
            kind, size = str(head["kind"]), int(head["bytes"])
        except (ValueError, KeyError, TypeError):
            raise PeerLost(f"{self.who} speaks another language") from None
        if not 0 <= size <= MOST_BODY_BYTES:
            raise PeerLost(f"{self.who} speaks another language")
        end = 4 + length + size
        if len(self._got) < end:
            return None
        body = bytes(self._got[4 + length : end])
        del self._got[:end]
        return Frame(kind, head, body)

    def _lost(self, error: Exception | None) -> PeerLost:
        why = "" if error is None else f" ({getattr(error, 'strerror', None) or error})"
        return PeerLost(f"{self.who} is gone{why}")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, once this machine has that address: a name may lead to an older one's."""
    while True:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family, backlog=128)
        except OSError:
            time.sleep(TRY_SECONDS)


@contextlib.contextmanager
def raising_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise AskedToStop here while no workers run, who handle them otherwise."""

    def handle(*_: object) -> None:
        raise AskedToStop

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
