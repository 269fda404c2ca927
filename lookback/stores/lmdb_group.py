"""The writes of one view, all shards of a wave, as one: entities in the order of their LMDB keys.

Owns: joining and sorting, so that a transaction passes each tree once, page by page, where shards one after the
other would touch most of its pages again and again. Refuses: what becomes of the entities (`lmdb_writer`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lookback.stores.base import I64, U8, Bool, ViewWrite
from lookback.windows.text_words import TextWords

MAX_TABLE_BYTES = 64  # longer keys are not sorted as a table of fixed width


@dataclass(frozen=True)
class Group:
    """Distinct entities of one view; the fields that a `ViewWrite` has mean the same here.

    keys: LMDB keys, sorted. sequence, watermark_ms: int64[n]. member, place: of each entity, which write it is of
    (an index of `members`, which index the writes given) and where it stands there. names[order[i]]: the key text
    of entity i.
    """

    fingerprint: str
    members: list[int]
    member: I64
    place: I64
    keys: list[bytes]
    order: I64
    names: list[str]
    event_time_ms: I64
    as_of_ms: I64
    sequence: I64
    watermark_ms: I64
    words: I64
    status: U8
    row_starts: I64
    rows: I64
    covers_from_ms: I64
    replace: Bool
    life: I64
    texts: list[str]

    def split(self, entities: I64) -> Iterator[tuple[int, I64]]:
        """Yield the index of each write given, and which of these entities are its own, by their places there."""
        of = self.member[entities]
        for at, index in enumerate(self.members):
            yield index, np.sort(self.place[entities[of == at]])


def groups(
    writes: Sequence[ViewWrite], keys: Sequence[list[bytes]], texts: Mapping[str, TextWords]
) -> Iterator[Group]:
    """Yield the writes joined, those of one view in their order where they name an entity twice.

    keys: LMDB keys of each write's entities. texts: by fingerprint, which words hold texts.
    """
    waiting: dict[str, list[int]] = {}
    for index, write in enumerate(writes):
        group = waiting.setdefault(write.fingerprint, [])
        if any(writes[other].shard == write.shard for other in group):  # another wave's: its turn is after
            yield from _joined(writes, keys, group, texts[write.fingerprint])
            group.clear()
        group.append(index)
    for fingerprint, group in waiting.items():
        yield from _joined(writes, keys, group, texts[fingerprint])


def _joined(
    writes: Sequence[ViewWrite], keys: Sequence[list[bytes]], members: list[int], texts: TextWords
) -> Iterator[Group]:
    together = [key for index in members for key in keys[index]]
    if len(members) > 1 and len(set(together)) < len(together):  # an entity moved from shard to shard
        for index in members:
            yield _group([writes[index]], keys[index], [index], texts)
    else:
        yield _group([writes[index] for index in members], together, list(members), texts)


def _group(writes: list[ViewWrite], keys: list[bytes], members: list[int], places: TextWords) -> Group:
    sizes = [len(write.keys) for write in writes]
    order = _sorted(keys)
    ranking = order.tolist()
    counts = np.concatenate([np.diff(write.row_starts) for write in writes])
    bounds = np.concatenate([[0], np.cumsum(counts[order])])
    rows_before = np.cumsum(counts) - counts
    take = np.arange(bounds[-1]) + np.repeat(rows_before[order] - bounds[:-1], counts[order])
    names = [text for write in writes for text in write.keys]
    words, rows, life = (
        np.concatenate([write.words for write in writes], axis=1)[:, order],
        np.concatenate([write.rows for write in writes], axis=1)[:, take],
        np.concatenate([write.life for write in writes])[order],
    )
    member = np.repeat(np.arange(len(writes)), sizes)[order]
    if len(writes) > 1 and (places.outputs or places.rows or places.lives):
        lengths = np.array([len(write.texts) for write in writes])
        offset = (np.cumsum(lengths) - lengths)[member]
        words[list(places.outputs)] += offset
        rows[list(places.rows)] += np.repeat(offset, counts[order])
        life[:, [word for _, word in places.lives]] += offset[:, None]

    def one_each(name: str) -> I64:
        return np.repeat(np.array([getattr(write, name) for write in writes], np.int64), sizes)[order]

    def column(name: str) -> I64:
        return np.concatenate([getattr(write, name) for write in writes])[order]

    return Group(
        fingerprint=writes[0].fingerprint,
        members=members,
        member=member,
        place=np.concatenate([np.arange(size) for size in sizes])[order],
        keys=[keys[i] for i in ranking],
        order=order,
        names=names,
        event_time_ms=column("event_time_ms"),
        as_of_ms=column("as_of_ms"),
        sequence=one_each("sequence"),
        watermark_ms=one_each("watermark_ms"),
        words=words,
        status=np.concatenate([write.status for write in writes], axis=1)[:, order],
        row_starts=bounds,
        rows=rows,
        covers_from_ms=column("covers_from_ms"),
        replace=column("replace").astype(np.bool_),
        life=life,
        texts=[text for write in writes for text in write.texts],
    )


def _sorted(keys: list[bytes]) -> I64:
    """Return the order of keys by their bytes. Two that differ in trailing zero bytes alone may stand either way."""
    if keys and max(map(len, keys)) <= MAX_TABLE_BYTES:
        return np.argsort(np.array(keys, "S"), kind="stable").astype(np.int64)
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
