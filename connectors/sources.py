"""What every source is to the graph, and which one an address names.

Owns: the protocols `Source` and `Reader`, and `open_source`. A new source is a module that has both and a line here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from connectors.batches import PartitionInfo, RawBatch
from lookback.errors import UsageError

if TYPE_CHECKING:
    from connectors.schema_registry import Schemas
    from lookback.definition.types import Stream

ARCHIVE = "archive:"
KAFKA = "kafka://"


class Reader(Protocol):
    """One partition's events, in offset order."""

    next_offset: int
    at_end: bool  # whether it was last seen to have no more events now; a file never is before its end
    lost: int  # events that were gone before they could be read, where that is accepted

    def read(self, max_rows: int, max_bytes: int) -> RawBatch | None:
        """Return the next events: about `max_bytes` at most, none where there are none yet; None at the end."""

    def publish(self, offset: int) -> None:
        """Tell the outside that all before `offset` is durable; never read back."""

    def close(self) -> None:
        """Let go of what is held."""


class Source(Protocol):
    """The topics of a job's streams."""

    has_threads: ClassVar[bool]  # a fork of a process that has used it would not work

    @property
    def identity(self) -> str:
        """What a state remembers of its source, the same whatever way it is reached."""

    def partitions(self) -> list[PartitionInfo]:
        """Return all partitions as they are now, by topic and partition."""

    def open(
        self, topic: str, partition: int, next_offset: int | None = None, counted: int | None = None
    ) -> Reader:
        """Return a reader of a partition from `next_offset` on (None: from its first event).

        counted: rows before it have been read by an earlier run; those that are gone are no loss.
        """

    def start_offset(self, topic: str, partition: int, broker_time_ms: int) -> int:
        """Return the first offset whose broker time is at or past a time; the end where there is none."""

    def publish(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Tell the outside what is durable when the job has ended, by (topic, partition)."""


def open_source(
    uri: str,
    streams: Iterable[Stream],
    *,
    settings: Path | None = None,
    group: str = "lookback",
    ends: Mapping[tuple[str, int], int] | None = None,
    accept_loss: bool = False,
    readers: int = 1,
) -> Source:
    """Open the source that a URI names.

    settings: a file of client settings. group: the consumer group that `publish` commits to. ends: where partitions
    that would go on for ever end, by (topic, partition). accept_loss: go on behind events that are gone. readers: how
    many partitions are read at once and share the memory for reading ahead.

    Raises UsageError where the URI names none, SourceError where it can't be read.
    """
    if uri.startswith(ARCHIVE) and uri != ARCHIVE:
        from connectors.archive import Archive

        return Archive(uri.removeprefix(ARCHIVE), streams)
    if uri.startswith(KAFKA):
        from connectors.kafka import KafkaSource
        from connectors.kafka_settings import parse_uri, read_settings

        servers, _ = parse_uri(uri)
        topics = [stream.topic for stream in streams]
        return KafkaSource(read_settings(servers, settings), topics, group, ends or {}, accept_loss, readers)
    raise UsageError(f"{uri!r} is no source this release reads: write archive:PATH or kafka://HOST:PORT")


def open_schemas(streams: Iterable[Stream], settings: Path | None) -> Schemas | None:
    """Return the schemas of the registry that the settings name; None where no stream needs any.

    Raises UsageError where one does and the settings are not right.
    """
    if all(stream.format != "avro" for stream in streams):
        return None
    from connectors.schema_registry import Schemas, registry_settings

    return Schemas(registry_settings(settings))


def check_settings(settings: Path | None, streams: Iterable[Stream], *uris: str) -> None:
    """Raise UsageError where a stream's format needs settings that are not there or not right, or there are settings
    and nothing that they could be for.
    """
    schemas = open_schemas(streams, settings)
    if settings is not None and schemas is None and not any(uri.startswith(KAFKA) for uri in uris):
        raise UsageError(f"--settings {settings}: nothing here is on {KAFKA}; leave it out")


def absolute(uri: str) -> str:
    """Return a source's URI as processes in other folders can use it."""
    if uri.startswith(ARCHIVE):
        return ARCHIVE + str(Path(uri.removeprefix(ARCHIVE)).resolve())
    return uri
