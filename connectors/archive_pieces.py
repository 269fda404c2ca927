"""What an archive's files are cut into: pieces that can be read one by one, and an index of them.

Owns: the index of a topic's pieces, the checks that hold over all of them, the cache of split pieces.
Refuses: file formats (see `archive_parquet`, `archive_lines`), and what is asked of an archive (`archive`).

A piece is a Parquet row group or a block of lines. For each partition in it the index knows the range of
offsets, so that a reader goes straight to the piece where its next offset lies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors.batches import BadInput
from lookback.errors import SourceError
from lookback.events import I64
from lookback.windows.plan import MAX_OFFSET, MAX_PARTITION

DEFAULT_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Span:
    """One partition's rows in a piece: offsets first to last, both included."""

    rows: int
    first_offset: int
    last_offset: int


@dataclass(frozen=True)
class Piece:
    """A part of a file: rows [start, end) of a row group, or bytes [start, end) of lines.

    number: the row group, or the block's running number in its file.
    base_row: rows (lines that are not blank) of the file before this piece.
    """

    file: Path
    number: int
    start: int
    end: int
    base_row: int
    spans: Mapping[int, Span]
    first_time_ms: int | None = None  # least and greatest broker time
    last_time_ms: int | None = None


@dataclass(frozen=True)
class Part:
    """Rows of one partition, in offset order, as a piece gives them (see `RawBatch`)."""

    offset: I64
    broker_time_ms: I64 | None
    rows: pa.BinaryArray | pa.Table
    bad: tuple[BadInput, ...] = ()

    def slice(self, start: int, end: int) -> Part:
        """Return rows [start, end); nothing is copied."""
        bad = tuple(BadInput(b.index - start, b.reason, b.detail) for b in self.bad if start <= b.index < end)
        times = self.broker_time_ms
        return Part(
            self.offset[start:end],
            None if times is None else times[start:end],
            self.rows.slice(start, end - start),
            bad,
        )


class TopicPieces(ABC):
    """The pieces of one topic's files, in reading order."""

    topic: str
    folder: Path
    pieces: list[Piece]
    file_bytes: dict[Path, int]

    @abstractmethod
    def parts(self, piece: Piece, partition: int) -> Iterator[Part]:
        """Yield a partition's rows of a piece in order; raise SourceError where the file is broken."""


@dataclass
class SplitCache:
    """The parts of pieces that several partitions share, newest used last, bounded in bytes."""

    limit_bytes: int = DEFAULT_CACHE_BYTES
    _held: OrderedDict[tuple[Path, int], tuple[int, dict[int, Part]]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def get(self, piece: Piece) -> dict[int, Part] | None:
        """Return the parts of a piece by partition, None where they aren't held."""
        key = (piece.file, piece.number)
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[1]

    def put(self, piece: Piece, parts: dict[int, Part]) -> None:
        """Hold a piece's parts; the least recently used make room, the newest is always held."""
        size = sum(int(part.rows.nbytes) + 16 * len(part.offset) for part in parts.values())
        self._held[(piece.file, piece.number)] = (size, parts)
        self._bytes += size
        while self._bytes > self.limit_bytes and len(self._held) > 1:
            _, (freed, _) = self._held.popitem(last=False)
            self._bytes -= freed


def group_by_partition(partition: I64) -> dict[int, I64]:
    """Return the row indices of each partition, in row order."""
    order = np.argsort(partition, kind="stable")
    found, starts = np.unique(partition[order], return_index=True)
    rows = np.split(order, starts[1:])
    return {int(p): r for p, r in zip(found, rows, strict=True)}


def check_positions(file: Path, base_row: int, partition: I64, offset: I64) -> None:
    """Raise SourceError, naming file and row, where a position is outside its range."""
    wrong = (partition < 0) | (partition > MAX_PARTITION) | (offset < 0) | (offset > MAX_OFFSET)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise SourceError(
            f"{file}, row {base_row + row + 1}: partition {partition[row]}, offset {offset[row]} is no "
            f"position; partitions are 0 to {MAX_PARTITION}, offsets 0 to {MAX_OFFSET}."
        )


def check_rising(file: Path, rows: I64, offset: I64, partition: int, last_offset: int) -> None:
    """Raise SourceError, naming file and row, where a partition's offsets don't rise strictly.

    rows: int64[n] row numbers in the file (from 0) of offset int64[n]; last_offset: the one before, or -1.
    """
    before = np.empty(len(offset), np.int64)
    before[:1] = last_offset
    before[1:] = offset[:-1]
    falls = np.flatnonzero(offset <= before)
    if len(falls):
        at = int(falls[0])
        raise SourceError(
            f"{file}, row {int(rows[at]) + 1}: offset {offset[at]} of partition {partition} comes after "
            f"offset {before[at]}; offsets must rise from row to row and from file to file by name, "
            "so sort the archive or take the doubled rows out."
        )
