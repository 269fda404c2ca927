"""Bytes of the state's records: golden files stay readable and writable, damage and newer formats are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookback.windows.texts import TextTable
from state import codec, pack
from state.errors import StateError, StateRefused

GOLDEN = Path(__file__).with_name("golden")
TEXTS = ["", "shop ä", "x" * 300]
ROWS = np.array([[-5, 0, 2**62], [7, 8, (3 << 47) | 9], [1, 0, -1], [2, 1, 0]], np.int64)
LIFE = np.array([3, -(2**63), 2**63 - 1], np.int64)


def encode(
    kind: int, rows: npt.NDArray[np.int64], texts: list[str], life: npt.NDArray[np.int64], *numbers: int
) -> bytes:
    """Return one record of these rows and texts; numbers: chunks, covers, newest."""
    parts = np.zeros((1, pack.PART_WORDS), np.int64)
    parts[0, pack.ROWS] = parts[0, pack.END] = rows.shape[1]
    parts[0, pack.KIND], parts[0, pack.CHUNKS :] = kind, numbers
    parts[0, pack.LIFE] = 0 if len(life) else -1
    table = TextTable()
    ids, starts = table.intern(texts), np.array([0, len(texts)])
    (record,) = codec.encode(
        np.ascontiguousarray(rows).ravel(), len(rows), parts, life[None], ids, starts, table
    )
    return record


def entity() -> bytes:
    """Return the record that the golden file holds."""
    return encode(codec.ENTITY, ROWS, TEXTS, LIFE, 4, -17, 2**62)


def chunk() -> bytes:
    """Return the sealed chunk that the golden file holds."""
    return encode(codec.CHUNK, ROWS[:, :2], [], LIFE[:0], 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "record"), [("state-entity-v1.bin", entity()), ("state-chunk-v1.bin", chunk())]
)
def test_golden_files_are_what_is_written(name: str, record: bytes) -> None:
    assert (GOLDEN / name).read_bytes() == record


def test_golden_files_are_read() -> None:
    found = codec.decode((GOLDEN / "state-entity-v1.bin").read_bytes(), 2, 3, "it")
    assert (found.kind, found.chunks, found.covers_ms, found.newest_ms) == (codec.ENTITY, 4, -17, 2**62)
    assert found.texts == TEXTS
    assert (found.rows == ROWS).all()
    assert (found.life == LIFE).all()
    assert codec.newest_of(entity()) == 2**62
    sealed = codec.decode((GOLDEN / "state-chunk-v1.bin").read_bytes(), 2, 0, "it")
    assert sealed.kind == codec.CHUNK
    assert (sealed.rows == ROWS[:, :2]).all()


def test_any_damaged_byte_is_found() -> None:
    record = entity()
    for at in range(len(record)):
        broken = record[:at] + bytes([record[at] ^ 0x10]) + record[at + 1 :]
        with pytest.raises(StateError, match="damaged"):
            codec.decode(broken, 2, 3, "it")


def test_a_cut_record_is_found() -> None:
    record = entity()
    for length in range(len(record)):
        with pytest.raises(StateError, match="damaged"):
            codec.decode(record[:length], 2, 3, "it")


def test_a_newer_version_is_refused() -> None:
    body = bytearray(entity()[4:])
    body[0] = codec.VERSION + 1
    with pytest.raises(StateRefused, match="newer release"):
        codec.decode(struct.pack("<I", zlib.crc32(body)) + bytes(body), 2, 3, "it")


@pytest.mark.parametrize(("width", "life"), [(3, 3), (2, 2)])
def test_another_views_record_is_refused(width: int, life: int) -> None:
    with pytest.raises(StateRefused, match="another definition"):
        codec.decode(entity(), width, life, "it")


@given(st.lists(st.text(max_size=20), max_size=30, unique=True), st.integers(0, 20), st.integers(0, 3))
def test_what_is_written_is_read(texts: list[str], rows: int, width: int) -> None:
    matrix = np.arange((2 + width) * rows, dtype=np.int64).reshape(2 + width, rows)
    found = codec.decode(encode(codec.ENTITY, matrix, texts, LIFE[:0], 0, 1, 2), width, 0, "it")
    assert found.texts == texts
    assert (found.rows == matrix).all()


def test_more_texts_than_a_short_count_holds() -> None:
    texts = [str(i) for i in range(70_000)]
    record = encode(codec.ENTITY, ROWS[:2, :0], texts, LIFE[:0], 0, 0, 0)
    assert codec.decode(record, 0, 0, "it").texts == texts
