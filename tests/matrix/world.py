"""The world that the cells share: a real Kafka, a real Valkey, small disks and clocks that can be moved.

Every process has a clock of its own (libfaketime reads its offset from a file), every kind a small disk of its own.
The machine's clock and disks are never touched.
"""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import redis
from confluent_kafka import Producer

from tests.matrix.events import PARTITIONS, Events
from tests.matrix.updates import topic_of
from tests.services.clock import library
from tests.services.clock import skip_reason as no_clock
from tests.services.kafka import Broker, jars
from tests.services.kafka import skip_reason as no_kafka
from tests.services.valkey import Valkey

MIB = 1 << 20
DISK_BYTES = {"state": 256 * MIB, "kafka": 512 * MIB, "valkey": 512 * MIB}
WORKERS = 3  # at most
SITE = Path(__file__).resolve().parent / "site"
LIMIT_SECONDS = 90.0
T = TypeVar("T")


class WorldError(AssertionError):
    """The world did not do what the harness told it to: nothing is proved."""


def skip_reason() -> str | None:
    """Return why there can be no matrix on this machine; None where there can."""
    if os.geteuid() != 0:
        return "small disks need a mount: run as root"
    return no_clock() or no_kafka()


def wait(found: Callable[[], T], what: str, seconds: float = LIMIT_SECONDS) -> T:
    """Return what `found` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > deadline:
            raise WorldError(f"never seen: {what}")
        time.sleep(0.01)
    return value


class World:
    """Servers, disks and clocks of a run of the matrix."""

    def __init__(self, folder: Path) -> None:
        """Mount the disks and start the servers; `close` undoes it."""
        self.folder = folder
        self.clocks = folder / "clocks"
        self.clocks.mkdir(parents=True)
        self.disks = {name: folder / name for name in DISK_BYTES}
        for name in ("parent", "kafka", "valkey", *(f"worker-{i}" for i in range(WORKERS))):
            self.move_clock(name, 0)
        self._mounted: list[Path] = []
        libs = jars()
        assert libs is not None
        try:
            for name, path in self.disks.items():
                self._mount(path, DISK_BYTES[name])
            self.kafka = Broker(self.disks["kafka"] / "broker", libs)
            self.kafka.start()
            persistent = {"appendonly": "yes", "appendfsync": "always"}
            self.valkey = Valkey(self.disks["valkey"] / "data", persistent, self.own_clock("valkey"))
            self.valkey.start()
            self.kafka.create("clock", 1, message_timestamp_type="LogAppendTime")
        except BaseException:
            self.close()
            raise

    def _mount(self, path: Path, size: int) -> None:
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
        self._mounted.append(path)

    def close(self) -> None:
        """Stop the servers, unmount the disks."""
        for server in (getattr(self, "kafka", None), getattr(self, "valkey", None)):
            if server is not None:
                server.stop()
        for path in self._mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)

    # ---- clocks

    def own_clock(self, name: str) -> dict[str, str]:
        """Return the environment of a process whose clock is `name`."""
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self.clocks / name),
            "FAKETIME_CACHE_DURATION": "1",
            # Only the clock that tells the time of day; a JVM hangs where the library touches its timed waits.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
        }

    def job_environment(self) -> dict[str, str]:
        """Return the environment of job processes whose clocks can be moved."""
        paths = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH", "")]))
        return {**self.own_clock("parent"), "LOOKBACK_MATRIX_CLOCKS": str(self.clocks), "PYTHONPATH": paths}

    def move_clock(self, name: str, seconds: int) -> None:
        """Set a clock so many seconds ahead of the machine's."""
        new = self.clocks / f"{name}.new"
        new.write_text(f"{seconds:+d}\n")
        new.rename(self.clocks / name)

    def clock_of(self, name: str) -> float:
        """Return by how many seconds a process's own clock is ahead, as the process itself shows it."""
        if name == "kafka":
            return self._broker_ms() / 1000 - time.time()
        if name == "valkey":
            with redis.Redis(port=self.valkey.port, socket_timeout=5) as client:
                seconds, micros = client.time()
            return float(seconds + micros / 1e6 - time.time())
        seen = self.clocks / f"{name}.seen"
        raw = seen.read_bytes() if seen.exists() else b""
        return struct.unpack("<qq", raw)[1] / 1e9 - time.time() if len(raw) == 16 else 0.0

    def _broker_ms(self) -> int:
        """Return the time that the broker stamps a message with."""
        stamps: list[int] = []
        producer = Producer({"bootstrap.servers": self.kafka.address, "log_level": 0})
        producer.produce("clock", b"?", on_delivery=lambda _, message: stamps.append(message.timestamp()[1]))
        producer.flush(10)
        if not stamps:
            raise WorldError("the broker took no message that would tell its clock")
        return stamps[0]

    # ---- disks

    def fill(self, name: str) -> None:
        """Take all room that a disk has left."""
        with (self.disks[name] / "ballast").open("ab") as file:
            while (free := self.free_bytes(name)) >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), free)
                    file.seek(0, os.SEEK_END)
                except OSError:  # somebody took some of it meanwhile
                    continue

    def make_room(self, name: str) -> None:
        """Give it back."""
        (self.disks[name] / "ballast").unlink(missing_ok=True)

    def free_bytes(self, name: str) -> int:
        """Return how much a process may still write."""
        found = os.statvfs(self.disks[name])
        return found.f_bavail * found.f_frsize

    # ---- what a cell needs

    def fresh(self, events: Events, letters_topic: str, *, broker_clock: bool) -> None:
        """Put everything right again, with an empty store, and the cell's events on a topic of its own.

        broker_clock: Kafka's clock can be moved (such a broker starts slowly, so others go without).
        """
        for name in ("parent", "kafka", "valkey", *(f"worker-{i}" for i in range(WORKERS))):
            self.move_clock(name, 0)
        if bool(self.kafka.environment) != broker_clock:
            self.kafka.stop()
            self.kafka.environment = self.own_clock("kafka") if broker_clock else {}
            self.kafka.start()
        for name in ("kafka", "valkey"):
            wait(lambda name=name: abs(self.clock_of(name)) < 60, f"the clock of {name} is right again")  # type: ignore[misc]
        with redis.Redis(port=self.valkey.port) as client:
            client.flushall()
            with suppress(redis.ResponseError):  # it is at it already
                client.bgrewriteaof()
        self.kafka.create(events.topic, PARTITIONS)
        self.kafka.create(letters_topic, PARTITIONS)
        self.kafka.create(topic_of(events), PARTITIONS)
        self._produce(events)

    def _produce(self, events: Events) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.kafka.address,
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        failed: list[object] = []
        told = lambda error, _: failed.append(error) if error is not None else None  # noqa: E731
        for number, part in enumerate(events.partitions):
            for value, stamp in zip(part.values, part.broker_ms.tolist(), strict=True):
                producer.produce(events.topic, value, partition=number, timestamp=stamp, on_delivery=told)
            producer.poll(0)
        if producer.flush(60) or failed:
            raise WorldError(f"the events did not reach the topic: {failed[:3]}")

    def repair(self) -> None:
        """Start both servers again, whatever state a cell that went wrong has left them in."""
        for name in self.disks:
            self.make_room(name)
        for process in (self.kafka.process, self.valkey.process):
            process.kill()
            process.wait()
        self.kafka.restart()
        self.valkey.start()

    def forget(self, *topics: str) -> None:
        """Delete a cell's topics."""
        admin = self.kafka.admin()
        for done in admin.delete_topics(list(topics)).values():
            done.result(30)


@contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """Give a world while the block lasts."""
    world = World(folder)
    try:
        yield world
    finally:
        world.close()
