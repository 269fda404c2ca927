"""An archive of topics in files: `PATH/<topic>/*.parquet` or `*.jsonl`, read in name order.

Owns: what is in an archive, its partitions, and reading one partition from an offset on. Refuses: decoding,
Bytewax (the graph wraps a reader). Layout, cost and limits: `docs/archive.md`.

The files are taken as they are when the archive is opened; what is appended later is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from connectors.archive_lines import DEFAULT_MAX_LINE_BYTES, LinesTopic
from connectors.archive_parquet import ParquetTopic
from connectors.archive_pieces import DEFAULT_CACHE_BYTES, Part, SplitCache, TopicPieces
from connectors.batches import PartitionInfo, RawBatch
from connectors.decode_message import targets
from lookback.errors import SourceError

if TYPE_CHECKING:
    from lookback.definition.types import Stream

DEFAULT_ROWS = 1 << 16
DEFAULT_BYTES = 16 << 20
SUFFIXES = (".parquet", ".jsonl")


class Archive:
    """The topics of some streams, read from files.

    Raises SourceError where the folder, a topic's files or their positions are not as they must be.
    Cost of opening: see `docs/archive.md`; footers for Parquet, one pass over JSON lines.
    """

    has_threads: ClassVar[bool] = False

    def __init__(
        self,
        path: str | Path,
        streams: Iterable[Stream],
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise SourceError(
                f"there is no archive folder {self.path}; name the folder that holds the topics."
            )
        by_topic: dict[str, list[Stream]] = {}
        for stream in streams:
            by_topic.setdefault(stream.topic, []).append(stream)
        cache = SplitCache(cache_bytes)
        self._topics: dict[str, TopicPieces] = {}
        for topic, users in sorted(by_topic.items()):
            folder, files = topic_files(self.path, topic)
            if files[0].suffix == ".jsonl":
                self._topics[topic] = LinesTopic(topic, folder, files, cache, max_line_bytes)
            else:
                wanted = [targets(stream) for stream in users]
                self._topics[topic] = ParquetTopic(topic, folder, files, wanted, cache)
            if not self._topics[topic].pieces:
                raise SourceError(f"the files in {folder} hold no events; put the topic's events there.")

    @property
    def identity(self) -> str:
        """Return the archive by its absolute path."""
        return f"archive:{self.path.resolve()}"

    def partitions(self) -> list[PartitionInfo]:
        """Return all partitions, by topic and partition."""
        return [info for topic in self._topics.values() for info in _infos(topic)]

    def open(
        self, topic: str, partition: int, next_offset: int | None = None, counted: int | None = None
    ) -> PartitionReader:
        """Return a reader of a partition from `next_offset` on (None: from its first event).

        Raises SourceError where the archive has no such partition.
        """
        pieces = self._topics.get(topic)
        if pieces is None or not any(partition in piece.spans for piece in pieces.pieces):
            raise SourceError(
                f"{self.path / topic} has no partition {partition} (any more); give the archive that the "
                "job was started on."
            )
        return PartitionReader(pieces, partition, next_offset)

    def start_offset(self, topic: str, partition: int, broker_time_ms: int) -> int:
        """Return the first offset whose broker time is at or past a time; the end where there is none.

        Without broker times that is the partition's first offset. Cost: one piece is read.
        """
        pieces = self._topics[topic]
        mine = [piece for piece in pieces.pieces if partition in piece.spans]
        for piece in mine:
            if piece.last_time_ms is not None and piece.last_time_ms < broker_time_ms:
                continue
            for part in pieces.parts(piece, partition):
                if part.broker_time_ms is None:
                    return int(part.offset[0])
                found = np.flatnonzero(part.broker_time_ms >= broker_time_ms)
                if len(found):
                    return int(part.offset[found[0]])
        return mine[-1].spans[partition].last_offset + 1

    def publish(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Do nothing: nobody watches how far an archive is read."""


class PartitionReader:
    """Reads one partition's events in offset order, in batches."""

    def __init__(self, pieces: TopicPieces, partition: int, next_offset: int | None) -> None:
        self.topic, self.partition = pieces.topic, partition
        self.next_offset = -1 if next_offset is None else next_offset
        self.lost = 0
        self.at_end = False
        self._lines = isinstance(pieces, LinesTopic)
        self._parts = self._from(pieces, self.next_offset)
        self._part: tuple[Path, Part] | None = None
        self._at = 0

    def _from(self, pieces: TopicPieces, first: int) -> Iterator[tuple[Path, Part]]:
        for piece in pieces.pieces:
            span = piece.spans.get(self.partition)
            if span is not None and span.last_offset >= first:
                for part in pieces.parts(piece, self.partition):
                    skip = int(np.searchsorted(part.offset, first))
                    if skip < len(part.offset):
                        yield piece.file, part.slice(skip, len(part.offset)) if skip else part

    def read(self, max_rows: int = DEFAULT_ROWS, max_bytes: int = DEFAULT_BYTES) -> RawBatch | None:
        """Return the next events, at least one and about `max_bytes` at most; None at the end.

        Raises SourceError where a file is broken or its offsets don't rise.
        """
        if self._part is None:
            self._part, self._at = next(self._parts, None), 0
            if self._part is None:
                return None
        file, part = self._part
        rows, start = len(part.offset), self._at
        row_bytes = max(1, int(part.rows.nbytes) // rows)
        end = min(rows, start + max(1, min(max_rows, max_bytes // row_bytes)))
        while end < rows and part.offset[end] == part.offset[end - 1]:  # one position: never cut apart
            end += 1
        self._at = end
        if end == rows:
            self._part = None
        if (start, end) != (0, rows):
            part = part.slice(start, end)
        self.next_offset = int(part.offset[-1]) + 1
        return RawBatch(
            self.topic,
            self.partition,
            part.offset,
            part.broker_time_ms,
            part.rows,
            part.bad,
            str(file),
            lines=self._lines,
        )

    def publish(self, offset: int) -> None:
        """Do nothing: nobody watches how far an archive is read."""

    def close(self) -> None:
        """Do nothing: no file is held open between batches."""


def topic_files(path: Path, topic: str) -> tuple[Path, list[Path]]:
    """Return a topic's folder and its files in name order.

    Raises SourceError where there are none, or of both kinds.
    """
    folder = path / topic
    if not folder.is_dir():
        if path.name == topic and any(p.suffix in SUFFIXES for p in path.iterdir()):
            raise SourceError(f"{path} is the folder of the topic itself; name the one above it.")
        have = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir())[:10]) or "no folder"
        raise SourceError(f"{path} has no folder for the topic {topic!r}; it has: {have}.")
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith((".", "_")))
    files = [folder / name for name in names if Path(name).suffix in SUFFIXES]
    if not files:
        have = ", ".join(names[:10]) or "nothing"
        raise SourceError(f"{folder} holds no *.parquet or *.jsonl file; it holds: {have}.")
    other = [file for file in files if file.suffix != files[0].suffix]
    if other:
        raise SourceError(
            f"{folder} mixes {files[0].name} and {other[0].name}; keep one kind of file in a topic's folder."
        )
    return folder, files


def _infos(topic: TopicPieces) -> list[PartitionInfo]:
    rows_of: dict[Path, int] = {}
    for piece in topic.pieces:
        rows_of[piece.file] = rows_of.get(piece.file, 0) + sum(s.rows for s in piece.spans.values())
    found: dict[int, PartitionInfo] = {}
    for piece in topic.pieces:
        for partition, span in piece.spans.items():
            share = topic.file_bytes[piece.file] * span.rows // rows_of[piece.file]
            before = found.get(partition)
            found[partition] = PartitionInfo(
                topic.topic,
                partition,
                span.first_offset if before is None else before.first_offset,
                span.last_offset + 1,
                span.rows + (0 if before is None else before.rows),
                share + (0 if before is None else before.file_bytes),
                _least(piece.first_time_ms, None if before is None else before.first_broker_time_ms),
                _most(piece.last_time_ms, None if before is None else before.last_broker_time_ms),
            )
    return [found[partition] for partition in sorted(found)]


def _least(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)


def _most(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else max(one, other)
