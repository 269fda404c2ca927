"""Cutting a state's shards anew: every record moves as it is, byte by byte, and nothing is evaluated.

    old shard ─ scan ─ owner of each key ─ place ─▶ new shard      entities, chunks, timers
    old commits ─────── merged ──────────────────▶ new commits

An entity's records hold nothing of their shard, so a new shard's are those of an old one. What shards keep for all of
their entities together is merged so that it holds for each:

    applied     the place where the source goes on, less one: all rows before it are in, and none of those behind
    sequence    the highest, so that no record's ever falls
    durable     as applied; what had not proved durable is in the dirty set
    dirty       each key's, by its new shard
    through     the lowest: all that was due by then has been sent
    latest      the highest: no entity was refreshed later
    watermarks  the highest that any shard has heard of
    counted     their sum, by the first of the new shards
    outbox      none: what was to be told has been, and new shards begin outboxes of their own
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from state import keys
from state.errors import StateError, StateRefused
from state.rocksdb import Database, Put
from state.timers import NEVER

PIECE = 4096  # records that are looked at together
WRITE_BYTES = 1 << 20  # of one new shard that are written together
_END = b"\xff"  # beyond all keys
Commit = Mapping[str, Any]
Place = Callable[[Sequence[bytes]], npt.NDArray[np.int64]]  # entity key texts, UTF-8 -> their new shards


@dataclass
class Records:
    """How many records of each kind there are, and their bytes."""

    entities: int = 0
    chunks: int = 0
    timers: int = 0
    bytes: int = 0

    def add(self, kind: str, size: int) -> None:
        """Count one record."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.bytes += size

    def merge(self, other: Records) -> None:
        """Take another count in."""
        for name in ("entities", "chunks", "timers", "bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


_KINDS = {b"e": "entities", b"r": "chunks", b"t": "timers"}


def copy(old: Database, new: Sequence[Database], place: Place, tick: Callable[[Records], None]) -> Records:
    """Put all records of an old shard where they belong; return how many they are.

    What was put before is put again, alike. Raises StateRefused for a record that this release does not know.
    """
    seen = Records()
    waiting: list[list[Put]] = [[] for _ in new]
    sizes = [0] * len(new)

    def write(shard: int) -> None:
        new[shard].write(waiting[shard])
        waiting[shard], sizes[shard] = [], 0

    for piece, shards in _pieces(old, place):
        for (raw, value), shard in zip(piece, shards, strict=True):
            seen.add(_KINDS[raw[:1]], len(raw) + len(value))
            waiting[shard].append((raw, value))
            sizes[shard] += len(raw) + len(value)
            if sizes[shard] >= WRITE_BYTES:
                write(shard)
        tick(seen)
    for shard in range(len(new)):
        if waiting[shard]:
            write(shard)
    return seen


def compare(old: Database, new: Sequence[Database], place: Place, tick: Callable[[Records], None]) -> Records:
    """Read every record of an old shard, and from its new place; return how many they are.

    Raises StateError where one is missing or differs by a bit.
    """
    seen = Records()
    for piece, shards in _pieces(old, place):
        by_shard: dict[int, list[tuple[bytes, bytes]]] = {}
        for record, shard in zip(piece, shards, strict=True):
            by_shard.setdefault(shard, []).append(record)
        for shard, records in by_shard.items():
            copies = new[shard].get_many([raw for raw, _ in records])
            for (raw, value), found in zip(records, copies, strict=True):
                if found != value:
                    raise StateError(f"{_name(raw)} of {old.path} {_how(found)} in {new[shard].path}")
                seen.add(_KINDS[raw[:1]], len(raw) + len(value))
        tick(seen)
    return seen


def count(db: Database, shard: int, place: Place) -> Records:
    """Return how many records a new shard holds. Raises StateError for one that belongs elsewhere."""
    seen = Records()
    for piece, shards in _pieces(db, place):
        for (raw, value), own in zip(piece, shards, strict=True):
            if own != shard:
                raise StateError(f"{_name(raw)} lies in {db.path} and belongs to shard {own}")
            seen.add(_KINDS[raw[:1]], len(raw) + len(value))
    return seen


def _pieces(db: Database, place: Place) -> Iterator[tuple[list[tuple[bytes, bytes]], list[int]]]:
    """Yield a shard's records of entities, and the new shard of each."""
    piece: list[tuple[bytes, bytes]] = []
    for record in db.scan(b"", _END):
        if record[0] in (keys.META, keys.COMMIT, keys.OUTBOX):
            continue
        piece.append(record)
        if len(piece) == PIECE:
            yield piece, _shards(db, piece, place)
            piece = []
    if piece:
        yield piece, _shards(db, piece, place)


def _shards(db: Database, piece: Sequence[tuple[bytes, bytes]], place: Place) -> list[int]:
    try:
        owners = [keys.owner(raw) for raw, _ in piece]
    except KeyError as odd:
        raise StateRefused(
            f"{db.path} holds a record that this release does not know ({odd}): use the release that wrote it"
        ) from None
    return [int(shard) for shard in place(owners)]


def _name(raw: bytes) -> str:
    kind = {b"e": "the record", b"r": "a chunk", b"t": "a timer"}[raw[:1]]
    return f"{kind} of entity {keys.owner(raw).decode(errors='replace')!r}"


def _how(found: bytes | None) -> str:
    return "is missing" if found is None else "differs"


def ahead(commits: Sequence[Commit], offsets: Mapping[str, int]) -> tuple[int, str, int] | None:
    """Return (shard, source partition, offset) of a row that a shard has applied and that the source gives again.

    offsets: by partition, where the source goes on. None: the shards stand where the source does.
    """
    for shard, commit in enumerate(commits):
        for view in commit.get("views", {}).values():
            for part, offset in view["applied"].items():
                if offset >= offsets.get(part, -1):
                    return shard, part, offset
    return None


def merged(
    commits: Sequence[Commit], offsets: Mapping[str, int], views: Sequence[str], shards: int, place: Place
) -> list[dict[str, Any]]:
    """Return the new shards' commits; none where no old shard has any.

    offsets: by partition, where the source goes on; no shard is `ahead` of it.
    """
    assert ahead(commits, offsets) is None
    old = [commit for commit in commits if commit]
    if not old:
        return []
    marks: dict[str, int] = {}
    for commit in old:
        for part, mark in commit["watermarks"].items():
            marks[part] = max(mark, marks.get(part, mark))
    parts = [_merged_view(commits, name, offsets, shards, place) for name in views]
    return [
        {
            "epoch": max(commit["epoch"] for commit in old),
            "watermarks": marks,
            "views": {name: part[shard] for name, part in zip(views, parts, strict=True)},
        }
        for shard in range(shards)
    ]


def _merged_view(
    commits: Sequence[Commit], name: str, offsets: Mapping[str, int], shards: int, place: Place
) -> list[dict[str, Any]]:
    known = [commit.get("views", {}).get(name) for commit in commits]
    old = [view for view in known if view is not None]
    applied = {part: offsets[part] - 1 for part in sorted({part for view in old for part in view["applied"]})}
    texts = sorted({text for view in old for text in view["dirty"]})
    owners = place([text.encode() for text in texts]).tolist() if texts else []
    dirty: list[list[str]] = [[] for _ in range(shards)]
    for text, shard in zip(texts, owners, strict=True):
        dirty[shard].append(text)
    timers = [{} if view is None else view.get("timers", {}) for view in known]
    counted = sum(view.get("counted", view["sequence"]) for view in old)
    return [
        {
            "applied": applied,
            "sequence": max((view["sequence"] for view in old), default=0),
            "counted": 0 if shard else counted,
            "dirty": dirty[shard],
            "durable": applied,
            "timers": {
                "through": min(timer.get("through", NEVER) for timer in timers),
                "latest": max(timer.get("latest", NEVER) for timer in timers),
            },
        }
        for shard in range(shards)
    ]


def durable_offsets(commits: Sequence[Commit], views: Sequence[str]) -> dict[str, list[dict[str, int]]]:
    """Return, view by view, which offsets each old shard knew the online store to have for good."""
    return {name: [c.get("views", {}).get(name, {}).get("durable", {}) for c in commits] for name in views}
