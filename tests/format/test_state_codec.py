"""Bytes of the state's records: golden files stay readable and writable, damage and newer formats are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state import codec
from state.errors import StateError, StateRefused

GOLDEN = Path(__file__).with_name("golden")
TEXTS = ["", "shop ä", "x" * 300]
ROWS = np.array([[-5, 0, 2**62], [7, 8, (3 << 47) | 9], [1, 0, -1], [2, 1, 0]], np.int64)
LIFE = np.array([3, -(2**63), 2**63 - 1], np.int64)


def entity() -> bytes:
    """Return the record that the golden file holds."""
    return codec.encode(
        codec.ENTITY, ROWS.tobytes(), 3, 2, [t.encode() for t in TEXTS], LIFE.tobytes(), 4, -17, 2**62
    )


def chunk() -> bytes:
    """Return the sealed chunk that the golden file holds."""
    return codec.encode(codec.CHUNK, ROWS[:, :2].tobytes(), 2, 2, [], b"", 0, 0, 0)


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


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(0, 20), st.integers(0, 3))
def test_what_is_written_is_read(texts: list[str], rows: int, width: int) -> None:
    encoded = [t.encode("utf-8", "surrogatepass") for t in texts if t.isprintable()]
    matrix = np.arange((2 + width) * rows, dtype=np.int64).reshape(2 + width, rows)
    record = codec.encode(codec.ENTITY, matrix.tobytes(), rows, width, encoded, b"", 0, 1, 2)
    found = codec.decode(record, width, 0, "it")
    assert found.texts == [t.decode() for t in encoded]
    assert (found.rows == matrix).all()


def test_more_texts_than_a_short_count_holds() -> None:
    texts = [str(i).encode() for i in range(70_000)]
    record = codec.encode(codec.ENTITY, b"", 0, 0, texts, b"", 0, 0, 0)
    assert codec.decode(record, 0, 0, "it").texts == [t.decode() for t in texts]
