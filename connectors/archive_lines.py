"""JSON line files of an archive topic.

Owns: cutting files into blocks of whole lines, numbering lines, and their positions where lines carry
`_partition`, `_offset`, `_timestamp_ms`. Refuses: decoding fields.

A line is what ends in a newline (the last one may lack it); blank lines are skipped and not numbered. A line
longer than `max_line_bytes` is a bad event. Which of the three keys lines carry is told by the first line
that parses; a line without them, or one too broken to show them, is a bad event that takes the position of
the line before it (of the line after it at a file's start), and is read together with that line.
Cost: the index reads every file once; a block that partitions share is split once (see `SplitCache`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
from connectors.batches import BadInput, Reason
from connectors.decode_json import JsonColumns
from connectors.decode_message import BadMessage, Number, Target, parse_object, scaled
from lookback.errors import SourceError
from lookback.events import I64
from lookback.windows.plan import MAX_OFFSET

POSITION_KEYS = ("_partition", "_offset", "_timestamp_ms")
DEFAULT_MAX_LINE_BYTES = 1 << 20
BLOCK_BYTES = 4 << 20
MAX_UNPLACED_BYTES = 64 << 20
Mask = npt.NDArray[np.bool_]

NOWHERE = -1  # a row's partition while it has no position

_BLANK = np.zeros(256, np.bool_)
_BLANK[[9, 10, 13, 32]] = True
_SALVAGE = {
    key: re.compile(rb'"' + key.encode() + rb'"\s*:\s*([0-9]{1,19})(?![0-9.eE])') for key in POSITION_KEYS
}


class LinesTopic(TopicPieces):
    """The JSON line files of one topic."""

    def __init__(
        self,
        topic: str,
        folder: Path,
        files: Sequence[Path],
        cache: SplitCache,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.topic, self.folder, self.pieces = topic, folder, []
        self.file_bytes = {file: file.stat().st_size for file in files}
        self._cache = cache
        self._max_line_bytes = max_line_bytes
        self._block_bytes = max(block_bytes, 2 * max_line_bytes)
        self._keys: tuple[str, ...] | None = None  # the position keys that lines carry, once known
        last: dict[int, int] = {}
        for file in files:
            self._index(file, last)

    def _index(self, file: Path, last: dict[int, int]) -> None:
        """Append the file's pieces; `last` holds each partition's last offset so far."""
        row, waiting, first_piece = 0, None, len(self.pieces)
        for begin, end in self._blocks(file):
            if waiting is not None:
                begin = waiting
            lines = self._lines(file, begin, end)
            if len(lines) == 0:
                continue
            placed = self._place(file, row, lines, last)
            known = np.flatnonzero(placed.partition != NOWHERE)
            unplaced = len(lines) if len(known) == 0 else int(known[0])
            if unplaced and len(self.pieces) > first_piece:  # they belong to the line before them
                cut = end if unplaced == len(lines) else begin + start_of(lines, unplaced)
                self._extend(cut, unplaced)
                row += unplaced
                begin, lines, placed = cut, lines.slice(unplaced), placed.after(unplaced)
            elif unplaced == len(lines):
                waiting = begin
                self._check_unplaced(file, begin, end)
                continue
            waiting = None
            if len(lines):
                attach(placed)
                self._append(file, begin, end, row, placed, last)
                row += len(lines)
        if waiting is not None:
            raise SourceError(f"{file}: no line has a readable position; repair it or move it away.")

    def _append(
        self, file: Path, begin: int, end: int, row: int, placed: Placed, last: dict[int, int]
    ) -> None:
        spans = {}
        for key, mine in group_by_partition(placed.partition).items():
            offset = placed.offset[mine]
            sure = ~placed.unplaced[mine]
            check_rising(file, mine[sure] + row, offset[sure], key, last.get(key, -1))
            spans[key] = Span(len(mine), int(offset[0]), int(offset[-1]))
            last[key] = int(offset[-1])
        times = placed.time_ms
        least, most = (None, None) if times is None else (int(times.min()), int(times.max()))
        self.pieces.append(Piece(file, len(self.pieces), begin, end, row, spans, least, most))

    def _extend(self, end: int, rows: int) -> None:
        """Let the last piece go on to `end`, over `rows` lines that have no position of their own."""
        piece = self.pieces[-1]
        self._check_unplaced(piece.file, piece.end, end)
        lines = self._lines(piece.file, piece.start, piece.end)
        key = int(self._placed(piece, lines).partition[-1])
        span = piece.spans[key]
        spans = {**piece.spans, key: replace(span, rows=span.rows + rows)}
        self.pieces[-1] = replace(piece, end=end, spans=spans)

    def _check_unplaced(self, file: Path, begin: int, end: int) -> None:
        if end - begin > MAX_UNPLACED_BYTES:
            raise SourceError(
                f"{file}: {end - begin} bytes from byte {begin} on hold no line with a readable position, "
                f"which the lines before have ({', '.join(self._keys or ())}); repair or remove them."
            )

    def _blocks(self, file: Path) -> Iterator[tuple[int, int]]:
        """Yield byte ranges of whole lines, up to the size the file has now."""
        size, begin = self.file_bytes[file], 0
        with file.open("rb") as stream:
            if stream.read(3) == b"\xef\xbb\xbf":
                begin = 3
            while begin < size:
                stream.seek(begin)
                block = stream.read(min(self._block_bytes, size - begin))
                end = begin + len(block)
                if end < size:
                    newline = block.rfind(b"\n")
                    end = begin + newline + 1 if newline >= 0 else self._line_end(stream, end, size)
                yield begin, end
                begin = end

    def _line_end(self, stream: BinaryIO, begin: int, size: int) -> int:
        """Return where a line that fills a block ends; nothing of it is kept."""
        while begin < size:
            block = stream.read(min(self._block_bytes, size - begin))
            newline = block.find(b"\n")
            if newline >= 0:
                return begin + newline + 1
            begin += len(block)
        return size

    def _lines(self, file: Path, begin: int, end: int) -> pa.BinaryArray:
        """Return the lines of a byte range that are not blank; only the start of a huge line."""
        length = end - begin
        if length > self._block_bytes + MAX_UNPLACED_BYTES:
            length = self._block_bytes
        try:
            with file.open("rb") as stream:
                stream.seek(begin)
                block = stream.read(length)
        except OSError as error:
            raise SourceError(f"{file} can't be read ({error.strerror}); see to its disk.") from None
        if len(block) < length:
            raise SourceError(f"{file} has become shorter while it was read; start again once it is whole.")
        return split_lines(block)

    def _placed(self, piece: Piece, lines: pa.BinaryArray) -> Placed:
        before = {partition: span.first_offset - 1 for partition, span in piece.spans.items()}
        placed = self._place(piece.file, piece.base_row, lines, before)
        attach(placed)
        return placed

    def _place(self, file: Path, base_row: int, lines: pa.BinaryArray, last: dict[int, int]) -> Placed:
        """Return the lines' positions; those without one are NOWHERE."""
        if self._keys is None:
            self._keys = find_keys(lines)
        rows = len(lines)
        if not self._keys:
            offset = last.get(0, -1) + 1 + np.arange(rows)
            none = np.zeros(rows, np.bool_)
            return Placed(np.zeros(rows, np.int64), offset, None, none, none)
        placed = place(lines, self._keys, last)
        known = ~placed.unplaced
        check_positions(
            file, base_row, np.where(known, placed.partition, 0), np.where(known, placed.offset, 0)
        )
        return placed

    def parts(self, piece: Piece, partition: int) -> Iterator[Part]:
        """Yield a partition's lines of a block."""
        held = self._cache.get(piece)
        if held is None:
            held = self._split(piece)
            if len(held) > 1:
                self._cache.put(piece, held)
        yield held[partition]

    def _split(self, piece: Piece) -> dict[int, Part]:
        lines = self._lines(piece.file, piece.start, piece.end)
        placed = self._placed(piece, lines)
        bad = self._bad(lines, placed)
        groups = group_by_partition(placed.partition)
        if len(groups) == 1:
            (key,) = groups
            return {key: Part(placed.offset, placed.time_ms, lines, tuple(bad.values()))}
        parts = {}
        for key, rows in groups.items():
            mine = [replace(bad[int(row)], index=at) for at, row in enumerate(rows) if int(row) in bad]
            times = None if placed.time_ms is None else placed.time_ms[rows]
            parts[key] = Part(placed.offset[rows], times, lines.take(pa.array(rows)), tuple(mine))
        return parts

    def _bad(self, lines: pa.BinaryArray, placed: Placed) -> dict[int, BadInput]:
        """Return the rows that are refused here, by index."""
        bad = {}
        for row in np.flatnonzero(placed.flawed):
            keys = ", ".join(self._keys or ())
            try:
                parse_object(lines[int(row)].as_py())
                reason, why = Reason.SCHEMA, f"the line has no valid {keys}"
            except BadMessage as error:
                reason, why = error.reason, str(error)
            if placed.unplaced[row]:
                why += "; its position is that of the line beside it"
            bad[int(row)] = BadInput(int(row), reason, why)
        offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset :][: len(lines) + 1]
        for row in np.flatnonzero(np.diff(offsets) > self._max_line_bytes + 2):
            why = f"the line is longer than {self._max_line_bytes} bytes"
            bad[int(row)] = BadInput(int(row), Reason.PARSE, why)
        return dict(sorted(bad.items()))


@dataclass
class Placed:
    """Positions of the lines of a block; unplaced lines have NOWHERE until they are attached."""

    partition: I64
    offset: I64
    time_ms: I64 | None
    unplaced: Mask  # shares its neighbour's position
    flawed: Mask  # lacks a position key, or does not parse

    def after(self, rows: int) -> Placed:
        """Return the positions without the first rows."""
        times = None if self.time_ms is None else self.time_ms[rows:]
        return Placed(
            self.partition[rows:], self.offset[rows:], times, self.unplaced[rows:], self.flawed[rows:]
        )


def split_lines(block: bytes) -> pa.BinaryArray:
    """Return the lines of a block that are not blank, without copying them.

    A line's bytes go on to the start of the next one, so newlines and blank lines trail it.
    """
    data = np.frombuffer(block, np.uint8)
    newlines = np.flatnonzero(data == 10)
    starts = np.empty(len(newlines) + 1, np.int64)
    starts[0] = 0
    starts[1:] = newlines + 1
    starts = starts[starts < len(data)]
    odd = np.flatnonzero(_BLANK[data[starts]])
    if len(odd):
        keep = np.ones(len(starts), np.bool_)
        ends = np.append(starts[1:], len(data))
        for row in odd:
            keep[row] = bool(block[starts[row] : ends[row]].strip(b" \t\r\n"))
        starts = starts[keep]
    offsets = np.append(starts, len(data)).astype(np.int32)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(block)]
    )


def start_of(lines: pa.BinaryArray, row: int) -> int:
    """Return the byte at which a line starts in its block."""
    return int(np.frombuffer(lines.buffers()[1], np.int32)[lines.offset + row])


def find_keys(lines: pa.BinaryArray) -> tuple[str, ...] | None:
    """Return the position keys of the first line that parses; None where none does."""
    for line in lines:
        try:
            found = parse_object(line.as_py())
        except BadMessage:
            continue
        return tuple(key for key in POSITION_KEYS if key in found)
    return None


def read_positions(lines: pa.BinaryArray, keys: tuple[str, ...]) -> tuple[I64, Mask]:
    """Return the lines' position values, int64[keys, n], and which lines have them all."""
    columns, left = JsonColumns([Target(key, key, "int64") for key in keys], whole=False).decode(lines)
    values = np.stack([numbers(column) for column in columns])
    read = ~left & (values >= 0).all(axis=0)
    for row in np.flatnonzero(left).tolist():
        found = position_of(lines[row].as_py(), keys)
        if found is not None:
            values[:, row], read[row] = found, True
    return values, read


def numbers(column: pa.Array) -> I64:
    """Return an int64 column as numpy, whatever its nulls hold."""
    return np.frombuffer(column.buffers()[1], np.int64)[column.offset :][: len(column)]


def position_of(line: bytes, keys: tuple[str, ...]) -> list[int] | None:
    """Return one line's position values; None where it does not parse or has not all of them."""
    try:
        found = parse_object(line)
    except BadMessage:
        return None
    values = []
    for key in keys:
        value = found.get(key)
        number = scaled(value, 0) if isinstance(value, Number) else None
        if number is None or not 0 <= number < 1 << 63:
            return None
        values.append(number)
    return values


def place(lines: pa.BinaryArray, keys: tuple[str, ...], last: dict[int, int]) -> Placed:
    """Return the positions of a block's lines, found by the keys that lines carry."""
    rows = len(lines)
    values, read = read_positions(lines, keys)
    column = {key: values[at] for at, key in enumerate(keys)}
    partition = column.get("_partition", np.zeros(rows, np.int64))
    known = read.copy() if "_partition" in keys or "_offset" in keys else np.ones(rows, np.bool_)
    if "_offset" in keys:
        offset = column["_offset"]
        for row in np.flatnonzero(~read):
            _salvage(lines, int(row), keys, partition, offset, known, last)
    else:
        offset = np.zeros(rows, np.int64)
        for key, mine in group_by_partition(np.where(known, partition, NOWHERE)).items():
            offset[mine] = last.get(key, -1) + 1 + np.arange(len(mine))
    partition = np.where(known, partition, NOWHERE)
    return Placed(partition, offset, column.get("_timestamp_ms"), ~known, ~read)


def _salvage(
    lines: pa.BinaryArray,
    row: int,
    keys: tuple[str, ...],
    partition: I64,
    offset: I64,
    known: Mask,
    last: dict[int, int],
) -> None:
    """Take a broken line's position from its text where that lies between its neighbours' positions."""
    line = lines[row].as_py()
    found = {key: _SALVAGE[key].search(line) for key in keys if key != "_timestamp_ms"}
    if any(match is None for match in found.values()):
        return
    numbers = {key: int(match[1]) for key, match in found.items() if match is not None}
    where, at = numbers.get("_partition", 0), numbers["_offset"]
    same = np.flatnonzero(known & (partition == where))
    before, after = same[same < row], same[same > row]
    floor = int(offset[before[-1]]) if len(before) else last.get(where, -1)
    if not floor < at <= MAX_OFFSET or (len(after) and at >= offset[after[0]]):
        return
    partition[row], offset[row], known[row] = where, at, True


def attach(placed: Placed) -> None:
    """Give lines without a position that of the line before them, or of the first line that has one."""
    source = np.where(placed.partition != NOWHERE, np.arange(len(placed.partition)), -1)
    source = np.maximum.accumulate(source)
    source[source < 0] = source[source >= 0][0]
    placed.partition, placed.offset = placed.partition[source], placed.offset[source]
    if placed.time_ms is not None:
        timed = np.where(placed.flawed, -1, np.arange(len(source)))
        timed = np.maximum.accumulate(timed)
        if timed[-1] >= 0:
            timed[timed < 0] = timed[timed >= 0][0]
            placed.time_ms = placed.time_ms[timed]
