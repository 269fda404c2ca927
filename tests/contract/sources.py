"""What the suite for sources needs of one kind of source: publish messages to it, open it for a job.

A new kind is one subclass of `SourceKind`, added to `KINDS`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from bytewax.inputs import FixedPartitionedSource

from connectors.archive import Archive
from connectors.sources import open_source
from dataflows.board import Board
from dataflows.live_job import parts_of
from dataflows.settings import Part, Settings
from dataflows.source import EventSource, MakeIngest
from lookback.definition import Definition
from tests.connectors.build import write_parquet
from tests.services.kafka import Broker, Sent

TOPIC = "tx"


@dataclass(frozen=True)
class Message:
    """What is published: an event, or bytes that are none (`{"ts": 5, "card": oops`, without an end)."""

    value: Mapping[str, Any] | bytes
    broker_time_ms: int

    def encoded(self, position: Mapping[str, int] | None = None) -> bytes:
        """Return its bytes, with its position among them where files carry it so."""
        more = "".join(f', "{name}": {number}' for name, number in (position or {}).items())
        head = self.value if isinstance(self.value, bytes) else json.dumps(self.value).encode()[:-1]
        return head + more.encode() + (b"}" if more or not isinstance(self.value, bytes) else b"")


class SourceKind(ABC):
    """One kind of source, in a folder of its own; the topic is `TOPIC`."""

    needs: ClassVar[tuple[str, ...]] = ()  # fixtures that it is made with
    any_bytes: ClassVar[bool] = True  # a message may be bytes that are no event
    silence_s: ClassVar[float] = 0.0  # for how long nothing may come though there is more

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def publish(self, partitions: Sequence[Sequence[Message]]) -> None:
        """Append messages to each partition of the topic; a partition's offsets run from 0, without gaps."""

    @abstractmethod
    def settings(self, definition: Definition, work: Path, **more: Any) -> Settings:
        """Return a job's settings (`more`) with the source's URI and its partitions as they are now."""

    @abstractmethod
    def open(
        self, definition: Definition, settings: Settings, make: MakeIngest
    ) -> FixedPartitionedSource[Any, Any]:
        """Return the source as the graph opens it in a job that stops where the source ends now."""

    def close(self) -> None:  # noqa: B027  most kinds start nothing
        """Stop what the kind has started."""


class _Files(SourceKind):
    suffix: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._next: dict[int, int] = {}
        self._files = 0

    def publish(self, partitions: Sequence[Sequence[Message]]) -> None:
        rows = [
            (message, {"_partition": partition, "_offset": self._take(partition), "_timestamp_ms": time})
            for partition, messages in enumerate(partitions)
            for message in messages
            for time in [message.broker_time_ms]
        ]
        path = self.folder / "archive" / TOPIC / f"{self._files:03d}.{self.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files += 1
        self.write(path, rows)

    def _take(self, partition: int) -> int:
        self._next[partition] = self._next.get(partition, -1) + 1
        return self._next[partition]

    def write(self, path: Path, rows: list[tuple[Message, dict[str, int]]]) -> None:
        raise NotImplementedError

    def settings(self, definition: Definition, work: Path, **more: Any) -> Settings:
        (stream,) = definition.streams.values()
        found = Archive(self.folder / "archive", [stream]).partitions()
        parts = tuple(Part(stream.name, info.topic, info.partition) for info in found)
        Board.reset(work / "board", len(parts))
        uri = f"archive:{self.folder / 'archive'}"
        base: dict[str, Any] = {"definition": "", "fingerprint": "", "source": uri, "work": str(work)}
        return Settings(**base, parts=parts, **more)

    def open(
        self, definition: Definition, settings: Settings, make: MakeIngest
    ) -> FixedPartitionedSource[Any, Any]:
        archive = Archive(settings.source.removeprefix("archive:"), definition.streams.values())
        return EventSource(settings, archive, make, lambda _: None)


class JsonLines(_Files):
    """Files of JSON lines, positions in each line."""

    suffix = "jsonl"

    def write(self, path: Path, rows: list[tuple[Message, dict[str, int]]]) -> None:
        path.write_bytes(b"".join(message.encoded(place) + b"\n" for message, place in rows))


class RawParquet(_Files):
    """What a Kafka topic is copied to."""

    suffix = "parquet"

    def write(self, path: Path, rows: list[tuple[Message, dict[str, int]]]) -> None:
        places = [place for _, place in rows]
        columns = {
            "partition": pa.array([place["_partition"] for place in places], pa.int32()),
            "offset": [place["_offset"] for place in places],
            "timestamp_ms": [place["_timestamp_ms"] for place in places],
            "key": pa.nulls(len(rows), pa.binary()),
            "value": pa.array([message.encoded() for message, _ in rows], pa.binary()),
        }
        write_parquet(path, pa.table(columns), row_group_size=40)


class TypedParquet(_Files):
    """A column a field; what is no event can't be written."""

    suffix = "parquet"
    any_bytes = False

    def write(self, path: Path, rows: list[tuple[Message, dict[str, int]]]) -> None:
        events = [{**json.loads(message.encoded()), **place} for message, place in rows]
        types = {"card": pa.string()}
        names = list(events[0])
        columns = {n: pa.array([event[n] for event in events], types.get(n, pa.int64())) for n in names}
        write_parquet(path, pa.table(columns), row_group_size=40)


class Kafka(SourceKind):
    """A topic of a real broker, in each test a new one."""

    needs = ("kafka",)
    silence_s = 3.0

    def __init__(self, folder: Path, broker: Broker) -> None:
        super().__init__(folder)
        self._broker = broker
        self._uri = f"kafka://{broker.address}"
        self._made = False

    def publish(self, partitions: Sequence[Sequence[Message]]) -> None:
        if not self._made:
            self._broker.create(TOPIC, len(partitions))
            self._made = True
        sent = [[Sent(message.encoded(), message.broker_time_ms) for message in one] for one in partitions]
        self._broker.produce(TOPIC, dict(enumerate(sent)))

    def settings(self, definition: Definition, work: Path, **more: Any) -> Settings:
        found = open_source(self._uri, definition.streams.values()).partitions()
        parts = parts_of(definition, found, to_end=True)
        Board.reset(work / "board", len(parts))
        base: dict[str, Any] = {"definition": "", "fingerprint": "", "source": self._uri, "work": str(work)}
        return Settings(**base, parts=parts, **more)

    def open(
        self, definition: Definition, settings: Settings, make: MakeIngest
    ) -> FixedPartitionedSource[Any, Any]:
        ends = {(part.topic, part.partition): part.end for part in settings.parts if part.end is not None}
        source = open_source(self._uri, definition.streams.values(), ends=ends)
        return EventSource(settings, source, make, lambda _: None)

    def close(self) -> None:
        if self._made:
            self._broker.delete(TOPIC)


KINDS: tuple[type[SourceKind], ...] = (JsonLines, RawParquet, TypedParquet, Kafka)
