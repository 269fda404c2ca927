"""The bytes of version 1, kept for good: docs/online-record.md describes what these files hold."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from lookback.errors import LookbackError, RefusedError, StoreError
from lookback.stores.base import Lookup, Record
from lookback.stores.lmdb import LmdbStore
from lookback.stores.lmdb_record import VERSION, chunk_key, pack_chunks, pack_key, unpack_chunk
from lookback.stores.lmdb_tables import databases
from lookback.windows.texts import TextTable
from tests.stores.build import FINGERPRINT, HOUR, Entity, plan_of, rows_of, values_of, write_of

GOLDEN = Path(__file__).parent / "online_record_1.json"
PLAN = plan_of()
LONG = "k" * 500


@pytest.fixture
def store(tmp_path: Path) -> LmdbStore:
    """Return a store that holds the entities which the golden file was made from."""
    store = LmdbStore(tmp_path / "online", write=True)
    writer = store.writer({FINGERPRINT: PLAN}, store.claim("golden"), {FINGERPRINT: "cards"})
    first = Entity("c1", [(-1, 2**62, -7, "é"), (HOUR, 5, 900, None)], 2 * HOUR, -HOUR, amount=893, count=2)
    second = Entity(LONG, [(3, 4, 5, "shop")], 9, amount=5, count=1, last="shop", merchants=["shop", "", "é"])
    writer.write([write_of(PLAN, [first, second], sequence=12, marks={"transactions/0": 41})])
    return store


def pack_chunk(texts: list[str]) -> bytes:
    """Return one dictionary chunk."""
    table = TextTable()
    (chunk,) = pack_chunks(table.intern(texts), np.array([0, len(texts)]), table)
    return chunk


def dump(store: LmdbStore) -> dict[str, dict[str, list[str]]]:
    """Return all keys and values of a view's databases, in hex."""
    dbs = databases(store.env, FINGERPRINT, create=False)
    assert dbs is not None
    out: dict[str, dict[str, list[str]]] = {}
    with store.env.reading() as txn:
        for name, db in (("values", dbs.values), ("rows", dbs.rows), ("texts", dbs.texts)):
            found: dict[str, list[str]] = {}
            for key, value in txn.cursor(db):
                found.setdefault(bytes(key).hex(), []).append(bytes(value).hex())
            out[name] = found
    return out


def read(store: LmdbStore, key: str) -> Record:
    (record,) = store.read([Lookup(FINGERPRINT, key, PLAN)])
    assert record is not None
    return record


def test_writing_gives_the_golden_bytes(store: LmdbStore) -> None:
    assert dump(store) == json.loads(GOLDEN.read_text()), "a new layout needs a new version and a new file"
    store.close()


def test_the_golden_bytes_are_read(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "online", write=True)
    store.writer({FINGERPRINT: PLAN}, 1, {FINGERPRINT: "cards"})
    for name, entries in json.loads(GOLDEN.read_text()).items():
        for key, values in entries.items():
            for value in values:
                put(store, name, bytes.fromhex(key), bytes.fromhex(value))
    first, second = read(store, "c1"), read(store, LONG)
    assert rows_of(PLAN, first) == [(-1, 2**62, -7, "é"), (HOUR, 5, 900, None)]
    assert values_of(PLAN, first) == (893, 2, None, [])
    assert (first.as_of_ms, first.sequence, first.watermark_ms, first.covers_from_ms) == (
        2 * HOUR,
        12,
        7,
        -HOUR,
    )
    assert values_of(PLAN, second) == (5, 1, "shop", ["shop", "", "é"])
    assert rows_of(PLAN, second) == [(3, 4, 5, "shop")]
    store.close()


def put(store: LmdbStore, name: str, key: bytes, value: bytes) -> None:
    dbs = databases(store.env, FINGERPRINT, create=True)
    store.env.writing(lambda txn: txn.put(key, value, db=getattr(dbs, name)))


def stored(store: LmdbStore, key: str = "c1") -> bytes:
    return bytes.fromhex(dump(store)["values"][pack_key(key).hex()][0])


def sealed(raw: bytes) -> bytes:
    return raw[:-4] + crc32(raw[:-4]).to_bytes(4, "little")


def test_every_flipped_bit_of_a_record_is_noticed(store: LmdbStore, rng: np.random.Generator) -> None:
    raw = stored(store)
    for at in rng.permutation(len(raw))[:60].tolist():
        broken = bytearray(raw)
        broken[at] ^= 1 << int(rng.integers(8))
        put(store, "values", pack_key("c1"), bytes(broken))
        with pytest.raises(LookbackError, match="'c1'"):
            read(store, "c1")
    put(store, "values", pack_key("c1"), raw)
    assert read(store, "c1").sequence == 12
    store.close()


@pytest.mark.parametrize("length", [0, 1, 63, 64, 70, 100])
def test_a_record_cut_off_is_refused(store: LmdbStore, length: int) -> None:
    raw = stored(store)
    put(store, "values", pack_key("c1"), raw[:length])
    with pytest.raises(StoreError, match="'c1'"):
        read(store, "c1")
    put(store, "values", pack_key("c1"), sealed(raw[:length] + b"    ") if length else b"    ")
    with pytest.raises(LookbackError, match="'c1'"):
        read(store, "c1")
    store.close()


def test_a_newer_record_is_refused_by_readers_and_writers(store: LmdbStore) -> None:
    raw = stored(store)
    put(store, "values", pack_key("c1"), sealed(bytes([VERSION + 1]) + raw[1:]))
    with pytest.raises(RefusedError, match=f"layout {VERSION + 1}"):
        read(store, "c1")
    writer = store.writer({FINGERPRINT: PLAN}, 9, {FINGERPRINT: "cards"})
    with pytest.raises(RefusedError, match=f"layout {VERSION + 1}"):
        writer.write([write_of(PLAN, [Entity("c1")], sequence=99)])
    store.close()


def test_a_long_key_of_another_entity_is_no_match(store: LmdbStore) -> None:
    put(store, "values", pack_key("x" * 500), stored(store, LONG))
    with pytest.raises(StoreError, match="another entity"):
        read(store, "x" * 500)
    store.close()


def test_a_dictionary_that_is_damaged_or_missing_is_named(store: LmdbStore) -> None:
    key = chunk_key(pack_key("c1"), 0)
    for broken in (pack_chunk(["é", "more"]), pack_chunk(["é"])[:-1], b"\x01", b"\x01\x00" + bytes(8)):
        put(store, "texts", key, broken)
        with pytest.raises(StoreError, match="dictionary"):
            read(store, "c1")
    put(store, "texts", key, bytes([VERSION + 1]) + pack_chunk(["é"])[1:])
    with pytest.raises(RefusedError):
        read(store, "c1")
    dbs = databases(store.env, FINGERPRINT, create=False)
    assert dbs is not None
    store.env.writing(lambda txn: txn.delete(key, db=dbs.texts))
    with pytest.raises(StoreError, match="chunk 0 of its dictionary is missing"):
        read(store, "c1")
    store.close()


def test_any_text_comes_back() -> None:
    texts = ["", "\0", "a\0b", "é" * 300, "\ud800", "𝄞"]
    block = unpack_chunk(pack_chunk(texts))
    assert [len(text.encode("utf-8", "surrogatepass")) for text in texts] == block.lengths.tolist()
    from lookback.stores.texts import StoredTexts

    stored_texts = StoredTexts([block, block])
    assert list(stored_texts) == ["", *texts, *texts]
    assert stored_texts.intern(["a\0b", "new", "𝄞", "new"])[1] == 13
    assert stored_texts.get([13]) == ["new"]
    assert bytes(stored_texts.blob[stored_texts.ends[13] : stored_texts.ends[14]]) == b"new"
