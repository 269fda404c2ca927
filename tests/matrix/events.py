"""The events of a cell, and which of them count: decided by the definition's letter, without the job's code.

Late, repeated, broken, out-of-order ones, such from the future, some without a card, and a hot shop. Each carries

    weight  RADIX ** partition     a sum's digits: how many events of each partition are in it
    code    a random 40-bit number the sum: they are the *first* so many, and no others
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RADIX = 1 << 15  # more than one entity's events in one partition
PARTITIONS = 4
MINUTE = 60_000
LATENESS_MS = MINUTE
MAX_AHEAD_MS = 60 * MINUTE
CARDS, SHOPS = 300, 40
HOT = "hot"
VIEWS = {"cards": "card", "shops": "shop"}

DEFINITION = """\
streams:
  payments:
    topic: {topic}
    format: json
    event_time: {{field: ts, unit: ms}}
    event_id: id{repeats}
    lateness: 60s
    max_ahead: 1h
    fields: {{id: int64, card: string?, shop: string, weight: int64, code: int64, price: float64}}
entities: {{card: string, shop: string}}
views:
  cards:
    entity: card
    stream: payments
    features:
      weight: {{agg: sum, of: weight, windows: [365d]}}
      code: {{agg: sum, of: code, windows: [365d]}}
      rows: {{agg: count, windows: [1m, 10m]}}
      price_sum: {{agg: sum, of: price, windows: [10m]}}
      price_mean: {{agg: mean, of: price, windows: [1m]}}
      shops: {{agg: distinct, of: shop, windows: [10m]}}
      last_shops: {{agg: last_k, of: shop, k: 3, windows: [10m]}}
  shops:
    entity: shop
    stream: payments
    features:
      weight: {{agg: sum, of: weight, windows: [lifetime]}}
      code: {{agg: sum, of: code, windows: [lifetime]}}
      rows: {{agg: count, windows: [2m, lifetime]}}
      price_max: {{agg: max, of: price, windows: [2m]}}
      recent: {{agg: decayed_sum, of: price, half_life: 30s, windows: [2m]}}
"""

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """A partition's messages in offset order: n values, their broker times, and what is to become of each."""

    values: list[bytes]
    broker_ms: I64
    reason: list[str]  # "" accepted, "no card" in no card's view, else why it is a dead letter
    event_ms: I64
    code: I64
    price: npt.NDArray[np.float64]
    card: I64  # -1: none
    shop: I64  # 0 the hot one


@dataclass(frozen=True)
class Rows:
    """An entity's accepted events, sorted by (time, partition, offset); `number` counts them within their partition."""

    time_ms: I64
    partition: I64
    offset: I64
    number: I64
    code: I64
    price: npt.NDArray[np.float64]
    shop: I64

    def prefixes(self, counts: Any) -> Rows:
        """Return those that are among the first counts[p] of partition p, for every p."""
        keep = self.number < np.asarray(counts)[self.partition]
        return Rows(*(column[keep] for column in vars(self).values()))


@dataclass(frozen=True)
class Events:
    """All events of a cell. rows: view -> entity key -> its accepted events."""

    topic: str
    partitions: list[Partition]
    rows: dict[str, dict[str, Rows]]

    @property
    def total(self) -> int:
        """Return how many messages there are."""
        return sum(len(part.values) for part in self.partitions)

    def letters(self) -> dict[tuple[int, int], tuple[str, bytes]]:
        """Return the dead letters: (partition, offset) -> (reason, bytes)."""
        return {
            (number, offset): (reason, part.values[offset])
            for number, part in enumerate(self.partitions)
            for offset, reason in enumerate(part.reason)
            if reason
        }


def shop_name(code: int) -> str:
    """Return a shop's name."""
    return HOT if code == 0 else f"s{code}"


def write_definition(folder: Path, topic: str, *, repeats_count: bool) -> Path:
    """Write the definition of a cell; return its path."""
    path = folder / "features.yaml"
    path.write_text(
        DEFINITION.format(topic=topic, repeats="" if repeats_count else "\n    drop_repeats: 10m")
    )
    return path


def make_events(topic: str, *, seed: int, events: int, end_ms: int, repeats_count: bool) -> Events:
    """Make about `events` events, the last of about `end_ms`.

    repeats_count: a message with the id of an earlier one is an event like any other; else it is dropped.
    """
    each = events // PARTITIONS
    parts = [_partition([seed, number], number, each, end_ms, repeats_count) for number in range(PARTITIONS)]
    return Events(topic, parts, {view: _entities(parts, view) for view in VIEWS})


def _partition(seed: list[int], number: int, n: int, end_ms: int, repeats_count: bool) -> Partition:
    rng = np.random.default_rng(seed)
    progress = np.arange(n) / n
    burst = (progress > 0.4) & (progress < 0.6)
    gaps = np.where(burst, rng.choice([0, 0, 20, 50], n), rng.choice([0, 40, 150, 800], n))
    now = np.cumsum(gaps)
    now += end_ms - now[-1]
    kind = rng.random(n)
    event = now - np.where(kind < 0.10, rng.integers(1, LATENESS_MS // 2, n), 0)
    event -= np.where((kind >= 0.10) & (kind < 0.12), LATENESS_MS + rng.integers(1, 10 * LATENESS_MS, n), 0)
    ahead = (kind >= 0.12) & (kind < 0.125)
    event += np.where(ahead, MAX_AHEAD_MS + rng.integers(1, 10_000, n), 0)
    broken = (kind >= 0.125) & (kind < 0.14)
    shop = np.where(rng.random(n) < np.where(burst, 0.6, 0.1), 0, rng.integers(1, SHOPS, n))
    card = np.minimum(rng.exponential(CARDS / 4, n).astype(np.int64), CARDS - 1)
    card[rng.random(n) < 0.02] = -1
    code = rng.integers(1, 1 << 40, n)
    price = np.round(rng.gamma(2, 20, n), 2)
    ids = number * 10_000_000 + np.arange(n)
    # A producer that did not hear the answer sends a message again: the same bytes, a little later.
    source = np.arange(n)
    again = np.flatnonzero(rng.random(n) < 0.03)
    source[again] -= np.minimum(again, rng.integers(1, 200, len(again)))
    # Only of an original; and of none from the future, which a while later would be from the present.
    source = np.where((source[source] == source) & ~ahead[source], source, np.arange(n))
    event, broken, shop, card = event[source], broken[source], shop[source], card[source]
    code, price, ids = code[source], price[source], ids[source]
    cut = rng.random(n)
    columns = (column.tolist() for column in (event, ids, card, shop, code, price))
    values = [_message(RADIX**number, *row) for row in zip(*columns, strict=True)]
    values = [
        value[: int(len(value) * share)] if bad else value
        for value, bad, share in zip(values, broken.tolist(), cut.tolist(), strict=True)
    ]
    reason = _reasons(event, now, broken)
    if not repeats_count:
        reason = _without_repeats(reason, ids)
    return Partition(values, now, reason, event, code, price, card, shop)


def _message(weight: int, event_ms: int, ident: int, card: int, shop: int, code: int, price: float) -> bytes:
    name = "null" if card < 0 else f'"c{card}"'
    return (
        f'{{"ts":{event_ms},"id":{ident},"card":{name},"shop":"{shop_name(shop)}",'
        f'"weight":{weight},"code":{code},"price":{price!r}}}'
    ).encode()


def _reasons(event_ms: I64, broker_ms: I64, broken: npt.NDArray[np.bool_]) -> list[str]:
    """Judge a partition's events in offset order."""
    ahead = ~broken & (event_ms > broker_ms + MAX_AHEAD_MS)
    moves = ~broken & ~ahead
    watermark = np.maximum.accumulate(np.where(moves, event_ms, np.iinfo(np.int64).min // 2))
    late = moves & (event_ms < watermark - LATENESS_MS)
    reasons: list[str] = np.select([broken, ahead, late], ["parse", "ahead", "late"], "").tolist()
    return reasons


def _without_repeats(reason: list[str], ids: I64) -> list[str]:
    seen: set[int] = set()
    out = list(reason)
    for offset, (why, ident) in enumerate(zip(reason, ids.tolist(), strict=True)):
        if not why:
            if ident in seen:
                out[offset] = "repeat"
            seen.add(ident)
    return out


def _entities(parts: list[Partition], view: str) -> dict[str, Rows]:
    columns = []
    for number, part in enumerate(parts):
        entity = part.card if view == "cards" else part.shop
        kept = np.flatnonzero((np.array(part.reason) == "") & (entity >= 0))
        columns.append(
            (entity[kept], part.event_ms[kept], np.full(len(kept), number), kept, part.code[kept], part.price[kept],
             part.shop[kept])
        )  # fmt: skip
    entity, time, partition, offset, code, price, shop = map(np.concatenate, zip(*columns, strict=True))
    out = {}
    for one in np.unique(entity).tolist():
        mine = np.flatnonzero(entity == one)
        within = np.empty(len(mine), np.int64)
        for p in range(PARTITIONS):
            of_p = partition[mine] == p
            within[of_p] = np.arange(of_p.sum())
        order = np.lexsort((offset[mine], partition[mine], time[mine]))
        at = mine[order]
        rows = Rows(time[at], partition[at], offset[at], within[order], code[at], price[at], shop[at])
        assert len(at) < RADIX
        out[f"c{one}" if view == "cards" else shop_name(one)] = rows
    return out
