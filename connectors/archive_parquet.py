"""Parquet files of an archive topic: raw Kafka copies, or typed columns.

Owns: which kind a file is, where positions come from, reading row groups. Refuses: decoding fields.

    raw    partition, offset, timestamp_ms integers, value binary (a JSON message), key ignored
    typed  columns named as the stream's fields; optional _partition, _offset, _timestamp_ms
Cost: the index reads the footers, and the position columns of row groups whose statistics don't tell their
partition. A row group of one partition is streamed; one that partitions share is read whole once and its
parts are kept (see `SplitCache`), so partitions that advance together read it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.archive_pieces import (
    Part,
    Piece,
    Span,
    SplitCache,
    TopicPieces,
    check_positions,
    check_rising,
    group_by_partition,
)
from connectors.decode_message import Target
from connectors.decode_typed import check_schema
from lookback.errors import SourceError
from lookback.events import I64

RAW_COLUMNS = ("partition", "offset", "timestamp_ms", "value")
TYPED_COLUMNS = ("_partition", "_offset", "_timestamp_ms")
STREAM_ROWS = 1 << 17


class ParquetTopic(TopicPieces):
    """The Parquet files of one topic; all raw or all typed, with the same position columns."""

    def __init__(
        self,
        topic: str,
        folder: Path,
        files: Sequence[Path],
        wanted: Sequence[tuple[Target, ...]],
        cache: SplitCache,
    ) -> None:
        self.topic, self.folder, self.pieces = topic, folder, []
        self.file_bytes = {file: file.stat().st_size for file in files}
        self._cache = cache
        self._open: tuple[Path, pq.ParquetFile] | None = None
        first = self._file(files[0]).schema_arrow
        self.raw = is_raw(first)
        names = RAW_COLUMNS[:3] if self.raw else TYPED_COLUMNS
        self._partition, self._offset, self._time = (name if name in first.names else None for name in names)
        sources = [target.source for targets in wanted for target in targets]
        self._columns = ["value"] if self.raw else list(dict.fromkeys(sources))
        last: dict[int, int] = {}
        for file in files:
            schema = self._file(file).schema_arrow
            self._check_alike(file, schema, files[0])
            if not self.raw:
                for targets in wanted:
                    check_schema(schema, targets, str(file))
            self._index(file, last)

    def _file(self, file: Path) -> pq.ParquetFile:
        """Open a file; the last one opened stays open."""
        if self._open is None or self._open[0] != file:
            try:
                self._open = (file, pq.ParquetFile(file))
            except (pa.ArrowException, OSError) as error:
                raise broken(file, error) from None
        return self._open[1]

    def _check_alike(self, file: Path, schema: pa.Schema, first: Path) -> None:
        if is_raw(schema) != self.raw:
            kinds = ("raw", "typed") if self.raw else ("typed", "raw")
            raise SourceError(
                f"{first.name} is {kinds[0]} and {file} is {kinds[1]}; keep raw and typed files of a topic "
                "in folders of their own."
            )
        for name, used in zip(TYPED_COLUMNS, (self._partition, self._offset, self._time), strict=True):
            if not self.raw and (name in schema.names) != (used is not None):
                have, lack = (file, first) if used is None else (first, file)
                raise SourceError(
                    f"{have} has the column {name} and {lack} has not; give it to all files or none."
                )

    def _index(self, file: Path, last: dict[int, int]) -> None:
        """Append the file's pieces; `last` holds each partition's last offset so far."""
        metadata = self._file(file).metadata
        base_row = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if group.num_rows:
                spans = self._spans_by_statistics(file, number, group, base_row, last)
                if spans is None:
                    spans = self._spans_by_reading(file, number, base_row, last)
                times = self._range(group, self._time)
                piece = Piece(
                    file,
                    number,
                    base_row,
                    base_row + group.num_rows,
                    base_row,
                    spans,
                    *(times or (None, None)),
                )
                self.pieces.append(piece)
                last.update({partition: span.last_offset for partition, span in spans.items()})
            base_row += group.num_rows

    def _range(self, group: pq.RowGroupMetaData, name: str | None) -> tuple[int, int] | None:
        """Return a column's least and greatest value by its statistics; None where they don't tell."""
        for index in range(group.num_columns if name is not None else 0):
            column = group.column(index)
            if column.path_in_schema == name:
                found = column.statistics
                if found is None or not found.has_min_max or not found.has_null_count or found.null_count:
                    return None
                return int(found.min), int(found.max)
        return None

    def _spans_by_statistics(
        self, file: Path, number: int, group: pq.RowGroupMetaData, base_row: int, last: dict[int, int]
    ) -> dict[int, Span] | None:
        """Return the spans of a row group of one partition, None where it must be read."""
        partitions = (0, 0) if self._partition is None else self._range(group, self._partition)
        if partitions is None or partitions[0] != partitions[1]:
            return None
        partition = partitions[0]
        before = last.get(partition, -1)
        if self._offset is None:
            first = before + 1
            return {partition: Span(group.num_rows, first, first + group.num_rows - 1)}
        offsets = self._range(group, self._offset)
        if offsets is None or offsets[0] <= before:
            return None  # reading finds the row to name
        check_positions(file, base_row, np.array([partition]), np.array([offsets[0]]))
        check_positions(file, base_row, np.array([partition]), np.array([offsets[1]]))
        return {partition: Span(group.num_rows, offsets[0], offsets[1])}

    def _spans_by_reading(
        self, file: Path, number: int, base_row: int, last: dict[int, int]
    ) -> dict[int, Span]:
        names = [name for name in (self._partition, self._offset) if name is not None]
        table = self._read(file, number, names)
        partition, offset = self._positions(file, base_row, table, last)
        spans = {}
        for key, rows in group_by_partition(partition).items():
            mine = offset[rows]
            check_rising(file, rows + base_row, mine, key, last.get(key, -1))
            spans[key] = Span(len(rows), int(mine[0]), int(mine[-1]))
        return spans

    def _read(self, file: Path, number: int, names: Sequence[str]) -> pa.Table:
        try:
            return self._file(file).read_row_group(number, columns=list(names), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise broken(file, error) from None

    def _positions(self, file: Path, base_row: int, table: pa.Table, last: dict[int, int]) -> tuple[I64, I64]:
        """Return the partition and the offset of each row."""
        rows = len(table)
        partition = np.zeros(rows, np.int64)
        if self._partition is not None:
            partition = integers(table, self._partition, file, base_row)
        if self._offset is not None:
            offset = integers(table, self._offset, file, base_row)
        else:
            offset = np.empty(rows, np.int64)
            for key, mine in group_by_partition(partition).items():
                offset[mine] = last.get(key, -1) + 1 + np.arange(len(mine))
        check_positions(file, base_row, partition, offset)
        return partition, offset

    def parts(self, piece: Piece, partition: int) -> Iterator[Part]:
        """Yield a partition's rows of a row group."""
        if len(piece.spans) == 1:
            yield from self._stream(piece, partition)
            return
        held = self._cache.get(piece)
        if held is None:
            held = self._split(piece)
            self._cache.put(piece, held)
        yield held[partition]

    def _wanted(self, schema: pa.Schema) -> list[str]:
        names = [*self._columns, *(n for n in (self._partition, self._offset, self._time) if n is not None)]
        have = set(schema.names)
        return [name for name in dict.fromkeys(names) if name in have]

    def _stream(self, piece: Piece, partition: int) -> Iterator[Part]:
        span = piece.spans[partition]
        done, before = 0, span.first_offset - 1
        reader = pq.ParquetFile(piece.file)
        names = self._wanted(reader.schema_arrow)
        batches = reader.iter_batches(
            STREAM_ROWS, row_groups=[piece.number], columns=names, use_threads=False
        )
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise broken(piece.file, error) from None
            if batch is None:
                return
            table = pa.Table.from_batches([batch])
            base_row = piece.base_row + done
            part = self._part(piece.file, base_row, table, {partition: before})[partition]
            done, before = done + len(table), int(part.offset[-1])
            yield part

    def _split(self, piece: Piece) -> dict[int, Part]:
        table = self._read(piece.file, piece.number, self._wanted(self._file(piece.file).schema_arrow))
        before = {partition: span.first_offset - 1 for partition, span in piece.spans.items()}
        return self._part(piece.file, piece.base_row, table, before)

    def _part(self, file: Path, base_row: int, table: pa.Table, before: dict[int, int]) -> dict[int, Part]:
        """Return the rows of a table by partition; `before` is each one's last offset so far."""
        partition, offset = self._positions(file, base_row, table, before)
        times = self._times(table, file, base_row)
        values: pa.BinaryArray | pa.Table = messages(table) if self.raw else table
        groups = group_by_partition(partition) if len(before) > 1 else {int(partition[0]): None}
        parts = {}
        for key, rows in groups.items():
            numbers = np.arange(len(offset)) if rows is None else rows
            mine = offset if rows is None else offset[rows]
            check_rising(file, numbers + base_row, mine, key, before[key])
            parts[key] = (
                Part(mine, times, values)
                if rows is None
                else Part(mine, None if times is None else times[rows], values.take(pa.array(rows)))
            )
        return parts

    def _times(self, table: pa.Table, file: Path, base_row: int) -> I64 | None:
        if self._time is None:
            return None
        column = table.column(self._time)
        if column.null_count == len(column):
            return None
        return integers(table, self._time, file, base_row)


def is_raw(schema: pa.Schema) -> bool:
    """Whether a file is a raw copy of a Kafka topic."""
    if any(name not in schema.names for name in RAW_COLUMNS):
        return False
    value = schema.field("value").type
    return bool(
        pa.types.is_binary(value) or pa.types.is_large_binary(value) or pa.types.is_binary_view(value)
    )


def messages(table: pa.Table) -> pa.BinaryArray:
    """Return a raw file's messages as one array."""
    column = table.column("value").cast(pa.binary())
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def integers(table: pa.Table, name: str, file: Path, base_row: int) -> I64:
    """Return a position column as int64; raise SourceError, naming file and row, where it can't be."""
    column = table.column(name)
    if column.null_count:
        row = int(pc.index(column.is_null(), True).as_py())
        raise SourceError(
            f"{file}, row {base_row + row + 1}: {name} is null; fill it in, or take the column out."
        )
    if not pa.types.is_integer(column.type):
        raise SourceError(f"{file}: the column {name} is {column.type}; write it as int64.")
    return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)


def broken(file: Path, error: Exception) -> SourceError:
    """Return the error for a file that is no readable Parquet."""
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SourceError(f"{file} can't be read as Parquet ({why}); restore it or move it out of the archive.")
