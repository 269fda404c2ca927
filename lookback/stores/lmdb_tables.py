"""What lies where in an LMDB store, and how an entity's rows and dictionary are read from it.

Owns: the names of databases and meta keys. Refuses: the bytes of a record (`lmdb_record`), decisions.

    main      "lookback" -> the layout's name
    meta      "generation" -> u64    "claim" u64 -> job    "view" fingerprint -> view name
              "owner" shard:u32 fingerprint -> generation:u64
              "mark"  shard:u32 fingerprint -> JSON object, source part -> offset
              "sharding" fingerprint -> what the job noted of how it shards the view
    a view's  <fingerprint>/values  entity key -> record
              <fingerprint>/rows    entity key -> rows, sorted duplicates of one size
              <fingerprint>/texts   entity key, chunk:u32 -> chunk of the entity's dictionary
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

import lmdb

from lookback.errors import StoreError
from lookback.stores.base import I64
from lookback.stores.lmdb_environment import Environment
from lookback.stores.lmdb_record import CHUNK_TEXTS, Layout, chunk_key, unpack_chunk, unpack_rows
from lookback.stores.texts import TextBlock

U64 = Struct(">Q")
GENERATION = b"generation"


def claim_key(generation: int) -> bytes:
    """Return the meta key of a claim."""
    return b"claim" + U64.pack(generation)


def view_key(fingerprint: str) -> bytes:
    """Return the meta key of a view's name."""
    return b"view" + fingerprint.encode()


def note_key(fingerprint: str) -> bytes:
    """Return the meta key of the note on how a view is sharded."""
    return b"sharding" + fingerprint.encode()


def shard_key(kind: bytes, fingerprint: str, shard: int) -> bytes:
    """Return the meta key of a shard's owner or mark."""
    return kind + shard.to_bytes(4, "big") + fingerprint.encode()


@dataclass(frozen=True)
class Databases:
    """Handles of one view's databases."""

    values: lmdb._Database
    rows: lmdb._Database
    texts: lmdb._Database


def databases(env: Environment, fingerprint: str, *, create: bool) -> Databases | None:
    """Return a view's databases; None where the store has never seen it and `create` is not set."""
    prefix = fingerprint.encode()
    values = env.database(prefix + b"/values", create=create)
    rows = env.database(prefix + b"/rows", create=create, rows=True)
    texts = env.database(prefix + b"/texts", create=create)
    if values is None or rows is None or texts is None:
        return None
    return Databases(values, rows, texts)


def read_rows(
    txn: lmdb.Transaction[memoryview] | lmdb.Transaction[bytes], dbs: Databases, layout: Layout, key: bytes
) -> I64:
    """Return an entity's rows, int64[row_words, m], sorted."""
    cursor = txn.cursor(dbs.rows)
    raw = cursor.getmulti([key], dupdata=True, dupfixed_bytes=layout.row_bytes, keyfixed=True)
    return unpack_rows(raw, len(key), layout.row_words)


def read_texts(
    txn: lmdb.Transaction[memoryview] | lmdb.Transaction[bytes], dbs: Databases, key: bytes, count: int
) -> list[TextBlock]:
    """Return an entity's dictionary of `count` texts."""
    blocks, found = [], 0
    for chunk in range(-(-count // CHUNK_TEXTS)):
        raw = txn.get(chunk_key(key, chunk), db=dbs.texts)
        if raw is None:
            raise StoreError(f"chunk {chunk} of its dictionary is missing.")
        blocks.append(unpack_chunk(raw))
        found += len(blocks[-1].lengths)
    if found != count:
        raise StoreError(f"its dictionary has {found} texts, its record says {count}.")
    return blocks
